//! What is still to come from the server, in order, and what becomes of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use smallvec::SmallVec;

use super::settings::Settings;
use super::statements::Statement;
use crate::audit;
use crate::error::SqlError;
use crate::plan::{Action, CopyIn, Plan, TransactionCommand};

/// What a statement changes in the session once it has succeeded.
#[derive(Clone, Debug)]
pub enum Outcome {
    Nothing,
    /// BEGIN; the number of the statement, to tell what comes first after it.
    Begin {
        at: u64,
    },
    /// The plan's action is Transaction, Set or Reset.
    Of(Arc<Plan>),
    /// RESET ALL: the settings of the startup message again.
    ResetAll,
    /// DEALLOCATE; no name: ALL.
    Deallocated(Option<Box<str>>),
    /// PREPARE: the server has the statement; `name`: the client has it under that name.
    Prepared {
        statement: Arc<Statement>,
        name: Option<Box<str>>,
    },
}

impl Outcome {
    /// `at`: the number of the statement in the session.
    pub fn of(plan: &Arc<Plan>, at: u64) -> Self {
        match plan.action() {
            Action::Transaction(TransactionCommand::Begin(_)) => Outcome::Begin { at },
            Action::Transaction(_) | Action::Set { .. } | Action::Configure { .. } | Action::Reset { .. } => {
                Outcome::Of(plan.clone())
            }
            Action::Forward
            | Action::ChooseTenant { .. }
            | Action::Emulate(_)
            | Action::Prepare(_)
            | Action::Execute { .. }
            | Action::Empty => Outcome::Nothing,
        }
    }

    /// Whether what comes after must not be reviewed before this is known: settings may be others then.
    pub fn changes_context(&self) -> bool {
        match self {
            Outcome::Nothing | Outcome::Begin { .. } => false,
            Outcome::Of(_) | Outcome::ResetAll | Outcome::Deallocated(_) | Outcome::Prepared { .. } => true,
        }
    }
}

/// A statement under way.
#[derive(Debug)]
pub struct Sent {
    /// Its outcome is to be recorded.
    pub audit: audit::Open,
    pub outcome: Outcome,
    /// Its rows are a check of the proxy's own: neither they nor their description are the client's.
    pub hides_rows: bool,
    /// What becomes of the data, where it is a COPY FROM STDIN.
    pub copy: Option<CopyIn>,
    pub shown: Shown,
    /// It is an EXECUTE of this statement.
    pub executes: Option<Arc<Statement>>,
}

/// What the client gets for a CommandComplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    AsItCame,
    /// This tag.
    Instead(&'static str),
    Nothing,
}

impl Sent {
    /// `at`: the number of the statement in the session.
    pub fn of(plan: &Arc<Plan>, at: u64, copy: Option<CopyIn>) -> Self {
        Sent { hides_rows: plan.hides_rows(), copy, ..Sent::own(Outcome::of(plan, at)) }
    }

    pub fn own(outcome: Outcome) -> Self {
        Sent { audit: audit::Open::none(), outcome, hides_rows: false, shown: Shown::AsItCame, executes: None, copy: None }
    }
}

/// Who asked for a Parse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseFor {
    /// The proxy, for what follows.
    Proxy,
    /// The client's Parse under that name: it gets ParseComplete.
    Client(Box<str>),
    /// The client's PREPARE of that name.
    Sql(Box<str>),
}

impl ParseFor {
    /// What the client does not have if it fails.
    pub fn name(&self) -> Option<&str> {
        match self {
            ParseFor::Proxy => None,
            ParseFor::Client(name) | ParseFor::Sql(name) => Some(name),
        }
    }
}

/// A look-up under way.
#[derive(Debug)]
pub struct LookedUp {
    /// Its outcome is to be recorded.
    pub audit: audit::Open,
    pub plan: Arc<Plan>,
    /// Bind to Sync, to be sent again if the statement has grown old.
    pub messages: BytesMut,
    pub attempt: Attempt,
    /// Rows, as CommandComplete counts them. The client is told when the transaction has ended too, as a simple query would.
    pub rows: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    First,
    /// `cached plan must not change result type`: nothing ran.
    Stale,
    Second,
}

/// One reply, or group of replies, to come.
#[derive(Debug)]
pub enum Expected {
    /// A reply that the proxy made: its place in the order.
    Local(BytesMut),
    /// ParseComplete.
    Parse { statement: Arc<Statement>, by: ParseFor },
    /// ParseComplete of the proxy's own, for a Parse that was not sent on: as for one that was, the name is taken back if
    /// something before it fails.
    Known { statement: Arc<Statement>, name: Box<str> },
    /// BindComplete; the statement's identity upstream.
    Bind { id: u128 },
    /// ParameterDescription, then RowDescription or NoData.
    DescribeStatement { statement: Arc<Statement> },
    /// RowDescription or NoData.
    DescribePortal { hides_rows: bool },
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended; or a COPY.
    Execute { sent: Sent, statement: Arc<Statement> },
    /// CloseComplete of a portal.
    ClosePortal,
    /// CloseComplete of an evicted statement: not the client's.
    Evict,
    /// Everything up to ReadyForQuery. `sent`: the statements, of which `next` is running. `instead`: the client gets nothing
    /// but this command tag.
    Query { sent: SmallVec<[Sent; 1]>, next: usize, instead: Option<&'static str> },
    /// A look-up that came as text and is run by a prepared statement: everything up to ReadyForQuery.
    Lookup(LookedUp),
    /// The error that the client gets for the poison's.
    Poison(Box<SqlError>),
    /// ReadyForQuery of the client's Sync.
    Sync,
    /// The proxy's own Query that gives the backend these settings: nothing of it is the client's.
    /// `in_block`: inside a transaction of the client's.
    Prelude { wanted: Settings, in_block: bool },
    /// ReadyForQuery of the proxy's own Sync.
    OwnSync,
}

impl Expected {
    /// Whether rows that come now are passed on as they are.
    /// How the audit log names the statement that runs.
    pub fn template(&self) -> Option<Arc<audit::Template>> {
        match self {
            Expected::Execute { sent, .. } => sent.audit.template(),
            Expected::Query { sent, next, instead: _ } => sent.get(*next)?.audit.template(),
            Expected::Lookup(lookup) => lookup.audit.template(),
            _ => None,
        }
    }

    pub fn shows_rows(&self) -> bool {
        match self {
            Expected::Execute { sent, .. } => !sent.hides_rows,
            Expected::Query { sent, next, instead: None } => !sent.get(*next).is_some_and(|s| s.hides_rows),
            Expected::Lookup(_) => true,
            _ => false,
        }
    }
}

/// What is still to come, in order.
pub type Queue = VecDeque<Expected>;
