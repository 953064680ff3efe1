//! **letter**: one letter of a query's result is cut out and compared with constants: `ascii(substr((SELECT ..), 3, 1)) > 64`.
//!
//! How a blind attacker reads: a letter at a time, each by some yes or no. Nobody else asks for the code of one letter of what a sub-select
//! says.

use pg_query::protobuf::FuncCall;
use pg_query::{Node, NodeEnum};

use super::{any, any_in, function_name, is_constant};
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "letter",
    found: "one letter of a query's result is compared with constants",
    mode: Watch::Shadow,
    looks: Looks::AtForm(looks),
};

fn looks(statement: &Node) -> bool {
    any(statement, &mut |node| {
        let NodeEnum::AExpr(expr) = node else { return false };
        let sides = [expr.lexpr.as_deref(), expr.rexpr.as_deref()];
        let constants = |node: &Node| match &node.node {
            Some(NodeEnum::List(list)) => list.items.iter().all(is_constant),
            Some(_) | None => is_constant(node),
        };
        let cuts = |node: &Node| node.node.as_ref().is_some_and(cuts_out_a_letter);
        sides.iter().flatten().any(|side| constants(side)) && sides.iter().flatten().any(|side| cuts(side))
    })
}

/// `ascii(substr((SELECT ..), n, 1))`, or without `ascii`.
fn cuts_out_a_letter(node: &NodeEnum) -> bool {
    let NodeEnum::FuncCall(call) = node else { return false };
    let argument = call.args.first().and_then(|argument| argument.node.as_ref());
    match (function_name(call), argument) {
        ("ascii", Some(inner)) => cuts_out_a_letter(inner),
        ("substr" | "substring" | "left" | "right", Some(text)) => is_one_letter(call) && has_query(text),
        (_, _) => false,
    }
}

/// The last argument is a constant: of how many letters, the template does not tell.
fn is_one_letter(call: &FuncCall) -> bool {
    call.args.len() >= 2 && call.args.last().is_some_and(is_constant)
}

fn has_query(node: &NodeEnum) -> bool {
    any_in(node, &mut |node| matches!(node, NodeEnum::SubLink(_)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_it_finds() {
        super::super::tests::check(
            &super::RULE,
            &[
                "SELECT * FROM a WHERE id = 5 AND ASCII(SUBSTRING((SELECT COALESCE(card::text, ' ') FROM b LIMIT 1)::text FROM 1 FOR 1)) > 64",
                "SELECT * FROM a WHERE substr((SELECT name FROM b), 1, 1) = 'a'",
                "SELECT * FROM a WHERE ascii(substr((SELECT x FROM b), 2, 1)) IN (47, 58)",
            ],
            &[
                "SELECT * FROM a WHERE substr(name, 1, 1) = 'A'",
                "SELECT substr((SELECT name FROM b), 1, 20) FROM a",
                "SELECT * FROM a WHERE ascii(name) > 64",
            ],
        );
    }
}
