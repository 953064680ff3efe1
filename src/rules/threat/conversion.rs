//! **conversion**: a query's result is glued to other text and converted to a number: `CAST('q' || (SELECT ..)::text || 'q' AS numeric)`.
//!
//! How an attacker who is shown error messages reads by way of them: `invalid input syntax for type numeric: "q..q"`. Nobody needs the number
//! of such a text.

use pg_query::protobuf::{AExpr, TypeCast};
use pg_query::{Node, NodeEnum};

use super::{any, any_in};
use crate::rules::{Looks, Rule, Watch};
use crate::sql::tree::as_string;

pub static RULE: Rule = Rule {
    name: "conversion",
    found: "the result of a query, glued to other text, is converted to a number: what it says would stand in an error",
    mode: Watch::Shadow,
    looks: Looks::AtForm(looks),
};

const NUMBERS: [&str; 9] = ["numeric", "int2", "int4", "int8", "int", "integer", "float4", "float8", "bool"];

fn looks(statement: &Node) -> bool {
    any(statement, &mut |node| match node {
        NodeEnum::TypeCast(cast) => is_number(cast) && cast.arg.as_deref().is_some_and(glues_a_query),
        _ => false, // tidy: no cast
    })
}

fn is_number(cast: &TypeCast) -> bool {
    let name = cast.type_name.as_ref().and_then(|name| as_string(name.names.last()?));
    name.is_some_and(|name| NUMBERS.contains(&name))
}

/// `.. || (SELECT ..) || ..`
fn glues_a_query(node: &Node) -> bool {
    let Some(NodeEnum::AExpr(glue)) = &node.node else { return false };
    is_concatenation(glue)
        && any_in(&NodeEnum::AExpr(glue.clone()), &mut |node| {
            matches!(node, NodeEnum::SubLink(_) | NodeEnum::CaseExpr(_) | NodeEnum::FuncCall(_))
        })
}

fn is_concatenation(expr: &AExpr) -> bool {
    expr.name.last().and_then(as_string) == Some("||")
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_it_finds() {
        super::super::tests::check(
            &super::RULE,
            &[
                "SELECT * FROM a WHERE id = CAST((CHR(113) || CHR(98)) || (SELECT name FROM a LIMIT 1)::text || CHR(113) AS numeric)",
                "SELECT * FROM a WHERE 1 = ('q' || (SELECT count(*) FROM a) || 'q')::int",
            ],
            &[
                "SELECT (a.x || a.y)::text FROM a",
                "SELECT a.code::int FROM a",
                "SELECT ('1' || '2')::int",
                "SELECT (SELECT count(*) FROM a)::int",
            ],
        );
    }
}
