//! **union-of-constants**: an arm of a UNION, not the first, that reads no table and selects constants: `.. UNION ALL SELECT NULL, NULL, 'x'`.
//!
//! How an attacker finds out how many columns the application selects, and of what types, before something is read by way of them.
//! Applications do write such arms, as a row of totals or a default: therefore it only watches, unless a policy says that yours do not.

use pg_query::NodeEnum;
use pg_query::protobuf::SelectStmt;

use super::{any, first_arm, is_constant, later_arms};
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "union-of-constants",
    found: "a UNION adds a row of constants (UNION ALL SELECT NULL, NULL)",
    mode: Watch::Shadow,
    looks: Looks::AtForm(looks),
};

fn looks(statement: &NodeEnum) -> bool {
    any(statement, &mut |node| {
        let NodeEnum::SelectStmt(select) = node else { return false };
        // All of them constants: a list of values.
        let mut found = false;
        later_arms(select, &mut |arm| found |= is_row_of_constants(arm));
        found && !is_row_of_constants(first_arm(select))
    })
}

fn is_row_of_constants(arm: &SelectStmt) -> bool {
    let value = |target: &pg_query::Node| match &target.node {
        Some(NodeEnum::ResTarget(target)) => target.val.as_deref().is_some_and(is_constant),
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
            ],
            &[
                "SELECT id FROM a UNION SELECT id FROM b",
                "SELECT 1 UNION SELECT id FROM a",
                "SELECT 1 UNION SELECT 2 UNION SELECT 3",
            ],
        );
    }
}
