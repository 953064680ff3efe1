//! **slow-call**: a call whose only use in a condition is to take time: `pg_sleep`, `generate_series` to a large bound counted inside of a
//! CASE or a condition.
//!
//! How a blind attacker who sees nothing asks yes or no: by the clock. `pg_sleep` is refused to tenants anyway unless a policy admits it; this
//! finds it where one does, and the other ways.

use pg_query::{Node, NodeEnum};

use super::{any, any_in, function_name};
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "slow-call",
    found: "a condition or a CASE calls what takes time (pg_sleep, a count of generate_series)",
    mode: Watch::Shadow,
    looks: Looks::AtForm(looks),
};

fn looks(statement: &Node) -> bool {
    any(statement, &mut |node| match node {
        NodeEnum::FuncCall(call) => function_name(call).starts_with("pg_sleep"),
        // A sub-select that only counts a series: `(SELECT COUNT(*) FROM GENERATE_SERIES(1, 5000000))`.
        NodeEnum::SubLink(link) => link.subselect.as_deref().and_then(|n| n.node.as_ref()).is_some_and(counts_a_series),
        _ => false, // tidy: neither call nor sub-select
    })
}

fn counts_a_series(select: &NodeEnum) -> bool {
    let NodeEnum::SelectStmt(select) = select else { return false };
    let [from] = select.from_clause.as_slice() else { return false };
    let is_series = |node: &NodeEnum| matches!(node, NodeEnum::FuncCall(call) if function_name(call) == "generate_series");
    let Some(NodeEnum::RangeFunction(from)) = &from.node else { return false };
    let [target] = select.target_list.as_slice() else { return false };
    let counts = |node: &NodeEnum| matches!(node, NodeEnum::FuncCall(call) if function_name(call) == "count");
    any_in(&NodeEnum::RangeFunction(from.clone()), &mut |node| is_series(node))
        && target.node.as_ref().is_some_and(|target| any_in(target, &mut |node| counts(node)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_it_finds() {
        super::super::tests::check(
            &super::RULE,
            &[
                "SELECT * FROM a WHERE id = 5 AND 1 = (SELECT 1 FROM pg_sleep(5))",
                "SELECT CASE WHEN a.x = 'a' THEN pg_sleep(5) END FROM a",
                "SELECT * FROM a WHERE id = 5 AND 9 = (SELECT count(*) FROM generate_series(1, 5000000))",
            ],
            &[
                "SELECT d FROM generate_series(1, 7) d",
                "SELECT * FROM a WHERE id IN (SELECT g FROM generate_series(1, 7) g)",
                "SELECT (SELECT count(*) FROM b) FROM a",
            ],
        );
    }
}
