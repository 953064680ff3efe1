//! The records of one session: its begin and end, and each statement's.
//!
//! What writes has two records, its intent and its outcome; what only reads has one, when it has been answered, and two where records
//! are waited for. An intent without an outcome: the proxy or its machine died in between. What is under way when a session breaks off
//! is told as `unknown`, by [`Open`]'s drop: nothing that was sent is forgotten.

use std::sync::Arc;
use std::time::Instant;

use super::record::Record;
use super::redact::{LONGEST, cut};
use super::repeated::{Given, Noted, Repeated};
use super::{Classed, Duty, Log, Ticket, Unavailable};
use crate::sql::form::{self, FormId};

/// What many statements have in common: recorded once in each segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Template {
    pub(super) hash: u128,
    /// That, as records have it.
    id: Box<str>,
    /// First word of the command.
    command: &'static str,
    /// What is sent, without constants.
    pub text: Box<str>,
    /// The form of what was asked; empty: that is what is sent.
    pub asked: Box<str>,
    pub form: FormId,
    /// Fields that tell what it is about.
    about: Box<[u8]>,
    /// Fields that say which it is.
    name: Box<[u8]>,
    /// Records of such statements are waited for, whatever the log does elsewhere.
    is_awaited: bool,
}

impl Template {
    /// With fields, as [`Record::fields`] gives them, that tell what it is about.
    pub fn about(self, fields: &[u8]) -> Template {
        Template { about: fields.into(), ..self }
    }

    /// Whether records of such statements are waited for in any log.
    pub fn awaited(self, is_awaited: bool) -> Template {
        Template { is_awaited, ..self }
    }

    /// How records name it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// `text`: without constants. `asked`: its form, where it is not what the client asked.
    pub fn new(command: &'static str, text: String, asked: &str) -> Template {
        // One that nobody finds another text for.
        let hash = form::id_of(&[&text, asked].join("\0"));
        let id: Box<str> = format!("{hash:032x}").into();
        let name = Record::fields(|record| record.text("command", command).text("template", &id)).into();
        let form = form::id_of(asked);
        Template {
            hash,
            id,
            command,
            text: text.into(),
            asked: asked.into(),
            form,
            about: Box::default(),
            name,
            is_awaited: false,
        }
    }

    /// Says which it is.
    pub(super) fn name(&self, record: Record) -> Record {
        record.with(&self.name)
    }

    pub(super) fn record(&self) -> Vec<u8> {
        let record = Record::new("template").text("template", self.id()).text("command", self.command).with(&self.about);
        let record = record.text("text", cut(&self.text)).number("length", self.text.len() as u64);
        // Half a form is none.
        record.maybe("asked", Some(&*self.asked).filter(|asked| !asked.is_empty() && asked.len() <= LONGEST)).end()
    }
}

/// The message as far as it cannot quote a value: where a text could not be read, or a value not be converted, what it quotes may be one;
/// elsewhere it is a name.
pub fn without_quotes<'m>(sqlstate: &str, message: &'m str) -> &'m str {
    const NAMES: [&str; 2] = ["42", "0A"];
    let quotes = if NAMES.iter().any(|class| sqlstate.starts_with(class)) { " at or near \"" } else { "\"" };
    let end = memchr::memmem::find(message.as_bytes(), quotes.as_bytes());
    cut(&message[..end.unwrap_or(message.len())])
}

/// Whether a statement changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    Reads,
    Writes,
}

/// How a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome<'o> {
    /// With so many rows, as the command tag says, of so many bytes.
    Done { rows: u64, bytes: u64 },
    /// The result cache answered it.
    Cached { bytes: u64 },
    /// The server refused it, with this SQLSTATE.
    Failed { sqlstate: &'o str },
    /// The client has taken so many rows of it as it asked for: more may follow.
    Suspended { bytes: u64 },
    /// Something before it failed: it did not run.
    Skipped,
    /// Nobody knows.
    Unknown,
}

/// Where a session's records go: nowhere, without a log.
#[derive(Debug, Default)]
pub struct Trail(Option<Box<On>>);

#[derive(Debug)]
struct On {
    log: Arc<Log>,
    /// Fields of each record: session, user, database, tags.
    who: Arc<[u8]>,
    /// Without tags.
    own: Arc<[u8]>,
    tags: Vec<&'static str>,
    /// Statements so far.
    statements: u64,
    /// What is waited for before anything is sent or told.
    owed: Ticket,
    /// Answers of the cache that are not told yet.
    repeated: Arc<Repeated>,
}

impl On {
    /// Waits for records of this kind: for all, or for those of a template that says so.
    fn awaits(&self, template: Option<&Template>) -> bool {
        self.log.is_sync() || template.is_some_and(|template| template.is_awaited)
    }

    /// What was recorded last is waited for, where all is.
    fn owe(&mut self, ticket: Ticket) {
        if self.log.is_sync() {
            self.owed = ticket;
        }
    }

    /// Answers of the cache come before what is told now.
    fn log(&self) -> &Arc<Log> {
        self.log.tell_repeated(&self.repeated);
        &self.log
    }
}

/// Who begins a session.
#[derive(Clone, Copy, Debug)]
pub struct Who<'w> {
    pub user: &'w str,
    pub database: &'w str,
    pub roles: &'w [Box<str>],
    pub client: &'w str,
    pub application: Option<&'w str>,
    pub is_encrypted: bool,
    pub is_unrestricted: bool,
}

impl Trail {
    /// Records that a session begins.
    pub fn begin(log: Option<&Arc<Log>>, who: &Who<'_>) -> Trail {
        let Some(log) = log else { return Trail(None) };
        let fields = Record::fields(|record| {
            record.number("session", log.next_session()).text("user", who.user).text("database", who.database)
        });
        let record = Record::new("session").with(&fields).texts("roles", who.roles.iter().map(|role| &**role));
        let record = record.text("client", who.client).maybe("application", who.application);
        let (tls, access) =
            (if who.is_encrypted { "on" } else { "off" }, if who.is_unrestricted { "unrestricted" } else { "tenant" });
        let begun = log.note(record.text("tls", tls).text("access", access));
        let own: Arc<[u8]> = fields.into();
        Trail(Some(Box::new(On {
            log: log.clone(),
            who: own.clone(),
            own,
            tags: vec![],
            statements: 0,
            owed: if log.is_sync() { begun } else { Ticket::default() },
            repeated: Arc::default(),
        })))
    }

    /// A field that tells values, for [`open`](Self::open).
    ///
    /// # Errors
    /// There is no key for them, and they must be told.
    pub fn tell<'v>(&self, tenant: Option<&str>, values: impl Iterator<Item = Classed<'v>>) -> Result<Vec<u8>, Unavailable> {
        match &self.0 {
            Some(on) => on.log.tell_values(tenant, values),
            None => Ok(vec![]),
        }
    }

    /// A statement is about to be sent, or answered from the cache. `told`: a field that tells values, or nothing.
    ///
    /// # Errors
    /// It must not be, since the log cannot be written.
    pub fn open(
        &mut self,
        template: impl FnOnce() -> Arc<Template>,
        tenant: Option<&str>,
        reach: Reach,
        told: Vec<u8>,
    ) -> Result<Open, Unavailable> {
        let Some(on) = &mut self.0 else { return Ok(Open(None)) };
        on.log().admit()?;
        on.statements += 1;
        let template = template();
        let is_awaited = on.awaits(Some(&template));
        let mut opened = Opened {
            log: on.log.clone(),
            fields: on.who.clone(),
            statement: on.statements,
            tenant: tenant.map(Into::into),
            template,
            told: told.into(),
            begun: Instant::now(),
            stage: Stage::Recorded,
        };
        opened.stage = if reach == Reach::Writes && !crate::mutant!("audit.writes-without-intent") || is_awaited {
            let record = opened.describe(Record::new("intent"));
            let ticket = on.log.shared.take(record.end(), Some(&opened.template), Duty::Before)?;
            if is_awaited && !crate::mutant!("audit.policies-do-not-wait") {
                on.log.shared.hurry();
                on.owed = ticket;
            }
            Stage::Intended
        } else {
            Stage::Silent
        };
        Ok(Open(Some(Box::new(opened))))
    }

    /// An answer of the cache is about to be given, asked for at `begun`. The form of what was asked; `None`: it is not recorded.
    ///
    /// # Errors
    /// It must not be, since the log cannot be written.
    pub fn give(
        &mut self,
        template: &Arc<Template>,
        tenant: Option<&str>,
        bytes: u64,
        begun: Instant,
    ) -> Result<Option<FormId>, Unavailable> {
        let Some(on) = &mut self.0 else { return Ok(None) };
        // Who waits for records waits for each.
        if on.awaits(Some(template)) {
            let mut open = self.open(|| template.clone(), tenant, Reach::Reads, vec![])?;
            let form = open.form();
            open.complete(Outcome::Cached { bytes });
            return Ok(form);
        }
        on.log.admit()?;
        on.statements += 1;
        match on.repeated.note(&Given { who: &on.who, tenant, template, statement: on.statements, bytes, begun }) {
            Noted::Counted => {}
            Noted::Told(told) => on.log.tell(told),
            Noted::ComeFor => on.log.shared.come_for(on.repeated.clone()),
        }
        Ok(Some(template.form))
    }

    /// A statement is refused. What tells it to who looks for it.
    pub fn refuse(&mut self, refused: &Refused<'_>) -> Option<String> {
        let on = self.0.as_mut()?;
        on.log();
        on.statements += 1;
        let id = format!("{:08x}", rand::random::<u32>());
        let record = Record::new("refused").with(&on.who).number("statement", on.statements).maybe("tenant", refused.tenant);
        let record = record.text("id", &id).text("reason", refused.reason).text("sqlstate", refused.sqlstate);
        let record = if refused.rules.is_empty() { record } else { record.texts("rules", refused.rules.iter().copied()) };
        let record = record.text("message", without_quotes(refused.sqlstate, refused.message));
        let ticket = on.log.note(record.maybe("text", refused.text.map(cut)));
        on.owe(ticket);
        Some(id)
    }

    /// Something that changes who the session is.
    pub fn note(&mut self, event: &'static str, add: impl FnOnce(Record) -> Record) {
        if let Some(on) = &mut self.0 {
            let ticket = on.log().note(add(Record::new(event).with(&on.who)));
            on.owe(ticket);
        }
    }

    /// All records of the session say this from now on.
    pub fn tag(&mut self, rule: &'static str) {
        let Some(on) = &mut self.0 else { return };
        if !on.tags.contains(&rule) {
            on.log();
            on.tags.push(rule);
            let tags = Record::fields(|record| record.texts("tagged", on.tags.iter().copied()));
            on.who = [&*on.own, &*tags].concat().into();
        }
    }

    /// Whether nothing that is recorded is waited for.
    pub fn is_safe(&self) -> bool {
        self.0.as_ref().is_none_or(|on| on.log.is_durable(on.owed))
    }

    /// Waits until what was recorded is as safe as it must be before anybody acts on it.
    ///
    /// # Errors
    /// The log cannot be written.
    pub async fn safe(&self) -> Result<(), Unavailable> {
        match &self.0 {
            Some(on) => on.log.durable(on.owed).await,
            None => Ok(()),
        }
    }

    /// What was recorded need not be waited for: nobody acts on it.
    pub fn owe_nothing(&mut self) {
        if let Some(on) = &mut self.0 {
            on.owed = Ticket::default();
        }
    }

    /// Whether statements may run, as far as the log is concerned.
    pub fn admits(&self) -> bool {
        self.0.as_ref().is_none_or(|on| on.log.admit().is_ok())
    }

    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        if let Some(on) = &self.0 {
            on.log().note(Record::new("session_end").with(&on.who).number("statements", on.statements));
        }
    }
}

/// What is refused.
#[derive(Clone, Copy, Debug)]
pub struct Refused<'r> {
    pub tenant: Option<&'r str>,
    pub reason: &'r str,
    pub sqlstate: &'r str,
    pub message: &'r str,
    /// Threat rules that have found something.
    pub rules: &'r [&'r str],
    /// Without constants.
    pub text: Option<&'r str>,
}

/// A statement whose outcome is to be recorded: it goes where its answer is waited for.
#[must_use = "its outcome is to be recorded"]
#[derive(Debug)]
pub struct Open(Option<Box<Opened>>);

#[derive(Debug)]
struct Opened {
    log: Arc<Log>,
    fields: Arc<[u8]>,
    statement: u64,
    tenant: Option<Box<str>>,
    template: Arc<Template>,
    /// A field that tells values.
    told: Box<[u8]>,
    begun: Instant,
    stage: Stage,
}

/// Which records of a statement there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// None yet.
    Silent,
    /// Its intent.
    Intended,
    /// All.
    Recorded,
}

impl Opened {
    fn describe(&self, record: Record) -> Record {
        let record = record.with(&self.fields).number("statement", self.statement).maybe("tenant", self.tenant.as_deref());
        self.template.name(record).with(&self.told)
    }

    fn complete(&mut self, outcome: Outcome<'_>) {
        // An outcome's template is that of its intent.
        let (record, template) = match self.stage {
            Stage::Recorded => return,
            Stage::Silent => (self.describe(Record::new("statement")), Some(&*self.template)),
            Stage::Intended => (Record::new("outcome").with(&self.fields).number("statement", self.statement), None),
        };
        self.stage = Stage::Recorded;
        let record = match outcome {
            Outcome::Done { rows, bytes } => record.word("outcome", "done").number("rows", rows).number("bytes", bytes),
            Outcome::Cached { bytes } => record.word("outcome", "cached").number("bytes", bytes),
            Outcome::Failed { sqlstate } => record.word("outcome", "failed").text("sqlstate", sqlstate),
            Outcome::Suspended { bytes } => record.word("outcome", "suspended").number("bytes", bytes),
            Outcome::Skipped => record.word("outcome", "skipped"),
            Outcome::Unknown => record.word("outcome", "unknown"),
        };
        let microseconds = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        let record = record.number("microseconds", microseconds);
        // It has happened: there is nothing to refuse any more, and what is lost is counted.
        let _ = self.log.shared.take(record.end(), template, Duty::After);
    }
}

impl Open {
    /// Of what is not recorded: the proxy's own.
    pub fn none() -> Open {
        Open(None)
    }

    /// Of the statement; `None`: it is not recorded, or ended already.
    pub fn template(&self) -> Option<Arc<Template>> {
        self.0.as_ref().map(|opened| opened.template.clone())
    }

    /// The form of what was asked; `None`: it is not recorded, or ended already.
    pub fn form(&self) -> Option<FormId> {
        self.0.as_ref().map(|opened| opened.template.form)
    }

    pub fn complete(&mut self, outcome: Outcome<'_>) {
        if let Some(mut opened) = self.0.take() {
            opened.complete(outcome);
        }
    }

    /// It is not sent after all.
    pub fn discard(&mut self) {
        if let Some(mut opened) = self.0.take() {
            match opened.stage {
                Stage::Silent => opened.stage = Stage::Recorded,
                Stage::Intended | Stage::Recorded => opened.complete(Outcome::Skipped),
            }
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if crate::mutant!("audit.what-breaks-off-is-forgotten") {
            return;
        }
        self.complete(Outcome::Unknown);
    }
}
