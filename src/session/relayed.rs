//! What the audit log says of an unrestricted user: each query string and each Execute, before it is passed on, and what came of it.
//!
//! What is under way is kept in the order in which the server answers it. Names of statements and portals are known once the server has
//! confirmed them; until then they are looked for among what is under way, the last first.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::recorded::unrecorded;
use crate::audit::{self, Open, Outcome, Reach, Template, Trail};
use crate::error::SqlError;
use crate::event::Command;
use crate::wire::backend::{self as reply, ErrorFields, TransactionStatus, tag};
use crate::wire::frame;

/// Of a longer message (bytes) only so much is looked at.
pub const LONGEST: usize = 16 << 10;
/// How many names are kept: a client that leaves more behind is told by its texts alone from then on.
const NAMES: usize = 4096;

/// The session's records, and what is under way.
#[derive(Debug)]
pub struct Recorder {
    under: VecDeque<Under>,
    statements: HashMap<Box<[u8]>, Arc<Template>>,
    portals: HashMap<Box<[u8]>, Arc<Template>>,
    copying: Copying,
    /// Bytes of rows since a statement ended.
    passed: u64,
    /// Last, so that the end of the session is told after that of its statements.
    trail: Trail,
}

/// Where a COPY FROM STDIN of the extended protocol is: the server drops each Sync that comes before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copying {
    No,
    /// The client has not said yet that its data has ended.
    Data,
}

/// What is under way, in order.
#[derive(Debug)]
enum Under {
    /// A query string: all that comes up to ReadyForQuery is its. Rows so far.
    Query(Open, u64),
    Parse(Box<[u8]>, Arc<Template>),
    Bind(Box<[u8]>, Arc<Template>),
    Execute(Open),
    Sync,
}

impl Recorder {
    pub fn new(trail: Trail) -> Recorder {
        let (statements, portals) = (HashMap::new(), HashMap::new());
        Recorder { trail, under: VecDeque::new(), statements, portals, copying: Copying::No, passed: 0 }
    }

    pub fn is_on(&self) -> bool {
        self.trail.is_on()
    }

    /// Whether a message of the server's is one that it has to know.
    pub fn hears(tag: u8) -> bool {
        matches!(tag, tag::PORTAL_SUSPENDED | tag::EMPTY_QUERY | tag::PARSE_COMPLETE | tag::BIND_COMPLETE | tag::COPY_IN)
    }

    /// Waits until what is about to be passed on is recorded, as safely as it must be.
    ///
    /// # Errors
    /// It cannot be.
    pub async fn recorded(&self) -> Result<(), SqlError> {
        if self.trail.is_safe() || self.trail.safe().await.is_ok() { Ok(()) } else { Err(*unrecorded().error) }
    }

    /// Whether enough of the message that the inbox begins with is there to be looked at.
    pub fn sees(&self, inbox: &[u8], length: usize) -> bool {
        !self.is_on() || inbox.len() >= length.min(LONGEST)
    }

    /// A message of the client's of so many bytes, as far as it is there.
    ///
    /// # Errors
    /// It must not be passed on: it cannot be recorded.
    pub fn take(&mut self, tag: u8, message: &[u8], length: usize) -> Result<(), SqlError> {
        if !self.is_on() {
            return Ok(());
        }
        let mut parts = message.get(frame::HEADER..).unwrap_or_default().split(|b| *b == 0);
        let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let whole = message.len() == length;
        match tag {
            b'Q' => {
                let open = self.open(&template(first, whole))?;
                self.under.push_back(Under::Query(open, 0));
            }
            b'P' => self.under.push_back(Under::Parse(first.into(), template(second, whole))),
            b'B' => {
                let bound = self.statement(second);
                self.under.push_back(Under::Bind(first.into(), bound));
            }
            b'E' => {
                let executed = self.portal(first);
                let open = self.open(&executed)?;
                self.under.push_back(Under::Execute(open));
            }
            b'S' if self.copying == Copying::No => self.under.push_back(Under::Sync),
            // Answered here, by an error and ReadyForQuery.
            b'F' => {
                let refused = audit::Refused {
                    tenant: None,
                    reason: "unsupported",
                    sqlstate: "0A000",
                    message: "function call messages are not supported",
                    rules: &[],
                    text: None,
                };
                self.trail.refuse(&refused);
                self.under.push_back(Under::Sync);
            }
            b'c' | b'f' => self.copying = Copying::No,
            b'C' if first.first() == Some(&b'S') => _ = self.statements.remove(&first[1..]),
            _ => {} // tidy: not a syntax kind
        }
        Ok(())
    }

    /// What is refused here. `whole`: a query string, which is answered with ReadyForQuery.
    pub fn refuse(&mut self, error: &SqlError, whole: bool) {
        let refused = audit::Refused {
            tenant: None,
            reason: "policy",
            sqlstate: error.sqlstate.0,
            message: &error.message,
            rules: &[],
            text: None,
        };
        if self.is_on() {
            self.trail.refuse(&refused);
            if whole {
                self.under.push_back(Under::Sync);
            }
        }
    }

    /// Something that the user says of itself.
    pub fn note(&mut self, what: &'static str, text: &str) {
        self.trail.note(what, |record| record.text(what, text));
    }

    fn open(&mut self, template: &Arc<Template>) -> Result<Open, SqlError> {
        self.trail.open(|| template.clone(), None, Reach::Writes, vec![]).map_err(|_| *unrecorded().error)
    }

    /// What a statement's name means to what comes now.
    fn statement(&self, name: &[u8]) -> Arc<Template> {
        let pending = self.under.iter().rev().find_map(|under| match under {
            Under::Parse(parsed, template) if **parsed == *name => Some(template),
            _ => None, // tidy: not a syntax kind
        });
        let known = pending.or_else(|| self.statements.get(name)).cloned();
        known.unwrap_or_else(|| unknown("a statement that SQL has prepared", name))
    }

    fn portal(&self, name: &[u8]) -> Arc<Template> {
        let pending = self.under.iter().rev().find_map(|under| match under {
            Under::Bind(bound, template) if **bound == *name => Some(template),
            _ => None, // tidy: not a syntax kind
        });
        pending.or_else(|| self.portals.get(name)).cloned().unwrap_or_else(|| unknown("a cursor", name))
    }

    /// Rows were passed on.
    pub fn pass(&mut self, bytes: usize) {
        self.passed += bytes as u64;
    }

    /// A message of the server's, but for answers to what is the proxy's own.
    pub fn answer(&mut self, tag: u8, body: &[u8]) {
        let bytes = self.passed;
        match (tag, self.under.front_mut()) {
            (tag::READY_FOR_QUERY, _) => self.ready(body),
            (tag::ERROR, Some(_)) => self.fail(body),
            (tag::COMMAND_COMPLETE, Some(Under::Query(_, rows))) => *rows += reply::rows_of_tag(body),
            (tag::COMMAND_COMPLETE | tag::EMPTY_QUERY, Some(Under::Execute(open))) => {
                open.complete(Outcome::Done { rows: reply::rows_of_tag(body), bytes });
                self.next();
            }
            (tag::PORTAL_SUSPENDED, Some(Under::Execute(open))) => {
                open.complete(Outcome::Suspended { bytes });
                self.next();
            }
            (tag::PARSE_COMPLETE, Some(Under::Parse(..))) => {
                if let Some(Under::Parse(name, template)) = self.next() {
                    remember(&mut self.statements, name, template);
                }
            }
            (tag::BIND_COMPLETE, Some(Under::Bind(..))) => {
                if let Some(Under::Bind(name, template)) = self.next() {
                    remember(&mut self.portals, name, template);
                }
            }
            (tag::COPY_IN, Some(Under::Execute(_))) => {
                // Each Sync that was sent already is dropped by the server.
                self.copying = Copying::Data;
                self.under.retain(|under| !matches!(under, Under::Sync));
            }
            (_, _) => {}
        }
    }

    /// Of the oldest query string or Sync. What is still before it was skipped, after an error.
    fn ready(&mut self, body: &[u8]) {
        let bytes = self.passed;
        self.copying = Copying::No;
        while let Some(mut under) = self.next() {
            match &mut under {
                Under::Query(open, rows) => {
                    open.complete(Outcome::Done { rows: *rows, bytes });
                    break;
                }
                Under::Sync => break,
                Under::Execute(open) => open.complete(Outcome::Skipped),
                Under::Parse(..) | Under::Bind(..) => {}
            }
        }
        if TransactionStatus::parse(body).is_ok_and(|status| status == TransactionStatus::Idle) {
            self.portals.clear();
        }
    }

    fn next(&mut self) -> Option<Under> {
        self.passed = 0;
        self.under.pop_front()
    }

    /// What comes first has failed; what follows up to Sync does not run, and is told so when that is answered.
    fn fail(&mut self, body: &[u8]) {
        self.copying = Copying::No;
        let failed = Outcome::Failed { sqlstate: ErrorFields::new(body).sqlstate().unwrap_or_default() };
        let at_end = matches!(self.under.front(), Some(Under::Sync));
        // A Parse or Bind that fails takes the Execute along that it was for.
        let open = self.under.iter_mut().find_map(|under| match under {
            Under::Query(open, _) | Under::Execute(open) => Some(Some(open)),
            Under::Sync => Some(None),
            Under::Parse(..) | Under::Bind(..) => None,
        });
        match open.flatten() {
            Some(open) => open.complete(failed),
            // A constraint that was put off: what has been told as done is not.
            None if !at_end => {}
            None => {
                self.trail.note("undone", |record| record.text("sqlstate", ErrorFields::new(body).sqlstate().unwrap_or_default()))
            }
        }
        // Their names mean what they meant before.
        let end = self.under.iter().position(|under| matches!(under, Under::Sync | Under::Query(..))).unwrap_or(self.under.len());
        let mut at = 0;
        self.under.retain(|under| {
            at += 1;
            at > end || !matches!(under, Under::Parse(..) | Under::Bind(..))
        });
    }
}

fn remember(known: &mut HashMap<Box<[u8]>, Arc<Template>>, name: Box<[u8]>, template: Arc<Template>) {
    if known.len() >= NAMES && !known.contains_key(&name) {
        known.clear();
    }
    known.insert(name, template);
}

/// Of a text that nobody reviews. `whole`: it is all there.
fn template(text: &[u8], whole: bool) -> Arc<Template> {
    let mut text = audit::redact(&String::from_utf8_lossy(text));
    if !whole && !text.ends_with("...") {
        text.push_str("...");
    }
    let word = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_uppercase();
    Arc::new(Template::new(Command::of_word(&word).as_str(), text, ""))
}

/// Of what is known by its name alone.
fn unknown(what: &str, name: &[u8]) -> Arc<Template> {
    let name = String::from_utf8_lossy(&name[..name.len().min(64)]).into_owned();
    Arc::new(Template::new(Command::Other.as_str(), format!("({what}: \"{name}\")"), ""))
}
