//! **tautology**: a condition with an alternative that says nothing about any row: `id = 5 OR 1 = 1`, `OR 'a' = 'a'`, `OR id = id`,
//! `OR true`.
//!
//! The oldest injection: what the application meant to select is widened to all that the tenant has. Nobody writes it in earnest: query
//! builders that need a neutral part use `1 = 1 AND ..` (see `constant-condition` for that one out of place). Values are not seen, only that
//! there are two constants: `OR 1 = 2`, by which an attacker asks whether the first was believed, has the same form.

use pg_query::protobuf::BoolExprType;
use pg_query::{Node, NodeEnum};

use super::{any, says_nothing};
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "tautology",
    found: "a condition has an alternative that says nothing about any row (OR 1 = 1)",
    mode: Watch::Shadow,
    looks: Looks::AtForm(looks),
};

fn looks(statement: &Node) -> bool {
    any(statement, &mut |node| match node {
        NodeEnum::BoolExpr(or) if or.boolop() == BoolExprType::OrExpr => or.args.iter().any(says_nothing),
        _ => false, // tidy: what is not OR is no tautology
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_it_finds() {
        super::super::tests::check(
            &super::RULE,
            &[
                "SELECT * FROM a WHERE id = 5 OR 1 = 1",
                "SELECT * FROM a WHERE name = 'x' OR 'a' = 'a'",
                "SELECT * FROM a WHERE name = 'x' OR 'a' LIKE 'a'",
                "SELECT * FROM a WHERE id = 5 OR id = id",
                "SELECT * FROM a WHERE (id = 5) OR true",
                "SELECT * FROM a WHERE id = 5 OR 2 BETWEEN 1 AND 3",
                "SELECT * FROM a WHERE id = 5 OR 3 IN (1, 2, 3)",
                "SELECT * FROM a WHERE id = 5 OR NOT (1 = 2)",
                "DELETE FROM a WHERE id = 5 OR 1::int = '1'::int",
                "PREPARE p AS SELECT * FROM a WHERE id = $1 OR 1 = 1",
                "EXPLAIN SELECT * FROM a WHERE id = 5 OR 1 = 1",
                "DECLARE c CURSOR FOR SELECT * FROM a WHERE id = 5 OR 1 = 1",
                "COPY (SELECT * FROM a WHERE id = 5 OR 1 = 1) TO STDOUT",
                "CREATE TEMP TABLE t AS SELECT * FROM a WHERE id = 5 OR 1 = 1",
                "WITH x AS (SELECT * FROM a WHERE id = 5 OR 1 = 1) SELECT * FROM x",
                "INSERT INTO b SELECT * FROM a WHERE id = 5 OR 1 = 1",
                "SELECT * FROM a WHERE id IN (SELECT id FROM b WHERE x = 1 OR 1 = 1)",
            ],
            &[
                "SELECT * FROM a WHERE id = 5 OR id = 6",
                "SELECT * FROM a WHERE a.id = b.id OR $1 = 1",
                "SELECT * FROM a WHERE x OR y",
            ],
        );
    }
}
