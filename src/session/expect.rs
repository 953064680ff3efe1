//! What is still to come from the server, in order, and what becomes of it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::BytesMut;
use smallvec::SmallVec;

use super::settings::Settings;
use super::statements::Statement;
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
}

impl Outcome {
    /// `at`: the number of the statement in the session.
    pub fn of(plan: &Arc<Plan>, at: u64) -> Self {
        match plan.action() {
            Action::Transaction(TransactionCommand::Begin) => Outcome::Begin { at },
            Action::Transaction(_) | Action::Set { .. } | Action::Reset { .. } => Outcome::Of(plan.clone()),
            Action::Forward | Action::ChooseTenant { .. } | Action::Emulate(_) | Action::Empty => Outcome::Nothing,
        }
    }

    /// Whether what comes after must not be reviewed before this is known: settings may be others then.
    pub fn changes_context(&self) -> bool {
        match self {
            Outcome::Nothing | Outcome::Begin { .. } => false,
            Outcome::Of(_) | Outcome::ResetAll => true,
        }
    }
}

/// A statement under way.
#[derive(Clone, Debug)]
pub struct Sent {
    pub outcome: Outcome,
    /// Its rows are a check of the proxy's own: neither they nor their description are the client's.
    pub hides_rows: bool,
    /// What becomes of the data, where it is a COPY FROM STDIN.
    pub copy: Option<CopyIn>,
}

impl Sent {
    /// `at`: the number of the statement in the session.
    pub fn of(plan: &Arc<Plan>, at: u64, copy: Option<CopyIn>) -> Self {
        Sent { outcome: Outcome::of(plan, at), hides_rows: plan.hides_rows(), copy }
    }

    pub fn own(outcome: Outcome) -> Self {
        Sent { outcome, hides_rows: false, copy: None }
    }
}

/// One reply, or group of replies, to come.
#[derive(Debug)]
pub enum Expected {
    /// A reply that the proxy made: its place in the order.
    Local(BytesMut),
    /// ParseComplete. `shown`: the client asked for it, under that name.
    Parse { statement: Arc<Statement>, shown: Option<Box<str>> },
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
    pub fn shows_rows(&self) -> bool {
        match self {
            Expected::Execute { sent, .. } => !sent.hides_rows,
            Expected::Query { sent, next, instead: None } => !sent.get(*next).is_some_and(|s| s.hides_rows),
            _ => false,
        }
    }
}

/// What is still to come, in order.
pub type Queue = VecDeque<Expected>;
