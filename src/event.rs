//! What can happen, as one enum. Whoever does something tells [`Events`]; metrics and health listen. An event names no
//! counter and holds no text of a client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::finding::{Reason, Watch};
use crate::id::PolicyEpoch;

/// Something that happened: noun, then verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    ListenerOpened,
    ConnectionAccepted,
    /// Every accepted connection is closed once, rejected or not.
    ConnectionClosed,
    ConnectionRejected(Rejection),
    AuthSucceeded,
    AuthFailed,
    /// Once for each statement that was decided about.
    StatementReviewed {
        command: Command,
        protocol: Flow,
        verdict: Verdict,
    },
    /// The decision was known already.
    TemplateHit,
    TemplateMissed,
    /// A client got its server connection after this time.
    PoolWaited(Duration),
    /// A client gave up waiting for a server connection.
    PoolTimedOut,
    BackendOpened,
    BackendClosed,
    /// A server connection could not be made.
    BackendFailed,
    /// A database's server no longer answers what its catalog is asked for.
    ServerLost,
    /// It does again.
    ServerFound,
    PoliciesReloaded(Reload),
    /// Level paranoid: row security is not in place in a database, and its tenants are refused.
    LockLost,
    LockRestored,
    /// Once for each statement, where there is a result cache.
    Cached(Cached),
    /// Of the result cache's second tier.
    Redis(Redis),
    /// The time that Bulkhead itself spent on a statement.
    LatencyAdded(Duration),
    DrainStarted,
    /// A threat rule has found something in a statement.
    ThreatFound {
        rule: &'static str,
        mode: Watch,
    },
    /// Records of the audit log are on the disk now, which took so long.
    AuditWritten {
        records: u64,
        took: Duration,
    },
    /// The audit log cannot be written; whether statements are refused for it.
    AuditFailed {
        refuses: bool,
    },
    /// It can again.
    AuditRestored,
}

/// Why a connection was turned away before it was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Over `max_clients`.
    Limit,
    /// Not authenticated in time.
    Timeout,
    /// Not the protocol, or a version or request that is refused.
    Protocol,
    /// TLS is required, or its handshake failed.
    Tls,
    /// Unknown database.
    Database,
    /// Draining.
    Shutdown,
}

/// What kind of statement; coarse, since it is a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Select,
    Insert,
    Update,
    Delete,
    Merge,
    Copy,
    Transaction,
    Setting,
    Other,
}

/// Which of the two query protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Simple,
    Extended,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Permitted,
    Denied(Reason),
}

/// How a reload of policies or catalog ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    Done(PolicyEpoch),
    /// The old epoch stays.
    Failed,
}

impl Command {
    /// The first word of a statement of this kind, as far as they have one.
    pub fn as_str(self) -> &'static str {
        match self {
            Command::Select => "SELECT",
            Command::Insert => "INSERT",
            Command::Update => "UPDATE",
            Command::Delete => "DELETE",
            Command::Merge => "MERGE",
            Command::Copy => "COPY",
            Command::Transaction => "TRANSACTION",
            Command::Setting => "SETTING",
            Command::Other => "OTHER",
        }
    }

    /// By the first word of a command tag or statement, in capitals.
    pub fn of_word(word: &str) -> Self {
        match word {
            "SELECT" | "VALUES" | "TABLE" | "WITH" => Command::Select,
            "INSERT" => Command::Insert,
            "UPDATE" => Command::Update,
            "DELETE" => Command::Delete,
            "MERGE" => Command::Merge,
            "COPY" => Command::Copy,
            "BEGIN" | "START" | "COMMIT" | "END" | "ROLLBACK" | "ABORT" | "SAVEPOINT" | "RELEASE" => Command::Transaction,
            "SET" | "RESET" | "SHOW" | "DISCARD" => Command::Setting,
            _ => Command::Other,
        }
    }
}

/// What the result cache did with a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    Hit,
    /// By way of the second tier.
    Fetched,
    /// It is kept now.
    Filled,
    /// It was sent, and its answer not kept.
    Passed(Uncached),
}

/// What the result cache's second tier does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redis {
    /// It answers, in time.
    Found,
    /// It does not any more: nothing is sent for a while.
    Lost,
    /// An answer was put there.
    Put,
    /// There was no time to put one there.
    Dropped,
    /// What was put there is gone.
    Absent,
    /// Something has been written since.
    Stale,
    /// It is not what was put there under this key.
    Forged,
    TimedOut,
    Failed,
}

/// Why an answer is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncached {
    Command,
    Writes,
    Locks,
    Relation,
    Function,
    Type,
    Construct,
    Transaction,
    Isolation,
    Present,
    Writing,
    Size,
    Answer,
    Told,
    Behind,
    Rare,
    Epoch,
    Suspicious,
    /// The audit log tells values of it.
    Recorded,
}

impl Uncached {
    pub const ALL: [Uncached; 19] = [
        Uncached::Command,
        Uncached::Writes,
        Uncached::Locks,
        Uncached::Relation,
        Uncached::Function,
        Uncached::Type,
        Uncached::Construct,
        Uncached::Transaction,
        Uncached::Isolation,
        Uncached::Present,
        Uncached::Writing,
        Uncached::Size,
        Uncached::Answer,
        Uncached::Told,
        Uncached::Behind,
        Uncached::Rare,
        Uncached::Epoch,
        Uncached::Suspicious,
        Uncached::Recorded,
    ];

    /// The label of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Uncached::Command => "command",
            Uncached::Writes => "writes",
            Uncached::Locks => "locks",
            Uncached::Relation => "relation",
            Uncached::Function => "function",
            Uncached::Type => "type",
            Uncached::Construct => "construct",
            Uncached::Transaction => "transaction",
            Uncached::Isolation => "isolation",
            Uncached::Present => "present",
            Uncached::Writing => "writing",
            Uncached::Size => "size",
            Uncached::Answer => "answer",
            Uncached::Told => "told",
            Uncached::Behind => "behind",
            Uncached::Rare => "rare",
            Uncached::Epoch => "epoch",
            Uncached::Suspicious => "suspicious",
            Uncached::Recorded => "recorded",
        }
    }

    /// For people.
    pub fn reason(self) -> &'static str {
        match self {
            Uncached::Command => "it is not a SELECT",
            Uncached::Writes => "it writes",
            Uncached::Locks => "it locks rows",
            Uncached::Relation => "it reads something else than listed tables of this server",
            Uncached::Function => "it calls a function, or an operator, whose answer may change by itself",
            Uncached::Type => "it casts to a type whose values may change by themselves",
            Uncached::Construct => "it has a construct that is not known to give the same answer again",
            Uncached::Transaction => "it runs inside a transaction, or beside other statements",
            Uncached::Isolation => "the isolation level is not READ COMMITTED",
            Uncached::Present => "it names the present time (now, today, tomorrow, yesterday)",
            Uncached::Writing => "a transaction is writing what it reads",
            Uncached::Size => "the answer is larger than what is kept",
            Uncached::Epoch => "policies or definitions have just changed",
            Uncached::Suspicious => "a threat rule has found something in it",
            Uncached::Recorded => "values of it are told in the audit log",
            Uncached::Rare => "answers of its kind are seldom asked for again, and this one was not",
            Uncached::Behind => "the server's log is not followed closely enough",
            Uncached::Told => "a policy, or a hint in the statement, says so",
            Uncached::Answer => "the answer was an error, or came with something that is not to be told twice",
        }
    }
}

/// Listens to events. Called on the way of every statement: it must neither block nor allocate.
pub trait Observe: Send + Sync {
    fn observe(&self, event: Event);
}

/// Where events are told. Cheap to clone.
#[derive(Clone, Default)]
pub struct Events {
    observers: Arc<[Arc<dyn Observe>]>,
}

impl Events {
    /// Without observers, events go nowhere.
    pub fn new(observers: Vec<Arc<dyn Observe>>) -> Self {
        Events { observers: observers.into() }
    }

    pub fn emit(&self, event: Event) {
        for observer in self.observers.iter() {
            observer.observe(event);
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Events({} observers)", self.observers.len())
    }
}
