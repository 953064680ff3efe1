//! Temporary tables that policy files declare (`[[temporary]]`). What is declared is what is made, with a column besides that
//! says whose row it is: so a temporary table is governed as any other, and a session that changes its tenant leaves nothing
//! for the next. Clients do not see that column.

use std::sync::Arc;

use pg_query::protobuf::{self as pg, ConstrType, a_const};
use pg_query::{Node, NodeEnum};

use super::load::PolicyProblem;
use super::model::{DefaultRule, PolicyModel, Scope, TablePolicy, TemporaryPolicy};
use crate::catalog::{Catalog, Column, Relation, TEMPORARY_SCHEMA};
use crate::sql::analyse;
use crate::sql::parse;
use crate::sql::tree::quoted_name;
use crate::sql::types::{oid, type_named};

/// Says whose row of a temporary table it is.
pub const TENANT_COLUMN: &str = "bulkhead_tenant";

/// `DEFAULT_COLLATION_OID` of pg_collation.dat.
const DEFAULT_COLLATION: u32 = 100;

/// A catalog and policies that have the declared tables too.
///
/// # Errors
/// Every declaration that cannot be used.
pub fn declare(model: &PolicyModel, catalog: Arc<Catalog>) -> Result<(Arc<Catalog>, PolicyModel), Vec<PolicyProblem>> {
    let mut model = model.clone();
    if model.temporaries.is_empty() {
        return Ok((catalog, model));
    }
    let mut tables = vec![];
    let mut problems = vec![];
    for (n, temporary) in model.temporaries.iter().enumerate() {
        // No server gives out OIDs from this end.
        match table(temporary, u32::MAX - n as u32, &catalog) {
            Ok(table) => tables.push(table),
            Err(problem) => problems.push(*problem),
        }
        model.tables.push(TablePolicy {
            canary: false,
            canary_rows: vec![],
            waits_for_records: false,
            schema: TEMPORARY_SCHEMA.to_owned(),
            name: temporary.name.clone(),
            scope: Scope::Tenant { column: TENANT_COLUMN.to_owned() },
            default: DefaultRule::Tenant,
            rules: vec![],
            columns: vec![],
            cache_ttl: None,
            place: temporary.place.clone(),
        });
    }
    if problems.is_empty() { Ok((Arc::new(catalog.with_temporaries(tables)), model)) } else { Err(problems) }
}

fn table(declared: &TemporaryPolicy, oid: u32, catalog: &Catalog) -> Result<(Relation, Vec<Node>), Box<PolicyProblem>> {
    let name = &declared.name;
    let snapshot = catalog.snapshot();
    // It would hide that one from the session; and what the name means must not depend on whether it was made yet.
    let taken = |r: &&Relation| r.name == *name && !crate::mutant!("check.temporary-hides-relations");
    if let Some(other) = snapshot.relations.iter().find(taken) {
        let message = format!("the temporary table {name} has the name of {}.{name}", other.schema);
        return Err(Box::new(declared.place.problem(message, "must differ from every other relation's")));
    }
    if snapshot.types.iter().any(|t| t.name == *name) {
        return Err(Box::new(
            declared.place.problem(format!("the temporary table {name} has the name of a type"), "must differ"),
        ));
    }
    let wrong = |message: String| Box::new(declared.columns.place.problem(message, "columns as in CREATE TABLE"));
    let definitions = definitions(&declared.columns.text, catalog).map_err(wrong)?;
    let mut columns = vec![];
    for (at, definition) in definitions.iter().enumerate() {
        let column = column(at as i16 + 1, definition, catalog).map_err(wrong)?;
        if columns.iter().any(|c: &Column| c.name == column.name) {
            return Err(wrong(format!("two columns are named {}", column.name)));
        }
        columns.push(column);
    }
    let relation = Relation {
        oid,
        schema: TEMPORARY_SCHEMA.to_owned(),
        name: name.clone(),
        kind: 'r',
        columns,
        parents: vec![],
        is_partition: false,
        unique_keys: vec![],
        row_security: false,
    };
    Ok((relation, definitions))
}

/// The columns that are declared, and the hidden one; types are qualified.
fn definitions(text: &str, catalog: &Catalog) -> Result<Vec<Node>, String> {
    // The newline ends a comment at the end.
    let text = format!("CREATE TABLE t ({text}\n, {} pg_catalog.text NOT NULL)", quoted_name(TENANT_COLUMN));
    let tree = parse::parse(&text).map_err(|denial| denial.error.message.to_string())?;
    let [statement] = tree.stmts.as_slice() else { return Err("not columns of a table".to_owned()) };
    let Some(NodeEnum::CreateStmt(create)) = statement.stmt.as_ref().and_then(|s| s.node.as_ref()) else {
        return Err("not columns of a table".to_owned());
    };
    let plain = pg::CreateStmt { relation: None, table_elts: vec![], oncommit: 0, ..create.clone() } == pg::CreateStmt::default();
    if !plain || create.table_elts.len() < 2 {
        return Err("not columns of a table".to_owned());
    }
    create.table_elts.iter().map(|element| analyse::temporary::plain_column(element, catalog)).collect()
}

fn column(number: i16, definition: &Node, catalog: &Catalog) -> Result<Column, String> {
    let Some(NodeEnum::ColumnDef(column)) = &definition.node else { return Err("not a column".to_owned()) };
    let name = column.type_name.as_ref().ok_or("a column without a type")?;
    let type_oid = type_named(&pg::TypeName { typmods: vec![], ..name.clone() }, catalog).oid;
    let type_ = catalog.type_(type_oid).ok_or_else(|| format!("the type of column {} is not known", column.colname))?;
    if type_.schema != "pg_catalog" || matches!(type_.kind, 'p' | 'c') {
        return Err(format!("column {} has a type that is not one of PostgreSQL's own", column.colname));
    }
    if !has_known_modifier(name, type_oid) {
        return Err(format!("the type modifier of column {} is not known", column.colname));
    }
    let is_not_null = |c: &Node| matches!(&c.node, Some(NodeEnum::Constraint(c)) if matches!(c.contype(), ConstrType::ConstrNotnull | ConstrType::ConstrPrimary));
    Ok(Column {
        number,
        name: column.colname.clone(),
        type_oid,
        // A table that is made of a query has none.
        typmod: -1,
        not_null: column.constraints.iter().any(is_not_null),
        has_default: false,
        generated: false,
        computed: false,
        hidden: column.colname == TENANT_COLUMN,
        identity: None,
        collation: if type_.category == 'S' { DEFAULT_COLLATION } else { 0 },
    })
}

/// Whether the type takes the modifier that is written: `typmodin` of numeric.c, varchar.c, timestamp.c.
fn has_known_modifier(name: &pg::TypeName, type_oid: u32) -> bool {
    let number = |node: &Node| match &node.node {
        Some(NodeEnum::AConst(pg::AConst { val: Some(a_const::Val::Ival(i)), .. })) => Some(i.ival),
        Some(_) | None => None,
    };
    let Some(numbers) = name.typmods.iter().map(number).collect::<Option<Vec<i32>>>() else { return false };
    match (type_oid, numbers.as_slice()) {
        (_, []) => true,
        (oid::NUMERIC, [1..=1000] | [1..=1000, 0..=1000]) => true,
        (oid::VARCHAR | oid::BPCHAR, [1..=10_485_760]) => true,
        (oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::TIME | oid::TIMETZ, [0..=6]) => true,
        (_, _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Snapshot, Type};

    /// What is made of a declaration, or what is said of it.
    fn declared(name: &str, columns: &str) -> Result<Vec<Column>, String> {
        let type_ = |(oid, schema, name, kind, category): (u32, &str, &str, char, char)| Type {
            oid,
            schema: schema.to_owned(),
            name: name.to_owned(),
            kind,
            category,
            element: 0,
            base: 0,
            relation: 0,
            constrained: false,
        };
        let types = [
            (oid::TEXT, "pg_catalog", "text", 'b', 'S'),
            (oid::INT4, "pg_catalog", "int4", 'b', 'N'),
            (oid::NUMERIC, "pg_catalog", "numeric", 'b', 'N'),
            (oid::VARCHAR, "pg_catalog", "varchar", 'b', 'S'),
            (oid::TIMESTAMPTZ, "pg_catalog", "timestamptz", 'b', 'D'),
            (oid::INTERVAL, "pg_catalog", "interval", 'b', 'T'),
            (20_000, "public", "mood", 'e', 'E'),
        ];
        let accounts = Relation {
            oid: 20_001,
            schema: "audit".to_owned(),
            name: "accounts".to_owned(),
            kind: 'v',
            columns: vec![],
            parents: vec![],
            is_partition: false,
            unique_keys: vec![],
            row_security: false,
        };
        let catalog =
            Catalog::new(Snapshot { types: types.map(type_).to_vec(), relations: vec![accounts], ..Snapshot::default() });
        let policies = format!("[[temporary]]\nname = '{name}'\ncolumns = '{columns}'\n");
        let model = super::super::load::read(vec![("p.toml".into(), policies)], &[]).map_err(|p| p.render(false))?;
        let (catalog, model) = declare(&model, Arc::new(catalog)).map_err(|p| crate::config::Problems(p).render(false))?;
        assert_eq!(model.tables.last().map(|t| t.schema.as_str()), Some("pg_temp"));
        Ok(catalog.relation_named("pg_temp", name).map(|r| r.columns.clone()).unwrap_or_default())
    }

    #[test]
    fn what_is_declared_is_what_the_catalog_has_and_a_column_besides() {
        let columns =
            declared("picked", "id int PRIMARY KEY, total numeric(12,2), who varchar(20) NOT NULL, at timestamptz(3) -- when")
                .unwrap();
        let found: Vec<_> = columns.iter().map(|c| (c.name.as_str(), c.not_null, c.collation, c.hidden)).collect();
        assert_eq!(
            found,
            [
                ("id", true, 0, false),
                ("total", false, 0, false),
                ("who", true, DEFAULT_COLLATION, false),
                ("at", false, 0, false),
                (TENANT_COLUMN, true, DEFAULT_COLLATION, true)
            ]
        );
    }

    #[test]
    fn what_cannot_be_declared_is_told() {
        for (name, columns, told) in [
            ("accounts", "id int", "has the name of audit.accounts"),
            ("mood", "id int", "has the name of a type"),
            ("t", "", "is empty"),
            ("t", "-- none", "syntax error"),
            ("t", "id int) INHERITS (accounts", "syntax error"),
            ("t", "id int); DROP TABLE accounts; CREATE TABLE u (id int", "not columns of a table"),
            ("t", "LIKE accounts", "anything but columns"),
            ("t", "id int, id text", "two columns are named id"),
            ("t", "id int, bulkhead_tenant text", "two columns are named bulkhead_tenant"),
            ("t", "id int DEFAULT 1", "this constraint"),
            ("t", "id int CHECK (id > 0)", "this constraint"),
            ("t", "id int REFERENCES accounts", "this constraint"),
            ("t", "id int GENERATED ALWAYS AS IDENTITY", "this constraint"),
            ("t", "id int COLLATE \"C\"", "this column"),
            ("t", "id serial", "does not exist"),
            ("t", "id nothing", "does not exist"),
            ("t", "id public.mood", "not one of PostgreSQL's own"),
            ("t", "id interval(3)", "type modifier"),
            ("t", "id numeric(2000)", "type modifier"),
        ] {
            let message = declared(name, columns).unwrap_err();
            assert!(message.contains(told), "{name} ({columns}): {message}");
        }
    }
}
