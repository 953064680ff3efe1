//! `review()`: the one place that orders template > analyse > decide > plan.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::finding::Denial;
use crate::id::PolicyEpoch;
use crate::plan::{Literals, Plan};
use crate::principal::Principal;

/// How the text came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Query: any number of statements, no parameters.
    Simple,
    /// Parse: one statement.
    Extended,
}

/// What a review depends on besides the text.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    pub principal: &'a Principal,
    /// The session's search_path, as schema names in order (`"$user"` resolved).
    pub search_path: &'a [Box<str>],
    pub protocol: Protocol,
    /// The types that a Parse message declares; 0 for those it leaves open.
    pub parameter_types: &'a [u32],
}

/// One statement that may run.
#[derive(Clone, Debug)]
pub struct Approved {
    pub plan: Arc<Plan>,
    /// Into the text that was reviewed.
    pub literals: Literals,
}

/// Decides about statements of one database. Cheap for known templates; shared by all sessions.
#[derive(Debug, Default)]
pub struct Gate {}

impl Gate {
    /// Reviews a query string. Permitted whole, statement by statement in order, or refused whole (VERDICT).
    ///
    /// # Errors
    /// What the client is told; nothing was sent.
    pub fn review(&self, text: &str, context: &Context<'_>) -> Result<SmallVec<[Approved; 1]>, Denial> {
        let _ = (text, context);
        Err(Denial::unsupported("review is not built yet"))
    }

    /// The epoch that new plans are made in. A plan of another epoch must be reviewed again before it is used.
    pub fn epoch(&self) -> PolicyEpoch {
        PolicyEpoch(0)
    }
}
