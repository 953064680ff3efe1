//! Row filters, guards and fences: how a loud expression is kept from rows that are not the tenant's.

use std::collections::BTreeSet;

use pg_query::protobuf::{
    AExprKind, CoercionForm, ColumnRef, RowExpr, SelectStmt, SqlValueFunction, SqlValueFunctionOp, SubLink, SubLinkType, a_const,
};
use pg_query::{Node, NodeEnum};

use super::quiet::{equality_is_quiet, is_equality, is_loud_distance, is_quiet, is_quiet_condition, moments_compared};
use super::rewrite::{Rewriter, is_grouping_set, null_of, own, place_rule, tenant_predicate};
use crate::catalog::Catalog;
use crate::finding::Denial;
use crate::policy::Rows;
use crate::sql::analyse::scope::{RteId, RteKind};
use crate::sql::analyse::{contains_aggregate_or_window, is_aggregate};
use crate::sql::shape::shape;
use crate::sql::tree::{
    after_grouping, and, as_string, bool_constant, case, cast, column, conjuncts, each_child, each_child_mut, each_column,
    grouping_keys, is_not_null, is_null, node, null, operator, or, qualified_column, walk,
};
use crate::sql::types::{Typed, oid, type_of};

/// How a loud value is kept from foreign rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guarding {
    /// `CASE WHEN policy THEN value END`
    Policy,
    /// `CASE WHEN count(*) >= 0 THEN value END`, in a grouped SELECT (B6).
    Grouped,
    /// The base relations are fenced.
    Fence,
}

impl Rewriter<'_> {
    /// The row filters of relations, in place: not null-extended there.
    pub(super) fn predicates(&self, relations: &[RteId]) -> Result<Vec<Node>, Denial> {
        relations.iter().map(|id| self.policy(*id)).collect()
    }

    /// The whole row filter of a relation under its own alias (A3).
    pub(super) fn policy(&self, id: RteId) -> Result<Node, Denial> {
        let rte = &self.analysis.rtes[id];
        let by_number = |number: i16| rte.columns.iter().find(|c| c.number == number).map(|c| c.name.clone());
        self.filter(id, &rte.alias, &by_number)
    }

    /// `alias.tenant = slot AND rules`; rules that are loud themselves run only on rows of the tenant.
    pub(super) fn filter(&self, id: RteId, alias: &str, name_of: &dyn Fn(i16) -> Option<String>) -> Result<Node, Denial> {
        let Some(filter) = self.permit.rows(id) else {
            // A catalog that shows one row.
            return match self.permit.catalog_rule(id).map(|r| r.rows) {
                Some(Rows::OwnDatabase(name)) => Ok(operator("=", column(&[alias, name]), own("current_database"))),
                Some(Rows::OwnRole(name)) => Ok(operator("=", column(&[alias, name]), own("current_user"))),
                Some(Rows::All) | None => Err(Denial::disagreement("a filter for an ungoverned relation")),
            };
        };
        let tenant = tenant_predicate(filter, alias, name_of)?;
        let Some(using) = filter.using.as_ref().filter(|_| !crate::mutant!("rewrite.rules-left-out")) else { return Ok(tenant) };
        let rules = place_rule(using, alias, name_of, self.catalog, filter)?;
        let bare = is_quiet(&rules, self) || crate::mutant!("rewrite.loud-rules-see-all-rows");
        let rules = if bare { rules } else { case(vec![(tenant.clone(), rules)], Some(bool_constant(false))) };
        Ok(and(vec![tenant, rules]).unwrap_or_else(null))
    }

    /// The filter as the condition of a guard: a null-extended row passes (A9).
    pub(super) fn guard_condition(&self, id: RteId) -> Result<Node, Denial> {
        let policy = self.policy(id)?;
        if self.nullable.contains(&id) {
            self.has_tableoid(id)?;
            let extended = is_null(column(&[&self.analysis.rtes[id].alias, "tableoid"]));
            return Ok(or(vec![extended, policy]).unwrap_or_else(null));
        }
        Ok(policy)
    }

    /// What tells a null-extended row from one with NULLs; a view does not have it.
    pub(super) fn has_tableoid(&self, id: RteId) -> Result<(), Denial> {
        let rte = &self.analysis.rtes[id];
        let is_view = match rte.kind {
            RteKind::Relation { oid, usage: _ } => self.catalog.relation(oid).is_none_or(|r| r.kind == 'v'),
            RteKind::Derived | RteKind::Function | RteKind::Cte | RteKind::Excluded | RteKind::Version(_) | RteKind::Merged => {
                false
            }
        };
        if is_view {
            let message = format!("this expression over the view {} on the nullable side of a join cannot be secured", rte.alias);
            return Err(Denial::unsupported(message));
        }
        Ok(())
    }

    /// Rewrites a condition: each loud top-level conjunct is guarded by the filters of what it reads.
    pub(super) fn conditions(&mut self, condition: Node) -> Result<Vec<Node>, Denial> {
        self.conditions_at(condition, true)
    }

    /// `one_time`: a conjunct that reads no column is evaluated here whatever rows there are.
    pub(super) fn conditions_at(&mut self, condition: Node, one_time: bool) -> Result<Vec<Node>, Denial> {
        let mut result = vec![];
        for mut part in conjuncts(condition) {
            self.sub_links(&mut part)?;
            let gates = self.gates_of(&part);
            if !gates.is_empty() {
                result.extend(gates.into_iter().filter(|_| !crate::mutant!("guard.moments-not-gated")));
                result.push(part);
                continue;
            }
            if is_quiet_condition(&part, self) || crate::mutant!("guard.conditions-not-guarded") {
                result.push(part);
                continue;
            }
            if !self.guard_operands(&mut part)? {
                let guards = self.guards_for(&part, &BTreeSet::new(), one_time)?;
                if let Some(guard) = and(guards).or_else(|| self.shade(&part)) {
                    part = case(vec![(guard, part)], Some(null_of("bool")));
                }
            }
            result.push(part);
        }
        Ok(result)
    }

    /// `x = y` over columns on both sides, where only the operands are loud: each is guarded by itself, so that it can still be
    /// what a hash or a merge joins by. `false`: the condition is another one.
    fn guard_operands(&mut self, condition: &mut Node) -> Result<bool, Denial> {
        let Some(NodeEnum::AExpr(e)) = &mut condition.node else { return Ok(false) };
        let equality = is_equality(e);
        let (Some(left), Some(right)) = (&mut e.lexpr, &mut e.rexpr) else { return Ok(false) };
        let joins = |operand: &Node| reads_columns(operand) && !holds_sub_select(operand);
        if !equality || !joins(left) || !joins(right) || !equality_is_quiet(type_of(left, self), type_of(right, self), self) {
            return Ok(false);
        }
        let loud: Vec<&mut Node> = [&mut **left, &mut **right].into_iter().filter(|operand| !is_quiet(operand, self)).collect();
        let otherwise: Vec<Option<Option<Node>>> = loud.iter().map(|operand| self.else_of(operand)).collect();
        if otherwise.iter().any(Option::is_none) || crate::mutant!("guard.conditions-as-a-whole") {
            return Ok(false);
        }
        for (operand, otherwise) in loud.into_iter().zip(otherwise.into_iter().flatten()) {
            let guards = self.guards_for(operand, &BTreeSet::new(), false)?;
            let guard = and(guards).or_else(|| self.shade(operand)).filter(|_| !crate::mutant!("guard.operands-not-guarded"));
            if let Some(guard) = guard {
                let inner = std::mem::take(operand);
                *operand = case(vec![(guard, inner)], otherwise);
            }
        }
        Ok(true)
    }

    /// What goes before `column op E`, E being loud and the same for all rows: `E IS NOT NULL`, which PostgreSQL evaluates
    /// once, whatever rows there are. The condition itself stays as it is, and keeps its index (guard.md, A8).
    fn gates_of(&self, condition: &Node) -> Vec<Node> {
        // In a sub-select or in ON something else could decide whether it is evaluated.
        let once = self.in_scope.len() == 1 && self.joins == 0;
        let moments = if once { moments_compared(condition, self) } else { vec![] };
        moments.into_iter().map(|moment| is_not_null(moment.clone())).collect()
    }

    /// The guards that a loud expression needs; what no guard reaches is fenced. `members`: the relations of its level, for
    /// an expression that reads no column at all (A8). `one_time`: such a one, standing alone, is evaluated whatever rows
    /// there are.
    pub(super) fn guards_for(
        &mut self,
        expression: &Node,
        members: &BTreeSet<RteId>,
        one_time: bool,
    ) -> Result<Vec<Node>, Denial> {
        let own = aliases_inside(expression);
        let filtered = |id| self.permit.rows(id).is_some() || self.is_filtered(id) && !crate::mutant!("guard.catalogs");
        let mut direct: BTreeSet<RteId> = BTreeSet::new();
        let mut reads_columns = false;
        let mut derived: BTreeSet<RteId> = BTreeSet::new();
        walk(expression, &mut |n| {
            let Some(NodeEnum::ColumnRef(c)) = &n.node else { return };
            let Some(name) = c.fields.first().and_then(as_string) else { return };
            if own.contains(name) {
                return;
            }
            let Some((id, rte)) = self.rte(name) else { return };
            reads_columns = true;
            if filtered(id) {
                direct.insert(id);
                return;
            }
            let columns: Vec<_> = match qualified_column(c) {
                Some((_, column)) if rte.columns.iter().any(|x| x.name == column) => {
                    rte.columns.iter().filter(|x| x.name == column).collect()
                }
                Some(_) | None => rte.columns.iter().collect(),
            };
            if crate::mutant!("guard.derived-columns") {
                return;
            }
            derived.extend(columns.into_iter().flat_map(|x| &x.sources).filter(|s| filtered(**s)));
        });
        if !reads_columns && !crate::mutant!("guard.without-columns") {
            if one_time && (!is_volatile(expression, self.catalog) || crate::mutant!("guard.volatile-without-columns")) {
                return Ok(vec![]);
            }
            let level = self.in_scope.last().map(|l| l.members.clone()).unwrap_or_default();
            for id in members.union(&level) {
                if filtered(*id) {
                    direct.insert(*id);
                }
                let sources = self.analysis.rtes[*id].columns.iter().flat_map(|c| &c.sources);
                derived.extend(sources.filter(|s| filtered(**s)));
            }
        }
        let passed = self.passed();
        let visible: BTreeSet<RteId> = self.in_scope.iter().flat_map(|l| l.members.iter().copied()).collect();
        let (reachable, hidden): (Vec<RteId>, Vec<RteId>) = direct
            .union(&derived)
            .copied()
            .filter(|id| !self.fences.contains(id) && !passed.contains(id))
            .partition(|id| visible.contains(id));
        if !crate::mutant!("fence.out-of-reach") {
            self.wanted.extend(hidden);
        }
        reachable.into_iter().map(|id| self.guard_condition(id)).collect()
    }

    /// Whether a statement sees some of its rows only: a governed relation, or a catalog that shows one row.
    pub(super) fn is_filtered(&self, id: RteId) -> bool {
        self.permit.rows(id).is_some() || self.permit.catalog_rule(id).is_some_and(|r| r.rows != Rows::All)
    }

    /// Without rows that are filtered there is nothing to find out.
    pub(super) fn filters_anything(&self) -> bool {
        (0..self.analysis.rtes.len()).any(|id| self.is_filtered(id))
    }

    /// The relations whose rows have passed their filters where the place that is being rewritten is evaluated.
    fn passed(&self) -> BTreeSet<RteId> {
        self.in_scope.iter().filter(|l| l.filtered).flat_map(|l| l.members.iter().copied()).collect()
    }

    /// The condition behind which a loud expression stands that no guard protects, as a fence or a LIMIT does it already: the
    /// planner would still try `column op constant` with the values in `pg_statistic`, which are everybody's. It looks through
    /// sub-selects for them, but not into CASE. `None`: no such value can be in reach.
    fn shade(&self, expression: &Node) -> Option<Node> {
        let in_reach = self.reaches_statistics(expression, &self.passed()) && !crate::mutant!("guard.statistics");
        in_reach.then(|| is_not_null(current_timestamp()))
    }

    fn reaches_statistics(&self, expression: &Node, passed: &BTreeSet<RteId>) -> bool {
        match &expression.node {
            Some(NodeEnum::SubLink(s)) => return self.joined_statistics(s, expression, passed),
            Some(NodeEnum::ColumnRef(c)) => return self.has_statistics(c, passed),
            Some(_) | None => {}
        }
        let mut found = false;
        each_child(expression, &mut |child| found = found || self.reaches_statistics(child, passed));
        found
    }

    /// What a sub-select reads from outside comes as a parameter, unless it becomes a join: EXISTS and IN do, also where a
    /// condition on them is moved.
    fn joined_statistics(&self, link: &SubLink, expression: &Node, passed: &BTreeSet<RteId>) -> bool {
        let tested = link.testexpr.as_deref().is_some_and(|test| self.reaches_statistics(test, passed));
        let body = match SubLinkType::try_from(link.sub_link_type) {
            Ok(
                SubLinkType::ExprSublink
                | SubLinkType::ArraySublink
                | SubLinkType::RowcompareSublink
                | SubLinkType::MultiexprSublink,
            ) => false,
            Ok(
                SubLinkType::ExistsSublink
                | SubLinkType::AnySublink
                | SubLinkType::AllSublink
                | SubLinkType::CteSublink
                | SubLinkType::Undefined,
            )
            | Err(_) => {
                let inside = aliases_inside(expression);
                let mut found = false;
                each_column(expression, &mut |c| {
                    let from_outside = c.fields.first().and_then(as_string).is_some_and(|alias| !inside.contains(alias));
                    found = found || from_outside && self.has_statistics(c, passed);
                });
                found
            }
        };
        (tested || body) && !crate::mutant!("guard.statistics-of-joined-sub-selects")
    }

    fn has_statistics(&self, column: &ColumnRef, passed: &BTreeSet<RteId>) -> bool {
        let rte = column.fields.first().and_then(as_string).and_then(|name| self.rte(name));
        // The rows of an outer level come as parameters.
        let Some((id, rte)) = rte.filter(|(id, _)| !passed.contains(id)) else { return false };
        match rte.kind {
            RteKind::Relation { oid: _, usage: _ } => self.is_filtered(id),
            // Whatever it is made of: sources do not tell what lies behind a LIMIT.
            RteKind::Derived | RteKind::Cte | RteKind::Merged => {
                self.filters_anything() && !crate::mutant!("guard.statistics-of-derived")
            }
            RteKind::Function | RteKind::Excluded | RteKind::Version(_) => false,
        }
    }

    /// Guards the loud entries of a target list that PostgreSQL may move conditions into.
    pub(super) fn guard_targets(&mut self, select: &mut SelectStmt, members: &BTreeSet<RteId>) -> Result<(), Denial> {
        let grouped = !select.group_clause.is_empty() || select.having_clause.is_some() || self.aggregates(select);
        let plain_groups =
            select.group_clause.iter().all(|g| matches!(&g.node, Some(NodeEnum::ColumnRef(c)) if c.fields.len() == 2));
        let how = match (grouped, select.distinct_clause.is_empty() && select.sort_clause.is_empty()) {
            (false, true) => Guarding::Policy,
            (_, _) if crate::mutant!("guard.grouped-by-policy") => Guarding::Policy,
            (true, true) if plain_groups => Guarding::Grouped,
            (_, _) => Guarding::Fence,
        };
        let names: Vec<String> = select.target_list.iter().filter_map(target_name).collect();
        let mut shaded = false;
        for i in 0..select.target_list.len() {
            let Some(NodeEnum::ResTarget(t)) = &mut select.target_list[i].node else { continue };
            let Some(value) = &mut t.val else { continue };
            let before = (how == Guarding::Fence).then(|| (**value).clone());
            self.guard_value(value, members, how)?;
            if let Some(before) = before.filter(|before| shape(before) != shape(value)) {
                // Of two of a name PostgreSQL tells that it is ambiguous, if they differ.
                let name = Some(t.name.as_str()).filter(|name| names.iter().filter(|n| n == name).count() == 1);
                let target = Target { position: i, name, value: &before };
                select.group_clause.iter_mut().for_each(|group| target.named_in(group));
                shaded = true;
            }
        }
        if !shaded {
            return Ok(());
        }
        if select.group_clause.iter().any(is_grouping_set) {
            // What is a key of every set, too, which must stay one.
            let all = select.group_clause.iter_mut().filter(|g| is_grouping_set(g) || !crate::mutant!("guard.keys-beside-sets"));
            for group in all {
                self.guard_keys(group, members, how)?;
            }
        }
        if select.distinct_clause.is_empty() {
            return Ok(());
        }
        // DISTINCT, and ORDER BY beside it, name what is in the list (B8): alike to begin with, alike in the end.
        for on in select.distinct_clause.iter_mut().filter(|on| on.node.is_some()) {
            self.guard_value(on, members, how)?;
        }
        for by in &mut select.sort_clause {
            if let Some(NodeEnum::SortBy(by)) = &mut by.node
                && let Some(value) = &mut by.node
            {
                self.guard_value(value, members, how)?;
            }
        }
        Ok(())
    }

    /// In a grouping set the guarded expression is a key beside the expression, which makes no other groups: a key that folds
    /// to a constant (`CASE WHEN false THEN c ELSE 3 END`) is NULL in a total where a target is that key, but up to PostgreSQL
    /// 17 not where it stands within a target. A volatile key does not fold, and would be computed twice.
    fn guard_keys(&mut self, group: &mut Node, members: &BTreeSet<RteId>, how: Guarding) -> Result<(), Denial> {
        if let Some(keys) = grouping_keys(group) {
            return keys.iter_mut().try_for_each(|key| self.guard_keys(key, members, how));
        }
        let mut guarded = group.clone();
        self.guard_value(&mut guarded, members, how)?;
        let same = shape(&guarded) == shape(group);
        if !same && !is_volatile(group, self.catalog) && !holds_sub_select(group) && !crate::mutant!("guard.keys-of-sets") {
            let key = std::mem::take(group);
            *group = implicit_row(vec![guarded, key]);
        }
        Ok(())
    }

    /// A distance that rows are ordered by may be computed inside of an index, of everybody's rows, before any condition is
    /// looked at: one that is loud must not look like what the index orders by. (get_relation_info and match_pathkeys_to_index
    /// of PostgreSQL: the expression is `column op constant`; a target counts too, which ORDER BY or a query around it names.)
    pub(super) fn keep_from_indexes(&self, select: &mut SelectStmt) {
        if !self.filters_anything() || crate::mutant!("guard.distances") {
            return;
        }
        let lists = [
            &mut select.target_list,
            &mut select.group_clause,
            &mut select.window_clause,
            &mut select.distinct_clause,
            &mut select.sort_clause,
        ];
        let entries = lists.into_iter().flatten().chain(select.having_clause.as_deref_mut());
        entries.for_each(|entry| self.shade_distances(entry, true));
    }

    /// `ordered`: rows may be ordered by this very expression. Those in it may be a window's, or an aggregate's (that wants its rows
    /// in an order, or the first of them: min). INVARIANT: each node is visited once.
    fn shade_distances(&self, value: &mut Node, ordered: bool) {
        let below = match &value.node {
            // Its query has been looked at.
            Some(NodeEnum::SubLink(_)) => return,
            Some(NodeEnum::ResTarget(_) | NodeEnum::SortBy(_) | NodeEnum::WindowDef(_) | NodeEnum::FuncCall(_)) => true,
            // A cast that changes nothing is not there any more when indexes are looked at.
            Some(NodeEnum::TypeCast(_) | NodeEnum::CollateClause(_)) => ordered,
            Some(_) | None => false,
        };
        each_child_mut(value, &mut |child| self.shade_distances(child, below));
        if ordered && is_loud_distance(value, self) {
            let inner = std::mem::take(value);
            *value = case(vec![(is_not_null(current_timestamp()), inner)], None);
        }
    }

    pub(super) fn guard_value(&mut self, value: &mut Node, members: &BTreeSet<RteId>, how: Guarding) -> Result<(), Denial> {
        // Conditions on what contains an aggregate, a window function or a set-returning function stay above it (B7).
        let plain = matches!(&value.node, Some(NodeEnum::ColumnRef(_))) && type_of(value, self) != Typed::COMPUTED;
        if is_quiet(value, self) || plain || self.stays_above(value) {
            return Ok(());
        }
        let guards = self.guards_for(value, members, false)?;
        let guarded = !guards.is_empty();
        let guard = match how {
            Guarding::Policy => and(guards).or_else(|| self.shade(value)),
            Guarding::Grouped => Some(after_grouping()).filter(|_| guarded || self.shade(value).is_some()),
            Guarding::Fence => self.shade(value).filter(|_| !guarded),
        };
        match (guard, self.else_of(value)) {
            (Some(guard), Some(otherwise)) => {
                let inner = std::mem::take(value);
                *value = case(vec![(guard, inner)], otherwise);
            }
            (_, _) if guarded => self.fence_sources(value, members), // tidy: not a syntax kind
            // Twice the text of a sub-select, whose own is doubled, has no bound.
            (Some(_), None) if holds_sub_select(value) => {
                return Err(Denial::unsupported("a value of unknown type with a sub-select in it cannot be secured here"));
            }
            // Fenced already; both arms alike keep any type.
            (Some(shade), None) => {
                let inner = std::mem::take(value);
                *value = case(vec![(shade, inner.clone())], Some(inner));
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// Fences every governed relation that the value reads (or, without columns, that its level reads).
    pub(super) fn fence_sources(&mut self, value: &Node, members: &BTreeSet<RteId>) {
        let mut found: BTreeSet<RteId> = BTreeSet::new();
        let own = aliases_inside(value);
        let mut reads = false;
        walk(value, &mut |n| {
            let Some(NodeEnum::ColumnRef(c)) = &n.node else { return };
            let Some(name) = c.fields.first().and_then(as_string).filter(|a| !own.contains(*a)) else { return };
            if let Some((id, rte)) = self.rte(name) {
                reads = true;
                found.insert(id);
                found.extend(rte.columns.iter().flat_map(|c| c.sources.iter().copied()));
            }
        });
        if !reads {
            for id in members {
                found.insert(*id);
                found.extend(self.analysis.rtes[*id].columns.iter().flat_map(|c| c.sources.iter().copied()));
            }
        }
        let found = found.into_iter().filter(|id| self.is_filtered(*id)).collect::<Vec<_>>();
        self.wanted.extend(found);
    }

    /// The ELSE of a guard, so that the guarded value keeps its type, modifier and domain (B2, B3); `None`: not known.
    pub(super) fn else_of(&self, value: &Node) -> Option<Option<Node>> {
        match &value.node {
            Some(_) if crate::mutant!("guard.type-lost") => Some(None),
            Some(NodeEnum::TypeCast(c)) => {
                let name = c.type_name.clone()?;
                let parts: Vec<&str> = name.names.iter().filter_map(as_string).collect();
                let [schema, type_] = parts.as_slice() else { return None };
                let constrained = self.catalog.type_named(schema, type_).is_none_or(|t| t.constrained)
                    && !crate::mutant!("guard.constrained-domain");
                (!constrained).then(|| Some(cast(null(), name)))
            }
            // Results of functions and operators have no modifier, and none that is allowed returns a domain.
            Some(NodeEnum::FuncCall(_) | NodeEnum::BoolExpr(_) | NodeEnum::NullTest(_) | NodeEnum::BooleanTest(_)) => Some(None),
            Some(NodeEnum::AExpr(e)) if e.kind != AExprKind::AexprNullif as i32 => Some(None),
            Some(_) => {
                let typed = type_of(value, self);
                let domain = self.catalog.type_(typed.oid).is_none_or(|t| t.kind == 'd');
                (typed.is_known() && typed.typmod == -1 && !domain && typed.oid != oid::UNKNOWN).then_some(None)
            }
            None => None,
        }
    }

    /// Whether it is one group without saying so: an aggregate stands in it.
    fn aggregates(&self, select: &SelectStmt) -> bool {
        let places =
            select.target_list.iter().chain(&select.sort_clause).chain(&select.distinct_clause).chain(&select.window_clause);
        places.into_iter().any(|place| self.holds_aggregate(place)) && !crate::mutant!("guard.one-group-by-policy")
    }

    fn holds_aggregate(&self, expression: &Node) -> bool {
        match &expression.node {
            Some(NodeEnum::FuncCall(f)) if is_aggregate(f, self.catalog) => return true,
            Some(NodeEnum::SubLink(s)) => {
                return s.testexpr.as_deref().is_some_and(|test| self.holds_aggregate(test))
                    || self.has_outer_aggregate(expression);
            }
            Some(_) | None => {}
        }
        let mut found = false;
        each_child(expression, &mut |child| found = found || self.holds_aggregate(child));
        found
    }

    pub(super) fn has_aggregate(&self, expression: &Node) -> bool {
        contains_aggregate_or_window(expression, self.catalog) || self.has_outer_aggregate(expression)
    }

    /// Whether a sub-select in it holds an aggregate over columns from outside alone, of which some are of this level: that is
    /// this query's (check_agglevels_and_constraints). Where all are from further out, it is that query's.
    fn has_outer_aggregate(&self, expression: &Node) -> bool {
        let here = |alias: &str| match (self.in_scope.last(), self.rte(alias)) {
            (Some(level), Some((id, _))) => level.members.contains(&id) || crate::mutant!("guard.aggregates-further-out"),
            (_, _) => false,
        };
        let mut found = false;
        walk(expression, &mut |n| {
            let Some(NodeEnum::SubLink(_)) = &n.node else { return };
            let inside = aliases_inside(n);
            walk(n, &mut |call| {
                let Some(NodeEnum::FuncCall(f)) = &call.node else { return };
                let (mut own, mut outer) = (false, false);
                // What its arguments select from is nobody's around it.
                let of_arguments = aliases_inside(call);
                walk(call, &mut |c| {
                    if let Some(NodeEnum::ColumnRef(c)) = &c.node
                        && let Some(alias) = c.fields.first().and_then(as_string)
                        && (!of_arguments.contains(alias) || crate::mutant!("guard.aggregates-of-arguments"))
                    {
                        own |= inside.contains(alias);
                        outer |= !inside.contains(alias) && here(alias);
                    }
                });
                found |= is_aggregate(f, self.catalog) && outer && !own;
            });
        });
        found
    }

    /// Whether it reads a column that is in no argument of an aggregate, so a grouped one.
    pub(super) fn reads_outside_aggregates(&self, expression: &Node) -> bool {
        match &expression.node {
            Some(NodeEnum::ColumnRef(_)) => return true,
            // What a sub-select reads from outside comes as a parameter.
            Some(NodeEnum::SubLink(_) | NodeEnum::GroupingFunc(_)) => return false,
            Some(NodeEnum::FuncCall(f)) if is_aggregate(f, self.catalog) => return false,
            Some(_) | None => {}
        }
        let mut found = false;
        each_child(expression, &mut |child| found = found || self.reads_outside_aggregates(child));
        found
    }

    pub(super) fn stays_above(&self, value: &Node) -> bool {
        (self.returns_set(value) || self.has_aggregate(value)) && !crate::mutant!("guard.aggregates-guarded")
    }

    /// Whether it calls a set-returning function at its own level: one in a sub-select is that one's.
    fn returns_set(&self, value: &Node) -> bool {
        let own = match &value.node {
            Some(NodeEnum::FuncCall(f)) => {
                let name = f.funcname.last().and_then(as_string).unwrap_or_default();
                self.catalog.functions_named(name).any(|c| c.returns_set)
            }
            Some(NodeEnum::SubLink(_)) => return false,
            Some(_) | None => false,
        };
        let mut found = own;
        each_child(value, &mut |child| found = found || self.returns_set(child));
        found
    }
}

/// Aliases that are defined inside an expression (in its sub-selects).
fn aliases_inside(expression: &Node) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    walk(expression, &mut |n| {
        let alias = match &n.node {
            Some(NodeEnum::RangeVar(r)) => r.alias.as_ref(),
            Some(NodeEnum::RangeSubselect(s)) => s.alias.as_ref(),
            Some(NodeEnum::RangeFunction(f)) => f.alias.as_ref(),
            Some(NodeEnum::RangeTableFunc(t)) => t.alias.as_ref(),
            Some(NodeEnum::JsonTable(t)) => t.alias.as_ref(),
            Some(NodeEnum::JoinExpr(j)) => j.join_using_alias.as_ref(),
            Some(_) | None => None,
        };
        found.extend(alias.map(|a| a.aliasname.clone()));
    });
    found
}

/// A target of a grouped SELECT as it was before it was shaded.
struct Target<'a> {
    position: usize,
    /// Where no other has it.
    name: Option<&'a str>,
    value: &'a Node,
}

impl Target<'_> {
    /// `GROUP BY 2`, or `GROUP BY name`, becomes `GROUP BY expression`: the group is named by what now stands inside the target.
    /// What holds a sub-select is nowhere else: it has an alias, and each stands once.
    fn named_in(&self, group: &mut Node) {
        if let Some(keys) = grouping_keys(group) {
            keys.iter_mut().for_each(|key| self.named_in(key));
        } else if self.is_named_by(group) && !holds_sub_select(self.value) {
            *group = self.value.clone();
            // `(a, b)` would be two keys.
            if let Some(NodeEnum::RowExpr(row)) = &mut group.node
                && !crate::mutant!("guard.rows-as-keys")
            {
                row.row_format = CoercionForm::CoerceExplicitCall as i32;
            }
        }
    }

    /// The name of a column has been qualified by now.
    fn is_named_by(&self, key: &Node) -> bool {
        match &key.node {
            Some(NodeEnum::AConst(constant)) => {
                let is_it = |i: i32| usize::try_from(i).is_ok_and(|n| n == self.position + 1);
                matches!(&constant.val, Some(a_const::Val::Ival(i)) if is_it(i.ival))
            }
            Some(NodeEnum::ColumnRef(c)) => match c.fields.as_slice() {
                [name] => self.name.is_some() && as_string(name) == self.name && !crate::mutant!("guard.keys-by-name"),
                [..] => false,
            },
            Some(_) | None => false,
        }
    }
}

fn target_name(entry: &Node) -> Option<String> {
    let Some(NodeEnum::ResTarget(target)) = &entry.node else { return None };
    Some(target.name.clone())
}

fn implicit_row(args: Vec<Node>) -> Node {
    let row_format = CoercionForm::CoerceImplicitCast as i32;
    node(NodeEnum::RowExpr(Box::new(RowExpr { xpr: None, args, row_typeid: 0, row_format, colnames: vec![], location: 0 })))
}

fn reads_columns(expression: &Node) -> bool {
    let mut found = false;
    each_column(expression, &mut |_| found = true);
    found
}

fn holds_sub_select(expression: &Node) -> bool {
    let mut found = false;
    walk(expression, &mut |n| found |= matches!(&n.node, Some(NodeEnum::SubLink(_))));
    found
}

/// Always there, and nothing that the planner takes for a constant.
fn current_timestamp() -> Node {
    node(NodeEnum::SqlvalueFunction(Box::new(SqlValueFunction {
        xpr: None,
        op: SqlValueFunctionOp::SvfopCurrentTimestamp as i32,
        r#type: 0,
        typmod: -1,
        location: 0,
    })))
}

fn is_volatile(expression: &Node, catalog: &Catalog) -> bool {
    let mut volatile = false;
    walk(expression, &mut |n| {
        if let Some(NodeEnum::FuncCall(f)) = &n.node {
            let name = f.funcname.last().and_then(as_string).unwrap_or_default();
            volatile |= catalog.functions_named(name).any(|c| c.volatility == 'v');
        }
    });
    volatile
}
