//! CREATE TEMPORARY TABLE, also AS and SELECT INTO, and DROP TABLE, of tables that a policy file declares
//! (`policy::temporary`). What is sent has the declared columns and the hidden one, whatever the client's text looks like.

use std::collections::HashSet;

use pg_query::protobuf::{self as pg, ConstrType, IntoClause, ObjectType, OnCommitAction, RangeVar};
use pg_query::{Node, NodeEnum};

use super::super::tree::{alias, as_string, boxed, cast, column, node, string, target};
use super::utility::{self, Utility};
use super::{Analyser, Context, Statement};
use crate::catalog::{Cast, Catalog, TEMPORARY_SCHEMA, Temporary};
use crate::error::sqlstate;
use crate::finding::Denial;
use crate::sql::shape::shape;
use crate::sql::types::{Typed, oid, type_name, type_named};

/// A temporary table that is made of a query's rows.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTemporary {
    /// In normal form; its columns are the table's but for the hidden one.
    pub query: Node,
    /// Names the table; has no columns.
    pub into: IntoClause,
    pub if_not_exists: bool,
    /// The name of the hidden column.
    pub tenant_column: String,
}

/// INTO of a SELECT: of the first arm of a set operation.
pub fn take_into(select: &mut pg::SelectStmt) -> Option<Box<IntoClause>> {
    let mut first = select;
    while let Some(left) = first.larg.as_deref_mut().filter(|_| first.into_clause.is_none()) {
        first = left;
    }
    first.into_clause.take()
}

/// It ends with its transaction.
pub fn ends_with_transaction(on_commit: i32) -> bool {
    on_commit == OnCommitAction::OncommitDrop as i32
}

/// A column as it may be declared: a name, a type, and no constraint but those that hold for its values alone. Its type is
/// qualified.
///
/// # Errors
/// What cannot be declared.
pub fn plain_column(element: &Node, catalog: &Catalog) -> Result<Node, String> {
    let context =
        Context { catalog, search_path: &[], parameter_types: &[], tenant_setting: None, views: &HashSet::new(), settings: &[] };
    Analyser::new(&context).plain_column(element).map_err(|denial| denial.error.message.to_string())
}

impl Analyser<'_> {
    fn plain_column(&mut self, element: &Node) -> Result<Node, Denial> {
        let refused = |what: &str| Err(Denial::unsupported(format!("a temporary table with {what} cannot be secured")));
        let Some(NodeEnum::ColumnDef(definition)) = &element.node else { return refused("anything but columns") };
        let mut plain = pg::ColumnDef {
            colname: definition.colname.clone(),
            type_name: definition.type_name.clone(),
            is_local: true,
            ..pg::ColumnDef::default()
        };
        for constraint in &definition.constraints {
            let Some(NodeEnum::Constraint(c)) = &constraint.node else { return refused("this constraint") };
            match c.contype() {
                ConstrType::ConstrNotnull | ConstrType::ConstrPrimary | ConstrType::ConstrUnique => {}
                ConstrType::ConstrNull => continue,
                ConstrType::Undefined
                | ConstrType::ConstrDefault
                | ConstrType::ConstrIdentity
                | ConstrType::ConstrGenerated
                | ConstrType::ConstrCheck
                | ConstrType::ConstrExclusion
                | ConstrType::ConstrForeign
                | ConstrType::ConstrAttrDeferrable
                | ConstrType::ConstrAttrNotDeferrable
                | ConstrType::ConstrAttrDeferred
                | ConstrType::ConstrAttrImmediate
                | ConstrType::ConstrAttrEnforced
                | ConstrType::ConstrAttrNotEnforced => return refused("this constraint"),
            }
            let bare = pg::Constraint { location: 0, ..(**c).clone() };
            let known = pg::Constraint {
                contype: c.contype,
                initially_valid: c.initially_valid,
                is_enforced: c.is_enforced,
                nulls_not_distinct: false,
                ..pg::Constraint::default()
            };
            if bare != known {
                return refused("this constraint");
            }
            plain.constraints.push(node(NodeEnum::Constraint(Box::new(bare))));
        }
        if (pg::ColumnDef { constraints: vec![], location: 0, ..(**definition).clone() })
            != (pg::ColumnDef { constraints: vec![], ..plain.clone() })
        {
            return refused("this column");
        }
        if let Some(name) = &mut plain.type_name {
            self.type_name(name)?;
        }
        Ok(node(NodeEnum::ColumnDef(Box::new(plain))))
    }

    /// The declaration of the table that the client means to make or drop; `None`: that is no temporary one.
    ///
    /// # Errors
    /// No policy declares it.
    fn declared(&self, relation: &RangeVar) -> Result<Option<&Temporary>, Denial> {
        let RangeVar { catalogname, schemaname, relname, inh: _, relpersistence, alias: _, location: _ } = relation;
        let is_temporary = relpersistence == "t" && (schemaname.is_empty() || schemaname == TEMPORARY_SCHEMA)
            || relpersistence == "p" && schemaname == TEMPORARY_SCHEMA;
        if !catalogname.is_empty() || !is_temporary {
            return Ok(None);
        }
        let undeclared = || {
            Denial::policy(format!("CREATE TEMPORARY TABLE \"{relname}\" is not permitted"))
                .hint("a policy file can declare the table: [[temporary]] name and columns")
        };
        self.context.catalog.temporary(relname).ok_or_else(undeclared).map(Some)
    }

    /// # Errors
    /// It is not a declared temporary table, or not as it is declared.
    pub(super) fn create(&mut self, statement: &Node) -> Result<Statement, Denial> {
        let Some(kind @ NodeEnum::CreateStmt(create)) = &statement.node else {
            return Err(Denial::unsupported("this statement cannot be secured"));
        };
        let Some(range) = &create.relation else { return Err(utility::refused(kind)) };
        let Some(Temporary { relation: _, definitions }) = self.declared(range)? else { return Err(utility::refused(kind)) };
        let (definitions, name) = (definitions.clone(), range.relname.clone());
        let plain = pg::CreateStmt { relation: None, table_elts: vec![], oncommit: 0, if_not_exists: false, ..create.clone() };
        if plain != pg::CreateStmt::default() {
            return Err(Denial::unsupported("a temporary table with anything but columns cannot be secured"));
        }
        let columns = create.table_elts.iter().map(|e| self.plain_column(e)).collect::<Result<Vec<Node>, Denial>>()?;
        let visible = &definitions[..definitions.len().saturating_sub(1)];
        if !columns.iter().map(shape).eq(visible.iter().map(shape)) {
            return Err(as_declared(&name, visible));
        }
        let made = pg::CreateStmt { relation: Some(temporary(&name)), table_elts: definitions, ..create.clone() };
        let pins = !ends_with_transaction(create.oncommit);
        let made = node(NodeEnum::CreateStmt(made));
        Ok(Statement::Utility(Utility::Temporary { node: made, command: "CREATE", pins }))
    }

    /// # Errors
    /// It is not a declared temporary table, or not as it is declared, or what the query's are.
    pub(super) fn create_as(&mut self, create: pg::CreateTableAsStmt) -> Result<Statement, Denial> {
        let kind = NodeEnum::CreateTableAsStmt(Box::new(create.clone()));
        let pg::CreateTableAsStmt { query, into, objtype, is_select_into: _, if_not_exists } = create;
        let Some(into) = into.filter(|_| objtype == ObjectType::ObjectTable as i32) else { return Err(utility::refused(&kind)) };
        let Some(range) = &into.rel else { return Err(utility::refused(&kind)) };
        let Some(Temporary { relation: _, definitions }) = self.declared(range)? else { return Err(utility::refused(&kind)) };
        let (definitions, name) = (definitions.clone(), range.relname.clone());
        let IntoClause { rel: _, col_names, access_method, options, on_commit, table_space_name, view_query, skip_data } = *into;
        if !access_method.is_empty() || !options.is_empty() || !table_space_name.is_empty() || view_query.is_some() {
            return Err(Denial::unsupported("a temporary table with anything but columns cannot be secured"));
        }
        let query = query.map(|q| *q).unwrap_or_default();
        let Some(NodeEnum::SelectStmt(select)) = &query.node else {
            return Err(Denial::unsupported("CREATE TABLE AS EXECUTE cannot be secured"));
        };
        let (visible, hidden) = definitions.split_at(definitions.len().saturating_sub(1));
        let made = self.outputs_of(select, &col_names)?;
        let columns: Vec<(&str, pg::TypeName)> = visible.iter().filter_map(column_of).collect();
        if !made.iter().map(|(name, _)| name.as_str()).eq(columns.iter().map(|(name, _)| *name)) {
            return Err(as_declared(&name, visible));
        }
        for ((column, typed), (_, declared)) in made.iter().zip(&columns) {
            self.check_type(column, *typed, declared)?;
        }
        let mut query = of_types(query, &columns);
        if let Some(NodeEnum::SelectStmt(select)) = &mut query.node {
            self.query(select, None)?;
        }
        let into = IntoClause { rel: Some(temporary(&name)), on_commit, skip_data, ..IntoClause::default() };
        let tenant_column = hidden.first().and_then(column_of).map(|(name, _)| name.to_owned()).unwrap_or_default();
        Ok(Statement::CreateTemporary(Box::new(CreateTemporary { query, into, if_not_exists, tenant_column })))
    }

    /// The columns that a table has which is made of a query, with these names for the first of them.
    fn outputs_of(&mut self, select: &pg::SelectStmt, names: &[Node]) -> Result<Vec<(String, Typed)>, Denial> {
        let mut apart = Analyser::new(self.context);
        let outputs = apart.query(&mut select.clone(), None);
        self.pinned.append(&mut apart.pinned);
        let outputs = outputs?;
        if names.len() > outputs.len() {
            return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "too many column names were specified"));
        }
        let mut columns: Vec<(String, Typed)> = outputs.into_iter().map(|o| (o.name, o.typed)).collect();
        for (column, name) in columns.iter_mut().zip(names.iter().filter_map(as_string)) {
            name.clone_into(&mut column.0);
        }
        Ok(columns)
    }

    /// The cast to the declared type must not change a value: a table that is made of a query has the query's.
    fn check_type(&self, column: &str, typed: Typed, declared: &pg::TypeName) -> Result<(), Denial> {
        let catalog = self.context.catalog;
        let wanted = type_named(&pg::TypeName { typmods: vec![], ..declared.clone() }, catalog).oid;
        let keeps = |c: &Cast| c.source == typed.oid && c.target == wanted && c.context == 'i';
        let is_known = catalog.type_(typed.oid).is_some_and(|_| typed.oid != oid::UNKNOWN);
        if !is_known || typed.oid == wanted || catalog.snapshot().casts.iter().any(keeps) {
            return Ok(());
        }
        let shown = |oid| type_name(oid, catalog).unwrap_or_default();
        let message = format!("column \"{column}\" is of type {} but is declared with type {}", shown(typed.oid), shown(wanted));
        Err(Denial::invalid(sqlstate::DATATYPE_MISMATCH, message).hint("cast it in the query"))
    }

    /// # Errors
    /// It is not one declared temporary table.
    pub(super) fn drop(&self, statement: &Node) -> Result<Statement, Denial> {
        let Some(kind @ NodeEnum::DropStmt(drop)) = &statement.node else {
            return Err(Denial::unsupported("this statement cannot be secured"));
        };
        let name = match drop.objects.as_slice() {
            [Node { node: Some(NodeEnum::List(list)) }] => match list.items.as_slice() {
                [name] => as_string(name),
                [schema, name] if as_string(schema) == Some(TEMPORARY_SCHEMA) => as_string(name),
                [] | [_, _, ..] => None,
            },
            [] | [_, ..] => None,
        };
        let name = name.filter(|name| self.context.catalog.temporary(name).is_some());
        let (Some(name), true) = (name, drop.remove_type == ObjectType::ObjectTable as i32) else {
            return Err(utility::refused(kind));
        };
        let objects = vec![node(NodeEnum::List(pg::List { items: vec![string(TEMPORARY_SCHEMA), string(name)] }))];
        let made = node(NodeEnum::DropStmt(pg::DropStmt { objects, ..drop.clone() }));
        Ok(Statement::Utility(Utility::Temporary { node: made, command: "DROP", pins: false }))
    }
}

/// `SELECT CAST(made.a AS type) AS a, .. FROM (query) AS made(a, ..)`, without type modifiers: they would cut values.
fn of_types(query: Node, columns: &[(&str, pg::TypeName)]) -> Node {
    const MADE: &str = "bulkhead_made";
    let typed = |(name, type_): &(&str, pg::TypeName)| {
        target(name, cast(column(&[MADE, name]), pg::TypeName { typmods: vec![], ..type_.clone() }))
    };
    let alias = pg::Alias { colnames: columns.iter().map(|(name, _)| string(name)).collect(), ..alias(MADE) };
    let from = pg::RangeSubselect { lateral: false, subquery: boxed(query), alias: Some(alias) };
    node(NodeEnum::SelectStmt(Box::new(pg::SelectStmt {
        target_list: columns.iter().map(typed).collect(),
        from_clause: vec![node(NodeEnum::RangeSubselect(Box::new(from)))],
        limit_option: pg::LimitOption::Default as i32,
        op: pg::SetOperation::SetopNone as i32,
        ..Default::default()
    })))
}

fn temporary(name: &str) -> RangeVar {
    RangeVar {
        schemaname: TEMPORARY_SCHEMA.to_owned(),
        relname: name.to_owned(),
        inh: true,
        relpersistence: "t".to_owned(),
        ..RangeVar::default()
    }
}

fn column_of(definition: &Node) -> Option<(&str, pg::TypeName)> {
    match &definition.node {
        Some(NodeEnum::ColumnDef(c)) => c.type_name.clone().map(|t| (c.colname.as_str(), t)),
        Some(_) | None => None,
    }
}

fn as_declared(name: &str, columns: &[Node]) -> Denial {
    let names: Vec<&str> = columns.iter().filter_map(column_of).map(|(name, _)| name).collect();
    let message = format!("the columns of temporary table \"{name}\" are not those that a policy file declares");
    Denial::invalid(sqlstate::INVALID_TABLE_DEFINITION, message)
        .hint(format!("declared are, with their types: {}", names.join(", ")))
}
