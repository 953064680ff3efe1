//! Answers of the result cache that are given again and again: one record for those of one statement that a session is given between two
//! batches of the log. Their records would say the same but for the time, and cost a fifth of what a hit costs.
//!
//! What is told is how many there were, from when until when, and their bytes together. The log's thread collects them with each batch,
//! so that they come to the disk when a record of the first of them would; a session's other records come behind those that it
//! has before them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::record::Record;
use super::trail::Template;

/// One session's.
#[derive(Debug, Default)]
pub struct Repeated(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    run: Option<Run>,
    /// Whether the log's thread comes for it.
    is_awaited: bool,
}

/// Answers to one statement.
#[derive(Debug)]
struct Run {
    /// Fields of the session.
    who: Arc<[u8]>,
    tenant: Option<Box<str>>,
    template: Arc<Template>,
    /// The first of them.
    statement: u64,
    since: SystemTime,
    began: Instant,
    times: u64,
    bytes: u64,
    took: Duration,
    /// From the first to the last.
    span: Duration,
}

/// An answer that was given.
#[derive(Clone, Copy, Debug)]
pub struct Given<'g> {
    pub who: &'g Arc<[u8]>,
    pub tenant: Option<&'g str>,
    pub template: &'g Arc<Template>,
    pub statement: u64,
    pub bytes: u64,
    /// When it was asked for.
    pub begun: Instant,
}

/// A record, and its template.
pub type Told = (Record, Arc<Template>);

/// What is to be done about it.
#[derive(Debug)]
pub enum Noted {
    /// It is counted.
    Counted,
    /// It is the first of another statement: what was counted before is to be told.
    Told(Told),
    /// It is the first: somebody is to come for it.
    ComeFor,
}

impl Repeated {
    pub fn note(&self, given: &Given<'_>) -> Noted {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = &mut state.run
            && run.is_of(given)
        {
            run.times += u64::from(!crate::mutant!("audit.repeated-are-once"));
            run.bytes += given.bytes;
            run.took += now - given.begun;
            run.span = now - run.began;
            return Noted::Counted;
        }
        let before = state.run.replace(Run {
            who: given.who.clone(),
            tenant: given.tenant.map(Into::into),
            template: given.template.clone(),
            statement: given.statement,
            since: SystemTime::now(),
            began: now,
            times: 1,
            bytes: given.bytes,
            took: now - given.begun,
            span: Duration::ZERO,
        });
        let is_awaited = std::mem::replace(&mut state.is_awaited, true);
        match before {
            Some(run) => Noted::Told(run.told()),
            None if is_awaited => Noted::Counted,
            None => Noted::ComeFor,
        }
    }

    /// What is to be told before something else of the session is.
    pub fn take(&self) -> Option<Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).run.take().map(Run::told)
    }

    /// The same, for who [comes for it](Noted::ComeFor).
    pub fn collect(&self) -> Option<Told> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_awaited = false;
        state.run.take().map(Run::told)
    }
}

impl Run {
    fn is_of(&self, given: &Given<'_>) -> bool {
        let same = Arc::ptr_eq(&self.template, given.template) && self.tenant.as_deref() == given.tenant;
        same && Arc::ptr_eq(&self.who, given.who)
    }

    fn told(self) -> Told {
        let record = Record::at(self.since, "statement").with(&self.who).number("statement", self.statement);
        let record = record.maybe("tenant", self.tenant.as_deref());
        let record = self.template.name(record).word("outcome", "cached").number("bytes", self.bytes);
        let record = record.number("microseconds", micros(self.took));
        // So many statements, of which that is the first, within so many microseconds.
        let is_one = self.times == 1;
        let record = if is_one { record } else { record.number("times", self.times).number("within", micros(self.span)) };
        (record, self.template)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(told: Told) -> String {
        let value: serde_json::Value = serde_json::from_slice(&told.0.end()).expect("JSON");
        let field = |name: &str| value[name].as_u64().map(|n| format!(" {name}={n}")).unwrap_or_default();
        format!("{}{}{}{}", value["tenant"].as_str().unwrap_or("-"), field("statement"), field("times"), field("bytes"))
    }

    #[test]
    fn what_is_given_again_is_counted_and_what_is_another_is_told_apart() {
        let (one, other) = (Arc::new(Template::new("SELECT", "SELECT 1".to_owned(), "")), Arc::default());
        let who: Arc<[u8]> = (*b",\"session\":1").into();
        let session = Repeated::default();
        let give = |statement, template: &Arc<Template>, tenant| {
            let begun = Instant::now();
            match session.note(&Given { who: &who, tenant: Some(tenant), template, statement, bytes: 10, begun }) {
                Noted::Counted => "counted".to_owned(),
                Noted::ComeFor => "come for it".to_owned(),
                Noted::Told(told) => line(told),
            }
        };
        assert_eq!(give(1, &one, "a"), "come for it");
        assert_eq!(give(2, &one, "a"), "counted");
        assert_eq!(give(3, &one, "a"), "counted");
        assert_eq!(give(4, &other, "a"), "a statement=1 times=3 bytes=30", "another statement");
        assert_eq!(give(5, &other, "b"), "a statement=4 bytes=10", "another tenant");
        assert_eq!(session.take().map(line).as_deref(), Some("b statement=5 bytes=10"));
        assert_eq!(give(6, &one, "a"), "counted", "somebody comes already");
        assert_eq!(session.collect().map(line).as_deref(), Some("a statement=6 bytes=10"));
        assert!(session.collect().is_none());
        assert_eq!(give(7, &one, "a"), "come for it");
    }
}
