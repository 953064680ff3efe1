//! **union-of-catalog**: an arm of a UNION, not the first, that reads `pg_catalog` or `information_schema`: names of tables in the place of
//! what the application selects.
//!
//! Programs that look at the catalog (psql, drivers, ORMs, administrators' tools) join and unite its tables with each other; what is found
//! here is the catalog beside a table of another kind.

use pg_query::protobuf::SelectStmt;
use pg_query::{Node, NodeEnum};

use super::{any, any_in, later_arms};
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "union-of-catalog",
    found: "a UNION adds names from the catalog to rows of tables",
    mode: Watch::Shadow,
    looks: Looks::AtForm(looks),
};

fn looks(statement: &Node) -> bool {
    // Names of WITH are no tables, whatever their scope.
    let mut with = vec![];
    any(statement, &mut |node| {
        if let NodeEnum::CommonTableExpr(cte) = node {
            with.push(cte.ctename.clone());
        }
        false
    });
    let is_other =
        |schema: &str, name: &str| !is_catalog(schema, name) && !with.iter().any(|cte| schema.is_empty() && cte == name);
    any(statement, &mut |node| {
        let NodeEnum::SelectStmt(select) = node else { return false };
        let mut catalog = false;
        later_arms(select, &mut |arm| catalog |= reads(arm, &is_catalog));
        catalog && reads(select, &is_other)
    })
}

/// Whether any table of the statement is of that kind, by its schema and name as they are written.
fn reads(select: &SelectStmt, of_kind: &dyn Fn(&str, &str) -> bool) -> bool {
    any_in(&NodeEnum::SelectStmt(Box::new(select.clone())), &mut |node| match node {
        NodeEnum::RangeVar(range) => of_kind(&range.schemaname, &range.relname),
        _ => false, // tidy: no table
    })
}

fn is_catalog(schema: &str, name: &str) -> bool {
    matches!(schema, "pg_catalog" | "information_schema") || schema.is_empty() && name.starts_with("pg_")
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_it_finds() {
        super::super::tests::check(
            &super::RULE,
            &[
                "SELECT name FROM a WHERE id = 5 UNION ALL SELECT table_name FROM information_schema.tables",
                "SELECT name FROM a UNION SELECT relname::text FROM pg_class",
                "SELECT name FROM a UNION SELECT (SELECT string_agg(relname, ',') FROM pg_catalog.pg_class)",
            ],
            &[
                "SELECT relname FROM pg_class UNION SELECT proname FROM pg_proc",
                "SELECT name FROM a UNION SELECT name FROM b",
                "SELECT a.name FROM a JOIN pg_class c ON c.relname = a.name",
            ],
        );
    }
}
