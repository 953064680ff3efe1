//! Rewriting: tenant predicates where they filter, guards round what is loud, fences where no guard reaches.
//! DESIGN: `guard.md` holds the study behind each rule; its numbers (A1 ..) are named where a rule comes from one.
//!
//! Works on the normal form of [`crate::sql::analyse`]: every alias is unique in the statement, so `alias.column` says which
//! relation is meant wherever it stands. A pass may find that a relation must be fenced that it has passed already; then the
//! statement is rewritten again with that known, until nothing new is found.

use std::collections::BTreeSet;

use pg_query::protobuf::{
    self as pg, CommonTableExpr, CteMaterialize, JoinExpr, JoinType, RangeSubselect, SelectStmt, SetOperation, SubLinkType,
    WithClause,
};
use pg_query::{Node, NodeEnum};

use super::guard::Guarding;
use super::mask::marked;
use super::quiet::{equality_is_quiet, is_quiet};
use crate::catalog::Catalog;
use crate::finding::Denial;
use crate::policy::{Permit, RowFilter};
use crate::sql::analyse::scope::{Rte, RteColumn, RteId, RteKind, Usage};
use crate::sql::analyse::{Analysis, WHOLE_ROW, column_type, declared_type};
use crate::sql::kinds::not_a_from_item;
use crate::sql::sentinel::slot_node;
use crate::sql::tree::{
    Child, after_grouping, alias, and, as_string, boxed, case, cast, column, conjuncts, each_child_mut, int_constant, node, null,
    operator, qualified_column, relation, target, type_name, walk,
};
use crate::sql::types::{Environment, Typed};

/// Where a query's target list is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Above every filter: nothing can be pushed into it.
    Outermost,
    /// PostgreSQL may pull it up, or push conditions on its columns down.
    Inner,
}

/// Rewrites a statement in normal form.
///
/// # Errors
/// 0A000 where neither a guard nor a fence is right.
pub(super) fn rewrite(statement: &Node, analysis: &Analysis, permit: &Permit, catalog: &Catalog) -> Result<Rewritten, Denial> {
    let mut fences = super::computed::fences(statement, analysis, permit, catalog)?;
    let mut grouping_sets = false;
    walk(statement, &mut |n| grouping_sets |= is_grouping_set(n));
    loop {
        let mut rewriter = Rewriter {
            analysis,
            permit,
            catalog,
            fences: fences.clone(),
            wanted: BTreeSet::new(),
            nullable: BTreeSet::new(),
            in_scope: vec![],
            hides_rows: false,
            joins: 0,
            fenced: BTreeSet::new(),
            grouping_sets,
        };
        let mut tree = statement.clone();
        rewriter.mark_masked(&mut tree)?;
        rewriter.refuse_masked_writes(&tree)?;
        rewriter.statement(&mut tree)?;
        rewriter.keep_targets_out_of_fences()?;
        if rewriter.wanted.is_subset(&fences) {
            // A target of UPDATE cannot be fenced, nor what a sub-select of another level reads by name.
            if rewriter.fenced != fences {
                return Err(Denial::unsupported("an expression over the written table in a sub-select cannot be secured"));
            }
            let hides_rows = rewriter.hides_rows;
            if !crate::mutant!("rewrite.masks-left-out") {
                rewriter.mask(&mut tree);
            }
            rewriter.print_whole_rows(&mut tree)?;
            rewriter.print_masked(&mut tree)?;
            return Ok(Rewritten { tree, hides_rows });
        }
        fences.append(&mut rewriter.wanted);
    }
}

pub(super) fn is_grouping_set(node: &Node) -> bool {
    matches!(&node.node, Some(NodeEnum::GroupingSet(_)))
}

/// A rewritten statement.
pub(super) struct Rewritten {
    pub tree: Node,
    /// RETURNING was added to check new rows: its rows are not the client's.
    pub hides_rows: bool,
}

pub(super) struct Rewriter<'a> {
    pub(super) analysis: &'a Analysis,
    pub(super) permit: &'a Permit,
    pub(super) catalog: &'a Catalog,
    /// Relations that are read through a fenced sub-select.
    pub(super) fences: BTreeSet<RteId>,
    /// Relations that turned out to need a fence.
    pub(super) wanted: BTreeSet<RteId>,
    /// Relations that an outer join may have null-extended at the place that is being rewritten.
    pub(super) nullable: BTreeSet<RteId>,
    /// For each open level, the relations whose columns may be named at the place that is being rewritten.
    pub(super) in_scope: Vec<Level>,
    pub(super) hides_rows: bool,
    /// How many ON conditions are open.
    pub(super) joins: usize,
    /// Relations that were fenced in this pass.
    fenced: BTreeSet<RteId>,
    /// Whether there are grouping sets anywhere in the statement.
    grouping_sets: bool,
}

/// An open query level.
#[derive(Clone, Debug, Default)]
pub(super) struct Level {
    pub members: BTreeSet<RteId>,
    /// What is being rewritten is evaluated above the level's filters (a target list, SET, RETURNING, ORDER BY): rows of its
    /// relations have passed them.
    pub filtered: bool,
}

impl Level {
    pub fn of(members: BTreeSet<RteId>) -> Self {
        Level { members, filtered: false }
    }
}

/// What a FROM item holds.
#[derive(Default)]
struct FromItem {
    /// Every entry in it.
    members: BTreeSet<RteId>,
    /// Governed relations whose predicate is still to be placed above.
    pending: Vec<RteId>,
}

impl Environment for Rewriter<'_> {
    fn catalog(&self) -> &Catalog {
        self.catalog
    }

    fn column(&self, alias: &str, column: &str) -> Typed {
        if let Some(number) = marked(column) {
            let of_number = |rte: &Rte| rte.columns.iter().find(|c| c.number == number).map(|c| c.typed);
            return self.rte(alias).and_then(|(_, rte)| of_number(rte)).unwrap_or(Typed::UNKNOWN);
        }
        column_type(&self.analysis.rtes, &self.analysis.by_alias, alias, column)
    }

    fn parameter(&self, number: i32) -> u32 {
        declared_type(&self.analysis.parameter_types, number)
    }

    fn parameter_uses(&self, number: i32) -> usize {
        usize::try_from(number - 1).ok().and_then(|i| self.analysis.parameter_uses.get(i)).copied().unwrap_or(usize::MAX)
    }
}

impl Rewriter<'_> {
    fn statement(&mut self, tree: &mut Node) -> Result<(), Denial> {
        match &mut tree.node {
            Some(NodeEnum::SelectStmt(s)) => self.select(s, Position::Outermost),
            Some(NodeEnum::InsertStmt(s)) => self.insert(s),
            Some(NodeEnum::UpdateStmt(s)) => self.update(s),
            Some(NodeEnum::DeleteStmt(s)) => self.delete(s),
            Some(NodeEnum::MergeStmt(s)) => self.merge(s),
            Some(_) | None => Err(Denial::unsupported("this statement cannot be secured")),
        }
    }

    /// The target of a write cannot be read through a sub-select. That of an INSERT need not: its rows are seen only once they
    /// are the tenant's.
    fn keep_targets_out_of_fences(&mut self) -> Result<(), Denial> {
        let usage = |id: &RteId| match self.analysis.rtes[*id].kind {
            RteKind::Relation { oid: _, usage } => usage,
            RteKind::Derived | RteKind::Function | RteKind::Cte | RteKind::Excluded | RteKind::Version(_) | RteKind::Merged => {
                Usage::Select
            }
        };
        if crate::mutant!("fence.written-table") {
            return Ok(());
        }
        if let Some(id) = self.wanted.iter().find(|id| matches!(usage(id), Usage::Update | Usage::Delete | Usage::Merge(_))) {
            let alias = &self.analysis.rtes[*id].alias;
            return Err(Denial::unsupported(format!("a reference to {alias} in this statement cannot be secured")));
        }
        let wanted = std::mem::take(&mut self.wanted);
        self.wanted = wanted.into_iter().filter(|id| usage(id) == Usage::Select).collect();
        Ok(())
    }

    pub(super) fn rte(&self, name: &str) -> Option<(RteId, &Rte)> {
        self.analysis.rte(name)
    }

    // === SELECT ===

    pub(super) fn select(&mut self, select: &mut SelectStmt, position: Position) -> Result<(), Denial> {
        self.with(&mut select.with_clause)?;
        match SetOperation::try_from(select.op) {
            Ok(SetOperation::SetopNone) if !select.values_lists.is_empty() => self.values(select, position)?,
            Ok(SetOperation::SetopNone) => self.plain_select(select, position)?,
            Ok(SetOperation::SetopUnion | SetOperation::SetopIntersect | SetOperation::SetopExcept) => {
                for arm in [&mut select.larg, &mut select.rarg].into_iter().flatten() {
                    self.select(arm, position)?;
                }
            }
            Ok(SetOperation::Undefined) | Err(_) => return Err(Denial::unsupported("this set operation cannot be secured")),
        }
        self.sub_links_of(&mut select.limit_count)?;
        self.sub_links_of(&mut select.limit_offset)
    }

    fn plain_select(&mut self, select: &mut SelectStmt, position: Position) -> Result<(), Denial> {
        self.fence_grouping_sets(select);
        let from = self.rewrite_from(&mut select.from_clause)?;
        self.in_scope.push(Level::of(from.members.clone()));
        let mut conditions = self.predicates(&from.pending)?;
        if let Some(condition) = select.where_clause.take() {
            conditions.extend(self.conditions(*condition)?);
        }
        select.where_clause = and(conditions).map(Box::new);
        self.filtered();
        for entry in select.target_list.iter_mut().chain(&mut select.group_clause) {
            self.sub_links(entry)?;
        }
        if position == Position::Inner && !crate::mutant!("guard.inner-targets-not-guarded") {
            self.unfiltered();
            self.guard_targets(select, &from.members)?;
            self.filtered();
        }
        self.having(select)?;
        if !select.group_clause.iter().any(is_grouping_set) {
            self.group_by_dependents(select, &from.members);
        }
        for list in [&mut select.window_clause, &mut select.distinct_clause, &mut select.sort_clause] {
            for entry in list {
                self.sub_links(entry)?;
            }
        }
        self.keep_from_indexes(select);
        self.in_scope.pop();
        Ok(())
    }

    /// With `tenant = constant` among the conditions of a level PostgreSQL takes ORDER BY of the tenant's column, and of what is
    /// equal to it, for done, although grouping sets make it NULL (seen on 15): the equality goes into a fence. That of a
    /// sub-select too, which may become part of the level.
    fn fence_grouping_sets(&mut self, select: &SelectStmt) {
        if select.group_clause.iter().any(is_grouping_set) && !crate::mutant!("rewrite.grouping-sets-not-fenced") {
            select.from_clause.iter().chain(select.where_clause.as_deref()).for_each(|node| self.fence_relations_of(node));
        }
    }

    fn fence_relations_of(&mut self, node: &Node) {
        walk(node, &mut |n| {
            let Some(NodeEnum::RangeVar(range)) = &n.node else { return };
            let entry = range.alias.as_ref().and_then(|alias| self.analysis.rte(&alias.aliasname));
            self.wanted.extend(entry.map(|(id, _)| id).filter(|id| self.permit.rows(*id).is_some()));
        });
    }

    fn having(&mut self, select: &mut SelectStmt) -> Result<(), Denial> {
        let Some(having) = select.having_clause.take() else { return Ok(()) };
        let mut parts = vec![];
        for mut part in conjuncts(*having) {
            self.sub_links(&mut part)?;
            // A condition without an aggregate moves to WHERE (B6); one that reads grouped columns besides is tried with the
            // values in pg_statistic (see `shade`).
            let reached = match self.has_aggregate(&part) {
                false => !crate::mutant!("guard.having-moves"),
                true => self.reads_outside_aggregates(&part) && !crate::mutant!("guard.having-statistics"),
            };
            let mut sub_select = false;
            walk(&part, &mut |n| sub_select |= matches!(&n.node, Some(NodeEnum::SubLink(_))));
            if reached && (sub_select || !is_quiet(&part, self)) {
                part = case(vec![(after_grouping(), part)], Some(null_of("bool")));
            }
            parts.push(part);
        }
        select.having_clause = and(parts).map(Box::new);
        Ok(())
    }

    fn values(&mut self, select: &mut SelectStmt, position: Position) -> Result<(), Denial> {
        self.in_scope.push(Level::default());
        for row in &mut select.values_lists {
            let Some(NodeEnum::List(list)) = &mut row.node else { continue };
            for item in &mut list.items {
                self.sub_links(item)?;
                if position == Position::Inner && !crate::mutant!("guard.values-not-guarded") {
                    self.guard_value(item, &BTreeSet::new(), Guarding::Policy)?;
                }
            }
        }
        for entry in &mut select.sort_clause {
            self.sub_links(entry)?;
        }
        self.in_scope.pop();
        Ok(())
    }

    pub(super) fn with(&mut self, with: &mut Option<WithClause>) -> Result<(), Denial> {
        let Some(WithClause { ctes, recursive: _, location: _ }) = with else { return Ok(()) };
        for item in ctes {
            let Some(NodeEnum::CommonTableExpr(cte)) = &mut item.node else { continue };
            let never_inlined =
                cte.ctematerialized == CteMaterialize::Always as i32 || self.analysis.recursive_ctes.contains(&cte.ctename);
            let CommonTableExpr {
                ctename: _,
                aliascolnames: _,
                ctematerialized: _,
                ctequery,
                search_clause: _,
                cycle_clause: _,
                location: _,
                cterecursive: _,
                cterefcount: _,
                ctecolnames: _,
                ctecoltypes: _,
                ctecoltypmods: _,
                ctecolcollations: _,
            } = &mut **cte;
            // It may become part of a level with grouping sets.
            if self.grouping_sets && !never_inlined && !crate::mutant!("rewrite.grouping-sets-over-with") {
                ctequery.iter().for_each(|query| self.fence_relations_of(query));
            }
            match ctequery.as_deref_mut().and_then(|q| q.node.as_mut()) {
                Some(NodeEnum::SelectStmt(s)) => {
                    self.select(s, if never_inlined { Position::Outermost } else { Position::Inner })?;
                }
                Some(NodeEnum::InsertStmt(s)) => self.insert_in_with(s)?,
                Some(NodeEnum::UpdateStmt(s)) => self.update_in_with(s)?,
                Some(NodeEnum::DeleteStmt(s)) => self.delete_in_with(s)?,
                Some(NodeEnum::MergeStmt(s)) => self.merge(s)?,
                Some(_) | None => return Err(Denial::unsupported("this WITH query cannot be secured")),
            }
        }
        Ok(())
    }

    /// What follows at the innermost level is evaluated above its filters.
    pub(super) fn filtered(&mut self) {
        self.in_scope.iter_mut().last().into_iter().for_each(|l| l.filtered = true);
    }

    fn unfiltered(&mut self) {
        self.in_scope.iter_mut().last().into_iter().for_each(|l| l.filtered = false);
    }

    // === FROM ===

    /// Rewrites the items of a FROM list; what is pending is for WHERE.
    fn rewrite_from(&mut self, list: &mut [Node]) -> Result<FromItem, Denial> {
        let mut all = FromItem::default();
        for item in list {
            let part = self.rewrite_item(item)?;
            all.members.extend(part.members);
            all.pending.extend(part.pending);
        }
        Ok(all)
    }

    pub(super) fn rewrite_from_of_dml(&mut self, list: &mut [Node]) -> Result<(BTreeSet<RteId>, Vec<RteId>), Denial> {
        let all = self.rewrite_from(list)?;
        Ok((all.members, all.pending))
    }

    fn rewrite_item(&mut self, item: &mut Node) -> Result<FromItem, Denial> {
        let Some(kind) = &mut item.node else { return Ok(FromItem::default()) };
        match kind {
            NodeEnum::RangeVar(_) => self.relation_item(item),
            NodeEnum::RangeTableSample(s) => {
                if let Some(r) = &mut s.repeatable {
                    self.sub_links(r)?;
                }
                for arg in &mut s.args {
                    self.sub_links(arg)?;
                }
                self.relation_item(item)
            }
            NodeEnum::RangeSubselect(s) => {
                let RangeSubselect { lateral: _, subquery, alias } = &mut **s;
                if let Some(NodeEnum::SelectStmt(select)) = subquery.as_deref_mut().and_then(|q| q.node.as_mut()) {
                    self.select(select, Position::Inner)?;
                }
                Ok(self.member(alias.as_ref().map(|a| a.aliasname.as_str())))
            }
            NodeEnum::RangeFunction(f) => {
                for call in &mut f.functions {
                    self.sub_links(call)?;
                }
                Ok(self.member(f.alias.as_ref().map(|a| a.aliasname.as_str())))
            }
            NodeEnum::RangeTableFunc(_) | NodeEnum::JsonTable(_) => {
                self.sub_links(item)?;
                let alias = match &item.node {
                    Some(NodeEnum::RangeTableFunc(t)) => t.alias.as_ref(),
                    Some(NodeEnum::JsonTable(t)) => t.alias.as_ref(),
                    Some(_) | None => None,
                };
                Ok(self.member(alias.map(|a| a.aliasname.as_str())))
            }
            NodeEnum::JoinExpr(j) => self.join(j),
            not_a_from_item!() => Err(Denial::unsupported("this FROM item cannot be secured")),
        }
    }

    fn member(&self, name: Option<&str>) -> FromItem {
        let id = name.and_then(|n| self.rte(n)).map(|(id, _)| id);
        FromItem { members: id.into_iter().collect(), pending: vec![] }
    }

    /// A relation, or a sample of one. A fenced one becomes a sub-select that no condition passes.
    fn relation_item(&mut self, item: &mut Node) -> Result<FromItem, Denial> {
        let range = match &item.node {
            Some(NodeEnum::RangeVar(r)) => r,
            Some(NodeEnum::RangeTableSample(s)) => match s.relation.as_deref().and_then(|n| n.node.as_ref()) {
                Some(NodeEnum::RangeVar(r)) => r,
                Some(_) | None => return Err(Denial::unsupported("this FROM item cannot be secured")),
            },
            Some(_) | None => return Err(Denial::unsupported("this FROM item cannot be secured")),
        };
        let name = range.alias.as_ref().map(|a| a.aliasname.clone()).unwrap_or_default();
        let Some((id, _)) = self.rte(&name) else {
            return Err(Denial::disagreement(format!("unknown alias {name}")));
        };
        let mut result = FromItem { members: [id].into(), pending: vec![] };
        let filtered = self.is_filtered(id);
        let fenced = self.fences.contains(&id) && (filtered || !self.permit.masks(id).is_empty());
        if fenced && !crate::mutant!("fence.none") {
            *item = self.fence(id, item)?;
        } else if filtered {
            result.pending.push(id);
        }
        Ok(result)
    }

    /// `(SELECT columns FROM relation WHERE policy OFFSET 0) AS alias`: around the base relation, with plain columns (B13).
    fn fence(&mut self, id: RteId, item: &Node) -> Result<Node, Denial> {
        self.fenced.insert(id);
        let rte = &self.analysis.rtes[id];
        if rte.locked && !crate::mutant!("fence.locks-lost") {
            return Err(Denial::unsupported(format!("row locks on {} in this statement cannot be secured", rte.alias)));
        }
        let RteKind::Relation { oid: relation_oid, usage: _ } = rte.kind else {
            return Err(Denial::disagreement("a fence round something else than a relation"));
        };
        let Some(base) = self.catalog.relation(relation_oid) else {
            return Err(Denial::disagreement("a fence round an unknown relation"));
        };
        let inner = format!("{}__f", &rte.alias[..rte.alias.floor_char_boundary(48)]);
        if self.analysis.by_alias.contains_key(&inner) {
            return Err(Denial::unsupported(format!("the alias {inner} is reserved")));
        }
        let mut targets: Vec<Node> = rte
            .columns
            .iter()
            .filter_map(|c| base.column_numbered(c.number).map(|b| (&c.name, b)))
            .map(|(name, own)| Ok(target(name, self.masked_or_plain(id, own, &inner, base)?)))
            .collect::<Result<_, Denial>>()?;
        targets.extend(rte.system_columns.iter().map(|c| target(c, column(&[&inner, c]))));
        if rte.whole_row {
            if base.columns.iter().zip(&rte.columns).any(|(b, c)| b.name != c.name) {
                return Err(Denial::unsupported("a whole-row reference to a table with renamed columns cannot be secured here"));
            }
            let row = if self.permit.masks(id).is_empty() { column(&[&inner]) } else { self.masked_row(id, &inner)? };
            targets.push(target(WHOLE_ROW, row));
        }
        if !rte.system_columns.contains("tableoid") && base.kind != 'v' {
            targets.push(target("tableoid", column(&[&inner, "tableoid"])));
        }
        let mut source = item.clone();
        let range = match &mut source.node {
            Some(NodeEnum::RangeVar(r)) => Some(r),
            Some(NodeEnum::RangeTableSample(s)) => match s.relation.as_deref_mut().and_then(|n| n.node.as_mut()) {
                Some(NodeEnum::RangeVar(r)) => Some(r),
                Some(_) | None => None,
            },
            Some(_) | None => None,
        };
        let Some(range) = range else { return Err(Denial::disagreement("a fence round something else than a relation")) };
        *range = relation(&range.schemaname, &range.relname, &inner, range.inh);
        // A shared table is fenced for its masks only.
        let shared = self.permit.rows(id).is_none() && self.permit.catalog_rule(id).is_none();
        let by_number = |number: i16| base.column_numbered(number).map(|c| c.name.clone());
        let condition = if shared { None } else { boxed(self.filter(id, &inner, &by_number)?) };
        let select = SelectStmt {
            target_list: targets,
            from_clause: vec![source],
            where_clause: condition,
            limit_offset: boxed(int_constant(0)).filter(|_| !crate::mutant!("fence.without-offset")),
            limit_option: pg::LimitOption::Count as i32,
            op: SetOperation::SetopNone as i32,
            ..Default::default()
        };
        Ok(node(NodeEnum::RangeSubselect(Box::new(RangeSubselect {
            lateral: false,
            subquery: boxed(node(NodeEnum::SelectStmt(Box::new(select)))),
            alias: Some(alias(&rte.alias)),
        }))))
    }

    /// Predicates go where they filter and nothing else changes: below an outer join's nullable side into its ON
    /// (isolation.md 2.3); both sides of a FULL JOIN, and a nullable side under USING, are fenced.
    fn join(&mut self, join: &mut JoinExpr) -> Result<FromItem, Denial> {
        let JoinExpr { jointype, is_natural: _, larg, rarg, using_clause, join_using_alias, quals, alias: _, rtindex: _ } = join;
        let (Some(left), Some(right)) = (larg.as_deref_mut(), rarg.as_deref_mut()) else {
            return Err(Denial::unsupported("this join cannot be secured"));
        };
        let mut left = self.rewrite_item(left)?;
        let mut right = self.rewrite_item(right)?;
        self.compare_quietly(using_clause, &left.members, &right.members)?;
        let mut here: Vec<RteId> = vec![];
        let mut extended = vec![];
        match JoinType::try_from(*jointype) {
            Ok(JoinType::JoinInner) => {}
            Ok(JoinType::JoinLeft) if crate::mutant!("rewrite.outer-join-filtered-above") => {}
            Ok(JoinType::JoinLeft) => {
                here.append(&mut right.pending);
                extended.extend(right.members.iter().copied());
            }
            Ok(JoinType::JoinRight) => {
                here.append(&mut left.pending);
                extended.extend(left.members.iter().copied());
            }
            Ok(JoinType::JoinFull) if crate::mutant!("rewrite.full-join-not-fenced") => {}
            Ok(JoinType::JoinFull) => {
                self.wanted.extend(left.pending.drain(..).chain(right.pending.drain(..)));
                extended.extend(left.members.iter().chain(&right.members).copied());
            }
            Ok(
                JoinType::Undefined
                | JoinType::JoinSemi
                | JoinType::JoinAnti
                | JoinType::JoinRightSemi
                | JoinType::JoinRightAnti
                | JoinType::JoinUniqueOuter
                | JoinType::JoinUniqueInner,
            )
            | Err(_) => return Err(Denial::unsupported("this join cannot be secured")),
        }
        let mut members = left.members;
        members.extend(&right.members);
        self.fence_masked_keys(using_clause, &members);
        if !using_clause.is_empty() && !crate::mutant!("rewrite.using-not-fenced") {
            self.wanted.extend(here.drain(..));
            members.extend(join_using_alias.as_ref().and_then(|a| self.rte(&a.aliasname)).map(|(id, _)| id));
        }
        self.in_scope.push(Level::of(members.clone()));
        let mut conditions = self.predicates(&here)?;
        self.joins += 1;
        if let Some(condition) = quals.take() {
            conditions.extend(self.conditions(*condition)?);
        }
        self.joins -= 1;
        self.in_scope.pop();
        *quals = and(conditions).map(Box::new);
        if !crate::mutant!("guard.null-extended-rows-fail") {
            self.nullable.extend(extended);
        }
        let mut pending = left.pending;
        pending.extend(right.pending);
        Ok(FromItem { members, pending })
    }

    /// USING leaves no place for a guard. Which of several columns of a name is meant does not matter where all compare.
    fn compare_quietly(&self, using: &[Node], left: &BTreeSet<RteId>, right: &BTreeSet<RteId>) -> Result<(), Denial> {
        if using.is_empty() || !self.filters_anything() {
            return Ok(());
        }
        let base = |typed: Typed| match self.catalog.type_(typed.oid) {
            Some(t) if t.kind == 'd' => Typed { oid: t.base, ..typed },
            Some(_) | None => typed,
        };
        // A computed column of a fenced relation is computed in the fence.
        let type_in = |id: RteId, c: &RteColumn| match self.analysis.rtes[id].kind {
            RteKind::Relation { oid, usage: _ } if c.typed == Typed::COMPUTED && self.fences.contains(&id) => {
                let own = self.catalog.relation(oid).and_then(|r| r.column_numbered(c.number));
                own.map_or(c.typed, |own| Typed { oid: own.type_oid, typmod: own.typmod, collation: own.collation })
            }
            RteKind::Relation { oid: _, usage: _ }
            | RteKind::Derived
            | RteKind::Function
            | RteKind::Cte
            | RteKind::Excluded
            | RteKind::Version(_)
            | RteKind::Merged => c.typed,
        };
        let types = |members: &BTreeSet<RteId>, name: &str| -> Vec<Typed> {
            let columns = members.iter().flat_map(|id| self.analysis.rtes[*id].columns.iter().map(|c| (*id, c)));
            columns.filter(|(_, c)| c.name == name).map(|(id, c)| base(type_in(id, c))).collect()
        };
        for name in using.iter().filter_map(as_string) {
            let quiet = |l: &Typed| types(right, name).iter().all(|r| equality_is_quiet(*l, *r, self));
            if !types(left, name).iter().all(quiet) && !crate::mutant!("rewrite.using-of-anything") {
                return Err(Denial::unsupported(format!("USING ({name}) compares what may raise an error: write ON")));
            }
        }
        Ok(())
    }

    // === sub-selects in expressions ===

    pub(super) fn sub_links_of(&mut self, child: &mut Child) -> Result<(), Denial> {
        child.as_deref_mut().map_or(Ok(()), |c| self.sub_links(c))
    }

    /// Rewrites every sub-select in an expression.
    pub(super) fn sub_links(&mut self, expression: &mut Node) -> Result<(), Denial> {
        if let Some(NodeEnum::SubLink(s)) = &mut expression.node {
            self.sub_links_of(&mut s.testexpr)?;
            let position = match SubLinkType::try_from(s.sub_link_type) {
                // Evaluated as a SubPlan, above its own filters; the target list of EXISTS is not evaluated at all.
                Ok(
                    SubLinkType::ExistsSublink
                    | SubLinkType::ExprSublink
                    | SubLinkType::ArraySublink
                    | SubLinkType::RowcompareSublink
                    | SubLinkType::MultiexprSublink,
                ) => Position::Outermost,
                // Pulled up as a semi-join: the comparison becomes a condition on its columns.
                Ok(SubLinkType::AnySublink | SubLinkType::AllSublink) => Position::Inner,
                Ok(SubLinkType::CteSublink | SubLinkType::Undefined) | Err(_) => {
                    return Err(Denial::unsupported("this sub-select cannot be secured"));
                }
            };
            return match s.subselect.as_deref_mut().and_then(|q| q.node.as_mut()) {
                Some(NodeEnum::SelectStmt(select)) => self.select(select, position),
                Some(_) | None => Err(Denial::unsupported("this sub-select cannot be secured")),
            };
        }
        let mut result = Ok(());
        each_child_mut(expression, &mut |child| {
            if result.is_ok() {
                result = self.sub_links(child);
            }
        });
        result
    }

    // === masks ===

    /// Sizes and statistics read NULL.
    fn mask(&self, expression: &mut Node) {
        let replacement = match &expression.node {
            Some(NodeEnum::ColumnRef(c)) => qualified_column(c).and_then(|(alias, name)| {
                let (id, _) = self.rte(alias)?;
                let masked = self.permit.catalog_rule(id)?.masked.contains(&name);
                masked.then(|| self.null_like(self.column(alias, name)))
            }),
            Some(NodeEnum::FuncCall(f)) => {
                let name = f.funcname.last().and_then(as_string).unwrap_or_default();
                self.permit.masks_function(name).then(|| {
                    let returns = self.catalog.functions_named(name).next().map_or(0, |c| c.returns);
                    self.null_like(Typed::of(returns))
                })
            }
            Some(_) | None => None,
        };
        match replacement {
            Some(replacement) => *expression = replacement,
            None => each_child_mut(expression, &mut |child| self.mask(child)),
        }
    }

    /// A whole row is the alias by itself; of a fenced relation, a column of the fence; of a masked one, built of its columns.
    fn print_whole_rows(&self, expression: &mut Node) -> Result<(), Denial> {
        if let Some(NodeEnum::ColumnRef(c)) = &expression.node {
            if let Some((alias, WHOLE_ROW)) = qualified_column(c)
                && let Some((id, _)) = self.rte(alias)
                && !self.fences.contains(&id)
            {
                let row = if self.permit.masks(id).is_empty() { column(&[alias]) } else { self.masked_row(id, alias)? };
                *expression = row;
            }
            return Ok(());
        }
        let mut result = Ok(());
        each_child_mut(expression, &mut |child| {
            if result.is_ok() {
                result = self.print_whole_rows(child);
            }
        });
        result
    }

    fn null_like(&self, typed: Typed) -> Node {
        match self.catalog.type_(typed.oid) {
            Some(t) => cast(null(), type_name(&[&t.schema, &t.name])),
            None => null(),
        }
    }
}

/// `NULL::pg_catalog.type`
pub(super) fn null_of(type_: &str) -> Node {
    cast(null(), type_name(&["pg_catalog", type_]))
}

/// `pg_catalog.current_database()` or `pg_catalog.current_user()`
pub(super) fn own(function: &str) -> Node {
    node(NodeEnum::FuncCall(Box::new(pg::FuncCall {
        funcname: crate::sql::tree::names(&["pg_catalog", function]),
        args: vec![],
        agg_order: vec![],
        agg_filter: None,
        over: None,
        agg_within_group: false,
        agg_star: false,
        agg_distinct: false,
        func_variadic: false,
        funcformat: pg::CoercionForm::CoerceExplicitCall as i32,
        location: 0,
    })))
}

/// `alias.tenant OPERATOR(pg_catalog.=) slot`
pub(super) fn tenant_predicate(filter: &RowFilter, alias: &str, name_of: &dyn Fn(i16) -> Option<String>) -> Result<Node, Denial> {
    if crate::mutant!("rewrite.no-tenant-predicate") {
        return Ok(crate::sql::tree::bool_constant(true));
    }
    let name =
        name_of(filter.tenant_column).ok_or_else(|| Denial::disagreement(format!("no tenant column in {}", filter.table)))?;
    Ok(operator("=", column(&[alias, &name]), slot_node(filter.type_)))
}

/// A bound rule with its row alias replaced.
pub(super) fn place_rule(
    rule: &Node,
    alias: &str,
    name_of: &dyn Fn(i16) -> Option<String>,
    catalog: &Catalog,
    filter: &RowFilter,
) -> Result<Node, Denial> {
    let base = catalog
        .relation_named(&filter.schema, &filter.table)
        .ok_or_else(|| Denial::disagreement(format!("unknown relation {}", filter.table)))?;
    let mut rule = rule.clone();
    let mut failed = false;
    rename_row(&mut rule, &mut |name| {
        let printed = base.column(name).and_then(|c| name_of(c.number));
        failed |= printed.is_none();
        column(&[alias, &printed.unwrap_or_default()])
    });
    if failed { Err(Denial::disagreement(format!("a rule of {} names an unknown column", filter.table))) } else { Ok(rule) }
}

fn rename_row(rule: &mut Node, rename: &mut dyn FnMut(&str) -> Node) {
    if let Some(NodeEnum::ColumnRef(c)) = &rule.node
        && let Some((crate::policy::epoch::ROW, name)) = qualified_column(c)
    {
        let renamed = rename(name);
        *rule = renamed;
        return;
    }
    each_child_mut(rule, &mut |child| rename_row(child, rename));
}
