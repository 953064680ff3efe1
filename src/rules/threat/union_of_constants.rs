//! **union-of-constants**: an arm of a UNION, not the first, that reads no table and selects constants: `.. UNION ALL SELECT NULL, NULL, 'x'`.
//!
//! How an attacker finds out how many columns the application selects, and of what types, before something is read by way of them.
//! Applications do write such arms, as a row of totals or a default: therefore it only watches, unless a policy says that yours do not.

use pg_query::protobuf::SelectStmt;
use pg_query::{Node, NodeEnum};

use super::{any, any_in, first_arm, is_constant, later_arms};
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "union-of-constants",
    found: "a UNION adds a row of constants (UNION ALL SELECT NULL, NULL)",
    mode: Watch::Shadow,
    looks: Looks::AtForm(looks),
};

fn looks(statement: &Node) -> bool {
    any(statement, &mut |node| {
        let NodeEnum::SelectStmt(select) = node else { return false };
        // All of them constants: a list of values.
        let mut found = false;
        later_arms(select, &mut |arm| found |= is_row_of_constants(arm));
        found && !is_row_of_constants(first_arm(select))
    })
}

/// A constant, or what is computed of nothing else: no column and no table is named in it.
fn is_made_of_constants(node: &Node) -> bool {
    let reads = |node: &NodeEnum| match node {
        NodeEnum::ColumnRef(_) | NodeEnum::RangeVar(_) | NodeEnum::ParamRef(_) => true,
        // `now()` and its like.
        NodeEnum::FuncCall(call) => call.args.is_empty(),
        _ => false, // tidy: what else stands there is looked at below it
    };
    is_constant(node) || node.node.as_ref().is_some_and(|node| !any_in(node, &mut |node| reads(node)) && is_computed(node))
}

/// What is not computed (a `DEFAULT`, a `CURRENT_DATE`) says nothing here.
fn is_computed(node: &NodeEnum) -> bool {
    matches!(
        node,
        NodeEnum::AExpr(_) | NodeEnum::FuncCall(_) | NodeEnum::CaseExpr(_) | NodeEnum::SubLink(_) | NodeEnum::CoalesceExpr(_)
    )
}

fn is_row_of_constants(arm: &SelectStmt) -> bool {
    let value = |target: &Node| match &target.node {
        Some(NodeEnum::ResTarget(target)) => target.val.as_deref().is_some_and(is_made_of_constants),
        Some(_) | None => false,
    };
    arm.from_clause.is_empty() && !arm.target_list.is_empty() && arm.target_list.iter().all(value)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_it_finds() {
        super::super::tests::check(
            &super::RULE,
            &[
                "SELECT id, name FROM a WHERE id = 5 UNION ALL SELECT NULL, NULL",
                "SELECT id, name FROM a UNION SELECT 1, 'x'::text",
                "SELECT id FROM a UNION SELECT id FROM b UNION ALL SELECT NULL",
                "SELECT id, x FROM a UNION ALL SELECT NULL, (CHR(113) || CHR(98)) || (SELECT CASE WHEN 42 = 48 THEN 1 END)::text",
            ],
            &[
                "SELECT id FROM a UNION SELECT id FROM b",
                "SELECT 1 UNION SELECT id FROM a",
                "SELECT 1 UNION SELECT 2 UNION SELECT 3",
            ],
        );
    }
}
