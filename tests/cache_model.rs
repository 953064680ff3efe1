//! A model of the result cache's protocol (src/cache/mod.rs), and every order in which its steps can happen: two readers and two
//! writers, each step one access to something shared. No answer may be other than what the server would say; ways to break the protocol
//! must be found. It is explored breadth first by `explore`: the crate that is made for it, stateright, would bring a web server.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// How often each row was changed; rows 0 and 1 only together: their difference is the sum that transactions keep.
type Rows = [u8; 3];
/// Of each tag, epoch and writers, which are loaded at once.
type Stamps = [(u8, u8); 2];
type Entry = (Stamps, Rows);

/// Ways to break the protocol. Without writers: h2database/h2database#3894. Follower not validated: the answer of a flight is given as it
/// is to who follows. Asked in two: by two statements, each with a snapshot of its own.
const MUTANTS: &str = "opened after send, closed before visible, without writers, epoch raised after, epoch not raised, \
    doubt closed at once, stamped after send, kept beside a writer, hit not validated, follower not validated, first tag validated, \
    asked in two";

/// What a writer changes; the tags in the order in which its statements come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Write {
    tags: &'static [usize],
    rows: &'static [usize],
}

#[derive(Clone, Copy, Debug)]
struct Model {
    /// How many an answer depends on.
    tags: u8,
    /// How often each reader reads, and each writer writes.
    reads: [u8; 2],
    writes: [u8; 2],
    writers: [Write; 2],
    mutant: &'static str,
}

/// What a reader does next. Numbers: how many tags have been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Reading {
    Ask,
    /// With what the server had at the first look.
    Validate(Entry, u8, Rows),
    /// With the answer, where it is there already.
    Stamp(Stamps, u8, Option<Rows>),
    TakeOff(Stamps),
    Follow,
    /// With what the first of two statements saw.
    Snapshot(Option<Stamps>, Option<Rows>),
    Receive(Option<Stamps>, Rows),
    Keep(Entry),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Reader {
    left: u8,
    reading: Reading,
    /// Whether it has waited for another's flight, and whether others may follow its own.
    followed: bool,
    flies: bool,
    /// What the server had, and what had been acknowledged, when it asked.
    asked: Rows,
    told: Rows,
}

/// What a writer does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Writing {
    Open(u8),
    Send,
    Close(u8),
    Acknowledge,
}

/// A writer's transaction at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Process {
    Idle,
    Running,
    /// With what it made visible, if anything.
    Over(Option<Rows>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Writer {
    left: u8,
    writing: Writing,
    process: Process,
    /// The connection broke: of the outcome nothing is known.
    lost: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct State {
    /// What is visible at the server.
    rows: Rows,
    told: Rows,
    tags: Stamps,
    /// The store: all readers ask one question.
    kept: Option<Entry>,
    readers: [Reader; 2],
    writers: [Writer; 2],
}

/// Who does what, by the name of the function that it stands for.
type Step = (&'static str, usize, &'static str);
/// A step, the state after it, and what is wrong with an answer that was given in it.
type Next = (Step, State, Option<Wrong>);
type Wrong = &'static str;

impl Model {
    fn start(&self) -> State {
        let writer = |left| Writer { left, writing: self.first(), process: Process::Idle, lost: false };
        let (readers, writers) = (self.reads.map(at_rest), self.writes.map(writer));
        State { rows: [0; 3], told: [0; 3], tags: Stamps::default(), kept: None, readers, writers }
    }

    /// The next step of a reader. Sending is none: only the server's snapshot sees anything, some time after.
    fn read(&self, state: &State, number: usize, all: &mut Vec<Next>) {
        let (mut after, mut me) = (*state, state.readers[number]);
        let is_flight = state.readers.iter().any(|other| other.flies);
        let (what, fault) = match me.reading {
            Reading::Ask if me.left == 0 => return,
            Reading::Follow if is_flight => return,
            Reading::Ask | Reading::Follow => {
                if me.reading == Reading::Ask {
                    (me.asked, me.told) = (state.rows, state.told);
                }
                me.followed = me.reading == Reading::Follow;
                me.reading = state.kept.map_or(self.missed(), |entry| Reading::Validate(entry, 0, Rows::default()));
                (if me.followed { "Following::over, DatabaseCache::find" } else { "DatabaseCache::find: Store::get" }, None)
            }
            Reading::Validate(entry, loaded, at) => self.validate(state, &mut me, (entry, loaded, at)),
            Reading::Stamp(mut stamps, loaded, value) => {
                let number = state.tags[usize::from(loaded)];
                stamps[usize::from(loaded)] = number;
                let is_readable = number.1 == 0 || self.mutant == "kept beside a writer";
                me.reading = match value {
                    _ if is_readable && loaded + 1 < self.tags => Reading::Stamp(stamps, loaded + 1, value),
                    Some(value) => Reading::Receive(is_readable.then_some(stamps), value),
                    None if is_readable => Reading::TakeOff(stamps),
                    None => Reading::Snapshot(None, None),
                };
                (if is_readable { "DatabaseCache::stamp" } else { "DatabaseCache::look: Uncached::Writing" }, None)
            }
            Reading::TakeOff(_) if is_flight && !me.followed => {
                me.reading = Reading::Follow;
                ("Flights::take_off: Takeoff::Follow", None)
            }
            Reading::TakeOff(stamps) => {
                me.flies = !is_flight;
                me.reading = Reading::Snapshot(Some(stamps), None);
                (if is_flight { "Flights::take_off: Turn::Second" } else { "Flights::take_off: Takeoff::First" }, None)
            }
            Reading::Snapshot(fill, None) if self.mutant == "asked in two" => {
                me.reading = Reading::Snapshot(fill, Some(state.rows));
                ("the server: a snapshot for one half", None)
            }
            Reading::Snapshot(fill, half) => {
                let value = half.map_or(state.rows, |first| [first[0], state.rows[1], state.rows[2]]);
                me.reading = if self.mutant == "stamped after send" {
                    Reading::Stamp(Stamps::default(), 0, Some(value))
                } else {
                    Reading::Receive(fill, value)
                };
                ("the server: a snapshot", None)
            }
            Reading::Receive(fill, value) => {
                let mut lost = *state;
                lost.readers[number] = at_rest(me.left - 1);
                all.push((("reader", number, "Session::doubt drops the fill"), lost, None));
                let fault = self.fault(&me, state, value);
                match fill {
                    Some(stamps) => me.reading = Reading::Keep((stamps, value)),
                    None => me = at_rest(me.left - 1),
                }
                ("Session::take_answers", fault)
            }
            Reading::Keep(entry) => {
                // Whatever the tags are by now: that DatabaseCache::keep looks only saves memory.
                after.kept = Some(entry);
                me = at_rest(me.left - 1);
                ("DatabaseCache::keep: Store::insert", None)
            }
        };
        after.readers[number] = me;
        all.push((("reader", number, what), after, fault));
    }

    /// The look at one of the tags of a known answer; `at`: what the server had at the first.
    fn validate(&self, state: &State, me: &mut Reader, (entry, loaded, at): (Entry, u8, Rows)) -> (&'static str, Option<Wrong>) {
        let at = if loaded == 0 { state.rows } else { at };
        let blindly = self.mutant == "hit not validated" || self.mutant == "follower not validated" && me.followed;
        let all = if self.mutant == "first tag validated" { 1 } else { self.tags };
        if !blindly && state.tags[usize::from(loaded)] != entry.0[usize::from(loaded)] {
            me.reading = self.missed();
            ("DatabaseCache::find: Stamps::are_current says no", None)
        } else if loaded + 1 < all {
            me.reading = Reading::Validate(entry, loaded + 1, at);
            ("DatabaseCache::find: Stamps::are_current, one of them", None)
        } else {
            let fault = self.fault(me, state, entry.1);
            let fault = fault.or((entry.1 != at).then_some("a hit is not true at the instant of the look"));
            *me = at_rest(me.left - 1);
            ("DatabaseCache::find: Found::Hit", fault)
        }
    }

    fn missed(&self) -> Reading {
        if self.mutant == "stamped after send" {
            Reading::Snapshot(None, None)
        } else {
            Reading::Stamp(Stamps::default(), 0, None)
        }
    }

    /// What is wrong with an answer that is given now.
    fn fault(&self, reader: &Reader, state: &State, value: Rows) -> Option<Wrong> {
        let is_older = |a: Rows, b: Rows| a.iter().zip(b).any(|(a, b)| *a < b);
        let faults = [
            (self.tags == 2 && value[0] != value[1], "half of a transaction is read"),
            (is_older(value, reader.told), "what was acknowledged before is not read"),
            (is_older(value, reader.asked) || is_older(state.rows, value), "an answer is true at no instant of the read"),
        ];
        faults.into_iter().find_map(|(is_so, fault)| is_so.then_some(fault))
    }

    /// What a write begins with.
    fn first(&self) -> Writing {
        if self.mutant == "opened after send" { Writing::Send } else { Writing::Open(0) }
    }

    /// The next step of a writer, and of its process at the server.
    fn write(&self, state: &State, number: usize, all: &mut Vec<Next>) {
        let (me, write) = (state.writers[number], self.writers[number]);
        let mut add = |what: &'static str, change: &dyn Fn(&mut State, &mut Writer)| {
            let (mut after, mut changed) = (*state, me);
            change(&mut after, &mut changed);
            after.writers[number] = changed;
            all.push((("writer", number, what), after, None));
        };
        if me.process == Process::Running {
            add("the server: a commit becomes visible", &|state, me| {
                write.rows.iter().for_each(|row| state.rows[*row] += 1);
                me.process = Process::Over((!me.lost).then_some(state.rows));
            });
            add("the server: a rollback", &|_, me| me.process = Process::Over(None));
        }
        let is_over = matches!(me.process, Process::Over(_));
        let closes = is_over || self.mutant == "closed before visible" || me.lost && self.mutant == "doubt closed at once";
        let tag = |n: u8| write.tags[usize::from(n)];
        let is_last = |n: u8| usize::from(n) + 1 == write.tags.len();
        match me.writing {
            _ if me.left == 0 || me.writing == Writing::Acknowledge && !is_over => {}
            Writing::Open(n) => add("Session::intend: Intent::add", &|state, me| {
                let (epoch, writers) = &mut state.tags[tag(n)];
                *epoch += u8::from(self.mutant != "epoch raised after" && self.mutant != "epoch not raised");
                *writers += u8::from(self.mutant != "epoch raised after" && self.mutant != "without writers");
                me.writing = match is_last(n) {
                    false => Writing::Open(n + 1),
                    true if self.mutant == "opened after send" => Writing::Close(0),
                    true => Writing::Send,
                };
            }),
            Writing::Send => add("what commits leaves", &|_, me| {
                me.process = Process::Running;
                me.writing = if self.mutant == "opened after send" { Writing::Open(0) } else { Writing::Close(0) };
            }),
            Writing::Close(n) => {
                let settled = if me.lost { "doubt::settle: is_gone, Intent::end" } else { "Session::end_batch: Intent::end" };
                if closes {
                    add(settled, &|state, me| {
                        let (epoch, writers) = &mut state.tags[tag(n)];
                        *epoch += u8::from(self.mutant == "epoch raised after");
                        *writers = writers.saturating_sub(1);
                        me.writing = if is_last(n) { Writing::Acknowledge } else { Writing::Close(n + 1) };
                    });
                }
                if !me.lost && n == 0 {
                    // What it made visible is nothing that anybody is told.
                    let process = if is_over { Process::Over(None) } else { me.process };
                    add("Session::doubt", &|_, me| (me.lost, me.process) = (true, process));
                }
            }
            Writing::Acknowledge => add(if me.lost { "nobody is told" } else { "the client is told" }, &|state, me| {
                if let Process::Over(Some(rows)) = me.process {
                    state.told = std::array::from_fn(|row| state.told[row].max(rows[row]));
                }
                *me = Writer { left: me.left - 1, writing: self.first(), process: Process::Idle, lost: false };
            }),
        }
    }

    /// Where nothing can happen any more, nobody is in the middle of something.
    fn is_over(&self, state: &State) -> bool {
        let readers = state.readers.iter().all(|reader| reader.left == 0 && !reader.flies);
        readers && state.writers.iter().all(|writer| writer.left == 0) && state.tags.iter().all(|(_, writers)| *writers == 0)
    }

    /// The same for states in which two that do the same have changed places.
    fn canonical(&self, mut state: State) -> State {
        state.readers.sort();
        if self.writers[0] == self.writers[1] {
            state.writers.sort();
        }
        state
    }
}

fn at_rest(left: u8) -> Reader {
    Reader { left, reading: Reading::Ask, followed: false, flies: false, asked: [0; 3], told: [0; 3] }
}

#[derive(Debug, Default)]
struct Explored {
    states: usize,
    /// How often each step was taken.
    steps: BTreeMap<&'static str, usize>,
    /// What is wrong, and a shortest way there.
    faults: BTreeMap<Wrong, Vec<Step>>,
}

/// Visits every state, those first that are reached in fewer steps.
fn explore(model: &Model) -> Explored {
    let (mut explored, mut seen) = (Explored::default(), HashSet::<State, ahash::RandomState>::default());
    // In the order of their discovery, each with the one before.
    let mut states = vec![(model.start(), None)];
    while let Some((state, _)) = states.get(explored.states).copied() {
        let at = explored.states;
        let way = |last: Option<Step>| {
            let before = std::iter::successors(states[at].1, |(before, _): &(usize, Step)| states[*before].1);
            let mut way: Vec<Step> = last.into_iter().chain(before.map(|(_, step)| step)).collect();
            way.reverse();
            way
        };
        let mut next = Vec::with_capacity(8);
        for number in 0..2 {
            model.read(&state, number, &mut next);
            model.write(&state, number, &mut next);
        }
        if next.is_empty() && !model.is_over(&state) {
            explored.faults.entry("somebody waits for ever").or_insert_with(|| way(None));
        }
        for (step, _, wrong) in &next {
            *explored.steps.entry(step.2).or_insert(0) += 1;
            if let Some(wrong) = wrong {
                explored.faults.entry(wrong).or_insert_with(|| way(Some(*step)));
            }
        }
        let new = next.into_iter().filter(|(_, after, _)| seen.insert(model.canonical(*after)));
        states.extend(new.map(|(step, after, _)| (after, Some((at, step)))));
        explored.states += 1;
    }
    explored
}

const ROW: Write = Write { tags: &[0], rows: &[0] };
const TRANSFER: Write = Write { tags: &[0, 1], rows: &[0, 1] };
const BACK: Write = Write { tags: &[1, 0], rows: &[0, 1] };
const NOTE: Write = Write { tags: &[1], rows: &[2] };

/// With how many states each has at least: a model that does nothing has no faults.
const MODELS: [(Model, usize); 4] = [
    (Model { tags: 1, reads: [2, 2], writers: [ROW, ROW], writes: [1, 1], mutant: "" }, 800_000),
    (Model { tags: 1, reads: [1, 1], writers: [ROW, ROW], writes: [2, 1], mutant: "" }, 700_000),
    (Model { tags: 2, reads: [1, 1], writers: [TRANSFER, NOTE], writes: [1, 1], mutant: "" }, 200_000),
    (Model { tags: 2, reads: [1, 1], writers: [TRANSFER, BACK], writes: [1, 1], mutant: "" }, 300_000),
];

/// Small ones, in which each mutant is found.
const SMALL: [Model; 3] = [
    Model { tags: 1, reads: [2, 1], writers: [ROW, ROW], writes: [1, 0], mutant: "" },
    Model { tags: 2, reads: [2, 1], writers: [NOTE, NOTE], writes: [1, 0], mutant: "" },
    Model { tags: 2, reads: [2, 0], writers: [TRANSFER, NOTE], writes: [1, 0], mutant: "" },
];

#[test]
fn no_order_of_steps_gives_what_is_not_true() {
    for (model, least) in MODELS {
        let Explored { states, steps, faults } = explore(&model);
        assert!(faults.is_empty(), "{model:?}: {faults:#?}");
        assert!(states >= least && steps.len() >= 20, "{model:?}: {states} states, {steps:?}");
        println!("{states} states: {steps:#?}");
    }
}

#[test]
fn each_way_to_break_the_protocol_is_found() {
    assert!(SMALL.iter().all(|model| explore(model).faults.is_empty()));
    let mut all = BTreeSet::new();
    for mutant in MUTANTS.split(", ") {
        let faults: BTreeMap<_, _> = SMALL.iter().flat_map(|model| explore(&Model { mutant, ..*model }).faults).collect();
        assert!(!faults.is_empty(), "{mutant} is not found");
        println!("{mutant}: {faults:#?}");
        all.extend(faults.into_keys());
    }
    assert_eq!(all.len(), 4, "each property is needed: {all:?}");
}
