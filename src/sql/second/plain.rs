//! The plain form of a tree: the same statement without what the second parser cannot read and what its comparison does not
//! look at. [`rewrite`] is the whole list of such syntax; all else that cannot be read is refused.
//!
//! The form is read, never sent. What is compared comes from the tree as it was: a relation, function or parameter that
//! were lost on the way here is a difference, so a statement that uses one in a place that is cut off is refused.

use std::ops::ControlFlow;

use pg_query::protobuf::{
    self as pg, AExprKind, CmdType, CoercionForm, LockClauseStrength, OverridingKind, ParseResult, SelectStmt, SetOperation,
};
use pg_query::{Node, NodeEnum};

use crate::sql::tree::{self, Child};

/// Changes the tree into its plain form.
pub fn rewrite(tree: &mut ParseResult) {
    tree.stmts.iter_mut().filter_map(|s| s.stmt.as_mut()).for_each(|n| plain(n));
}

fn plain(node: &mut Node) {
    replace(node);
    if let Some(kind) = &mut node.node {
        change(kind);
        below(kind);
    }
    tree::each_child_mut(node, &mut plain);
}

fn each<'a>(nodes: impl IntoIterator<Item = &'a mut Node>) {
    nodes.into_iter().for_each(plain);
}

fn some(child: &mut Child) {
    each(child.as_deref_mut());
}

/// Children that [`tree::each_child_mut`] does not know: those of statements around a query, and of MERGE.
fn below(kind: &mut NodeEnum) {
    if let NodeEnum::ExplainStmt(s) = kind {
        some(&mut s.query);
    } else if let NodeEnum::PrepareStmt(s) = kind {
        some(&mut s.query);
    } else if let NodeEnum::ExecuteStmt(s) = kind {
        each(&mut s.params);
    } else if let NodeEnum::DeclareCursorStmt(s) = kind {
        some(&mut s.query);
    } else if let NodeEnum::CopyStmt(s) = kind {
        some(&mut s.query);
    } else if let NodeEnum::CreateTableAsStmt(s) = kind {
        some(&mut s.query);
    } else if let NodeEnum::MergeStmt(s) = kind {
        some(&mut s.source_relation);
        some(&mut s.join_condition);
        each(&mut s.merge_when_clauses);
        each(s.with_clause.iter_mut().flat_map(|w| &mut w.ctes));
        each(s.returning_clause.iter_mut().flat_map(|r| &mut r.exprs));
    } else if let NodeEnum::MergeWhenClause(w) = kind {
        some(&mut w.condition);
        each(&mut w.target_list);
        each(&mut w.values);
    } else if let NodeEnum::InsertStmt(s) = kind {
        each(&mut s.cols);
    }
}

/// Nodes that become another kind.
fn replace(node: &mut Node) {
    while let Some(kind) = node.node.take() {
        match replacement(kind) {
            ControlFlow::Continue(other) => *node = other,
            ControlFlow::Break(kind) => {
                node.node = Some(kind);
                return;
            }
        }
    }
}

/// What stands for a node; `Break`: itself.
fn replacement(kind: NodeEnum) -> ControlFlow<NodeEnum, Node> {
    if let NodeEnum::CollateClause(mut e) = kind {
        operand(e.arg.take(), || NodeEnum::CollateClause(e))
    } else if let NodeEnum::CurrentOfExpr(_) = kind {
        ControlFlow::Continue(tree::bool_constant(true))
    } else if let NodeEnum::XmlExpr(mut e) = kind {
        // Attributes and elements of XMLFOREST have names, as columns do.
        e.named_args.extend(std::mem::take(&mut e.args));
        ControlFlow::Continue(row(e.named_args.into_iter().map(value_of_target).collect()))
    } else if let NodeEnum::XmlSerialize(mut e) = kind {
        operand(e.expr.take(), || NodeEnum::XmlSerialize(e))
    } else if let NodeEnum::AIndirection(mut e) = kind {
        // `(f()).*`
        e.indirection.retain(|i| !matches!(i.node, Some(NodeEnum::AStar(_))));
        match e.arg.take() {
            Some(arg) if e.indirection.is_empty() => ControlFlow::Continue(*arg),
            arg => ControlFlow::Break(NodeEnum::AIndirection(Box::new(pg::AIndirection { arg, ..*e }))),
        }
    } else if let NodeEnum::RangeTableSample(mut e) = kind {
        operand(e.relation.take(), || NodeEnum::RangeTableSample(e))
    } else if let NodeEnum::RangeTableFunc(mut e) = kind {
        let mut parts: Vec<Node> = e.rowexpr.take().into_iter().chain(e.docexpr.take()).map(|n| *n).collect();
        parts.extend(e.namespaces.drain(..).map(value_of_target));
        parts.extend(e.columns.drain(..).flat_map(expressions_of_column));
        ControlFlow::Continue(subselect(parts, e.alias.take()))
    } else if let NodeEnum::JsonTable(mut e) = kind {
        let alias = e.alias.take();
        let mut parts = Vec::new();
        parts_of_json(&mut tree::node(NodeEnum::JsonTable(e)), &mut parts);
        ControlFlow::Continue(subselect(parts, alias))
    } else if let NodeEnum::JsonIsPredicate(mut e) = kind {
        operand(e.expr.take(), || NodeEnum::JsonIsPredicate(e))
    } else if let NodeEnum::JsonFuncExpr(e) = kind {
        let mut parts = Vec::new();
        parts_of_json(&mut tree::node(NodeEnum::JsonFuncExpr(e)), &mut parts);
        ControlFlow::Continue(row(parts))
    } else if let NodeEnum::RangeFunction(f) = kind {
        if is_plain_function(&f) {
            return ControlFlow::Break(NodeEnum::RangeFunction(f));
        }
        ControlFlow::Continue(subselect(f.functions.into_iter().flat_map(first_of_list).collect(), f.alias))
    } else {
        ControlFlow::Break(kind)
    }
}

fn operand(child: Child, without: impl FnOnce() -> NodeEnum) -> ControlFlow<NodeEnum, Node> {
    match child {
        Some(child) => ControlFlow::Continue(*child),
        None => ControlFlow::Break(without()),
    }
}

fn is_plain_function(f: &pg::RangeFunction) -> bool {
    let has_columns = f.functions.iter().any(|n| match &n.node {
        Some(NodeEnum::List(list)) => list.items.iter().skip(1).any(|i| i.node.is_some()),
        Some(_) | None => true,
    });
    !f.is_rowsfrom && f.coldeflist.is_empty() && !has_columns
}

/// A function in FROM is a list of itself and of its columns.
fn first_of_list(node: Node) -> Option<Node> {
    if let Some(NodeEnum::List(list)) = node.node { list.items.into_iter().next() } else { None }
}

fn value_of_target(node: Node) -> Node {
    if let Some(NodeEnum::ResTarget(mut target)) = node.node { target.val.take().map_or_else(tree::null, |v| *v) } else { node }
}

fn expressions_of_column(node: Node) -> Vec<Node> {
    if let Some(NodeEnum::RangeTableFuncCol(mut column)) = node.node {
        column.colexpr.take().into_iter().chain(column.coldefexpr.take()).map(|n| *n).collect()
    } else {
        Vec::new()
    }
}

/// The expressions of JSON_TABLE and its like, those of columns and arguments too.
fn parts_of_json(node: &mut Node, parts: &mut Vec<Node>) {
    if matches!(
        &node.node,
        Some(NodeEnum::JsonFuncExpr(_) | NodeEnum::JsonTable(_) | NodeEnum::JsonTableColumn(_) | NodeEnum::JsonArgument(_))
    ) {
        tree::each_child_mut(node, &mut |child| parts_of_json(child, parts));
    } else {
        parts.push(std::mem::take(node));
    }
}

fn row(args: Vec<Node>) -> Node {
    let row_format = CoercionForm::CoerceExplicitCall as i32;
    tree::node(NodeEnum::RowExpr(Box::new(pg::RowExpr { args, row_format, ..pg::RowExpr::default() })))
}

/// `LATERAL (SELECT parts) alias`
fn subselect(parts: Vec<Node>, alias: Option<pg::Alias>) -> Node {
    let select = SelectStmt {
        target_list: parts.into_iter().map(|p| tree::target("", p)).collect(),
        limit_option: pg::LimitOption::Default as i32,
        op: SetOperation::SetopNone as i32,
        ..SelectStmt::default()
    };
    let subquery = tree::boxed(tree::node(NodeEnum::SelectStmt(Box::new(select))));
    tree::node(NodeEnum::RangeSubselect(Box::new(pg::RangeSubselect { lateral: true, subquery, alias })))
}

/// Fields that are dropped, or moved to where the second parser reads them.
fn change(kind: &mut NodeEnum) {
    if let NodeEnum::SelectStmt(s) = kind {
        plain_select(s);
    } else if let NodeEnum::InsertStmt(s) = kind {
        with_children(&mut s.relation);
        without_options(&mut s.returning_clause);
        plain_insert(s);
    } else if let NodeEnum::UpdateStmt(s) = kind {
        with_children(&mut s.relation);
        without_options(&mut s.returning_clause);
    } else if let NodeEnum::DeleteStmt(s) = kind {
        with_children(&mut s.relation);
        without_options(&mut s.returning_clause);
    } else if let NodeEnum::RangeVar(relation) = kind {
        relation.inh = true;
    } else if let NodeEnum::AConst(constant) = kind {
        plain_constant(constant);
    } else if let NodeEnum::MergeStmt(s) = kind {
        with_children(&mut s.relation);
        without_options(&mut s.returning_clause);
        if matches!(s.source_relation.as_deref(), Some(Node { node: Some(NodeEnum::JoinExpr(_)) })) {
            s.source_relation = s.source_relation.take().map(|join| Box::new(select_from(*join)));
        }
    } else if let NodeEnum::MergeWhenClause(w) = kind {
        w.r#override = OverridingKind::OverridingNotSet as i32;
        if w.command_type == CmdType::CmdInsert as i32 && w.values.is_empty() {
            // DEFAULT VALUES
            w.command_type = CmdType::CmdNothing as i32;
        }
    } else if let NodeEnum::CreateTableAsStmt(s) = kind {
        if let Some(into) = &mut s.into {
            into.col_names.clear();
            into.on_commit = pg::OnCommitAction::OncommitNoop as i32;
            into.skip_data = false;
        }
    } else if let NodeEnum::ExplainStmt(s) = kind {
        s.options.clear();
    } else if let NodeEnum::CopyStmt(s) = kind {
        s.options.clear();
        // One that reads anything but the row has no place in what the second parser knows.
        s.where_clause = s.where_clause.take().filter(|condition| reads_more_than_the_row(condition));
    } else if let NodeEnum::CommonTableExpr(c) = kind {
        c.search_clause = None;
        c.cycle_clause = None;
    } else if let NodeEnum::JoinExpr(j) = kind {
        j.join_using_alias = None;
    } else if let NodeEnum::FuncCall(f) = kind {
        f.func_variadic = false;
        f.funcformat = CoercionForm::CoerceExplicitCall as i32;
        if let Some(window) = &mut f.over {
            plain_window(window);
        }
    } else if let NodeEnum::WindowDef(w) = kind {
        plain_window(w);
    } else if let NodeEnum::AExpr(e) = kind {
        plain_operator(e);
    } else if let NodeEnum::SubLink(l) = kind {
        plain_sublink(l);
    } else if let NodeEnum::LockingClause(l) = kind {
        l.strength = LockClauseStrength::LcsForupdate as i32;
    } else if let NodeEnum::ResTarget(t) = kind {
        plain_target(t);
    } else if let NodeEnum::TypeCast(c) = kind
        && let Some(NodeEnum::ColumnRef(column)) = c.arg.as_mut().and_then(|a| a.node.as_mut())
    {
        // `x.*::composite` is the whole row, as `x` is.
        column.fields.retain(|f| !matches!(f.node, Some(NodeEnum::AStar(_))));
    }
}

/// `RETURNING WITH (OLD AS o, NEW AS n)` gives names to the versions of the row.
fn without_options(returning: &mut Option<pg::ReturningClause>) {
    returning.iter_mut().for_each(|r| r.options.clear());
}

/// The second parser takes ONLY for a table's name.
fn with_children(relation: &mut Option<pg::RangeVar>) {
    relation.iter_mut().for_each(|r| r.inh = true);
}

/// Strings that the second parser may not print as it read them. Their values count for neither reading.
fn plain_constant(constant: &mut pg::AConst) {
    if let Some(pg::a_const::Val::Sval(string)) = &mut constant.val
        && string.sval.contains(['\'', '\\'])
    {
        string.sval = "x".to_owned();
    }
}

fn reads_more_than_the_row(condition: &Node) -> bool {
    let mut found = false;
    tree::walk(condition, &mut |n| {
        found |= matches!(n.node, Some(NodeEnum::FuncCall(_) | NodeEnum::SubLink(_) | NodeEnum::ParamRef(_)));
    });
    found
}

/// `(SELECT * FROM join)`, where only a table can stand.
fn select_from(join: Node) -> Node {
    let star =
        tree::node(NodeEnum::ColumnRef(pg::ColumnRef { fields: vec![tree::node(NodeEnum::AStar(pg::AStar {}))], location: 0 }));
    let mut subselect = subselect(vec![star], Some(tree::alias("source")));
    if let Some(NodeEnum::RangeSubselect(s)) = &mut subselect.node
        && let Some(NodeEnum::SelectStmt(select)) = s.subquery.as_mut().and_then(|n| n.node.as_mut())
    {
        s.lateral = false;
        select.from_clause.push(join);
    }
    subselect
}

fn plain_select(s: &mut SelectStmt) {
    s.group_distinct = false;
    s.group_clause = std::mem::take(&mut s.group_clause).into_iter().flat_map(members).collect();
    let is_leaf = s.op == SetOperation::SetopNone as i32;
    if is_leaf && s.target_list.is_empty() && s.values_lists.is_empty() {
        s.target_list.push(tree::target("", tree::null()));
    }
    if s.limit_count.as_ref().is_some_and(|count| is_null(count)) {
        // LIMIT ALL
        s.limit_count = None;
        if s.limit_offset.is_none() && s.limit_option == pg::LimitOption::Count as i32 {
            s.limit_option = pg::LimitOption::Default as i32;
        }
    }
    // The arms are no nodes of their own.
    s.larg.iter_mut().chain(&mut s.rarg).for_each(|arm| plain_select(arm));
}

fn is_null(node: &Node) -> bool {
    if let Some(NodeEnum::AConst(constant)) = &node.node { constant.isnull } else { false }
}

/// ROLLUP, CUBE and GROUPING SETS: what they group by.
fn members(node: Node) -> Vec<Node> {
    if let Some(NodeEnum::GroupingSet(set)) = node.node {
        set.content.into_iter().flat_map(members).collect()
    } else {
        vec![node]
    }
}

/// What an upsert's arbiter reads goes to RETURNING.
fn plain_insert(s: &mut pg::InsertStmt) {
    s.r#override = OverridingKind::OverridingNotSet as i32;
    let Some(conflict) = &mut s.on_conflict_clause else { return };
    let Some(infer) = &mut conflict.infer else { return };
    let mut moved: Vec<Node> = infer.where_clause.take().into_iter().map(|n| *n).collect();
    for element in &mut infer.index_elems {
        if let Some(NodeEnum::IndexElem(e)) = &mut element.node {
            moved.extend(e.expr.take().map(|n| *n));
            e.collation.clear();
            e.opclass.clear();
        }
    }
    infer.index_elems.retain(|n| !matches!(&n.node, Some(NodeEnum::IndexElem(e)) if e.name.is_empty()));
    if infer.index_elems.is_empty() && infer.conname.is_empty() {
        conflict.infer = None;
    }
    if !moved.is_empty() {
        let returning = s.returning_clause.get_or_insert_default();
        returning.exprs.extend(moved.into_iter().map(|n| tree::target("", n)));
    }
}

/// FRAMEOPTION_DEFAULTS (nodes/parsenodes.h).
const DEFAULT_FRAME: i32 = 1058;

/// A frame goes; its bounds are read as one more thing to partition by.
fn plain_window(w: &mut pg::WindowDef) {
    w.frame_options = DEFAULT_FRAME;
    w.partition_clause.extend(w.start_offset.take().into_iter().chain(w.end_offset.take()).map(|n| *n));
}

/// Operators that the second parser knows by these names.
const KNOWN_OPERATORS: [&str; 14] = ["=", "<>", "<", ">", "<=", ">=", "+", "-", "*", "/", "%", "||", "^", "!="];

fn is_known(name: &[Node]) -> bool {
    name.last().and_then(tree::as_string).is_some_and(|n| KNOWN_OPERATORS.contains(&n))
}

/// Any other operator stands for any operator.
fn plain_operator(e: &mut pg::AExpr) {
    plain_prefix(e);
    let is = |kind: AExprKind| e.kind == kind as i32;
    if is(AExprKind::AexprOp) && !is_known(&e.name) {
        e.name = tree::names(&["+"]);
    } else if is(AExprKind::AexprOpAny) || is(AExprKind::AexprOpAll) {
        e.name = tree::names(&["="]);
    } else if is(AExprKind::AexprBetweenSym) {
        e.kind = AExprKind::AexprBetween as i32;
        e.name = tree::names(&["BETWEEN"]);
    } else if is(AExprKind::AexprNotBetweenSym) {
        e.kind = AExprKind::AexprNotBetween as i32;
        e.name = tree::names(&["NOT BETWEEN"]);
    }
}

/// `- -x` is printed by the second parser as a comment.
fn plain_prefix(e: &mut pg::AExpr) {
    while e.lexpr.is_none()
        && let Some(kind) = e.rexpr.as_mut().and_then(|n| n.node.as_mut())
    {
        if let NodeEnum::AExpr(inner) = kind
            && inner.lexpr.is_none()
            && inner.kind == AExprKind::AexprOp as i32
        {
            *e = std::mem::take(inner);
            continue;
        }
        if let NodeEnum::AConst(constant) = kind
            && is_negative(constant)
        {
            constant.val = Some(pg::a_const::Val::Ival(pg::Integer { ival: 1 }));
        }
        return;
    }
}

fn is_negative(constant: &pg::AConst) -> bool {
    match &constant.val {
        Some(pg::a_const::Val::Ival(i)) => i.ival < 0,
        Some(pg::a_const::Val::Fval(f)) => f.fval.starts_with('-'),
        Some(pg::a_const::Val::Boolval(_) | pg::a_const::Val::Sval(_) | pg::a_const::Val::Bsval(_)) | None => false,
    }
}

/// `x = ANY (VALUES ..)`, `(VALUES ..)`: the second parser takes VALUES for a function.
fn plain_sublink(l: &mut pg::SubLink) {
    if !l.oper_name.is_empty() {
        l.oper_name = tree::names(&["="]);
    }
    if let Some(NodeEnum::SelectStmt(s)) = l.subselect.as_mut().and_then(|n| n.node.as_mut())
        && !s.values_lists.is_empty()
    {
        let lists = std::mem::take(&mut s.values_lists).into_iter();
        s.target_list = lists.map(|list| tree::target("", row(items_of_list(list)))).collect();
    }
}

fn items_of_list(node: Node) -> Vec<Node> {
    if let Some(NodeEnum::List(list)) = node.node { list.items } else { vec![node] }
}

/// `SET a[i].f = x` is read as `SET a = ROW(x, i)`.
fn plain_target(t: &mut pg::ResTarget) {
    if t.indirection.is_empty() {
        return;
    }
    let bounds = t
        .indirection
        .drain(..)
        .flat_map(|i| if let Some(NodeEnum::AIndices(indices)) = i.node { [indices.lidx, indices.uidx] } else { [None, None] });
    let bounds: Vec<Node> = bounds.flatten().map(|n| *n).collect();
    let is_row = |n: &Node| matches!(n.node, Some(NodeEnum::MultiAssignRef(_) | NodeEnum::SetToDefault(_)));
    t.val = match t.val.take() {
        Some(value) if !is_row(&value) => tree::boxed(row(std::iter::once(*value).chain(bounds).collect())),
        other => other,
    };
}
