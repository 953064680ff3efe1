//! What the audit log says of an unrestricted user: each query string and each Execute, before it is passed on, and what came of it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::recorded::unrecorded;
use crate::audit::{self, Open, Outcome, Reach, Template, Trail};
use crate::error::SqlError;
use crate::event::Command;
use crate::wire::backend::{self as reply, ErrorFields, tag};
use crate::wire::frame;

/// Of a longer message (bytes) only so much is looked at.
pub const LONGEST: usize = 16 << 10;

/// The session's records, and what is under way.
#[derive(Debug)]
pub struct Recorder {
    trail: Trail,
    under: VecDeque<Under>,
    statements: HashMap<Box<[u8]>, Arc<Template>>,
    portals: HashMap<Box<[u8]>, Arc<Template>>,
    /// Bytes of rows since a statement ended.
    passed: u64,
}

/// What is under way, in order.
#[derive(Debug)]
enum Under {
    /// A query string: all that comes up to ReadyForQuery is its. Rows so far.
    Query(Open, u64),
    Execute(Open),
    Sync,
}

impl Recorder {
    pub fn new(trail: Trail) -> Recorder {
        Recorder { trail, under: VecDeque::new(), statements: HashMap::new(), portals: HashMap::new(), passed: 0 }
    }

    pub fn is_on(&self) -> bool {
        self.trail.is_on()
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

    /// A message of the client's, as far as it is there.
    ///
    /// # Errors
    /// It must not be passed on: it cannot be recorded.
    pub fn take(&mut self, tag: u8, message: &[u8]) -> Result<(), SqlError> {
        if !self.is_on() {
            return Ok(());
        }
        let mut parts = message.get(frame::HEADER..).unwrap_or_default().split(|b| *b == 0);
        let (first, second) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match tag {
            b'Q' => {
                let open = self.open(&template(first))?;
                self.under.push_back(Under::Query(open, 0));
            }
            b'P' => _ = self.statements.insert(first.into(), template(second)),
            b'B' => {
                let bound = self.statements.get(second).cloned().unwrap_or_default();
                self.portals.insert(first.into(), bound);
            }
            b'E' => {
                // What it runs may have been declared by SQL.
                let known = self.portals.get(first).cloned();
                let open = self.open(&known.unwrap_or_else(|| template(b"FETCH")))?;
                self.under.push_back(Under::Execute(open));
            }
            b'S' => self.under.push_back(Under::Sync),
            _ => {} // tidy: not a syntax kind
        }
        Ok(())
    }

    fn open(&mut self, template: &Arc<Template>) -> Result<Open, SqlError> {
        self.trail.open(|| template.clone(), None, Reach::Writes).map_err(|_| *unrecorded().error)
    }

    /// Rows were passed on.
    pub fn pass(&mut self, bytes: usize) {
        self.passed += bytes as u64;
    }

    /// A message of the server's.
    pub fn answer(&mut self, tag: u8, body: &[u8]) {
        let bytes = self.passed;
        match (tag, self.under.front_mut()) {
            (tag::COMMAND_COMPLETE, Some(Under::Query(_, rows))) => *rows += reply::rows_of_tag(body),
            (tag::COMMAND_COMPLETE | tag::EMPTY_QUERY, Some(Under::Execute(open))) => {
                open.complete(Outcome::Done { rows: reply::rows_of_tag(body), bytes });
                self.next();
            }
            (tag::PORTAL_SUSPENDED, Some(Under::Execute(open))) => {
                open.complete(Outcome::Suspended { bytes });
                self.next();
            }
            (tag::ERROR, Some(_)) => self.fail(body),
            (tag::READY_FOR_QUERY, Some(Under::Query(open, rows))) => {
                open.complete(Outcome::Done { rows: *rows, bytes });
                self.next();
            }
            (tag::READY_FOR_QUERY, Some(Under::Sync)) => self.next(),
            (_, _) => {}
        }
    }

    fn next(&mut self) {
        self.under.pop_front();
        self.passed = 0;
    }

    /// What comes first has failed; what follows up to Sync does not run.
    fn fail(&mut self, body: &[u8]) {
        let mut outcome = Outcome::Failed { sqlstate: ErrorFields::new(body).sqlstate().unwrap_or_default() };
        while let Some(under) = self.under.front_mut() {
            match under {
                // Its ReadyForQuery is to come.
                Under::Query(open, _) => return open.complete(outcome),
                Under::Sync => return,
                Under::Execute(open) => open.complete(outcome),
            }
            outcome = Outcome::Skipped;
            self.next();
        }
    }
}

/// Of a text that nobody reviews.
fn template(text: &[u8]) -> Arc<Template> {
    let text = audit::redact(&String::from_utf8_lossy(text));
    let word = text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_uppercase();
    Arc::new(Template::new(Command::of_word(&word).as_str(), text))
}
