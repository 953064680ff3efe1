//! **spelled-text**: a text is spelled letter by letter: `CHR(113) || CHR(98) || CHR(122)`.
//!
//! How an attacker writes texts where quotes are filtered, and marks what he reads. Applications write the text; a single `chr(10)` is a line
//! feed.

use pg_query::protobuf::AExpr;
use pg_query::{Node, NodeEnum};

use super::{any, function_name, is_constant};
use crate::rules::{Looks, Rule, Watch};
use crate::sql::tree::as_string;

pub static RULE: Rule = Rule {
    name: "spelled-text",
    found: "a text is spelled letter by letter (CHR(113) || CHR(98))",
    mode: Watch::Shadow,
    looks: Looks::AtForm(looks),
};

fn looks(statement: &Node) -> bool {
    any(statement, &mut |node| match node {
        NodeEnum::AExpr(glue) if glue.name.last().and_then(as_string) == Some("||") => letters(glue) >= 2,
        _ => false, // tidy: nothing is glued
    })
}

/// `chr(constant)` among what is glued.
fn letters(glue: &AExpr) -> usize {
    let count = |side: Option<&Node>| match side.and_then(|side| side.node.as_ref()) {
        Some(NodeEnum::AExpr(inner)) => letters(inner),
        Some(NodeEnum::FuncCall(call)) => usize::from(function_name(call) == "chr" && call.args.iter().all(is_constant)),
        Some(_) | None => 0,
    };
    count(glue.lexpr.as_deref()) + count(glue.rexpr.as_deref())
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_it_finds() {
        super::super::tests::check(
            &super::RULE,
            &[
                "SELECT (CHR(113)||CHR(118)||CHR(112)) FROM a",
                "SELECT * FROM a WHERE id = CAST((CHR(113) || CHR(98)) || name AS numeric)",
            ],
            &["SELECT a.x || chr(10) || a.y FROM a", "SELECT chr(65) FROM a", "SELECT 'a' || 'b' || 'c'"],
        );
    }
}
