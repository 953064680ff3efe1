//! Plans of statements about statements: EXPLAIN, PREPARE, EXECUTE, CREATE TABLE AS.

use std::sync::Arc;

use pg_query::protobuf::{self as pg, DefElem, ExplainStmt};
use pg_query::{Node, NodeEnum};

use super::{Action, Effect, Plan, Prepare};
use crate::finding::Denial;
use crate::sql::analyse::explain::ExplainOptions;
use crate::sql::analyse::temporary::{CreateTemporary, ends_with_transaction};
use crate::sql::sentinel::slot_node;
use crate::sql::template::TenantType;
use crate::sql::tree::{node, string, target};

/// `CREATE TEMPORARY TABLE name AS query`, the tenant beside the query's columns.
pub(super) fn create_temporary(create: &CreateTemporary, mut query: Node, plan: &mut Plan) -> Result<Node, Denial> {
    let CreateTemporary { query: _, into, if_not_exists, tenant_column } = create;
    let Some(NodeEnum::SelectStmt(select)) = &mut query.node else {
        return Err(Denial::disagreement("a table of something else than a query"));
    };
    if !crate::mutant!("write.temporary-is-nobodys") {
        select.target_list.push(target(tenant_column, slot_node(TenantType::Text)));
    }
    plan.command = "CREATE";
    plan.needs_tenant = true;
    plan.inlines_tenant = true;
    plan.effect = if ends_with_transaction(into.on_commit) { Effect::Write } else { Effect::Pins };
    let create = pg::CreateTableAsStmt {
        query: Some(Box::new(query)),
        into: Some(Box::new(into.clone())),
        objtype: pg::ObjectType::ObjectTable as i32,
        is_select_into: false,
        if_not_exists: *if_not_exists,
    };
    Ok(node(NodeEnum::CreateTableAsStmt(Box::new(create))))
}

/// `EXPLAIN (options) query`. Estimates are made from statistics over the rows of all tenants: where they are kept back they
/// are off without a word, since nobody who types EXPLAIN asks for them in particular, and refused where they are asked for.
pub(super) fn explain(options: &ExplainOptions, estimates: bool, query: Node) -> Result<Node, Denial> {
    let ExplainOptions { verbose, costs, format, generic_plan } = *options;
    let estimates = estimates || crate::mutant!("explain.estimates-shown");
    let costs = match (estimates, costs) {
        (false, Some(true)) => {
            return Err(Denial::policy("EXPLAIN COSTS is not permitted")
                .hint("estimates are made from the rows of all tenants; leave the option out"));
        }
        (false, Some(false) | None) => Some(false),
        (true, asked) => asked,
    };
    let mut list = vec![];
    let mut add = |name: &str, value: &str| list.push(option(name, value));
    if verbose {
        add("verbose", "on");
    }
    if let Some(costs) = costs {
        add("costs", if costs { "on" } else { "off" });
    }
    if let Some(format) = format {
        add("format", format);
    }
    if generic_plan {
        add("generic_plan", "on");
    }
    Ok(node(NodeEnum::ExplainStmt(Box::new(ExplainStmt { query: Some(Box::new(query)), options: list }))))
}

fn option(name: &str, value: &str) -> Node {
    node(NodeEnum::DefElem(Box::new(DefElem {
        defname: name.to_owned(),
        arg: Some(Box::new(string(value))),
        defaction: pg::DefElemAction::DefelemUnspec as i32,
        ..Default::default()
    })))
}

/// `PREPARE name AS query` with these types: nothing of the session's yet, but the plan that EXECUTE runs.
pub(super) fn prepare(name: &str, types: &[u32], plan: Plan) -> Plan {
    let epoch = plan.epoch;
    Plan {
        action: Action::Prepare(Prepare { name: name.into(), types: types.into(), plan: Arc::new(plan) }),
        command: "PREPARE",
        ..Plan::nothing(epoch)
    }
}

/// The arguments of an EXECUTE as a SELECT of them, which the output check can read.
pub(super) fn without_names(mut select: Node) -> Node {
    if let Some(NodeEnum::SelectStmt(s)) = &mut select.node {
        for target in &mut s.target_list {
            if let Some(NodeEnum::ResTarget(t)) = &mut target.node {
                t.name.clear();
            }
        }
    }
    select
}

/// The list that such a SELECT was printed with.
pub(super) fn arguments_of(printed: &str) -> Result<&str, Denial> {
    printed.strip_prefix("SELECT").map(str::trim).ok_or_else(|| Denial::disagreement("arguments that are none"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::parse;

    fn printed(options: &ExplainOptions, estimates: bool) -> Result<String, Denial> {
        let tree = parse::parse("SELECT 1")?;
        let query = tree.stmts[0].stmt.as_deref().cloned().unwrap();
        super::super::build::print(explain(options, estimates, query)?).map(|p| p.text().to_owned())
    }

    #[test]
    fn estimates_show_where_they_may() {
        let with = |costs| ExplainOptions { costs, ..ExplainOptions::default() };
        assert_eq!(printed(&with(None), false).unwrap(), "EXPLAIN (COSTS OFF) SELECT 1");
        assert_eq!(printed(&with(None), true).unwrap(), "EXPLAIN SELECT 1");
        assert_eq!(printed(&with(Some(false)), true).unwrap(), "EXPLAIN (COSTS OFF) SELECT 1");
        assert_eq!(printed(&with(Some(true)), true).unwrap(), "EXPLAIN (COSTS ON) SELECT 1");
        assert!(printed(&with(Some(true)), false).is_err());
        let all = ExplainOptions { verbose: true, costs: None, format: Some("json"), generic_plan: true };
        let text = "EXPLAIN (VERBOSE ON, COSTS OFF, FORMAT \"json\", GENERIC_PLAN ON) SELECT 1";
        assert_eq!(printed(&all, false).unwrap(), text);
    }
}
