//! What policies say about threat rules, for whom, and what applications are known to say.

use std::sync::Arc;
use std::time::SystemTime;

use pg_query::NodeEnum;
use pg_query::protobuf::ParseResult;
use smallvec::SmallVec;

use super::queries;
use crate::audit;
use crate::config::problem::{Problem, did_you_mean};
use crate::error::{SqlError, sqlstate};
use crate::finding::{Denial, Reason, Watch};
use crate::plan::Plan;
use crate::policy::model::{ApplicationPolicy, ControlPolicy, PolicyModel, ThreatPolicy};
use crate::rules::compliance;
use crate::rules::learned::{Familiarity, Learned};
use crate::rules::threat::canary_row::CanaryRows;
use crate::rules::{self, Modes, RULES, Signs, Spoken};
use crate::sql::form;
use crate::sql::tree::walk;

/// Threat rules and compliance checks that policies name must be there.
pub fn check_rules(policies: &PolicyModel) -> Vec<Problem> {
    let unknown = policies.threats.iter().filter(|threat| !threat.rule.is_empty() && rules::named(&threat.rule).is_none());
    let problem = |threat: &ThreatPolicy| {
        let problem = threat.place.problem(format!("there is no threat rule `{}`", threat.rule), "not known");
        problem.help(match did_you_mean(&threat.rule, RULES.iter().map(|rule| rule.name)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it is one of: {}, or * for all", RULES.iter().map(|rule| rule.name).collect::<Vec<_>>().join(", ")),
        })
    };
    unknown.map(problem).chain(check_controls(policies)).collect()
}

/// Checks that controls name must be there.
fn check_controls(policies: &PolicyModel) -> Vec<Problem> {
    let unknown = policies.controls.iter().filter(|control| compliance::named(&control.check).is_none());
    let problem = |control: &ControlPolicy| {
        let problem = control.place.problem(format!("there is no compliance check `{}`", control.check), "not known");
        let names = || compliance::RULES.iter().map(|rule| rule.name);
        problem.help(match did_you_mean(&control.check, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it is one of: {}", names().collect::<Vec<_>>().join(", ")),
        })
    };
    unknown.map(problem).collect()
}

/// A statement that somebody says.
#[derive(Clone, Copy, Debug)]
pub struct Said<'s> {
    pub audited: &'s audit::Template,
    pub is_simple: bool,
    /// Of an EXECUTE, they are what is bound.
    pub parameters: u16,
}

impl Said<'_> {
    /// What it is beside what was learned of who says it, which is something.
    pub fn beside<'l>(&self, lists: &'l [Arc<Learned>], now: SystemTime) -> Spoken<'l> {
        let form = self.audited.form;
        let is_known = lists.iter().any(|list| list.knows(form));
        let each = lists.iter().map(|list| list.familiarity(form, &self.audited.asked));
        let is_graft = |familiarity: &Familiarity<'_>| matches!(familiarity, Familiarity::Graft { .. });
        let familiarity = if is_known { Familiarity::Known } else { each.max_by_key(is_graft).unwrap_or(Familiarity::Unknown) };
        Spoken {
            familiarity,
            // One that learns does not open another.
            is_learning: !is_known && lists.iter().all(|list| list.is_learning(now)),
            is_unbound: self.is_unbound(lists),
        }
    }

    /// A constant in a simple query, of an application that binds.
    pub fn is_unbound(&self, lists: &[Arc<Learned>]) -> bool {
        let binds = lists.iter().any(|list| list.binds);
        self.is_simple && self.parameters == 0 && binds && form::has_values(&self.audited.asked)
    }
}

/// 42501. Which rule it was is for the log: whoever probes learns nothing from it.
pub fn refused_by_rule() -> Denial {
    let error = SqlError::new(sqlstate::INSUFFICIENT_PRIVILEGE, "permission denied for this statement");
    Denial::new(Reason::Threat, error)
}

/// What threat rules make of a statement that may run otherwise.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Each rule that has found something, with its mode and what comes of it.
    pub remarks: Vec<String>,
    /// It is refused.
    pub denial: Option<Denial>,
}

/// What the policies of one epoch say.
#[derive(Debug)]
pub(super) struct Threats {
    policies: Vec<ThreatPolicy>,
    /// For whom, and what is known of them.
    applications: Vec<(ApplicationPolicy, Arc<Learned>)>,
    /// Tables that nobody has a reason to name, by schema and name.
    canaries: Vec<(String, String)>,
    /// What nobody has a reason to see.
    canary_rows: Option<Arc<CanaryRows>>,
}

impl Threats {
    pub fn of(policies: &PolicyModel) -> Threats {
        let learned = |policy: &ApplicationPolicy| {
            let mut learned = Learned::new(policy.statements.iter().cloned());
            (learned.binds, learned.learns_until) = (policy.binds, policy.learns_until);
            (policy.clone(), Arc::new(learned))
        };
        let canaries = policies.tables.iter().filter(|table| table.canary);
        let rows = policies.tables.iter().flat_map(|table| table.canary_rows.iter().map(String::as_str));
        Threats {
            canary_rows: CanaryRows::new(rows).map(Arc::new),
            policies: policies.threats.clone(),
            applications: policies.applications.iter().map(learned).collect(),
            canaries: canaries.map(|table| (table.schema.clone(), table.name.clone())).collect(),
        }
    }

    /// What threat rules do for these roles and this application.
    pub fn modes(&self, roles: &[Box<str>], application: Option<&str>) -> Modes {
        let applies = |threat: &&ThreatPolicy| concerns(&threat.roles, &threat.applications, roles, application);
        let rules = |threat: &ThreatPolicy| match rules::named(&threat.rule) {
            Some(rule) => rule..rule + 1,
            None => 0..RULES.len(),
        };
        Modes::of(
            self.policies.iter().filter(applies).flat_map(|threat| rules(threat).map(|rule| (rule, threat.mode, threat.action))),
        )
    }

    /// What these roles, and this application, are known to say; none: nothing was learned of them.
    pub fn learned(&self, roles: &[Box<str>], application: Option<&str>) -> SmallVec<[Arc<Learned>; 1]> {
        let applies = |policy: &ApplicationPolicy| concerns(&policy.roles, &policy.names, roles, application);
        self.applications.iter().filter(|(policy, _)| applies(policy)).map(|(_, learned)| learned.clone()).collect()
    }

    /// What answers must not have; `None`: there is nothing.
    pub fn canary_rows(&self) -> Option<Arc<CanaryRows>> {
        self.canary_rows.clone()
    }

    /// For who explains it: what becomes of a statement.
    pub fn judge(&self, plan: &Plan, roles: &[Box<str>], application: Option<&str>, is_simple: bool) -> Judged {
        let lists = self.learned(roles, application);
        let mut signs = plan.signs();
        if !lists.is_empty() && !plan.form().is_empty() {
            let said = Said { audited: &plan.audited(), is_simple, parameters: plan.parameters() };
            signs = signs.and(Signs::of_statement(&said.beside(&lists, SystemTime::now())));
        }
        let modes = self.modes(roles, application);
        let mut judged = Judged { remarks: vec![], denial: None };
        for (number, rule) in signs.rules() {
            let (mode, action) = (modes.of_rule(number), modes.action_of(number));
            let action = if mode == Watch::Enforce { format!(", {}", action.as_str()) } else { String::new() };
            judged.remarks.push(format!("threat rule {} ({}{action}): {}", rule.name, mode.as_str(), rule.found));
            if mode == Watch::Enforce && modes.action_of(number).refuses() {
                judged.denial = Some(refused_by_rule());
            }
        }
        judged
    }

    pub fn has_canaries(&self) -> bool {
        !self.canaries.is_empty()
    }

    /// What a statement's tables tell.
    pub fn signs_of(&self, tree: &ParseResult) -> Signs {
        if self.names_canary(tree) { Signs::of_rule(&rules::threat::canary::RULE) } else { Signs::default() }
    }

    pub fn names_canary(&self, tree: &ParseResult) -> bool {
        let mut found = false;
        // COPY of a table is no query.
        let statements = tree.stmts.iter().filter_map(|raw| raw.stmt.as_deref()).chain(queries(tree));
        for statement in statements.filter(|_| !self.canaries.is_empty()) {
            walk(statement, &mut |n| {
                let named = match &n.node {
                    Some(NodeEnum::RangeVar(named)) => Some(named),
                    Some(NodeEnum::InsertStmt(s)) => s.relation.as_ref(),
                    Some(NodeEnum::UpdateStmt(s)) => s.relation.as_ref(),
                    Some(NodeEnum::DeleteStmt(s)) => s.relation.as_ref(),
                    Some(NodeEnum::MergeStmt(s)) => s.relation.as_ref(),
                    Some(NodeEnum::CopyStmt(s)) => s.relation.as_ref(),
                    Some(_) | None => None,
                };
                let is = |(schema, name): &(String, String)| {
                    named.is_some_and(|n| *name == n.relname && (n.schemaname.is_empty() || *schema == n.schemaname))
                };
                found |= self.canaries.iter().any(is);
            });
        }
        found
    }
}

/// Whether a policy for roles and applications is for these. None named: for all.
fn concerns(roles: &[String], applications: &[String], has: &[Box<str>], application: Option<&str>) -> bool {
    let of_role = roles.is_empty() || roles.iter().any(|role| has.iter().any(|r| **r == **role));
    of_role && (applications.is_empty() || applications.iter().any(|name| Some(name.as_str()) == application))
}
