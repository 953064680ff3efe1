//! A tenant's session and the result cache: what is answered without the server, what is kept, and what is said before a write.

use std::sync::Arc;
use std::time::Instant;

use bytes::Buf;

use super::drive::HIGH;
use super::enforced::{Phase, Session, Snapshots, Step};
use super::extended::parameters_of;
use super::statements::Statement;
use crate::cache::doubt;
use crate::cache::flights::Following;
use crate::cache::store::Entry;
use crate::cache::{Asked, Form, Found, Looked, Missing, Turn, WrittenRows};
use crate::event::{Cached, Command, Event, Uncached, Verdict};
use crate::gate::{Approved, Protocol};
use crate::id::PolicyEpoch;
use crate::plan::cached::{SPELL_NOTHING, TIMETZ, TIMETZ_ARRAY, names_the_present};
use crate::plan::{Action, Isolation, Parameters, Plan, Reads, TransactionCommand, Writes};
use crate::wire::backend::{self as reply, TransactionStatus};
use crate::wire::frame;
use crate::wire::frontend::{self, Bind, Format, FrontendMessage, Parse, Target};

impl Session<'_> {
    /// Answers a query from the cache before it is read. `Err`: it is not known, and may be kept under this key.
    pub fn query_known(&mut self, text: &str, begun: Instant) -> Result<(), Option<Missing>> {
        if self.database.cache.is_none() || !may_read(text) || !self.may_be_cached() || !self.sees_what_is_committed() {
            return Err(None);
        }
        let search_path = self.search_path();
        let Some(cache) = &self.database.cache else { return Err(None) };
        match cache.find(self.asked(text, self.database.gate.epoch(), Form::Simple, &search_path)) {
            Found::Hit(entry) => {
                // What cannot be recorded is refused where it would be sent.
                if self.give(&entry, Protocol::Simple, Cached::Hit, begun) { Ok(()) } else { Err(None) }
            }
            Found::Missing(key) => Err(Some(key)),
        }
    }

    /// Answers what the inbox begins with, where it is known: nothing is copied or awaited for that, nor allocated. `false`: it is taken as
    /// every message is.
    pub fn take_known(&mut self) -> bool {
        let begins = self.client.inbox.first().copied();
        if !matches!(begins, Some(b'Q' | b'P' | b'B')) || self.database.cache.is_none() {
            return false;
        }
        if !self.takes_messages() || !self.may_be_cached() || self.database.gate.refreshed().is_some() {
            return false;
        }
        if begins == Some(b'Q') { self.take_known_query() } else { self.take_known_batch() }
    }

    fn take_known_query(&mut self) -> bool {
        let Ok(Some(header)) = frame::peek(&self.client.inbox, self.shared.limits.max_message) else { return false };
        let length = header.frame();
        if self.client.inbox.len() < length {
            return false;
        }
        let mut inbox = std::mem::take(&mut self.client.inbox);
        let mut known = false;
        if let Ok(Some(FrontendMessage::Query(text))) = frontend::parse(b'Q', &inbox[frame::HEADER..length]) {
            match self.query_known(text, Instant::now()) {
                Ok(()) => {
                    self.names.remove("");
                    self.names.close_portal("");
                    known = true;
                }
                Err(missing) => self.sought = Some(Sought::Query(missing)),
            }
        }
        if known {
            inbox.advance(length);
        }
        self.client.inbox = inbox;
        known
    }

    fn take_known_batch(&mut self) -> bool {
        let Some(length) = length_of_batch(&self.client.inbox, self.shared.limits.max_message) else { return false };
        let mut messages = std::mem::take(&mut self.client.inbox);
        let begun = Instant::now();
        let outcome = Messages::read(&messages[..length]).and_then(|read| self.answer_batch(&read, self.first_turn(), begun));
        let answered = matches!(outcome, Some(Batch::Answered));
        if answered {
            messages.advance(length);
        } else {
            self.sought = Some(Sought::Batch(Unanswered { begun, outcome }));
        }
        self.client.inbox = messages;
        answered
    }

    /// `epoch`: an answer is kept only where its plan is of the same.
    fn asked<'a>(&'a self, text: &'a str, epoch: PolicyEpoch, form: Form<'a>, search_path: &'a [Box<str>]) -> Asked<'a> {
        let (principal, settings) = (&self.principal, self.settings.effective());
        Asked { text, epoch, principal, search_path, form, settings }
    }

    /// What is not [known](Self::query_known): waits where another has asked, and asks the second tier.
    pub async fn query_cached(
        &mut self,
        text: &str,
        approved: &[Approved],
        missing: Option<Missing>,
        begun: Instant,
    ) -> Step<Answered> {
        if self.database.cache.is_none() {
            return Ok(Answered::No);
        }
        if let Some(Looked::Asked(following)) = self.look(text, approved, missing, self.first_turn()) {
            self.follow(following).await?;
            // Policies or definitions may have changed while it waited.
            let known = self.catalog_known().await.is_ok();
            let is_old = |one: &Approved| one.plan.epoch() != self.database.gate.epoch();
            if !known || approved.iter().any(is_old) {
                return Ok(Answered::ReviewAgain);
            }
            let Err(missing) = self.query_known(text, begun) else { return Ok(Answered::Yes) };
            self.look(text, approved, missing, Turn::Second);
        }
        let Some(entry) = self.fetch().await? else { return Ok(Answered::No) };
        Ok(if self.give(&entry, Protocol::Simple, Cached::Fetched, begun) { Answered::Yes } else { Answered::No })
    }

    /// An answer of the second tier to what is about to be sent, if that may be kept. One that is cancelled meanwhile is sent, and
    /// answered so.
    async fn fetch(&mut self) -> Step<Option<Arc<Entry>>> {
        let (Some(cache), Some(fill)) = (&self.database.cache, &self.fill) else { return Ok(None) };
        let Some(asking) = cache.ask(fill) else { return Ok(None) };
        let epoch = self.database.gate.epoch();
        let sealed = self.wait_for(asking).await?.flatten();
        self.registration.slot().clear();
        // What was decided before is not a hit's decision any more (EPOCH).
        let sealed = sealed.filter(|_| self.database.gate.epoch() == epoch);
        let (Some(cache), Some(fill)) = (&self.database.cache, self.fill.take()) else { return Ok(None) };
        match cache.receive(fill, sealed) {
            Ok(entry) => Ok(Some(entry)),
            Err(fill) => {
                self.fill = Some(fill);
                Ok(None)
            }
        }
    }

    /// `None`: it is refused where it is sent.
    fn look(&mut self, text: &str, approved: &[Approved], key: Option<Missing>, turn: Turn) -> Option<Looked> {
        let cache = self.database.cache.as_ref()?;
        let looked = match approved {
            [one] if self.may_be_cached() && *one.plan.action() == Action::Forward => {
                let bound = one.plan.bind(text, &one.literals, Parameters::None, &self.principal, &self.own_sequences);
                match (one.plan.reads(), key) {
                    (Reads::Unknown(why), _) => Looked::Passed(*why),
                    (Reads::Families { .. }, None) if !self.sees_what_is_committed() => Looked::Passed(Uncached::Isolation),
                    (Reads::Families { .. }, None) => Looked::Passed(Uncached::Construct),
                    (Reads::Families { .. }, Some(key)) => cache.look(key, &bound.ok()?, turn),
                }
            }
            _ if !self.database.gate.is_exact() => Looked::Passed(Uncached::Behind), // tidy: not a syntax kind
            _ => Looked::Passed(Uncached::Transaction),                              // tidy: not a syntax kind
        };
        self.note_looked(looked)
    }

    /// Who has a limit for its statements asks by itself: the server keeps the time. So does who is inside of a block.
    fn first_turn(&self) -> Turn {
        let limited =
            self.shared.limits.statement_timeout.is_some() || self.settings.effective().map().contains_key("statement_timeout");
        // In a block it holds a connection, and perhaps locks, that the other may be waiting for.
        let holds = self.status != TransactionStatus::Idle && !crate::mutant!("cache.blocks-follow-others");
        if limited || holds { Turn::Second } else { Turn::First }
    }

    /// Waits for the answer that another has asked for; one that is cancelled meanwhile asks by itself, and is answered so.
    async fn follow(&mut self, following: Following) -> Step {
        self.wait_for(following.over()).await?;
        self.registration.slot().clear();
        Ok(())
    }

    /// Answers from the cache a transaction of the extended protocol that has come in whole. `false`: its messages are taken one by one,
    /// and its answer may be kept.
    pub async fn batch_cached(&mut self) -> Step<bool> {
        let begins = matches!(self.client.inbox.first(), Some(b'P' | b'B'));
        if !begins || !self.may_be_cached() {
            return Ok(false);
        }
        // INVARIANT (CACHE KEY): of these messages, or of none.
        let looked = match self.sought.take() {
            Some(Sought::Batch(looked)) => Some(looked),
            Some(Sought::Query(_)) | None => None,
        };
        let Some(length) = length_of_batch(&self.client.inbox, self.shared.limits.max_message) else { return Ok(false) };
        if looked.is_none() && self.catalog_known().await.is_err() {
            return Ok(false);
        }
        // What comes meanwhile is put behind it.
        let mut messages = std::mem::take(&mut self.client.inbox);
        let mut answered = false;
        if let Some(read) = Messages::read(&messages[..length]) {
            let Unanswered { begun, mut outcome } = looked.unwrap_or_else(|| {
                let begun = Instant::now();
                Unanswered { begun, outcome: self.answer_batch(&read, self.first_turn(), begun) }
            });
            if let Some(Batch::Asked(following)) = outcome {
                self.follow(following).await?;
                let known = self.catalog_known().await.is_ok();
                outcome = if known { self.answer_batch(&read, Turn::Second, begun) } else { None };
            }
            if let Some(Batch::Missed(statement)) = &outcome
                && let Some(entry) = self.fetch().await?
            {
                outcome = Some(self.give_batch(&read, statement.clone(), &entry, Cached::Fetched, begun));
            }
            answered = matches!(outcome, Some(Batch::Answered));
        }
        if answered {
            messages.advance(length);
        }
        messages.extend_from_slice(&self.client.inbox);
        self.client.inbox = messages;
        Ok(answered)
    }

    /// `None`: nothing was answered.
    fn answer_batch(&mut self, messages: &Messages<'_>, turn: Turn, begun: Instant) -> Option<Batch> {
        let Messages { parse, bind, bound, described } = messages;
        let statement = match parse {
            Some(parse) => self.prepare(parse).ok()?,
            None => self.statement_to_bind(bind).ok()?,
        };
        let plan = &statement.plan;
        // Inside of a block a portal that has a name stays.
        let stays = self.status != TransactionStatus::Idle && !bind.portal.is_empty();
        if stays
            || *plan.action() != Action::Forward
            || statement.target().is_some()
            || bind.values.len() != statement.parameters()
        {
            return None;
        }
        let cache = self.database.cache.as_ref()?;
        let spells = |i: usize| bind.format(i) == Format::Text || !SPELL_NOTHING.contains(&statement.parameter_type(i));
        let present = bind.values.iter().enumerate().any(|(i, v)| spells(i) && v.is_some_and(names_the_present));
        let zoned = (0..bind.values.len()).any(|i| matches!(statement.parameter_type(i), TIMETZ | TIMETZ_ARRAY));
        let looked = if let Reads::Unknown(why) = plan.reads() {
            Looked::Passed(*why)
        } else if !self.sees_what_is_committed() {
            Looked::Passed(Uncached::Isolation)
        } else if present {
            Looked::Passed(Uncached::Present)
        } else if zoned {
            Looked::Passed(Uncached::Type)
        } else {
            let form = Form::Extended { described: *described, types: &statement.declared, bound };
            match cache.find(self.asked(&statement.source, plan.epoch(), form, &statement.under.search_path)) {
                Found::Hit(entry) => return Some(self.give_batch(messages, statement, &entry, Cached::Hit, begun)),
                Found::Missing(key) => {
                    let parameters = parameters_of(bind, &statement);
                    let (literals, parameters) = (&statement.literals, Parameters::Bound(&parameters));
                    let own = &self.own_sequences;
                    let bound = plan.bind(&statement.source, literals, parameters, &self.principal, own).ok()?;
                    cache.look(key, &bound, turn)
                }
            }
        };
        match self.note_looked(looked) {
            Some(Looked::Asked(following)) => Some(Batch::Asked(following)),
            Some(Looked::Miss(_) | Looked::Passed(_)) | None => self.fill.is_some().then_some(Batch::Missed(statement)),
        }
    }

    fn give_batch(
        &mut self,
        messages: &Messages<'_>,
        statement: Arc<Statement>,
        entry: &Entry,
        how: Cached,
        begun: Instant,
    ) -> Batch {
        let before = self.client.outbox.len();
        if messages.parse.is_some() {
            reply::put_parse_complete(&mut self.client.outbox);
        }
        if !self.give(entry, Protocol::Extended, how, begun) {
            // Its messages are taken one by one, and it is refused among them.
            self.client.outbox.truncate(before);
            return Batch::Refused;
        }
        if let Some(parse) = &messages.parse {
            self.names.insert(parse.name, statement);
        }
        // Inside of a block the others stay, and this one is the unnamed one.
        match self.status {
            TransactionStatus::Idle => self.names.drop_portals(),
            TransactionStatus::InTransaction | TransactionStatus::Failed => _ = self.names.close_portal(""),
        }
        Batch::Answered
    }

    /// Whether the session's transactions are at READ COMMITTED, where they are not told otherwise.
    fn reads_committed(&self) -> bool {
        let level = self.settings.effective().map().get("default_transaction_isolation");
        level.is_none_or(|level| level.eq_ignore_ascii_case("read committed")) || crate::mutant!("cache.any-isolation")
    }

    /// Whether a statement sees what is committed when it begins. Writes of its own transaction are intents like any other's.
    fn sees_what_is_committed(&self) -> bool {
        match self.status {
            TransactionStatus::Idle => self.reads_committed(),
            TransactionStatus::InTransaction => {
                self.snapshots == Snapshots::Each && !self.is_timed() || crate::mutant!("cache.any-block")
            }
            TransactionStatus::Failed => false,
        }
    }

    /// Whether the server ends blocks that send it nothing for a while: it must see what is asked in them.
    fn is_timed(&self) -> bool {
        let own = self.settings.effective().map().get("idle_in_transaction_session_timeout");
        own.map_or(self.idle_limit, |own| own != "0")
    }

    /// A statement is about to leave that may begin a block, or change the level of one. A block's level cannot change once a query has
    /// run in it; what begins one is looked at where it is the first of its message or batch, so that settings are known.
    fn note_snapshots(&mut self, plan: &Plan) {
        let first = self.status == TransactionStatus::Idle && !self.batch.runs;
        self.batch.runs = true;
        self.snapshots = match plan.action() {
            Action::Transaction(TransactionCommand::Begin(isolation)) => match isolation {
                Isolation::Default if first && self.reads_committed() => Snapshots::Each,
                Isolation::ReadCommitted if first => Snapshots::Each,
                Isolation::Default | Isolation::ReadCommitted | Isolation::Other => Snapshots::Unknown,
            },
            Action::Transaction(TransactionCommand::Commit { .. } | TransactionCommand::Rollback { .. }) => Snapshots::Unknown,
            Action::Transaction(
                TransactionCommand::Savepoint(_) | TransactionCommand::Release(_) | TransactionCommand::RollbackTo(_),
            ) => self.snapshots,
            // SET TRANSACTION.
            Action::Forward if matches!(plan.command(), "SET" | "RESET") => Snapshots::Unknown,
            Action::Forward
            | Action::Set { .. }
            | Action::Configure { .. }
            | Action::Reset { .. }
            | Action::ChooseTenant { .. }
            | Action::Emulate(_)
            | Action::Prepare(_)
            | Action::Execute { .. }
            | Action::Empty => self.snapshots,
        };
    }

    /// What is left to do.
    fn note_looked(&mut self, looked: Looked) -> Option<Looked> {
        match looked {
            Looked::Miss(fill) => self.fill = Some(fill),
            Looked::Passed(why) => self.shared.events.emit(Event::Cached(Cached::Passed(why))),
            Looked::Asked(_) => return Some(looked),
        }
        None
    }

    /// `false`: it cannot be recorded, and was not given.
    fn give(&mut self, entry: &Entry, protocol: Protocol, how: Cached, begun: Instant) -> bool {
        let answer = &entry.answer;
        if !self.is_familiar(&entry.template.audited, protocol) {
            return false;
        }
        let tenant = self.principal.tenant().map(|tenant| &*tenant.0);
        let bytes = answer.len() as u64;
        let Ok(form) = self.trail.give(&entry.template.audited, tenant, bytes, begun) else { return false };
        self.note_ended(form, 0, bytes);
        self.client.outbox.extend_from_slice(answer);
        reply::put_ready(&mut self.client.outbox, self.status);
        self.statements += 1;
        self.tell(Command::Select, protocol, Verdict::Permitted);
        self.shared.events.emit(Event::Cached(how));
        self.shared.events.emit(Event::LatencyAdded(begun.elapsed()));
        true
    }

    /// Whether what comes is alone in its message or batch, with nothing before it that is not answered.
    fn may_be_cached(&self) -> bool {
        let alone = self.phase == Phase::Open && !self.batch.sent && self.queue.is_empty();
        alone
            && !self.pinned
            && !self.is_ending
            && !self.is_overdue()
            && self.trail.admits()
            && (self.database.gate.is_exact() || crate::mutant!("cache.any-catalog"))
    }

    /// Takes all that the server has sent, and a copy of what the client gets of it where it may be kept.
    pub fn take_answers(&mut self) -> Step {
        if self.fill.is_none() {
            return self.take_all_answers();
        }
        let before = self.client.outbox.len();
        let taken = self.take_all_answers();
        if taken.is_err() {
            self.fill = None;
        }
        if let Some(fill) = &mut self.fill
            && !fill.add(&self.client.outbox[before..])
        {
            self.abandon(Uncached::Size);
        }
        // The rest comes when this client has read: others are not held up by that.
        if self.client.outbox.len() >= HIGH
            && let Some(fill) = &mut self.fill
        {
            fill.fly_alone();
        }
        if self.fill.as_ref().is_some_and(|fill| fill.is_whole())
            && let (Some(fill), Some(cache)) = (self.fill.take(), &self.database.cache)
        {
            cache.keep(*fill);
            self.shared.events.emit(Event::Cached(Cached::Filled));
        }
        taken
    }

    /// What is on its way is not kept.
    pub fn abandon(&mut self, why: Uncached) {
        if self.fill.take().is_some() {
            self.shared.events.emit(Event::Cached(Cached::Passed(why)));
        }
    }

    /// A ReadyForQuery of the server's comes next, and with it the answer is whole; `good`: it is one that may be given again.
    pub fn complete_fill(&mut self, good: bool) {
        match &mut self.fill {
            Some(fill) if good => fill.end(),
            Some(_) => self.abandon(Uncached::Answer),
            None => {}
        }
    }

    /// Before a statement leaves: what it may write cannot be read from the cache until its transaction has ended. `rows`: as far as
    /// they are known.
    pub fn intend(&mut self, plan: &Plan, rows: &WrittenRows) {
        self.note_snapshots(plan);
        let Some(cache) = self.database.cache.as_ref().filter(|_| *plan.writes() != Writes::Nothing) else { return };
        let intent = self.intent.get_or_insert_with(|| cache.intend());
        let gate = &self.database.gate;
        // What it writes was told by definitions that have changed since.
        let is_old = gate.epoch() != plan.epoch() || gate.refreshed().is_some() || !gate.is_exact();
        let writes = if is_old { &Writes::Everything } else { plan.writes() };
        cache.widen(intent, writes, rows, self.principal.tenant());
    }

    /// The server has ended a connection: if it crashed, it may have lost rows (unlogged tables, commits that were not waited for).
    pub fn forget_answers(&self) {
        if let Some(cache) = &self.database.cache {
            cache.forget();
        }
    }

    /// The transaction has ended, and its outcome is visible.
    pub fn end_intent(&mut self) {
        if let Some(intent) = self.intent.take() {
            intent.end();
        }
    }

    /// The connection is about to be lost: what became of the transaction is to be found out. Before the lease is dropped.
    pub fn doubt(&mut self) {
        self.fill = None;
        if let (Some(intent), Some(lease)) = (self.intent.take(), &self.lease) {
            if crate::mutant!("cache.no-doubt") {
                return intent.end();
            }
            doubt::settle(intent, lease.server().process_id, self.database.pool.clone());
        }
    }
}

/// Whether a query may begin a statement that only reads: the others are not looked for.
fn may_read(text: &str) -> bool {
    let text = text.trim_ascii_start().as_bytes();
    let begins = |word: &[u8]| text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word));
    [&b"sel"[..], b"with", b"(", b"--", b"/*", b"table"].into_iter().any(begins)
}

/// What became of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Yes,
    /// It must be sent, and its answer may be kept.
    No,
    /// What was decided about it has grown old while it waited (EPOCH).
    ReviewAgain,
}

/// What was not known.
pub enum Sought {
    /// It may be kept under this key, if any.
    Query(Option<Missing>),
    Batch(Unanswered),
}

/// What has become of messages that were not answered at once.
pub struct Unanswered {
    begun: Instant,
    /// `None`: they are not for the cache.
    outcome: Option<Batch>,
}

/// What became of such messages.
enum Batch {
    Answered,
    /// Another has asked the same.
    Asked(Following),
    /// It may be kept.
    Missed(Arc<Statement>),
    /// It is known, and must not be given.
    Refused,
}

/// The messages of a transaction of the extended protocol that is one statement.
struct Messages<'m> {
    parse: Option<Parse<'m>>,
    bind: Bind<'m>,
    /// What Bind says after its names.
    bound: &'m [u8],
    described: bool,
}

impl<'m> Messages<'m> {
    /// `None`: they are not about one portal, or a message is not as it should be.
    fn read(mut messages: &'m [u8]) -> Option<Messages<'m>> {
        let (mut parse, mut bound, mut described) = (None, None, false);
        while let Some((tag, body, rest)) = frame::split(messages) {
            messages = rest;
            match (frontend::parse(tag, body).ok()??, &bound) {
                (FrontendMessage::Parse(p), None) => parse = Some(p),
                (FrontendMessage::Bind(bind), None) if parse.as_ref().is_none_or(|p| p.name == bind.statement) => {
                    let after_names = body.get(bind.portal.len() + bind.statement.len() + 2..)?;
                    bound = Some((bind, after_names));
                }
                (FrontendMessage::Describe(Target::Portal(name)), Some((bind, _))) if name == bind.portal => described = true,
                (FrontendMessage::Execute(execute), Some((bind, _)))
                    if execute.portal == bind.portal && execute.max_rows <= 0 => {}
                (FrontendMessage::Sync, Some(_)) => {}
                _ => return None, // tidy: not a syntax kind
            }
        }
        let (bind, bound) = bound?;
        Some(Messages { parse, bind, bound, described })
    }
}

/// How long the messages are, in bytes, where they are `[Parse] Bind [Describe] Execute Sync` and all of them are there.
fn length_of_batch(inbox: &[u8], cap: usize) -> Option<usize> {
    let mut length = 0;
    let mut last = 0;
    loop {
        let header = frame::peek(&inbox[length..], cap).ok()??;
        let follows = match header.tag {
            b'P' => last == 0,
            b'B' => matches!(last, 0 | b'P'),
            b'D' => last == b'B',
            b'E' => matches!(last, b'B' | b'D'),
            b'S' => last == b'E',
            _ => false, // tidy: not a syntax kind
        };
        length += header.frame();
        last = header.tag;
        if !follows || inbox.len() < length {
            return None;
        }
        if last == b'S' {
            return Some(length);
        }
    }
}
