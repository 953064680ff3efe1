//! `review()`: the one place that orders template > analyse > decide > plan.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::catalog::Catalog;
use crate::config::Level;
use crate::finding::Denial;
use crate::id::PolicyEpoch;
use crate::plan::{Literals, Plan};
use crate::policy::PolicyProblem;
use crate::policy::model::PolicyModel;
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

/// What review decides about one statement, for `explain` and `test`.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub sql: String,
    /// The final SQL, with the tenant's value in it.
    pub outcome: Result<String, Denial>,
    /// `schema.table`, and its scope and predicate in words.
    pub relations: Vec<(String, String)>,
    pub remarks: Vec<String>,
    /// Or why not.
    pub cacheable: Result<(), String>,
}

impl Gate {
    /// Binds the policies to a catalog.
    ///
    /// # Errors
    /// Everything in the policies that the catalog contradicts.
    pub fn new(level: Level, catalog: Arc<Catalog>, policies: &PolicyModel) -> Result<Gate, Vec<PolicyProblem>> {
        let _ = (level, catalog, policies);
        Ok(Gate {})
    }

    /// What would become of each statement of the text.
    pub fn explain(&self, sql: &str, context: &Context<'_>) -> Vec<Explanation> {
        let outcome = self.review(sql, context).map(|_| String::new());
        vec![Explanation {
            sql: sql.to_owned(),
            outcome,
            relations: Vec::new(),
            remarks: Vec::new(),
            cacheable: Err("there is no cache yet".to_owned()),
        }]
    }

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
