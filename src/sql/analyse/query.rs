//! SELECT, VALUES, set operations and WITH.

use pg_query::protobuf::{self as pg, CommonTableExpr, CteMaterialize, LimitOption, SelectStmt, SetOperation, WithClause};
use pg_query::{Node, NodeEnum};

use super::super::tree::{as_string, each_child, each_column, grouping_keys, int_constant, node, qualified_column, target, walk};
use super::super::types::{Typed, type_of};
use super::Analyser;
use super::expr::is_star;
use super::names::figure_column_name;
use super::scope::{Cte, CteState, Output, RteColumn, RteId, RteKind, Scope};
use crate::error::{SqlError, sqlstate};
use crate::finding::{Denial, Reason};

/// WITH queries of one statement: each name is looked for among all.
const MAX_CTES: usize = 1000;

/// MaxTupleAttributeNumber: PostgreSQL has no row of more columns (src/include/access/htup_details.h).
const MAX_ENTRIES: usize = 1664;

/// As PostgreSQL refuses what is longer, once it has read all of it.
///
/// # Errors
/// 54011.
pub(super) fn at_most_entries(what: &str, entries: usize) -> Result<(), Denial> {
    if entries <= MAX_ENTRIES {
        return Ok(());
    }
    // No stand-in of a literal can be why: it is not read once more with the literals in place.
    let error = SqlError::new(sqlstate::TOO_MANY_COLUMNS, format!("{what} can have at most {MAX_ENTRIES} entries"));
    Err(Denial::new(Reason::Limit, error))
}

impl Analyser<'_> {
    /// Resolves a query level and everything below it. `recursive`: the CTE whose query this is, under WITH RECURSIVE.
    pub(super) fn query(&mut self, select: &mut SelectStmt, recursive: Option<usize>) -> Result<Vec<Output>, Denial> {
        if select.into_clause.is_some() {
            return Err(Denial::policy("SELECT INTO is not permitted"));
        }
        let frame = self.with_clause(&mut select.with_clause)?;
        for id in frame.iter().flatten() {
            self.ctes[*id].of_plain_select = select.op == SetOperation::SetopNone as i32;
        }
        let outputs = match SetOperation::try_from(select.op) {
            Ok(SetOperation::SetopNone) if !select.values_lists.is_empty() => self.values(select),
            Ok(SetOperation::SetopNone) => self.plain_select(select),
            Ok(SetOperation::SetopUnion | SetOperation::SetopIntersect | SetOperation::SetopExcept) => {
                self.set_operation(select, recursive)
            }
            Ok(SetOperation::Undefined) | Err(_) => Err(Denial::unsupported("this set operation cannot be secured")),
        }?;
        self.end_with(&mut select.with_clause, frame)?;
        // A LIMIT keeps conditions out (subquery_is_pushdown_safe), so its columns have no sources.
        if select.limit_count.is_some() || select.limit_offset.is_some() || crate::mutant!("guard.through-derived-tables") {
            return Ok(outputs.into_iter().map(|o| Output { sources: vec![], ..o }).collect());
        }
        Ok(outputs)
    }

    fn plain_select(&mut self, select: &mut SelectStmt) -> Result<Vec<Output>, Denial> {
        self.scopes.push(Scope::default());
        let first = self.rtes.len();
        self.items_of_from(&mut select.from_clause)?;
        let last = self.rtes.len();
        // The order of transformSelectStmt: of two errors, PostgreSQL tells the first.
        let originals = self.sub_select_entries(select);
        let outputs = self.target_list(&mut select.target_list)?;
        if !originals.is_empty() {
            repeat_by_number(select, &originals, &outputs);
        }
        self.child(&mut select.where_clause)?;
        self.child(&mut select.having_clause)?;
        self.sort_clause(&mut select.sort_clause, &outputs)?;
        self.group_clause(&mut select.group_clause, &outputs)?;
        self.distinct_clause(&mut select.distinct_clause, &outputs)?;
        self.limits(select)?;
        for window in &mut select.window_clause {
            if let Some(NodeEnum::WindowDef(w)) = &mut window.node {
                self.window(w)?;
            }
        }
        self.locking(&mut select.locking_clause, first..last)?;
        self.scopes.pop();
        Ok(outputs)
    }

    /// Entries of the target list that hold sub-selects, with their position from 1; none where a star makes positions
    /// unknown, or nothing could repeat them. What is compared must be compared with its values.
    fn sub_select_entries(&mut self, select: &SelectStmt) -> Vec<(String, i32)> {
        let clauses = || select.group_clause.iter().chain(&select.distinct_clause).chain(&select.sort_clause);
        if !clauses().any(holds_sub_select) {
            return vec![];
        }
        let mut found = vec![];
        for (entry, position) in select.target_list.iter().zip(1..) {
            let Some(NodeEnum::ResTarget(t)) = &entry.node else { continue };
            let Some(value) = &t.val else { continue };
            match &value.node {
                Some(NodeEnum::ColumnRef(c)) if is_star(c) => return vec![],
                Some(_) | None if holds_sub_select(value) => {
                    self.pin_constants(value);
                    found.push((without_locations(value), position));
                }
                Some(_) | None => {}
            }
        }
        clauses().for_each(|c| self.pin_constants(c));
        found
    }

    fn values(&mut self, select: &mut SelectStmt) -> Result<Vec<Output>, Denial> {
        self.scopes.push(Scope::default());
        let mut outputs: Vec<Output> = vec![];
        for row in &mut select.values_lists {
            let Some(NodeEnum::List(list)) = &mut row.node else {
                return Err(Denial::unsupported("this VALUES cannot be secured"));
            };
            list.items = self.expand_stars(std::mem::take(&mut list.items))?;
            for (i, item) in list.items.iter().enumerate() {
                let typed = type_of(item, self);
                let sources = self.sources(item);
                match outputs.get_mut(i) {
                    None => outputs.push(Output { name: format!("column{}", i + 1), typed, sources }),
                    Some(output) => merge(output, typed, &sources),
                }
            }
        }
        self.sort_clause(&mut select.sort_clause, &outputs)?;
        self.limits(select)?;
        self.scopes.pop();
        Ok(outputs)
    }

    fn set_operation(&mut self, select: &mut SelectStmt, recursive: Option<usize>) -> Result<Vec<Output>, Denial> {
        let (Some(left), Some(right)) = (&mut select.larg, &mut select.rarg) else {
            return Err(Denial::unsupported("this set operation cannot be secured"));
        };
        let mut outputs = self.query(left, None)?;
        if let Some(cte) = recursive {
            self.name_cte_columns(cte, &outputs);
        }
        let right_outputs = self.query(right, None)?;
        for (output, r) in outputs.iter_mut().zip(&right_outputs) {
            merge(output, r.typed, &r.sources);
        }
        self.scopes.push(Scope::default());
        for sort in &mut select.sort_clause {
            let Some(NodeEnum::SortBy(s)) = &mut sort.node else {
                return Err(Denial::unsupported("this ORDER BY cannot be secured"));
            };
            if !s.use_op.is_empty() {
                return Err(Denial::unsupported("ORDER BY .. USING cannot be secured"));
            }
            let known = s.node.as_deref().is_some_and(|n| self.names_output(n, &outputs));
            if !known {
                return Err(Denial::invalid(sqlstate::FEATURE_NOT_SUPPORTED, "invalid UNION/INTERSECT/EXCEPT ORDER BY clause"));
            }
        }
        self.limits(select)?;
        self.scopes.pop();
        if !select.locking_clause.is_empty() {
            return Err(Denial::invalid(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "row locks are not allowed with UNION/INTERSECT/EXCEPT",
            ));
        }
        Ok(outputs)
    }

    /// Resolves a target list: stars expanded, every entry named. Also for RETURNING.
    pub(super) fn target_list(&mut self, list: &mut Vec<Node>) -> Result<Vec<Output>, Denial> {
        at_most_entries("target lists", list.len())?;
        let mut expanded = Vec::with_capacity(list.len());
        let mut outputs = vec![];
        for item in std::mem::take(list) {
            let Some(NodeEnum::ResTarget(mut entry)) = item.node else {
                return Err(Denial::unsupported("this target list cannot be secured"));
            };
            let pg::ResTarget { name, indirection, val, location: _ } = &mut *entry;
            if !indirection.is_empty() {
                return Err(Denial::unsupported("this target list cannot be secured"));
            }
            let Some(value) = val else {
                return Err(Denial::unsupported("this target list cannot be secured"));
            };
            if let Some(NodeEnum::ColumnRef(c)) = &value.node
                && is_star(c)
            {
                let columns = self.star(c).map_err(|denial| denial.at_node(c.location))?;
                at_most_entries("target lists", outputs.len() + columns.len())?;
                for (visible, column) in columns {
                    let printed = self.print_column(column);
                    outputs.push(self.output(&visible, &printed));
                    expanded.push(target(&visible, printed));
                }
                continue;
            }
            if let Some(NodeEnum::AIndirection(row)) = &value.node
                && matches!(row.indirection.last().and_then(|s| s.node.as_ref()), Some(NodeEnum::AStar(_)))
            {
                for (field, printed) in self.fields_of_row(row)? {
                    outputs.push(self.output(&field, &printed));
                    expanded.push(target(&field, printed));
                }
                continue;
            }
            if name.is_empty() {
                *name = figure_column_name(value);
            }
            self.expr(value)?;
            outputs.push(self.output(name, value));
            expanded.push(node(NodeEnum::ResTarget(entry)));
        }
        at_most_entries("target lists", outputs.len())?;
        *list = expanded;
        Ok(outputs)
    }

    fn output(&self, name: &str, value: &Node) -> Output {
        Output { name: name.to_owned(), typed: type_of(value, self), sources: self.sources(value) }
    }

    /// The base relations that a value may be computed from. What contains an aggregate or a window function is never pushed
    /// below the grouping, so it has none.
    pub(super) fn sources(&self, value: &Node) -> Vec<RteId> {
        let mut found: Vec<RteId> = vec![];
        if contains_aggregate_or_window(value, self.context.catalog) {
            return found;
        }
        each_column(value, &mut |c| {
            let alias = c.fields.first().and_then(as_string);
            let Some(rte) = alias.and_then(|a| self.by_alias.get(a)).map(|id| &self.rtes[*id]) else { return };
            let columns = match qualified_column(c) {
                Some((_, name)) if rte.columns.iter().any(|c| c.name == name) => {
                    rte.columns.iter().filter(|c| c.name == name).collect::<Vec<_>>()
                }
                // A whole row, or a system column: as all of them.
                Some(_) | None => rte.columns.iter().collect(),
            };
            for source in columns.into_iter().flat_map(|c| &c.sources) {
                if !found.contains(source) {
                    found.push(*source);
                }
            }
        });
        found
    }

    fn group_clause(&mut self, clause: &mut [Node], outputs: &[Output]) -> Result<(), Denial> {
        at_most_entries("target lists", clause.len())?;
        for item in clause {
            if let Some(keys) = grouping_keys(item) {
                self.group_clause(keys, outputs)?;
                continue;
            }
            // An input column comes before an output column (findTargetlistEntrySQL92).
            let input = match bare_name(item) {
                Some(name) => self.has_local_column(name)? && !crate::mutant!("names.group-by-prefers-output"),
                None => false,
            };
            if input || !self.names_output(item, outputs) {
                self.expr(item)?;
            }
        }
        Ok(())
    }

    fn distinct_clause(&mut self, clause: &mut [Node], outputs: &[Output]) -> Result<(), Denial> {
        at_most_entries("target lists", clause.len())?;
        for item in clause {
            // DISTINCT without ON is a list of one empty node.
            if item.node.is_some() && !self.names_output(item, outputs) {
                self.expr(item)?;
            }
        }
        Ok(())
    }

    fn sort_clause(&mut self, clause: &mut [Node], outputs: &[Output]) -> Result<(), Denial> {
        at_most_entries("target lists", clause.len())?;
        for sort in clause {
            let Some(NodeEnum::SortBy(s)) = &mut sort.node else {
                return Err(Denial::unsupported("this ORDER BY cannot be secured"));
            };
            let pg::SortBy { node, sortby_dir: _, sortby_nulls: _, use_op, location: _ } = &mut **s;
            if !use_op.is_empty() {
                self.operator(use_op)?;
            }
            if !node.as_deref().is_some_and(|n| self.names_output(n, outputs)) {
                self.child(node)?;
            }
        }
        Ok(())
    }

    /// Whether an entry of ORDER BY, GROUP BY or DISTINCT ON names an output column: by name, or by number, which then is
    /// grammar and not a value.
    fn names_output(&mut self, item: &Node, outputs: &[Output]) -> bool {
        match &item.node {
            Some(NodeEnum::AConst(_)) => {
                self.pin_constants(item);
                true
            }
            Some(_) | None => bare_name(item).is_some_and(|name| outputs.iter().any(|o| o.name == name)),
        }
    }

    fn limits(&mut self, select: &mut SelectStmt) -> Result<(), Denial> {
        match LimitOption::try_from(select.limit_option) {
            Ok(LimitOption::Default | LimitOption::Count | LimitOption::WithTies | LimitOption::Undefined) => {}
            Err(_) => return Err(Denial::unsupported("this LIMIT cannot be secured")),
        }
        // LIMIT ALL is no LIMIT, and printed as none.
        let is_null = |n: &Node| matches!(&n.node, Some(NodeEnum::AConst(c)) if c.isnull);
        if select.limit_option == LimitOption::Count as i32 && select.limit_count.as_deref().is_some_and(is_null) {
            select.limit_count = None;
            select.limit_option = if select.limit_offset.is_some() { LimitOption::Count } else { LimitOption::Default } as i32;
        }
        self.child(&mut select.limit_offset)?;
        self.child(&mut select.limit_count)
    }

    /// FOR UPDATE and the like: names become aliases; what is locked is noted.
    fn locking(&mut self, clauses: &mut [Node], entries: std::ops::Range<RteId>) -> Result<(), Denial> {
        for clause in clauses {
            let Some(NodeEnum::LockingClause(lock)) = &mut clause.node else {
                return Err(Denial::unsupported("this locking clause cannot be secured"));
            };
            let pg::LockingClause { locked_rels, strength: _, wait_policy: _ } = lock;
            if locked_rels.is_empty() {
                for id in entries.clone() {
                    self.rtes[id].locked = true;
                }
            }
            for locked in locked_rels {
                let Some(NodeEnum::RangeVar(r)) = &mut locked.node else {
                    return Err(Denial::unsupported("this locking clause cannot be secured"));
                };
                let item = self
                    .scopes
                    .last()
                    .and_then(|s| s.items.iter().find(|i| i.relation_visible && i.name.as_deref() == Some(r.relname.as_str())));
                let Some(id) = item.and_then(|i| i.rte) else {
                    return Err(Denial::invalid(
                        sqlstate::UNDEFINED_TABLE,
                        format!("relation \"{}\" in FOR UPDATE clause not found in FROM clause", r.relname),
                    ));
                };
                if !r.schemaname.is_empty() {
                    return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "FOR UPDATE must specify unqualified relation names"));
                }
                self.rtes[id].locked = true;
                if self.rtes[id].kind == RteKind::Derived {
                    // The lock goes down into the sub-select.
                    for inner in entries.clone() {
                        self.rtes[inner].locked = true;
                    }
                }
                r.relname = self.rtes[id].alias.clone();
            }
        }
        Ok(())
    }

    /// Opens the frame of a WITH clause and reads its queries.
    pub(super) fn with_clause(&mut self, with: &mut Option<WithClause>) -> Result<Option<Vec<usize>>, Denial> {
        let Some(WithClause { ctes, recursive, location: _ }) = with else { return Ok(None) };
        let mut frame: Vec<usize> = vec![];
        let (scope_depth, frame_depth) = (self.scopes.len(), self.cte_frames.len() + 1);
        if self.ctes.len() + ctes.len() > MAX_CTES {
            let error =
                SqlError::new(sqlstate::STATEMENT_TOO_COMPLEX, format!("statement has more than {MAX_CTES} WITH queries"));
            return Err(Denial::new(Reason::Limit, error));
        }
        for item in std::mem::take(ctes) {
            let Some(NodeEnum::CommonTableExpr(cte)) = item.node else {
                return Err(Denial::unsupported("this WITH cannot be secured"));
            };
            if frame.iter().any(|i| self.ctes[*i].name == cte.ctename) {
                return Err(Denial::invalid(
                    sqlstate::DUPLICATE_ALIAS,
                    format!("WITH query name \"{}\" specified more than once", cte.ctename),
                ));
            }
            let name = cte.ctename.clone();
            let taken = |n: &str| self.ctes.iter().any(|c| c.printed == n);
            let printed = if taken(&name) {
                (2..).map(|n| format!("{}__{n}", &name[..name.floor_char_boundary(48)])).find(|n| !taken(n)).unwrap_or_default()
            } else {
                name.clone()
            };
            frame.push(self.ctes.len());
            self.ctes.push(Cte {
                name,
                printed,
                state: CteState::Pending(cte),
                columns: vec![],
                recursive: false,
                starred: usize::MAX,
                of_plain_select: false,
                scope_depth,
                frame_depth,
            });
        }
        if *recursive {
            self.cte_frames.push(frame.clone());
            for id in &frame {
                self.read_cte(*id, true)?;
            }
        } else {
            // Item i sees the items before it only.
            self.cte_frames.push(vec![]);
            if crate::mutant!("names.cte-sees-itself") {
                self.cte_frames.last_mut().into_iter().for_each(|f| f.extend(&frame));
            }
            for id in &frame {
                self.read_cte(*id, false)?;
                if let Some(visible) = self.cte_frames.last_mut() {
                    visible.push(*id);
                }
            }
        }
        Ok(Some(frame))
    }

    /// Puts the read queries back into the WITH clause, in their order, and closes the frame.
    pub(super) fn end_with(&mut self, with: &mut Option<WithClause>, frame: Option<Vec<usize>>) -> Result<(), Denial> {
        let (Some(frame), Some(with)) = (frame, with) else { return Ok(()) };
        self.cte_frames.pop();
        for id in frame {
            match std::mem::replace(&mut self.ctes[id].state, CteState::Placed) {
                CteState::Done(cte) => with.ctes.push(node(NodeEnum::CommonTableExpr(cte))),
                CteState::Hidden | CteState::Pending(_) | CteState::Reading { columns_known: _ } | CteState::Placed => {
                    return Err(Denial::unsupported("this WITH cannot be secured"));
                }
            }
        }
        Ok(())
    }

    /// Reads the query of a CTE, in the namespace of its WITH clause.
    fn read_cte(&mut self, id: usize, recursive: bool) -> Result<(), Denial> {
        let mut cte = match std::mem::replace(&mut self.ctes[id].state, CteState::Reading { columns_known: false }) {
            CteState::Pending(cte) => cte,
            other @ (CteState::Hidden | CteState::Done(_) | CteState::Placed | CteState::Reading { columns_known: _ }) => {
                self.ctes[id].state = other;
                return Ok(());
            }
        };
        let CommonTableExpr {
            ctename,
            aliascolnames,
            ctematerialized,
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
        } = &mut *cte;
        let added = self.search_and_cycle(search_clause.as_ref(), cycle_clause.as_deref_mut())?;
        let alias_names: Vec<String> = aliascolnames.iter().filter_map(as_string).map(str::to_owned).collect();
        self.ctes[id].columns = alias_names
            .iter()
            .map(|n| RteColumn { name: n.clone(), number: 0, typed: Typed::UNKNOWN, sources: vec![] })
            .collect();
        let depth = if crate::mutant!("names.cte-sees-later-scopes") { self.scopes.len() } else { self.ctes[id].scope_depth };
        let scopes = self.scopes.split_off(depth);
        let frames = self.cte_frames.split_off(self.ctes[id].frame_depth);
        let (outputs, barrier) = match ctequery.as_deref_mut().and_then(|n| n.node.as_mut()) {
            Some(NodeEnum::SelectStmt(s)) => (self.query(s, recursive.then_some(id))?, false),
            Some(NodeEnum::InsertStmt(s)) => (self.insert(s)?, true),
            Some(NodeEnum::UpdateStmt(s)) => (self.update(s)?, true),
            Some(NodeEnum::DeleteStmt(s)) => (self.delete(s)?, true),
            Some(NodeEnum::MergeStmt(s)) => (self.merge_in_with(s)?, true),
            Some(_) | None => return Err(Denial::unsupported("this WITH query cannot be secured")),
        };
        self.scopes.extend(scopes);
        self.cte_frames.extend(frames);
        // A CTE that is never inlined keeps conditions out.
        let barrier = barrier
            || crate::mutant!("guard.through-cte")
            || self.ctes[id].recursive
            || *ctematerialized == CteMaterialize::Always as i32;
        let outputs: Vec<Output> =
            outputs.into_iter().map(|o| if barrier { Output { sources: vec![], ..o } } else { o }).collect();
        self.name_cte_columns(id, &outputs);
        if !added.is_empty() {
            self.ctes[id].starred = self.ctes[id].columns.len();
            self.ctes[id].columns.extend(added);
        }
        *ctename = self.ctes[id].printed.clone();
        self.ctes[id].state = CteState::Done(cte);
        Ok(())
    }

    /// The columns that SEARCH and CYCLE add, behind the query's own.
    fn search_and_cycle(
        &mut self,
        search: Option<&pg::CteSearchClause>,
        cycle: Option<&mut pg::CteCycleClause>,
    ) -> Result<Vec<RteColumn>, Denial> {
        let mut added: Vec<&str> = vec![];
        if let Some(search) = search {
            let pg::CteSearchClause { search_col_list: _, search_breadth_first: _, search_seq_column, location: _ } = search;
            added.push(search_seq_column);
        }
        if let Some(cycle) = cycle {
            let pg::CteCycleClause {
                cycle_col_list: _,
                cycle_mark_column,
                cycle_mark_value,
                cycle_mark_default,
                cycle_path_column,
                location: _,
                cycle_mark_type: _,
                cycle_mark_typmod: _,
                cycle_mark_collation: _,
                cycle_mark_neop: _,
            } = cycle;
            self.child(cycle_mark_value)?;
            self.child(cycle_mark_default)?;
            added.extend([cycle_mark_column.as_str(), cycle_path_column.as_str()]);
        }
        let column = |name: &str| RteColumn { name: name.to_owned(), number: 0, typed: Typed::UNKNOWN, sources: vec![] };
        Ok(added.into_iter().map(column).collect())
    }

    fn name_cte_columns(&mut self, id: usize, outputs: &[Output]) {
        let cte = &mut self.ctes[id];
        let aliases: Vec<String> = cte.columns.iter().map(|c| c.name.clone()).collect();
        if !matches!(cte.state, CteState::Reading { columns_known: true }) {
            cte.columns = outputs
                .iter()
                .enumerate()
                .map(|(i, o)| RteColumn {
                    name: aliases.get(i).cloned().unwrap_or_else(|| o.name.clone()),
                    number: 0,
                    typed: o.typed,
                    sources: o.sources.clone(),
                })
                .collect();
        } else {
            for (column, output) in cte.columns.iter_mut().zip(outputs) {
                column.sources = output.sources.clone();
            }
        }
        if let CteState::Reading { columns_known } = &mut cte.state {
            *columns_known = true;
        }
    }

    /// The CTE that an unqualified name means here, read if it was not yet.
    pub(super) fn find_cte(&mut self, name: &str) -> Result<Option<usize>, Denial> {
        let depth = if crate::mutant!("names.cte-inner-only") { 1 } else { usize::MAX };
        let found = self.cte_frames.iter().rev().take(depth).find_map(|f| f.iter().copied().find(|i| self.ctes[*i].name == name));
        let Some(id) = found else { return Ok(None) };
        match &self.ctes[id].state {
            CteState::Pending(_) => self.read_cte(id, true)?,
            CteState::Reading { columns_known: true } => self.ctes[id].recursive = true,
            CteState::Reading { columns_known: false } => {
                return Err(Denial::invalid(
                    sqlstate::FEATURE_NOT_SUPPORTED,
                    format!("recursive reference to query \"{name}\" must not appear within its non-recursive term"),
                ));
            }
            CteState::Hidden | CteState::Done(_) | CteState::Placed => {}
        }
        Ok(Some(id))
    }
}

/// Where GROUP BY, ORDER BY or DISTINCT ON repeat an entry that holds a sub-select, its number is put instead: PostgreSQL
/// takes two sub-selects for the same only if their aliases are, and here every alias is unique.
fn repeat_by_number(select: &mut SelectStmt, originals: &[(String, i32)], outputs: &[Output]) {
    if outputs.len() != select.target_list.len() {
        return;
    }
    let replace = |node: &mut Node| {
        let plain = without_locations(node);
        if let Some((_, position)) = originals.iter().find(|(original, _)| *original == plain) {
            *node = int_constant(*position);
        }
    };
    select.group_clause.iter_mut().for_each(|group| each_group(group, &replace));
    select.distinct_clause.iter_mut().for_each(replace);
    for sort in &mut select.sort_clause {
        if let Some(NodeEnum::SortBy(s)) = &mut sort.node
            && let Some(node) = &mut s.node
        {
            replace(node);
        }
    }
}

fn each_group(group: &mut Node, visit: &impl Fn(&mut Node)) {
    match grouping_keys(group) {
        Some(keys) => keys.iter_mut().for_each(|key| each_group(key, visit)),
        None => visit(group),
    }
}

fn holds_sub_select(node: &Node) -> bool {
    let mut holds = false;
    walk(node, &mut |n| holds |= matches!(&n.node, Some(NodeEnum::SubLink(_))));
    holds
}

fn without_locations(node: &Node) -> String {
    crate::sql::shape::shape(node)
}

/// The name of a column reference of one part.
fn bare_name(item: &Node) -> Option<&str> {
    match &item.node {
        Some(NodeEnum::ColumnRef(c)) => match c.fields.as_slice() {
            [only] => as_string(only),
            [] | [_, ..] => None,
        },
        Some(_) | None => None,
    }
}

fn merge(output: &mut Output, typed: Typed, sources: &[RteId]) {
    use super::super::types::oid;
    if [output.typed, typed].contains(&Typed::COMPUTED) {
        output.typed = Typed::COMPUTED;
    } else if output.typed.oid == oid::UNKNOWN {
        output.typed = typed;
    } else if typed.oid != oid::UNKNOWN && output.typed != typed {
        output.typed = if output.typed.oid == typed.oid { Typed::of(typed.oid) } else { Typed::UNKNOWN };
    }
    for source in sources {
        if !output.sources.contains(source) {
            output.sources.push(*source);
        }
    }
}

/// Whether the call is of an aggregate, and not as a window function. Of several functions of a name one that is counts.
pub fn is_aggregate(call: &pg::FuncCall, catalog: &crate::catalog::Catalog) -> bool {
    let name = call.funcname.last().and_then(as_string).unwrap_or_default();
    call.over.is_none() && (call.agg_star || catalog.functions_named(name).any(|f| f.kind == 'a'))
}

/// Whether the expression calls an aggregate or a window function at its own level: what is inside a sub-select belongs to
/// that.
pub fn contains_aggregate_or_window(value: &Node, catalog: &crate::catalog::Catalog) -> bool {
    let own = match &value.node {
        Some(NodeEnum::FuncCall(f)) => f.over.is_some() || is_aggregate(f, catalog),
        Some(NodeEnum::GroupingFunc(_)) => true,
        Some(NodeEnum::SubLink(s)) => {
            return s.testexpr.as_deref().is_some_and(|t| contains_aggregate_or_window(t, catalog));
        }
        Some(_) | None => false,
    };
    let mut found = own;
    each_child(value, &mut |child| found = found || contains_aggregate_or_window(child, catalog));
    found
}
