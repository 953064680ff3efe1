//! INSERT, UPDATE, DELETE, COPY .. TO.

use pg_query::protobuf::{
    self as pg, DeleteStmt, InsertStmt, OnConflictAction, OverridingKind, ReturningClause, ReturningOptionKind, UpdateStmt,
};
use pg_query::{Node, NodeEnum};

use super::super::tree::{Child, as_string, boxed, column, is_current_of, node};
use super::scope::{Item, Output, RteColumn, RteId, RteKind, Scope, Usage};
use super::{Analyser, Statement};
use crate::error::sqlstate;
use crate::finding::Denial;

impl Analyser<'_> {
    pub(super) fn insert(&mut self, insert: &mut InsertStmt) -> Result<Vec<Output>, Denial> {
        let InsertStmt { relation, cols, select_stmt, on_conflict_clause, returning_clause, with_clause, r#override } = insert;
        match OverridingKind::try_from(*r#override) {
            Ok(
                OverridingKind::OverridingNotSet | OverridingKind::OverridingUserValue | OverridingKind::OverridingSystemValue,
            ) => {}
            Ok(OverridingKind::Undefined) | Err(_) => return Err(Denial::unsupported("this INSERT cannot be secured")),
        }
        let frame = self.with_clause(with_clause)?;
        let Some(relation) = relation else { return Err(Denial::unsupported("this INSERT cannot be secured")) };
        let item = self.relation(relation, Usage::Insert)?;
        let target = target_of(&item)?;
        let supplied = match select_stmt.as_deref_mut().and_then(|n| n.node.as_mut()) {
            None => None,
            Some(NodeEnum::SelectStmt(s)) => Some(self.query(s, None)?.len()),
            Some(_) => return Err(Denial::unsupported("this INSERT cannot be secured")),
        };
        self.insert_columns(cols, target, supplied)?;
        if let Some(conflict) = on_conflict_clause {
            self.on_conflict(conflict, &item, target)?;
        }
        self.scopes.push(Scope { items: vec![item], lateral_active: false });
        let outputs = self.returning(returning_clause, target)?;
        self.scopes.pop();
        self.end_with(with_clause, frame)?;
        Ok(outputs)
    }

    /// Makes the column list explicit and checks it against what is supplied (`None`: DEFAULT VALUES).
    pub(super) fn insert_columns(&mut self, cols: &mut Vec<Node>, target: RteId, supplied: Option<usize>) -> Result<(), Denial> {
        let visible = self.rtes[target].columns.iter().enumerate().filter(|(i, _)| !self.is_hidden(target, *i));
        let names: Vec<String> = visible.map(|(_, c)| c.name.clone()).collect();
        if cols.is_empty() {
            let count = supplied.unwrap_or(0);
            if count > names.len() {
                return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "INSERT has more expressions than target columns"));
            }
            *cols = names[..count].iter().map(|n| assignment(n)).collect();
            return Ok(());
        }
        for column in cols.iter_mut() {
            let name = self.assigned_column(column, target)?;
            self.known_column(&name, target).map_err(|denial| denial.at_node(location_of(column)))?;
        }
        match supplied {
            Some(n) if n > cols.len() => {
                Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "INSERT has more expressions than target columns"))
            }
            Some(n) if n < cols.len() => {
                Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "INSERT has more target columns than expressions"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The column that an INSERT column or a SET item assigns to; subscripts are resolved.
    fn assigned_column(&mut self, entry: &mut Node, _target: RteId) -> Result<String, Denial> {
        let Some(NodeEnum::ResTarget(t)) = &mut entry.node else {
            return Err(Denial::unsupported("this assignment cannot be secured"));
        };
        for step in &mut t.indirection {
            match &mut step.node {
                Some(NodeEnum::AIndices(i)) => {
                    let pg::AIndices { is_slice: _, lidx, uidx } = &mut **i;
                    self.child(lidx)?;
                    self.child(uidx)?;
                }
                Some(NodeEnum::String(_)) => {}
                Some(_) | None => return Err(Denial::unsupported("this assignment cannot be secured")),
            }
        }
        Ok(t.name.clone())
    }

    fn known_column(&self, name: &str, target: RteId) -> Result<(), Denial> {
        if self.rtes[target].columns.iter().any(|c| c.name == name) {
            return Ok(());
        }
        let relation = match &self.rtes[target].kind {
            RteKind::Relation { oid, usage: _ } => self.context.catalog.relation(*oid).map_or("", |r| r.name.as_str()),
            RteKind::Derived | RteKind::Function | RteKind::Cte | RteKind::Excluded | RteKind::Version(_) | RteKind::Merged => "",
        };
        Err(Denial::invalid(sqlstate::UNDEFINED_COLUMN, format!("column \"{name}\" of relation \"{relation}\" does not exist")))
    }

    fn on_conflict(&mut self, conflict: &mut pg::OnConflictClause, item: &Item, target: RteId) -> Result<(), Denial> {
        let pg::OnConflictClause { action, infer, target_list, where_clause, location: _ } = conflict;
        match OnConflictAction::try_from(*action) {
            Ok(OnConflictAction::OnconflictNothing | OnConflictAction::OnconflictUpdate) => {}
            Ok(OnConflictAction::OnconflictNone | OnConflictAction::Undefined) | Err(_) => {
                return Err(Denial::unsupported("this ON CONFLICT cannot be secured"));
            }
        }
        if let Some(infer) = infer {
            self.scopes.push(Scope { items: vec![item.clone()], lateral_active: false });
            let pg::InferClause { index_elems, where_clause, conname: _, location: _ } = &mut **infer;
            for elem in index_elems {
                let Some(NodeEnum::IndexElem(e)) = &mut elem.node else {
                    return Err(Denial::unsupported("this ON CONFLICT cannot be secured"));
                };
                // The arbiter must match an index expression: its literals stay as they are.
                if let Some(expr) = &e.expr {
                    self.pin_constants(expr);
                }
                self.child(&mut e.expr)?;
                if !e.name.is_empty() {
                    self.known_column(&e.name, target)?;
                }
            }
            if let Some(condition) = where_clause {
                self.pin_constants(condition);
            }
            self.child(where_clause)?;
            self.scopes.pop();
        }
        // `excluded` has the target's columns.
        let columns = self.rtes[target].columns.iter().map(|c| RteColumn { sources: vec![], ..c.clone() }).collect();
        let excluded = self.rtes.len();
        let columns: Vec<RteColumn> = columns;
        // `excluded` cannot be renamed: a second one in the statement must have the same columns.
        if let Some(other) = self.by_alias.insert("excluded".to_owned(), excluded) {
            let shape = |c: &RteColumn| (c.name.clone(), c.typed);
            if !self.rtes[other].columns.iter().map(shape).eq(columns.iter().map(shape)) {
                return Err(Denial::unsupported("ON CONFLICT on two tables in one statement cannot be secured"));
            }
        }
        self.rtes.push(super::scope::Rte {
            alias: "excluded".to_owned(),
            kind: RteKind::Excluded,
            columns,
            read: false,
            starred: usize::MAX,
            whole_row: false,
            nested: true,
            named: Default::default(),
            system_columns: Default::default(),
            locked: false,
            only_name: None,
        });
        let excluded_item = self.item(excluded, "excluded".to_owned(), None);
        self.scopes.push(Scope { items: vec![item.clone(), excluded_item], lateral_active: false });
        self.assignments(target_list, target)?;
        self.child(where_clause)?;
        self.scopes.pop();
        Ok(())
    }

    pub(super) fn update(&mut self, update: &mut UpdateStmt) -> Result<Vec<Output>, Denial> {
        let UpdateStmt { relation, target_list, where_clause, from_clause, returning_clause, with_clause } = update;
        let frame = self.with_clause(with_clause)?;
        let Some(relation) = relation else { return Err(Denial::unsupported("this UPDATE cannot be secured")) };
        let item = self.relation(relation, Usage::Update)?;
        let target = target_of(&item)?;
        self.dml_scope(item, from_clause)?;
        // The order of transformUpdateStmt.
        self.row_condition(where_clause)?;
        let outputs = self.returning(returning_clause, target)?;
        self.assignments(target_list, target)?;
        self.scopes.pop();
        self.end_with(with_clause, frame)?;
        Ok(outputs)
    }

    pub(super) fn delete(&mut self, delete: &mut DeleteStmt) -> Result<Vec<Output>, Denial> {
        let DeleteStmt { relation, using_clause, where_clause, returning_clause, with_clause } = delete;
        let frame = self.with_clause(with_clause)?;
        let Some(relation) = relation else { return Err(Denial::unsupported("this DELETE cannot be secured")) };
        let item = self.relation(relation, Usage::Delete)?;
        let target = target_of(&item)?;
        self.dml_scope(item, using_clause)?;
        self.row_condition(where_clause)?;
        let outputs = self.returning(returning_clause, target)?;
        self.scopes.pop();
        self.end_with(with_clause, frame)?;
        Ok(outputs)
    }

    /// WHERE of UPDATE and DELETE, which is all that may be `CURRENT OF cursor`: that names no column.
    fn row_condition(&mut self, condition: &mut Child) -> Result<(), Denial> {
        if is_current_of(condition) { Ok(()) } else { self.child(condition) }
    }

    /// Opens the scope of UPDATE and DELETE: FROM items do not see the target, the rest sees both, the target first.
    fn dml_scope(&mut self, target: Item, from: &mut [Node]) -> Result<(), Denial> {
        self.scopes.push(Scope::default());
        self.items_of_from(from)?;
        let depth = self.scopes.len() - 1;
        let clash = self.scopes[depth].items.iter().any(|i| {
            i.relation_visible
                && i.name == target.name
                && (i.relation.is_none() || target.relation.is_none() || i.relation == target.relation)
        });
        if clash {
            let name = target.name.unwrap_or_default();
            return Err(Denial::invalid(sqlstate::DUPLICATE_ALIAS, format!("table name \"{name}\" specified more than once")));
        }
        self.scopes[depth].items.insert(0, target);
        Ok(())
    }

    /// SET lists. `(a, b) = source` repeats its source once a column: it is resolved once and copied.
    pub(super) fn assignments(&mut self, list: &mut [Node], target: RteId) -> Result<(), Denial> {
        let mut shared: Option<Node> = None;
        for entry in list.iter_mut() {
            let name = self.assigned_column(entry, target)?;
            self.known_column(&name, target).map_err(|denial| denial.at_node(location_of(entry)))?;
            let Some(NodeEnum::ResTarget(t)) = &mut entry.node else { continue };
            match t.val.as_deref_mut() {
                Some(Node { node: Some(NodeEnum::MultiAssignRef(m)) }) => {
                    let pg::MultiAssignRef { source, colno, ncolumns: _ } = &mut **m;
                    match (&shared, *colno) {
                        (Some(done), 2..) => *source = boxed(done.clone()),
                        (Some(_) | None, _) => {
                            self.child(source)?;
                            shared = source.as_deref().cloned();
                        }
                    }
                }
                Some(value) => self.expr(value)?,
                None => return Err(Denial::unsupported("this assignment cannot be secured")),
            }
        }
        Ok(())
    }

    /// RETURNING. Since PostgreSQL 18 `old` and `new`, or the names that WITH gives them, are versions of the target's row:
    /// where they are named, they get aliases of their own.
    pub(super) fn returning(&mut self, clause: &mut Option<ReturningClause>, target: RteId) -> Result<Vec<Output>, Denial> {
        let Some(ReturningClause { options, exprs }) = clause else { return Ok(vec![]) };
        if self.context.catalog.snapshot().server_version < 180_000 {
            if !options.is_empty() {
                return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "syntax error at or near \"WITH\""));
            }
            return self.target_list(exprs);
        }
        let mut versions = vec![];
        for (kind, usual) in [(ReturningOptionKind::ReturningOptionOld, "old"), (ReturningOptionKind::ReturningOptionNew, "new")]
        {
            let Some(name) = self.version_name(options, kind, usual)? else { continue };
            let columns = self.rtes[target].columns.iter().map(|c| RteColumn { sources: vec![], ..c.clone() }).collect();
            let id = self.add_rte(&name, RteKind::Version(target), columns)?;
            let item = Item { columns_visible: false, ..self.item(id, name, None) };
            if let Some(scope) = self.scopes.last_mut() {
                scope.items.push(item);
            }
            versions.push((kind, id));
        }
        let outputs = self.target_list(exprs)?;
        // SET is read after RETURNING, and does not see them.
        if let Some(scope) = self.scopes.last_mut() {
            scope.items.truncate(scope.items.len() - versions.len());
        }
        options.clear();
        for (kind, id) in versions {
            if !self.rtes[id].read {
                continue;
            }
            // Who reads a version of the row reads the row.
            self.rtes[target].read = true;
            let named = self.rtes[id].named.clone();
            self.rtes[target].named.extend(named);
            let value = self.rtes[id].alias.clone();
            options.push(node(NodeEnum::ReturningOption(pg::ReturningOption { option: kind as i32, value, location: 0 })));
        }
        Ok(outputs)
    }

    /// The name of a version of the row; `None`: its usual name means something else here.
    fn version_name(&self, options: &[Node], wanted: ReturningOptionKind, usual: &str) -> Result<Option<String>, Denial> {
        let mut given = None;
        for option in options {
            let Some(NodeEnum::ReturningOption(pg::ReturningOption { option, value, location: _ })) = &option.node else {
                return Err(Denial::unsupported("this RETURNING cannot be secured"));
            };
            if *option != wanted as i32 {
                continue;
            }
            if given.is_some() {
                let message = format!("{} cannot be specified multiple times", usual.to_ascii_uppercase());
                return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, message));
            }
            given = Some(value.clone());
        }
        let is_taken =
            |name: &str| self.scopes.iter().flat_map(|s| &s.items).any(|i| i.relation_visible && i.name.as_deref() == Some(name));
        match given {
            Some(name) if is_taken(&name) => {
                Err(Denial::invalid(sqlstate::DUPLICATE_ALIAS, format!("table name \"{name}\" specified more than once")))
            }
            Some(name) => Ok(Some(name)),
            None => Ok((!is_taken(usual)).then(|| usual.to_owned())),
        }
    }

    pub(super) fn declare(&mut self, declare: &mut pg::DeclareCursorStmt) -> Result<Statement, Denial> {
        let pg::DeclareCursorStmt { portalname, options, query } = declare;
        let mut query = query.take().map(|q| *q).unwrap_or_default();
        match &mut query.node {
            Some(NodeEnum::SelectStmt(s)) => {
                self.query(s, None)?;
            }
            Some(_) | None => return Err(Denial::unsupported("this cursor cannot be secured")),
        }
        Ok(Statement::Declare { name: portalname.clone(), options: *options, query })
    }

    /// `COPY (query) TO STDOUT`; `COPY table TO STDOUT` becomes the query form.
    pub(super) fn copy(&mut self, copy: &mut pg::CopyStmt) -> Result<Statement, Denial> {
        if copy.is_from {
            return self.copy_from(copy).map(Statement::CopyFrom);
        }
        let pg::CopyStmt { relation, query, attlist, is_from: _, is_program, filename, options, where_clause } = copy;
        if *is_program || !filename.is_empty() {
            return Err(Denial::policy("COPY to a file or program is not permitted"));
        }
        if where_clause.is_some() {
            return Err(Denial::unsupported("this COPY cannot be secured"));
        }
        self.copy_options(options)?;
        let mut query = match (relation, query) {
            (None, Some(query)) => std::mem::take(&mut **query),
            (Some(relation), None) => self.copy_query(relation, attlist)?,
            (Some(_), Some(_)) | (None, None) => return Err(Denial::unsupported("this COPY cannot be secured")),
        };
        match &mut query.node {
            Some(NodeEnum::SelectStmt(s)) => {
                self.query(s, None)?;
            }
            Some(NodeEnum::InsertStmt(s)) => {
                self.insert(s)?;
            }
            Some(NodeEnum::UpdateStmt(s)) => {
                self.update(s)?;
            }
            Some(NodeEnum::DeleteStmt(s)) => {
                self.delete(s)?;
            }
            // It has had RETURNING since PostgreSQL 17.
            Some(NodeEnum::MergeStmt(s)) => {
                self.merge(s)?;
            }
            Some(_) | None => return Err(Denial::unsupported("this COPY cannot be secured")),
        }
        Ok(Statement::CopyTo { query, options: std::mem::take(options) })
    }

    /// Options are grammar: a literal among them belongs to the template's key.
    fn copy_options(&mut self, options: &[Node]) -> Result<(), Denial> {
        const ALLOWED: [&str; 7] = ["format", "header", "delimiter", "null", "quote", "escape", "force_quote"];
        for option in options {
            let Some(NodeEnum::DefElem(d)) = &option.node else {
                return Err(Denial::unsupported("this COPY option cannot be secured"));
            };
            if !ALLOWED.contains(&d.defname.as_str()) {
                return Err(Denial::unsupported(format!("COPY option \"{}\" cannot be secured", d.defname)));
            }
            let Some(text) = d.arg.as_deref().and_then(as_string) else { continue };
            self.pin_text(text);
            // The deparser knows these only.
            if d.defname == "format" && !matches!(text, "text" | "csv" | "binary") {
                let message = format!("COPY format \"{text}\" not recognized");
                return Err(Denial::invalid(sqlstate::INVALID_PARAMETER_VALUE, message));
            }
        }
        Ok(())
    }

    /// `SELECT columns FROM ONLY table`: COPY reads the table itself, without generated columns.
    fn copy_query(&mut self, relation: &pg::RangeVar, attributes: &[Node]) -> Result<Node, Denial> {
        let found =
            self.find_relation(&relation.schemaname, &relation.relname).map_err(|denial| denial.at_node(relation.location))?;
        if found.kind != 'r' {
            return Err(Denial::unsupported(format!(
                "COPY of \"{}\" needs the query form: COPY (SELECT ..) TO",
                relation.relname
            )));
        }
        let names: Vec<String> = if attributes.is_empty() {
            found.columns.iter().filter(|c| !c.generated && !c.hidden).map(|c| c.name.clone()).collect()
        } else {
            attributes.iter().filter_map(as_string).map(str::to_owned).collect()
        };
        let mut source = relation.clone();
        source.inh = false;
        source.alias = None;
        Ok(select_columns(&names, source))
    }
}

fn select_columns(names: &[String], source: pg::RangeVar) -> Node {
    let target_list = names.iter().map(|n| super::super::tree::target(n, column(&[n]))).collect();
    let select = pg::SelectStmt {
        target_list,
        from_clause: vec![node(NodeEnum::RangeVar(source))],
        limit_option: pg::LimitOption::Default as i32,
        op: pg::SetOperation::SetopNone as i32,
        ..Default::default()
    };
    node(NodeEnum::SelectStmt(Box::new(select)))
}

/// Where a column of INSERT or an assignment of SET stands; negative where it is not known.
fn location_of(entry: &Node) -> i32 {
    match &entry.node {
        Some(NodeEnum::ResTarget(t)) => t.location,
        Some(_) | None => -1,
    }
}

fn assignment(name: &str) -> Node {
    node(NodeEnum::ResTarget(Box::new(pg::ResTarget { name: name.to_owned(), indirection: vec![], val: None, location: 0 })))
}

pub(super) fn target_of(item: &Item) -> Result<RteId, Denial> {
    item.rte.ok_or_else(|| Denial::unsupported("this target cannot be secured"))
}
