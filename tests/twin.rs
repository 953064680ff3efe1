//! The twin oracle: generated statements give tenant 1, through the proxy on a database of all tenants, what they give
//! on a database that holds only tenant 1's rows; every other one again with other rows of the other tenants.
//!
//! `TWIN_STATEMENTS=1000000 make test-twin` runs more; `TWIN_SEED=..` starts elsewhere, or repeats one statement
//! with `TWIN_STATEMENTS=1`. To see that it can fail: `SUBJECT=plain` (no filter) differs at once. `SUBJECT=rls` runs
//! against PostgreSQL's own row security, which must differ in almost nothing. `SUBJECT=views` filters rows and
//! does not guard expressions: leaks by errors must be found. `SUBJECT=twin` compares the twin with a
//! copy of itself: what differs there is not determined, and no fault of anybody's. A second run masks columns; its twin holds
//! the masks, and only the proxy and the twin can be its subject.

#[path = "twin/expression.rs"]
mod expression;
#[path = "twin/query.rs"]
mod query;
#[path = "twin/scope.rs"]
mod scope;
mod support;
#[path = "twin/write.rs"]
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use scope::Generator;
use support::answer::Answer;
use support::cluster::Cluster;
use support::compare::{Names, Order, Shape};
use support::random::Random;
use support::repository;
use support::subject::{Subject, like_the_others};
use support::wire::{Extended, Wire};

const WORKERS: usize = 4;
/// After so many differences, of whatever classes, the run has shown enough.
const ENOUGH_DIFFERENCES: usize = 300;
/// One write in so many is committed, and the rows of other tenants are looked at.
const COMMITTED: u64 = 16;

/// How a statement is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Simple,
    Extended,
    /// Extended, with results in binary.
    Binary,
    /// By a named statement, often enough for a generic plan.
    Prepared,
}

/// Executions of a named statement.
const TIMES: usize = 7;

#[derive(Clone, Debug)]
struct Statement {
    sql: String,
    parameters: Vec<String>,
    order: Order,
    sending: Sending,
    /// The table that it writes to.
    writes: Option<&'static str>,
}

/// The statement of a seed, of at most this size.
fn generate(seed: u64, budget: usize) -> Statement {
    let mut random = Random::new(seed);
    let writes = random.percent(30);
    let sending = match random.below(100) {
        0..=65 => Sending::Simple,
        66..=81 => Sending::Extended,
        82..=96 => Sending::Binary,
        _ if writes => Sending::Extended,
        _ => Sending::Prepared,
    };
    let parameters = (sending != Sending::Simple).then(Vec::new);
    let mut generator = Generator { random, levels: Vec::new(), withs: Vec::new(), parameters, budget };
    if writes {
        let (sql, table) = generator.write();
        return Statement::new(sql, generator.parameters, Order::Any, sending, Some(table));
    }
    let query = generator.query();
    let order = if query.total { Order::Total } else { Order::Any };
    Statement::new(query.sql, generator.parameters, order, sending, None)
}

impl Statement {
    /// Leaves out the parameters that the text does not use.
    fn new(mut sql: String, all: Option<Vec<String>>, order: Order, sending: Sending, writes: Option<&'static str>) -> Statement {
        let mut parameters = Vec::new();
        for (i, value) in all.into_iter().flatten().enumerate() {
            let old = format!("${}::", i + 1);
            if sql.contains(&old) {
                parameters.push(value);
                sql = sql.replace(&old, &format!("${}::", parameters.len()));
            }
        }
        Statement { sql, parameters, order, sending, writes }
    }
}

#[test]
fn answers_are_those_of_the_tenants_own_database() {
    run(Columns::AsTheyAre, number("TWIN_STATEMENTS", 50_000));
}

/// Queries only: what may be written to masked columns has tests of its own.
#[test]
fn masked_columns_read_as_on_a_database_that_holds_the_masks() {
    run(Columns::Masked, number("TWIN_STATEMENTS", 50_000) / 16);
}

/// What the tenant sees of some columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    AsTheyAre,
    Masked,
}

fn run(columns: Columns, count: u64) {
    let seed = number("TWIN_SEED", 1);
    eprintln!("twin: {count} statements from seed {seed}, columns {columns:?}");
    let started = Instant::now();
    let world = World::start(columns);
    let next = AtomicUsize::new(0);
    let differing = AtomicUsize::new(0);
    let tallies: Vec<Tally> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|n| {
                let (world, next, differing) = (&world, &next, &differing);
                scope.spawn(move || {
                    let mut worker = Worker::new(world, n);
                    while differing.load(Ordering::Relaxed) < ENOUGH_DIFFERENCES {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= count as usize {
                            break;
                        }
                        if columns == Columns::Masked && generate(seed + i as u64, 4).writes.is_some() {
                            continue;
                        }
                        if !worker.check(seed + i as u64) {
                            differing.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    worker.tally
                })
            })
            .collect();
        workers.into_iter().map(|w| w.join().expect("a worker")).collect()
    });
    let tally = Tally::sum(tallies);
    eprintln!("twin: {tally} in {:.0} s", started.elapsed().as_secs_f32());
    let differences: Vec<String> =
        tally.differences.values().map(|(n, example)| format!("{n} of this class; {example}")).collect();
    assert!(differences.is_empty(), "{}", differences.join("\n\n"));
    assert!(count < 500 || tally.valid * 100 >= tally.run * 85, "too many statements are invalid: {tally}");
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |v| v.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What came of the statements.
#[derive(Debug, Default)]
struct Tally {
    run: usize,
    /// PostgreSQL accepts them on the twin.
    valid: usize,
    accepted: usize,
    /// Equal to what the twin gives under another plan.
    other_plan: usize,
    timed_out: usize,
    committed: usize,
    refused: BTreeMap<String, (usize, String)>,
    invalid: BTreeMap<String, (usize, String)>,
    /// By class, with the shortest example.
    differences: BTreeMap<String, (usize, String)>,
}

impl Tally {
    fn sum(tallies: Vec<Tally>) -> Tally {
        let mut sum = Tally::default();
        for t in tallies {
            sum.run += t.run;
            sum.valid += t.valid;
            sum.accepted += t.accepted;
            sum.other_plan += t.other_plan;
            sum.timed_out += t.timed_out;
            sum.committed += t.committed;
            for (into, from) in [(&mut sum.refused, t.refused), (&mut sum.invalid, t.invalid)] {
                for (message, (n, example)) in from {
                    into.entry(message).or_insert((0, example)).0 += n;
                }
            }
            for (class, (n, example)) in t.differences {
                sum.differing(class, n, example);
            }
        }
        sum
    }

    fn differing(&mut self, class: String, n: usize, example: String) {
        let known = self.differences.entry(class).or_insert_with(|| (0, example.clone()));
        known.0 += n;
        if example.len() < known.1.len() {
            known.1 = example;
        }
    }

    fn count_differing(&self) -> usize {
        self.differences.values().map(|(n, _)| n).sum()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = |n: usize, of: usize| n as f64 * 100.0 / of.max(1) as f64;
        writeln!(
            f,
            "{} statements, {:.1} % valid, {:.1} % of those accepted, {} committed, {} timed out, {} equal under another plan of the twin, {} differences",
            self.run,
            share(self.valid, self.run),
            share(self.accepted, self.valid),
            self.committed,
            self.timed_out,
            self.other_plan,
            self.count_differing()
        )?;
        for (title, list) in [("refused", &self.refused), ("invalid", &self.invalid)] {
            let mut list: Vec<_> = list.iter().collect();
            list.sort_by_key(|(_, (n, _))| std::cmp::Reverse(*n));
            for (message, (n, example)) in list.into_iter().take(25) {
                writeln!(f, "  {title} {n} x {message}\n      {}", example.chars().take(300).collect::<String>())?;
            }
        }
        Ok(())
    }
}

/// The cluster, with databases for each worker: writers must not meet.
struct World {
    cluster: Cluster,
    subject: Subject,
}

impl World {
    fn start(columns: Columns) -> World {
        let cluster = Cluster::start_with(&["jit = off"]);
        let schema = repository("tests/twin/schema.sql");
        let masks = repository("tests/twin/masks.sql");
        let (files, policies): (&[&std::path::Path], _) = match columns {
            Columns::AsTheyAre => (&[&schema], "tests/twin/policies.toml"),
            Columns::Masked => (&[&schema, &masks], "tests/twin/masks.toml"),
        };
        cluster.create_database("solo", files, &[("solo", "1")]);
        cluster.create_database("all_a", &[&schema], &[("variant", "a")]);
        cluster.create_database("all_b", &[&schema], &[("variant", "b")]);
        let itself = std::env::var("SUBJECT").is_ok_and(|s| s == "twin");
        let mut everyone = Vec::new();
        for n in 0..WORKERS {
            for template in ["solo", "all_a", "all_b"] {
                let name = format!("{template}_{n}");
                cluster.copy_database(&name, if itself { "solo" } else { template });
                if template != "solo" {
                    everyone.push(name);
                }
            }
        }
        let policies = fs::read_to_string(repository(policies)).expect("read the policies");
        let rls = fs::read_to_string(repository("tests/twin/rls.sql")).expect("read the row security");
        let views = fs::read_to_string(repository("tests/twin/views.sql")).expect("read the views");
        let subject = Subject::start(&cluster, &everyone, &policies, &rls, Some(&views));
        like_the_others(&cluster, "solo");
        World { cluster, subject }
    }
}

/// A session with the names of its database's objects.
struct Side {
    wire: Wire,
    names: Names,
    /// A superuser's, to look and to restore.
    watch: Wire,
}

/// What one side gave: the answer, and for a write what is in the table then.
struct Outcome {
    answer: Answer,
    shape: Shape,
    effect: Option<Shape>,
}

impl Side {
    fn run(&mut self, statement: &Statement) -> Outcome {
        let Some(table) = statement.writes else {
            let answer = self.send(statement);
            let shape = Shape::of(&answer, &self.names, statement.order);
            return Outcome { answer, shape, effect: None };
        };
        self.wire.query("BEGIN");
        let answer = self.send(statement);
        let effect = answer.error.is_none().then(|| self.wire.query(format!("SELECT * FROM public.{table}")));
        self.wire.query("ROLLBACK");
        let shape = Shape::of(&answer, &self.names, statement.order);
        let effect = effect.map(|e| Shape::of(&e, &self.names, Order::Any));
        Outcome { answer, shape, effect }
    }

    fn send(&mut self, statement: &Statement) -> Answer {
        let parameters: Vec<Option<&str>> = statement.parameters.iter().map(|p| Some(p.as_str())).collect();
        let sql = statement.sql.as_bytes();
        let extended = Extended { sql, parameters: &parameters, ..Extended::default() };
        match statement.sending {
            Sending::Simple => self.wire.query(sql),
            Sending::Extended => self.wire.extended(&extended),
            Sending::Binary => self.wire.extended(&Extended { result_format: 1, ..extended }),
            Sending::Prepared => self.wire.prepared(&extended, TIMES),
        }
    }

    /// Hashes of the caller's rows and of all others'.
    fn state(&mut self) -> (String, String) {
        let answer = self.watch.query("SELECT * FROM pristine.state");
        let row = answer.rows().next().unwrap_or_else(|| panic!("the state: {answer:?}"));
        let text = |i: usize| String::from_utf8_lossy(row[i].as_deref().unwrap_or_default()).into_owned();
        (text(0), text(1))
    }

    fn restore(&mut self) {
        let answer = self.watch.query("SELECT pristine.restore()");
        assert!(answer.error.is_none(), "restore: {answer:?}");
        let answer = self.watch.query("VACUUM customer, sale, event, remark, memo, item");
        assert!(answer.error.is_none(), "vacuum: {answer:?}");
    }
}

/// How an answer compares with the twin's.
enum Verdict {
    Equal,
    OtherPlan,
    Refused(String),
    TimedOut,
    Differs(String),
}

struct Worker {
    twin: Side,
    /// The same own rows among different foreign rows.
    subjects: [Side; 2],
    /// The hash of the first subject's foreign rows, which no statement may change.
    foreign: String,
    tally: Tally,
}

impl Worker {
    fn new(world: &World, n: usize) -> Worker {
        let side = |database: String, solo: bool| {
            let target = if solo { world.cluster.app(&database) } else { world.subject.tenant(&world.cluster, &database) };
            Side {
                wire: Wire::connect(&target).expect("a session"),
                names: Names::load(&world.cluster, &database),
                watch: Wire::connect(&world.cluster.superuser(&database)).expect("superuser connection"),
            }
        };
        let mut subjects = [side(format!("all_a_{n}"), false), side(format!("all_b_{n}"), false)];
        let (_, foreign) = subjects[0].state();
        Worker { twin: side(format!("solo_{n}"), true), subjects, foreign, tally: Tally::default() }
    }

    /// Runs the statement of a seed everywhere; false where there is a difference.
    fn check(&mut self, seed: u64) -> bool {
        let statement = generate(seed, 4);
        self.tally.run += 1;
        // Every other statement runs again among other foreign rows.
        let sides = if seed.is_multiple_of(2) { 1 } else { 2 };
        let (verdict, twin) = self.compare(&statement, sides);
        match &twin.error {
            None => self.tally.valid += 1,
            Some(error) => note(&mut self.tally.invalid, &format!("{} {}", error.sqlstate(), error.message()), &statement),
        }
        match verdict {
            Verdict::Equal | Verdict::OtherPlan => {
                self.tally.accepted += usize::from(twin.error.is_none());
                self.tally.other_plan += usize::from(matches!(verdict, Verdict::OtherPlan));
                if statement.writes.is_some() && twin.error.is_none() && seed.is_multiple_of(COMMITTED) {
                    return self.check_committed(seed, &statement);
                }
                true
            }
            Verdict::Refused(message) => {
                if twin.error.is_none() {
                    note(&mut self.tally.refused, &message, &statement);
                }
                true
            }
            Verdict::TimedOut => {
                self.tally.timed_out += 1;
                true
            }
            Verdict::Differs(why) => {
                let class = class_of(why.lines().next().unwrap_or_default());
                let shrunk = self.shrink(seed, &statement, why);
                self.tally.differing(class, 1, shrunk);
                false
            }
        }
    }

    fn compare(&mut self, statement: &Statement, sides: usize) -> (Verdict, Answer) {
        let twin = self.twin.run(statement);
        let mut verdict = Verdict::Equal;
        for i in 0..sides {
            let outcome = self.subjects[i].run(statement);
            if let Some(canary) = canary(&outcome.answer.raw).filter(|_| canary(&twin.answer.raw).is_none()) {
                let why = format!("LEAK: the canary {canary:?} in the bytes to the client\n proxy:\n{:?}", outcome.answer);
                return (Verdict::Differs(why), twin.answer);
            }
            match self.judge(statement, &outcome, &twin) {
                Verdict::Equal => {}
                Verdict::OtherPlan => verdict = Verdict::OtherPlan,
                Verdict::Differs(_) if self.is_about_too_many_rows(statement, i, &outcome, &twin) => verdict = Verdict::OtherPlan,
                other => return (other, twin.answer),
            }
        }
        (verdict, twin.answer)
    }

    /// Whether a sub-select that gives more than one row is run at all depends on the plan (a guard keeps IN from becoming a join),
    /// and no setting makes the twin's planner do the same. Among other foreign rows it must go the same way.
    fn is_about_too_many_rows(&mut self, statement: &Statement, subject: usize, outcome: &Outcome, twin: &Outcome) -> bool {
        let told = |o: &Outcome| o.answer.sqlstate() == "21000";
        statement.writes.is_none()
            && told(outcome) != told(twin)
            && self.subjects[1 - subject].run(statement).shape.difference(&outcome.shape).is_none()
    }

    fn judge(&mut self, statement: &Statement, outcome: &Outcome, twin: &Outcome) -> Verdict {
        if outcome.answer.sqlstate() == "57014" || twin.answer.sqlstate() == "57014" {
            return Verdict::TimedOut;
        }
        let difference = outcome.shape.difference(&twin.shape);
        let effect = match (&outcome.effect, &twin.effect) {
            (Some(a), Some(b)) => a.difference(b).map(|d| format!("what is in the table then: {d}")),
            _ => None,
        };
        let Some(why) = difference.clone().or(effect.clone()) else { return Verdict::Equal };
        if let Some(error) =
            outcome.answer.error.as_ref().filter(|e| matches!(e.sqlstate(), "0A000" | "42501" | "42601" | "54000" | "54001"))
            && difference.is_some()
        {
            return Verdict::Refused(format!("{} {}", error.sqlstate(), error.message()));
        }
        let modifiers_alone = (statement.sql.contains("UNION ALL") || statement.sql.contains("CASE"))
            && effect.is_none()
            && outcome.shape.without_type_modifiers().difference(&twin.shape.without_type_modifiers()).is_none();
        let scales_alone = statement.sql.contains("INTERSECT")
            && effect.is_none()
            && outcome.shape.without_scales().difference(&twin.shape.without_scales()).is_none();
        if modifiers_alone || scales_alone || self.twin_can(statement, outcome) {
            return Verdict::OtherPlan;
        }
        Verdict::Differs(format!("{why}\n proxy:\n{:?}\n twin:\n{:?}", outcome.answer, twin.answer))
    }

    /// Does the twin give this answer under some other plan? Then it holds nothing that the tenant could not have.
    fn twin_can(&mut self, statement: &Statement, outcome: &Outcome) -> bool {
        const PLANS: [&[&str]; 9] = [
            &["enable_seqscan"],
            &["enable_hashjoin"],
            &["enable_hashjoin", "enable_mergejoin"],
            &["enable_nestloop"],
            &["enable_nestloop", "enable_hashjoin"],
            &["enable_indexscan", "enable_bitmapscan", "enable_indexonlyscan"],
            &["enable_hashagg"],
            &["enable_sort", "enable_incremental_sort"],
            &["enable_hashagg", "enable_mergejoin", "enable_seqscan"],
        ];
        PLANS.iter().any(|off| {
            for setting in *off {
                self.twin.wire.query(format!("SET {setting} = off"));
            }
            let twin = self.twin.run(statement);
            self.twin.wire.query("RESET ALL");
            let same_effect = match (&outcome.effect, &twin.effect) {
                (Some(a), Some(b)) => a.difference(b).is_none(),
                _ => true,
            };
            same_effect && outcome.shape.difference(&twin.shape).is_none()
        })
    }

    /// The effect oracle: commits, looks at everybody's rows, and puts them back.
    fn check_committed(&mut self, seed: u64, statement: &Statement) -> bool {
        self.tally.committed += 1;
        self.twin.send(statement);
        self.subjects[0].send(statement);
        let (own, foreign) = self.subjects[0].state();
        let (twin_own, _) = self.twin.state();
        let why = match () {
            () if foreign != self.foreign => "LEAK: rows of other tenants changed",
            () if own != twin_own => "the caller's own rows are not as on the twin",
            () => "",
        };
        self.subjects[0].restore();
        self.twin.restore();
        if !why.is_empty() {
            self.tally.differing(why.to_owned(), 1, format!("seed {seed}, committed: {why}\n{}", statement.sql));
        }
        why.is_empty()
    }

    /// The same seed with less room gives smaller statements: the smallest that still differs.
    fn shrink(&mut self, seed: u64, statement: &Statement, why: String) -> String {
        for budget in 0..4 {
            let smaller = generate(seed, budget);
            if smaller.sql.len() < statement.sql.len()
                && let (Verdict::Differs(why), _) = self.compare(&smaller, 2)
            {
                return report(seed, budget, &smaller, &why);
            }
        }
        report(seed, 4, statement, &why)
    }
}

fn report(seed: u64, budget: usize, statement: &Statement, why: &str) -> String {
    format!(
        "seed {seed}, size {budget}:\n{}\n {:?}, parameters {:?}\n{why}",
        statement.sql, statement.sending, statement.parameters
    )
}

/// Counts a message, and keeps one example.
fn note(into: &mut BTreeMap<String, (usize, String)>, message: &str, statement: &Statement) {
    into.entry(class_of(message)).or_insert_with(|| (0, statement.sql.clone())).0 += 1;
}

/// A message without the names and numbers in it.
fn class_of(message: &str) -> String {
    // In a debug print the quotes of names are escaped, and those of the text around them are not.
    let quote = if message.contains("\\\"") { '\u{1}' } else { '"' };
    let message = message.replace("\\\"", "\u{1}");
    let mut quoted = false;
    let mut plain = String::new();
    for c in message.chars().take(200) {
        if c == quote {
            quoted = !quoted;
            plain.push('"');
        } else if !quoted && !c.is_ascii_digit() || plain.len() < 5 {
            plain.push(c);
        }
    }
    plain
}

/// What no answer to tenant 1 may hold.
fn canary(raw: &[u8]) -> Option<&'static str> {
    let text = String::from_utf8_lossy(raw);
    ["CANARY", "918273", "ca0a0000"].into_iter().find(|c| text.contains(c))
}
