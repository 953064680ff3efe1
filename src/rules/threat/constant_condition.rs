//! **constant-condition**: behind other conditions one that compares constants: `id = 5 AND 8312 = 8312`.
//!
//! How a blind attacker asks yes or no: the page is as before, or empty. Query builders put their neutral `1 = 1` in front, and that is let
//! pass; so is a condition that stands alone.

use pg_query::protobuf::BoolExprType;
use pg_query::protobuf::a_const::Val;
use pg_query::{Node, NodeEnum};

use super::{any, says_nothing};
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "constant-condition",
    found: "behind other conditions stands one that says nothing about any row (AND 8312 = 8312)",
    mode: Watch::Shadow,
    looks: Looks::AtForm(looks),
};

fn looks(statement: &Node) -> bool {
    any(statement, &mut |node| match node {
        NodeEnum::BoolExpr(and) if and.boolop() == BoolExprType::AndExpr => {
            let compares = |node: &Node| says_nothing(node) && !super::is_constant(node);
            let builders = and.args.iter().take_while(|condition| compares(condition) || is_switch(condition)).count();
            // A text or a number is no condition: something was glued to a value (`'fine' AND 1 = 2`, `LIMIT 5 AND 1 = 2`).
            let value = and.args.iter().any(|condition| super::is_constant(condition) && !is_switch(condition));
            value || builders < and.args.len() && and.args[builders..].iter().any(compares)
        }
        _ => false, // tidy: what is not AND is not this
    })
}

/// `true`, by itself, comes from templates of conditions that are switched off.
fn is_switch(node: &Node) -> bool {
    matches!(&node.node, Some(NodeEnum::AConst(constant)) if matches!(constant.val, Some(Val::Boolval(_))))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_it_finds() {
        super::super::tests::check(
            &super::RULE,
            &[
                "SELECT * FROM a WHERE id = 5 AND 8312 = 8312",
                "SELECT * FROM a WHERE name LIKE '%x' AND 'a' = 'b'",
                "SELECT * FROM a WHERE id = 5 AND 1 = 1 AND name = 'x'",
                "INSERT INTO a VALUES (1, 'fine shop' AND 5716 = 4306)",
                "SELECT * FROM a LIMIT 5 AND 8146 = 7166",
                "UPDATE a SET n = 1 WHERE id = 5 AND 2 > 1",
                "SELECT * FROM a WHERE (id = 5 AND NOT 1 = 2)",
            ],
            &["SELECT * FROM a WHERE 1 = 1 AND id = 5", "SELECT * FROM a WHERE id = 5 AND true", "SELECT * FROM a WHERE 1 = 1"],
        );
    }
}
