//! What stands between a listed view and its readers.

use crate::cli::explain::{context, principal};
use crate::config::Problem;
use crate::gate::Gate;
use crate::policy::model::{PolicyModel, Scope};
use crate::sql::tree::quoted_name;

/// Why views with `scope = "view"` cannot be read, by somebody who has every role that a policy names.
pub fn problems(gate: &Gate, policies: &PolicyModel, database: &str) -> Vec<Problem> {
    let rules = policies.tables.iter().flat_map(|t| &t.rules).flat_map(|r| &r.roles);
    let roles: Vec<String> = rules.chain(policies.allows.iter().flat_map(|a| &a.roles)).cloned().collect();
    let reader = principal(database, Some("1"), &roles);
    let mut problems = vec![];
    for view in policies.tables.iter().filter(|t| t.scope == Scope::View) {
        let sql = format!("SELECT * FROM {}.{}", quoted_name(&view.schema), quoted_name(&view.name));
        for explanation in gate.explain(&sql, &context(&sql, &reader, &[]), None) {
            let Err(denial) = explanation.outcome else { continue };
            let message = format!("nobody can read the view {}.{}: {}", view.schema, view.name, denial.error.message);
            let help = "a view is read through its definition: each table and view in it needs an entry of its own, each function must be \
                one that tenants may call, and the upstream's role needs SELECT on them";
            problems.push(view.place.problem(message, "here").help(help));
        }
    }
    problems
}
