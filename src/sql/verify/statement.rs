//! Statements: their scopes, and where their governed entries must be filtered.

use pg_query::NodeEnum;
use pg_query::protobuf::{
    CommonTableExpr, CopyStmt, CreateTableAsStmt, CteCycleClause, CteSearchClause, DeclareCursorStmt, DefElem, DeleteStmt,
    ExplainStmt, InsertStmt, IntoClause, List, LockingClause, ObjectType, OverridingKind, RangeVar, ResTarget, SelectStmt,
    SetOperation, UpdateStmt, WithClause,
};

use super::guard::{Place, Use};
use super::masks::Finds;
use super::nodes::other_statements;
use super::*;
use crate::catalog::TEMPORARY_SCHEMA;
use crate::sql::shape;

/// Options of EXPLAIN that run nothing and tell of the plan only.
const EXPLAIN_OPTIONS: [&str; 4] = ["costs", "format", "generic_plan", "verbose"];

impl Verifier<'_> {
    pub(super) fn top(&mut self, node: &NodeEnum) -> Result<(), Denial> {
        let kind = self.expected.kind;
        if let NodeEnum::CopyStmt(copy) = node
            && kind == Kind::CopyTo
        {
            self.copy(copy)
        } else if let NodeEnum::CopyStmt(copy) = node
            && kind == Kind::CopyFrom
        {
            self.copy_from(copy)
        } else if let NodeEnum::ExplainStmt(explain) = node
            && let Kind::Explain { estimates } = kind
        {
            self.explain(explain, estimates)
        } else if let NodeEnum::DeclareCursorStmt(declare) = node
            && kind == Kind::DeclareCursor
        {
            let DeclareCursorStmt { portalname: _, options: _, query } = declare.as_ref();
            match query.as_deref().map(inner).transpose()? {
                Some(NodeEnum::SelectStmt(select)) => self.select(select),
                Some(_) | None => Err(refused("a cursor over something else than a query")),
            }
        } else if let NodeEnum::CreateTableAsStmt(create) = node
            && kind == Kind::CreateTemporary
        {
            self.create_temporary(create)
        } else {
            let found = match node {
                NodeEnum::SelectStmt(_) => Some(Kind::Select),
                NodeEnum::InsertStmt(_) => Some(Kind::Insert),
                NodeEnum::UpdateStmt(_) => Some(Kind::Update),
                NodeEnum::DeleteStmt(_) => Some(Kind::Delete),
                NodeEnum::MergeStmt(_) => Some(Kind::Merge),
                other_statements!() => None,
            };
            if found != Some(kind) && !crate::mutant!("check.command") {
                return Err(refused(format!("{} instead of {kind:?}", kind_name(node))));
            }
            self.query(node)
        }
    }

    /// A table that the catalog has among the temporary ones: its columns, and the tenant in the last.
    fn create_temporary(&mut self, create: &CreateTableAsStmt) -> Result<(), Denial> {
        let CreateTableAsStmt { query, into, objtype, is_select_into, if_not_exists: _ } = create;
        let into = into.as_deref().ok_or_else(|| refused("a table without a name"))?;
        let IntoClause { rel, col_names, access_method, options, on_commit: _, table_space_name, view_query, skip_data: _ } =
            into;
        let plain = col_names.is_empty() && access_method.is_empty() && options.is_empty() && table_space_name.is_empty();
        let is_table = *objtype == ObjectType::ObjectTable as i32 && !*is_select_into && view_query.is_none();
        let (true, true, Some(RangeVar { catalogname, schemaname, relname, inh: _, relpersistence, alias: None, location: _ })) =
            (plain, is_table, rel.as_ref())
        else {
            return Err(refused("a table that is made in an unknown way"));
        };
        if !catalogname.is_empty() || schemaname != TEMPORARY_SCHEMA || relpersistence != "t" {
            return Err(refused(format!("\"{relname}\" is not temporary")));
        }
        let known = self.catalog.temporary(relname).and_then(|t| self.catalog.relation(t.relation));
        let governed = known.and_then(|known| self.expected.relations.governed.get(&known.oid));
        let (known, governed) = known.zip(governed).ok_or_else(|| refused(format!("\"{relname}\" is not declared")))?;
        let Some(NodeEnum::SelectStmt(select)) = query.as_deref().map(inner).transpose()? else {
            return Err(refused("a table of something else than a query"));
        };
        let names: Vec<Option<String>> = select.target_list.iter().map(output_name).collect();
        if !names.iter().map(Option::as_deref).eq(known.columns.iter().map(|c| Some(c.name.as_str()))) {
            return Err(refused(format!("columns that are not those of \"{relname}\"")));
        }
        let tenant = match select.target_list.last().and_then(|t| t.node.as_ref()) {
            Some(NodeEnum::ResTarget(target)) if target.name == governed.tenant_column => target.val.as_deref(),
            Some(_) | None => None,
        };
        if crate::mutant!("check.temporary-is-nobodys") {
            return self.select(select);
        }
        if tenant.map(shape::shape) != Some(shape::shape(&sentinel::slot_node(governed.tenant_type)))
            || select.op != SetOperation::SetopNone as i32
        {
            return Err(refused(format!("rows of \"{relname}\" that are nobody's")));
        }
        self.select(select)
    }

    fn explain(&mut self, explain: &ExplainStmt, estimates: bool) -> Result<(), Denial> {
        let ExplainStmt { query, options } = explain;
        let mut costs = Vec::new();
        for option in options {
            let NodeEnum::DefElem(element) = inner(option)? else { return Err(refused("an option that is none")) };
            self.option(element, &EXPLAIN_OPTIONS)?;
            if element.defname == "costs" {
                costs.push(element.arg.as_deref());
            }
        }
        let is_off = |arg: &Option<&Node>| match arg.and_then(|n| n.node.as_ref()) {
            Some(NodeEnum::String(s)) => s.sval == "off",
            Some(_) | None => false,
        };
        if !estimates && !crate::mutant!("check.explain-estimates") && !matches!(costs.as_slice(), [only] if is_off(only)) {
            return Err(refused("EXPLAIN with estimates"));
        }
        self.query_node(query.as_deref())
    }

    fn copy(&mut self, copy: &CopyStmt) -> Result<(), Denial> {
        let CopyStmt { relation, query, attlist, is_from, is_program, filename, options, where_clause } = copy;
        let plain = relation.is_none() && attlist.is_empty() && where_clause.is_none() && filename.is_empty();
        if !plain || *is_from || *is_program {
            return Err(refused("COPY other than of a query to the client"));
        }
        for option in options {
            let NodeEnum::DefElem(element) = inner(option)? else { return Err(refused("an option that is none")) };
            let names = ["format", "delimiter", "null", "header", "quote", "escape", "force_quote", "encoding", "csv", "binary"];
            self.option(element, &names)?;
        }
        match query.as_deref().map(inner).transpose()? {
            Some(query) => self.query(query),
            None => Err(refused("COPY of something else than a query")),
        }
    }

    /// The rows come in one form, which the session makes: each has the tenant as its last field.
    fn copy_from(&mut self, copy: &CopyStmt) -> Result<(), Denial> {
        let CopyStmt { relation, query, attlist, is_from, is_program, filename, options, where_clause } = copy;
        let plain = query.is_none() && where_clause.is_none() && filename.is_empty() && !*is_program;
        let (true, true, Some(relation)) = (plain, *is_from, relation) else {
            return Err(refused("COPY other than of a table from the client"));
        };
        for option in options {
            let NodeEnum::DefElem(element) = inner(option)? else { return Err(refused("an option that is none")) };
            let DefElem { defnamespace, defname, arg, defaction: _, location: _, arg_location: _ } = element.as_ref();
            let value = arg.as_deref().map(inner).transpose()?;
            let is_binary = matches!(value, Some(NodeEnum::String(s)) if s.sval == "binary");
            if !defnamespace.is_empty() || defname != "format" || !is_binary || options.len() > 1 {
                return Err(refused(format!("option {defname} of COPY FROM")));
            }
        }
        let RangeVar { catalogname, schemaname, relname, inh: _, relpersistence, alias, location: _ } = relation;
        if !catalogname.is_empty() || schemaname.is_empty() || relpersistence != "p" || alias.is_some() {
            return Err(refused(format!("\"{relname}\" is named in an unknown way")));
        }
        let known = self.catalog.relation_named(schemaname, relname);
        let governed = known.and_then(|known| self.expected.relations.governed.get(&known.oid));
        let (known, governed) =
            known.zip(governed).ok_or_else(|| refused(format!("a COPY into \"{relname}\", which is not governed")))?;
        if !matches!(known.kind, 'r' | 'p') || !governed.insert_check.is_empty() {
            return Err(refused(format!("a COPY into \"{relname}\", whose rows must be checked")));
        }
        let columns = strings(attlist)?;
        let distinct: HashSet<&str> = columns.iter().copied().collect();
        let named = columns.iter().all(|name| known.column(name).is_some()) && distinct.len() == columns.len();
        let masks = self.expected.relations.masks.get(&known.oid).map(Vec::as_slice).unwrap_or_default();
        if masks.iter().any(|m| matches!(m.shows, Shows::Pseudonym { .. }) && columns.contains(&m.column.as_str())) {
            return Err(refused("a COPY into a column that shows as a pseudonym"));
        }
        if columns.last() != Some(&governed.tenant_column.as_str()) || !named {
            return Err(refused("a COPY whose last column is not the tenant's"));
        }
        Ok(())
    }

    fn option(&mut self, element: &DefElem, names: &[&str]) -> Result<(), Denial> {
        let DefElem { defnamespace, defname, arg, defaction: _, location: _, arg_location: _ } = element;
        if !defnamespace.is_empty() || !names.contains(&defname.as_str()) {
            return Err(refused(format!("option {defname}")));
        }
        let Some(arg) = arg.as_deref() else { return Ok(()) };
        let plain = |node: &NodeEnum| {
            matches!(
                node,
                NodeEnum::String(_) | NodeEnum::Integer(_) | NodeEnum::Float(_) | NodeEnum::Boolean(_) | NodeEnum::AStar(_)
            )
        };
        match inner(arg)? {
            NodeEnum::List(List { items }) if items.iter().all(|i| i.node.as_ref().is_some_and(plain)) => Ok(()),
            node if plain(node) => Ok(()),
            node => Err(refused(format!("{} as option {defname}", kind_name(node)))),
        }
    }

    fn query_node(&mut self, node: Option<&Node>) -> Result<(), Denial> {
        self.query(inner(node.ok_or_else(|| refused("no query"))?)?)
    }

    /// One of the five statements, at the top or in a WITH clause.
    fn query(&mut self, node: &NodeEnum) -> Result<(), Denial> {
        match node {
            NodeEnum::SelectStmt(select) => self.select(select),
            NodeEnum::InsertStmt(insert) => self.insert(insert),
            NodeEnum::UpdateStmt(update) => self.update(update),
            NodeEnum::DeleteStmt(delete) => self.delete(delete),
            NodeEnum::MergeStmt(merge) => self.merge(merge),
            other_statements!() => Err(refused(format!("{} as a statement", kind_name(node)))),
        }
    }

    /// Runs `f` in the scope of a WITH clause (isolation.md section 4, 1 to 3).
    pub(super) fn with<T>(
        &mut self,
        clause: Option<&WithClause>,
        f: impl FnOnce(&mut Self) -> Result<T, Denial>,
    ) -> Result<T, Denial> {
        let Some(WithClause { ctes, recursive, location: _ }) = clause else { return f(self) };
        let expressions = ctes
            .iter()
            .map(|cte| match inner(cte)? {
                NodeEnum::CommonTableExpr(cte) => Ok(cte.as_ref()),
                other => Err(refused(format!("{} in WITH", kind_name(other)))),
            })
            .collect::<Result<Vec<_>, Denial>>()?;
        // Recursive: every sibling sees all. Otherwise each sees those before it.
        let at_first = if *recursive || crate::mutant!("check.cte-order") {
            expressions.iter().map(|c| c.ctename.clone()).collect()
        } else {
            Vec::new()
        };
        self.ctes.push(at_first);
        for cte in expressions {
            self.cte(cte)?;
            if !recursive && let Some(frame) = self.ctes.last_mut() {
                frame.push(cte.ctename.clone());
            }
        }
        let result = f(self)?;
        self.ctes.pop();
        Ok(result)
    }

    fn cte(&mut self, cte: &CommonTableExpr) -> Result<(), Denial> {
        let CommonTableExpr {
            ctename: _,
            aliascolnames,
            ctematerialized: _,
            ctequery,
            search_clause,
            cycle_clause,
            location: _,
            cterecursive: _,
            cterefcount: _,
            ctecolnames: _,
            ctecoltypes: _,
            ctecoltypmods: _,
            ctecolcollations: _,
        } = cte;
        strings(aliascolnames)?;
        if let Some(search) = search_clause {
            let CteSearchClause { search_col_list, search_breadth_first: _, search_seq_column: _, location: _ } = search;
            strings(search_col_list)?;
        }
        if let Some(cycle) = cycle_clause {
            let CteCycleClause {
                cycle_col_list,
                cycle_mark_column: _,
                cycle_mark_value,
                cycle_mark_default,
                cycle_path_column: _,
                location: _,
                cycle_mark_type: _,
                cycle_mark_typmod: _,
                cycle_mark_collation: _,
                cycle_mark_neop: _,
            } = cycle.as_ref();
            strings(cycle_col_list)?;
            self.optional(cycle_mark_value.as_deref())?;
            self.optional(cycle_mark_default.as_deref())?;
        }
        self.query_node(ctequery.as_deref())
    }

    pub(super) fn select(&mut self, select: &SelectStmt) -> Result<(), Denial> {
        if select.into_clause.is_some() && !crate::mutant!("check.select-into") {
            return Err(refused("SELECT INTO"));
        }
        let is_locked = std::mem::take(&mut self.is_locked);
        self.with(select.with_clause.as_ref(), |v| {
            let locks = if is_locked { Locks::All } else { locks(&select.locking_clause) };
            v.levels.push(Level { locks, ..Level::default() });
            v.select_body(select)?;
            v.levels.pop();
            Ok(())
        })
    }

    fn select_body(&mut self, select: &SelectStmt) -> Result<(), Denial> {
        let SelectStmt {
            distinct_clause,
            into_clause: _,
            target_list,
            from_clause,
            where_clause,
            group_clause,
            group_distinct: _,
            having_clause,
            window_clause,
            values_lists,
            sort_clause,
            limit_offset,
            limit_count,
            limit_option: _,
            locking_clause,
            with_clause: _,
            op,
            all: _,
            larg,
            rarg,
        } = select;
        if *op != SetOperation::SetopNone as i32 {
            for arm in [larg, rarg] {
                self.select(arm.as_deref().ok_or_else(|| refused("a set operation with one arm"))?)?;
            }
        }
        let filter = self.add_site(where_clause.as_deref())?;
        for item in from_clause {
            self.source(item, &[filter])?;
        }
        self.check_filtered()?;
        self.condition(where_clause.as_deref())?;
        self.level()?.passed = true;
        for target in target_list {
            self.select_target(target)?;
        }
        for row in values_lists {
            self.values_row(row)?;
        }
        // DISTINCT without ON is a list of one empty node.
        self.level()?.outputs = target_list.iter().filter_map(output_name).collect();
        for key in distinct_clause.iter().filter(|n| n.node.is_some()).chain(sort_clause) {
            self.key(key, Finds::OutputFirst)?;
        }
        for key in group_clause {
            self.key(key, Finds::InputFirst)?;
        }
        self.optional(having_clause.as_deref())?;
        self.windows(window_clause)?;
        self.optional(limit_offset.as_deref())?;
        self.optional(limit_count.as_deref())?;
        self.locking(locking_clause)
    }

    fn values_row(&mut self, row: &Node) -> Result<(), Denial> {
        let NodeEnum::List(List { items }) = inner(row)? else { return Err(refused("VALUES without rows")) };
        items.iter().try_for_each(|item| self.value(item))
    }

    pub(super) fn select_target(&mut self, target: &Node) -> Result<(), Denial> {
        let NodeEnum::ResTarget(target) = inner(target)? else { return Err(refused("a target that is none")) };
        let ResTarget { name: _, indirection, val, location: _ } = target.as_ref();
        let val = val.as_deref().ok_or_else(|| refused("an empty target"))?;
        if let NodeEnum::ColumnRef(column) = inner(val)?
            && column.fields.iter().any(|f| matches!(f.node, Some(NodeEnum::AStar(_))))
        {
            return Err(refused("* in a target list"));
        }
        self.steps(indirection)?;
        self.expr(val)
    }

    /// `FOR UPDATE OF` names aliases. Which rows it locks is known from [`locks`].
    fn locking(&mut self, clauses: &[Node]) -> Result<(), Denial> {
        for clause in clauses {
            let NodeEnum::LockingClause(LockingClause { locked_rels, strength: _, wait_policy: _ }) = inner(clause)? else {
                return Err(refused("a locking clause that is none"));
            };
            for relation in locked_rels {
                let NodeEnum::RangeVar(relation) = inner(relation)? else {
                    return Err(refused("a lock on something else"));
                };
                let RangeVar { catalogname, schemaname, relname, inh: _, relpersistence: _, alias: _, location: _ } = relation;
                let here = self.levels.last().is_some_and(|level| level.aliases.contains(relname));
                if !catalogname.is_empty() || !schemaname.is_empty() || !here {
                    return Err(refused(format!("a lock on \"{relname}\", which is no alias here")));
                }
            }
        }
        Ok(())
    }

    fn insert(&mut self, insert: &InsertStmt) -> Result<(), Denial> {
        let InsertStmt { relation, cols, select_stmt, on_conflict_clause, returning_clause, with_clause, r#override } = insert;
        self.with(with_clause.as_ref(), |v| {
            let mut target = v.target(relation.as_ref(), Use::Insert)?;
            if *r#override == OverridingKind::Undefined as i32 {
                return Err(refused("OVERRIDING of an unknown kind"));
            }
            let position = v.tenant_position(cols, &target)?;
            let source = select_stmt.as_deref().map(inner).transpose()?;
            let Some(NodeEnum::SelectStmt(source)) = source else {
                return Err(refused("INSERT without a tenant: it has no values"));
            };
            if !crate::mutant!("check.inserted-tenant") {
                v.check_source(source, position, &target)?;
            }
            v.select(source)?;
            v.levels.push(Level::default());
            v.register(&target.alias, target.entry.clone())?;
            if let Some(conflict) = on_conflict_clause {
                v.on_conflict(conflict, &mut target)?;
            }
            v.returning(returning_clause.as_ref(), &target)?;
            v.levels.pop();
            Ok(())
        })
    }

    /// Where in the column list the tenant column stands.
    pub(super) fn tenant_position(&mut self, cols: &[Node], target: &Target) -> Result<usize, Denial> {
        let mut position = None;
        for (i, column) in cols.iter().enumerate() {
            let NodeEnum::ResTarget(column) = inner(column)? else { return Err(refused("a column that is none")) };
            let ResTarget { name, indirection, val: _, location: _ } = column.as_ref();
            self.check_fillable(name, &target.entry)?;
            self.steps(indirection)?;
            if *name == target.tenant_column {
                if (position.is_some() || !indirection.is_empty()) && !crate::mutant!("check.tenant-twice") {
                    return Err(refused("the tenant column twice or in parts"));
                }
                position = Some(i);
            }
        }
        position
            .or(crate::mutant!("check.insert-without-tenant").then_some(0))
            .ok_or_else(|| refused("INSERT without the tenant column"))
    }

    /// Every row of VALUES and every arm of the query has the tenant in that place.
    fn check_source(&mut self, source: &SelectStmt, position: usize, target: &Target) -> Result<(), Denial> {
        if source.op != SetOperation::SetopNone as i32 {
            return [&source.larg, &source.rarg].into_iter().try_for_each(|arm| {
                let arm = arm.as_deref().ok_or_else(|| refused("a set operation with one arm"))?;
                self.check_source(arm, position, target)
            });
        }
        if source.values_lists.is_empty() {
            let entry = source.target_list.get(position).map(inner).transpose()?;
            let Some(NodeEnum::ResTarget(entry)) = entry else { return Err(refused("INSERT of a query without the tenant")) };
            return self.check_tenant_value(entry.val.as_deref(), target);
        }
        source.values_lists.iter().try_for_each(|row| match inner(row)? {
            NodeEnum::List(List { items }) => self.check_tenant_value(items.get(position), target),
            other => Err(refused(format!("{} as a row", kind_name(other)))),
        })
    }

    fn update(&mut self, update: &UpdateStmt) -> Result<(), Denial> {
        let UpdateStmt { relation, target_list, where_clause, from_clause, returning_clause, with_clause } = update;
        if is_current_of(where_clause.as_deref()) {
            let target = self.current_target(relation.as_ref(), Use::Update, from_clause, with_clause.as_ref())?;
            if self.assigns(target_list, &target.tenant_column)? {
                return Err(refused("WHERE CURRENT OF that assigns the tenant"));
            }
            self.assignments(target_list, &target)?;
            self.returning(returning_clause.as_ref(), &target)?;
            self.levels.pop();
            return Ok(());
        }
        self.with(with_clause.as_ref(), |v| {
            let target = v.target(relation.as_ref(), Use::Update)?;
            let site = v.filtered_target(&target, from_clause, where_clause.as_deref())?;
            v.assignments(target_list, &target)?;
            v.returning(returning_clause.as_ref(), &target)?;
            v.check_read_target(&target, site)?;
            v.levels.pop();
            Ok(())
        })
    }

    fn delete(&mut self, delete: &DeleteStmt) -> Result<(), Denial> {
        let DeleteStmt { relation, using_clause, where_clause, returning_clause, with_clause } = delete;
        if is_current_of(where_clause.as_deref()) {
            let target = self.current_target(relation.as_ref(), Use::Delete, using_clause, with_clause.as_ref())?;
            self.returning(returning_clause.as_ref(), &target)?;
            self.levels.pop();
            return Ok(());
        }
        self.with(with_clause.as_ref(), |v| {
            let target = v.target(relation.as_ref(), Use::Delete)?;
            let site = v.filtered_target(&target, using_clause, where_clause.as_deref())?;
            v.returning(returning_clause.as_ref(), &target)?;
            v.check_read_target(&target, site)?;
            v.levels.pop();
            Ok(())
        })
    }

    /// Opens the level of an UPDATE or DELETE of a cursor's row, which nothing filters: the tenant is a check of what it
    /// returns, and there may be no other rules.
    fn current_target(
        &mut self,
        relation: Option<&RangeVar>,
        use_: Use,
        from: &[Node],
        with: Option<&WithClause>,
    ) -> Result<Target, Denial> {
        let mut target = self.target(relation, use_)?;
        let Entry::Governed { required, when_read, .. } = &target.entry else {
            return Err(refused("a target that is not governed"));
        };
        let ([tenant], []) = (required.as_slice(), when_read.as_slice()) else {
            return Err(refused("WHERE CURRENT OF, past rules"));
        };
        if !from.is_empty() || with.is_some() || !self.levels.is_empty() || !self.ctes.is_empty() {
            return Err(refused("WHERE CURRENT OF with other relations"));
        }
        if !target.checks.is_empty() || !target.checks_when_read.is_empty() {
            return Err(refused("WHERE CURRENT OF, past rules"));
        }
        if !crate::mutant!("check.current-row-unchecked") {
            target.checks.push(tenant.clone());
        }
        self.levels.push(Level::default());
        self.register(&target.alias, target.entry.clone())?;
        Ok(target)
    }

    fn assigns(&self, targets: &[Node], column: &str) -> Result<bool, Denial> {
        for assignment in targets {
            let NodeEnum::ResTarget(assignment) = inner(assignment)? else { return Err(refused("an assignment that is none")) };
            if assignment.name == column {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Opens the level of an UPDATE or DELETE: its target and its FROM list, filtered by WHERE.
    fn filtered_target(&mut self, target: &Target, from: &[Node], filter: Option<&Node>) -> Result<usize, Denial> {
        self.levels.push(Level::default());
        let site = self.add_site(filter)?;
        self.register(&target.alias, target.entry.clone())?;
        self.level()?.filtered.push((target.alias.clone(), vec![site]));
        for item in from {
            self.source(item, &[site])?;
        }
        self.check_filtered()?;
        self.condition(filter)?;
        self.level()?.passed = true;
        Ok(site)
    }

    /// A target that is read must pass the rules for reading as well; what is read is known at the end.
    fn check_read_target(&self, target: &Target, site: usize) -> Result<(), Denial> {
        let Entry::Governed { when_read, .. } = &target.entry else { return Err(refused("a target that is not governed")) };
        let filters = self.levels.last().and_then(|level| level.sites.get(site)).map(Vec::as_slice).unwrap_or_default();
        let reads = self.read.contains(&target.alias) && !crate::mutant!("check.target-read");
        if reads && !when_read.iter().all(|shape| filters.contains(shape)) {
            return Err(refused(format!("rows of \"{}\" do not pass the rules for reading", target.alias)));
        }
        Ok(())
    }

    /// SET of UPDATE and DO UPDATE.
    pub(super) fn assignments(&mut self, targets: &[Node], target: &Target) -> Result<(), Denial> {
        let mut row = None;
        for assignment in targets {
            let NodeEnum::ResTarget(assignment) = inner(assignment)? else { return Err(refused("an assignment that is none")) };
            let ResTarget { name, indirection, val, location: _ } = assignment.as_ref();
            if *name == target.tenant_column && !crate::mutant!("check.assigned-tenant") {
                if !indirection.is_empty() {
                    return Err(refused("an assignment to the tenant column in parts"));
                }
                self.check_tenant_value(val.as_deref(), target)?;
            }
            self.check_unmasked_target(name, &target.entry)?;
            self.steps(indirection)?;
            let val = val.as_deref().ok_or_else(|| refused("an empty assignment"))?;
            let NodeEnum::MultiAssignRef(multi) = inner(val)? else {
                self.value(val)?;
                continue;
            };
            // `(a, b) = row` comes as one copy of the row for each column: walk the first, compare the others.
            let source = multi.source.as_deref().ok_or_else(|| refused("an empty assignment"))?;
            let shape = shape::shape(source);
            if multi.colno == 1 {
                if let NodeEnum::RowExpr(values) = inner(source)? {
                    // `ROW (.., DEFAULT)`
                    self.values_of_row(values)?;
                } else {
                    self.expr(source)?;
                }
                row = Some(shape);
            } else if row.as_ref() != Some(&shape) {
                return Err(refused("a row assignment that differs within"));
            }
        }
        Ok(())
    }

    /// The target of a DML statement: a governed relation, schema-qualified (it never hits a CTE, isolation.md 4.4).
    pub(super) fn target(&self, relation: Option<&RangeVar>, use_: Use) -> Result<Target, Denial> {
        let relation = relation.ok_or_else(|| refused("a statement without a target"))?;
        let (alias, entry) = self.relation_entry(relation, use_)?;
        let Entry::Governed { oid, exposure: _, tenant_column, required: _, when_read: _, columns } = &entry else {
            return Err(refused(format!("a write to \"{}\", which is not governed", relation.relname)));
        };
        let governed = self.expected.relations.governed.get(oid).zip(self.catalog.relation(*oid));
        let (governed, known) = governed.ok_or_else(|| refused("a write to an unknown relation"))?;
        let place = Place { alias: &alias, relation: known, columns: &columns.names };
        let none: &[Predicate] = &[];
        let (new, read, changed): (&[Predicate], &[Predicate], &[Predicate]) = match use_ {
            Use::Insert => (&governed.insert_check, &governed.read, &governed.update_check),
            Use::Update => (&governed.update_check, &governed.read, none),
            Use::Delete | Use::Read | Use::Lock | Use::Merge => (none, none, none),
        };
        Ok(Target {
            table: known.name.clone(),
            tenant_column: tenant_column.clone(),
            type_: governed.tenant_type,
            checks: place.all(new)?,
            checks_when_read: place.all(read)?,
            checks_when_changed: place.all(changed)?,
            alias,
            entry,
        })
    }
}

fn is_current_of(condition: Option<&Node>) -> bool {
    matches!(condition, Some(Node { node: Some(NodeEnum::CurrentOfExpr(_)) }))
}

/// The name that a target has been given.
fn output_name(target: &Node) -> Option<String> {
    match target.node.as_ref() {
        Some(NodeEnum::ResTarget(target)) if !target.name.is_empty() => Some(target.name.clone()),
        Some(_) | None => None,
    }
}

/// What a level's own FOR UPDATE and the like lock.
fn locks(clauses: &[Node]) -> Locks {
    let mut names = Vec::new();
    for clause in clauses {
        let Some(NodeEnum::LockingClause(LockingClause { locked_rels, strength: _, wait_policy: _ })) = clause.node.as_ref()
        else {
            return Locks::All;
        };
        if locked_rels.is_empty() {
            return Locks::All;
        }
        for relation in locked_rels {
            match relation.node.as_ref() {
                Some(NodeEnum::RangeVar(relation)) => names.push(relation.relname.clone()),
                Some(_) | None => return Locks::All,
            }
        }
    }
    if names.is_empty() { Locks::None } else { Locks::Named(names) }
}

/// The target of a DML statement.
pub(super) struct Target {
    pub alias: String,
    /// Its name in the catalog.
    pub table: String,
    pub tenant_column: String,
    pub type_: TenantType,
    pub entry: Entry,
    /// Shapes of what new rows must pass.
    pub checks: Vec<String>,
    /// And of what they must pass if the statement reads the target.
    pub checks_when_read: Vec<String>,
    /// And of what rows must pass that ON CONFLICT DO UPDATE has changed.
    pub checks_when_changed: Vec<String>,
}
