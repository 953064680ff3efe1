//! Building and walking libpg_query's parse trees: small constructors, and one exhaustive list of the children of a node.

use pg_query::protobuf::{
    self as pg, AConst, AExpr, AExprKind, Alias, BoolExpr, BoolExprType, CaseExpr, CaseWhen, ColumnRef, FuncCall, NullTest,
    NullTestType, RangeVar, ResTarget, TypeCast, TypeName, a_const,
};
use pg_query::{Node, NodeEnum};

use super::kinds::not_in_a_query;

/// A boxed optional child, as the protobuf structs have them.
pub type Child = Option<Box<Node>>;

pub fn node(kind: NodeEnum) -> Node {
    Node { node: Some(kind) }
}

pub fn boxed(node: Node) -> Child {
    Some(Box::new(node))
}

pub fn string(text: &str) -> Node {
    node(NodeEnum::String(pg::String { sval: text.to_owned() }))
}

/// The text of a String node.
pub fn as_string(node: &Node) -> Option<&str> {
    if let Some(NodeEnum::String(pg::String { sval })) = &node.node { Some(sval) } else { None }
}

/// Whether a condition is `CURRENT OF cursor`.
pub fn is_current_of(condition: &Child) -> bool {
    matches!(condition.as_deref(), Some(Node { node: Some(NodeEnum::CurrentOfExpr(_)) }))
}

/// A name as SQL writes it.
pub fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub fn names(parts: &[&str]) -> Vec<Node> {
    parts.iter().map(|p| string(p)).collect()
}

/// `a.b.c`
pub fn column(parts: &[&str]) -> Node {
    node(NodeEnum::ColumnRef(ColumnRef { fields: names(parts), location: 0 }))
}

pub fn alias(name: &str) -> Alias {
    Alias { aliasname: name.to_owned(), colnames: vec![] }
}

/// `schema.name AS alias`
pub fn relation(schema: &str, name: &str, alias_name: &str, inherit: bool) -> RangeVar {
    RangeVar {
        catalogname: String::new(),
        schemaname: schema.to_owned(),
        relname: name.to_owned(),
        inh: inherit,
        relpersistence: "p".to_owned(),
        alias: Some(alias(alias_name)),
        location: 0,
    }
}

fn constant(val: Option<a_const::Val>) -> Node {
    node(NodeEnum::AConst(AConst { isnull: val.is_none(), location: 0, val }))
}

pub fn text_constant(text: &str) -> Node {
    constant(Some(a_const::Val::Sval(pg::String { sval: text.to_owned() })))
}

pub fn int_constant(value: i32) -> Node {
    constant(Some(a_const::Val::Ival(pg::Integer { ival: value })))
}

pub fn bool_constant(value: bool) -> Node {
    constant(Some(a_const::Val::Boolval(pg::Boolean { boolval: value })))
}

pub fn null() -> Node {
    constant(None)
}

pub fn type_name(parts: &[&str]) -> TypeName {
    TypeName {
        names: names(parts),
        type_oid: 0,
        setof: false,
        pct_type: false,
        typmods: vec![],
        typemod: -1,
        array_bounds: vec![],
        location: 0,
    }
}

pub fn cast(arg: Node, type_name: TypeName) -> Node {
    node(NodeEnum::TypeCast(Box::new(TypeCast { arg: boxed(arg), type_name: Some(type_name), location: 0 })))
}

/// `left OPERATOR(pg_catalog.name) right`
pub fn operator(name: &str, left: Node, right: Node) -> Node {
    node(NodeEnum::AExpr(Box::new(AExpr {
        kind: AExprKind::AexprOp as i32,
        name: names(&["pg_catalog", name]),
        lexpr: boxed(left),
        rexpr: boxed(right),
        rexpr_list_start: 0,
        rexpr_list_end: 0,
        location: 0,
    })))
}

fn boolean(op: BoolExprType, args: Vec<Node>) -> Node {
    node(NodeEnum::BoolExpr(Box::new(BoolExpr { xpr: None, boolop: op as i32, args, location: 0 })))
}

/// ANDs; nested ANDs are flattened as PostgreSQL's grammar does. `None` for an empty list.
pub fn and(args: Vec<Node>) -> Option<Node> {
    let mut flat = Vec::with_capacity(args.len());
    for arg in args {
        match arg.node {
            Some(NodeEnum::BoolExpr(b)) if b.boolop == BoolExprType::AndExpr as i32 => flat.extend(b.args),
            other => flat.push(Node { node: other }),
        }
    }
    match flat.len() {
        0 => None,
        1 => flat.pop(),
        2.. => Some(boolean(BoolExprType::AndExpr, flat)),
    }
}

pub fn or(mut args: Vec<Node>) -> Option<Node> {
    if args.len() < 2 { args.pop() } else { Some(boolean(BoolExprType::OrExpr, args)) }
}

/// Top-level conjuncts of a condition.
pub fn conjuncts(condition: Node) -> Vec<Node> {
    match condition.node {
        Some(NodeEnum::BoolExpr(b)) if b.boolop == BoolExprType::AndExpr as i32 => {
            b.args.into_iter().flat_map(conjuncts).collect()
        }
        other => vec![Node { node: other }],
    }
}

/// `CASE WHEN condition THEN result [WHEN ..] ELSE default END`
pub fn case(arms: Vec<(Node, Node)>, default: Option<Node>) -> Node {
    let args = arms
        .into_iter()
        .map(|(condition, result)| {
            node(NodeEnum::CaseWhen(Box::new(CaseWhen { xpr: None, expr: boxed(condition), result: boxed(result), location: 0 })))
        })
        .collect();
    node(NodeEnum::CaseExpr(Box::new(CaseExpr {
        xpr: None,
        casetype: 0,
        casecollid: 0,
        arg: None,
        args,
        defresult: default.map(Box::new),
        location: 0,
    })))
}

pub fn is_null(arg: Node) -> Node {
    null_test(arg, NullTestType::IsNull)
}

pub fn is_not_null(arg: Node) -> Node {
    null_test(arg, NullTestType::IsNotNull)
}

fn null_test(arg: Node, test: NullTestType) -> Node {
    node(NodeEnum::NullTest(Box::new(NullTest {
        xpr: None,
        arg: boxed(arg),
        nulltesttype: test as i32,
        argisrow: false,
        location: 0,
    })))
}

/// The keys of grouping sets, and of `(a, b)` in them; not those of `ROW(a, b)`, which is one.
pub fn grouping_keys(group: &mut Node) -> Option<&mut Vec<Node>> {
    match &mut group.node {
        Some(NodeEnum::GroupingSet(set)) => Some(&mut set.content),
        Some(NodeEnum::RowExpr(row)) if row.row_format == pg::CoercionForm::CoerceImplicitCast as i32 => Some(&mut row.args),
        Some(_) | None => None,
    }
}

/// `pg_catalog.count(*) >= 0`: always true, but never moved below the grouping (guard.md, B6).
pub fn after_grouping() -> Node {
    let count = node(NodeEnum::FuncCall(Box::new(FuncCall {
        funcname: names(&["pg_catalog", "count"]),
        args: vec![],
        agg_order: vec![],
        agg_filter: None,
        over: None,
        agg_within_group: false,
        agg_star: true,
        agg_distinct: false,
        func_variadic: false,
        funcformat: pg::CoercionForm::CoerceExplicitCall as i32,
        location: 0,
    })));
    operator(">=", count, int_constant(0))
}

/// `expression AS name`
pub fn target(name: &str, value: Node) -> Node {
    node(NodeEnum::ResTarget(Box::new(ResTarget { name: name.to_owned(), indirection: vec![], val: boxed(value), location: 0 })))
}

/// Alias and column of a normalised column reference; `None` for bare names and whole rows.
pub fn qualified_column(reference: &ColumnRef) -> Option<(&str, &str)> {
    match reference.fields.as_slice() {
        [table, column] => Some((as_string(table)?, as_string(column)?)),
        [] | [_] | [_, _, _, ..] => None,
    }
}

macro_rules! children {
    ($(#[$doc:meta])* $name:ident, $clause:ident, $table:ident, $($mutability:tt)?) => {
        $(#[$doc])*
        pub fn $name<'a>(parent: &'a $($mutability)? Node, visit: &mut dyn FnMut(&'a $($mutability)? Node)) {
            macro_rules! each { ($list:expr) => { for child in $list { visit(child) } }; }
            macro_rules! some { ($child:expr) => { if let Some(child) = $child { visit(child) } }; }
            let Some(kind) = & $($mutability)? parent.node else { return };
            match kind {
                NodeEnum::ColumnRef(_) | NodeEnum::ParamRef(_) | NodeEnum::AConst(_) | NodeEnum::SetToDefault(_) | NodeEnum::String(_)
                | NodeEnum::Integer(_) | NodeEnum::Float(_) | NodeEnum::Boolean(_) | NodeEnum::BitString(_) | NodeEnum::AStar(_)
                | NodeEnum::RangeVar(_) | NodeEnum::LockingClause(_) | NodeEnum::Alias(_) | NodeEnum::SqlvalueFunction(_) => {}
                NodeEnum::List(pg::List { items }) => each!(items),
                NodeEnum::AExpr(e) => { let AExpr { kind: _, name: _, lexpr, rexpr, rexpr_list_start: _, rexpr_list_end: _, location: _ } = &$($mutability)? **e; some!(lexpr); some!(rexpr) }
                NodeEnum::TypeCast(e) => { let TypeCast { arg, type_name: _, location: _ } = &$($mutability)? **e; some!(arg) }
                NodeEnum::TypeName(_) => {}
                NodeEnum::CollateClause(e) => { let pg::CollateClause { arg, collname: _, location: _ } = &$($mutability)? **e; some!(arg) }
                NodeEnum::FuncCall(e) => {
                    let FuncCall { funcname: _, args, agg_order, agg_filter, over, agg_within_group: _, agg_star: _, agg_distinct: _, func_variadic: _, funcformat: _, location: _ } = &$($mutability)? **e;
                    each!(args); each!(agg_order); some!(agg_filter);
                    if let Some(w) = over {
                        let pg::WindowDef { name: _, refname: _, partition_clause, order_clause, frame_options: _, start_offset, end_offset, location: _ } = &$($mutability)? **w;
                        each!(partition_clause); each!(order_clause); some!(start_offset); some!(end_offset)
                    }
                }
                NodeEnum::WindowDef(w) => {
                    let pg::WindowDef { name: _, refname: _, partition_clause, order_clause, frame_options: _, start_offset, end_offset, location: _ } = &$($mutability)? **w;
                    each!(partition_clause); each!(order_clause); some!(start_offset); some!(end_offset)
                }
                NodeEnum::AIndirection(e) => { let pg::AIndirection { arg, indirection } = &$($mutability)? **e; some!(arg); each!(indirection) }
                NodeEnum::AIndices(e) => { let pg::AIndices { is_slice: _, lidx, uidx } = &$($mutability)? **e; some!(lidx); some!(uidx) }
                NodeEnum::AArrayExpr(e) => { let pg::AArrayExpr { elements, list_start: _, list_end: _, location: _ } = e; each!(elements) }
                NodeEnum::BoolExpr(e) => { let BoolExpr { xpr: _, boolop: _, args, location: _ } = &$($mutability)? **e; each!(args) }
                NodeEnum::SubLink(e) => { let pg::SubLink { xpr: _, sub_link_type: _, sub_link_id: _, testexpr, oper_name: _, subselect, location: _ } = &$($mutability)? **e; some!(testexpr); some!(subselect) }
                NodeEnum::CaseExpr(e) => { let CaseExpr { xpr: _, casetype: _, casecollid: _, arg, args, defresult, location: _ } = &$($mutability)? **e; some!(arg); each!(args); some!(defresult) }
                NodeEnum::CaseWhen(e) => { let CaseWhen { xpr: _, expr, result, location: _ } = &$($mutability)? **e; some!(expr); some!(result) }
                NodeEnum::CoalesceExpr(e) => { let pg::CoalesceExpr { xpr: _, coalescetype: _, coalescecollid: _, args, location: _ } = &$($mutability)? **e; each!(args) }
                NodeEnum::MinMaxExpr(e) => { let pg::MinMaxExpr { xpr: _, minmaxtype: _, minmaxcollid: _, inputcollid: _, op: _, args, location: _ } = &$($mutability)? **e; each!(args) }
                NodeEnum::XmlExpr(e) => { let pg::XmlExpr { xpr: _, op: _, name: _, named_args, arg_names: _, args, xmloption: _, indent: _, r#type: _, typmod: _, location: _ } = &$($mutability)? **e; each!(named_args); each!(args) }
                NodeEnum::XmlSerialize(e) => { let pg::XmlSerialize { xmloption: _, expr, type_name: _, indent: _, location: _ } = &$($mutability)? **e; some!(expr) }
                NodeEnum::NullTest(e) => { let NullTest { xpr: _, arg, nulltesttype: _, argisrow: _, location: _ } = &$($mutability)? **e; some!(arg) }
                NodeEnum::BooleanTest(e) => { let pg::BooleanTest { xpr: _, arg, booltesttype: _, location: _ } = &$($mutability)? **e; some!(arg) }
                NodeEnum::RowExpr(e) => { let pg::RowExpr { xpr: _, args, row_typeid: _, row_format: _, colnames: _, location: _ } = &$($mutability)? **e; each!(args) }
                NodeEnum::GroupingFunc(e) => { let pg::GroupingFunc { xpr: _, args, refs: _, agglevelsup: _, location: _ } = &$($mutability)? **e; each!(args) }
                NodeEnum::NamedArgExpr(e) => { let pg::NamedArgExpr { xpr: _, arg, name: _, argnumber: _, location: _ } = &$($mutability)? **e; some!(arg) }
                NodeEnum::MultiAssignRef(e) => { let pg::MultiAssignRef { source, colno: _, ncolumns: _ } = &$($mutability)? **e; some!(source) }
                NodeEnum::ResTarget(e) => { let ResTarget { name: _, indirection, val, location: _ } = &$($mutability)? **e; each!(indirection); some!(val) }
                NodeEnum::SortBy(e) => { let pg::SortBy { node, sortby_dir: _, sortby_nulls: _, use_op: _, location: _ } = &$($mutability)? **e; some!(node) }
                NodeEnum::GroupingSet(e) => { let pg::GroupingSet { kind: _, content, location: _ } = e; each!(content) }
                NodeEnum::IndexElem(e) => { let pg::IndexElem { name: _, expr, indexcolname: _, collation: _, opclass: _, opclassopts: _, ordering: _, nulls_ordering: _ } = &$($mutability)? **e; some!(expr) }
                NodeEnum::CommonTableExpr(e) => {
                    let pg::CommonTableExpr { ctename: _, aliascolnames: _, ctematerialized: _, ctequery, search_clause: _, cycle_clause, location: _, cterecursive: _, cterefcount: _, ctecolnames: _, ctecoltypes: _, ctecoltypmods: _, ctecolcollations: _ } = &$($mutability)? **e;
                    some!(ctequery);
                    if let Some(c) = cycle_clause {
                        let pg::CteCycleClause { cycle_col_list: _, cycle_mark_column: _, cycle_mark_value, cycle_mark_default, cycle_path_column: _, location: _, cycle_mark_type: _, cycle_mark_typmod: _, cycle_mark_collation: _, cycle_mark_neop: _ } = &$($mutability)? **c;
                        some!(cycle_mark_value); some!(cycle_mark_default)
                    }
                }
                NodeEnum::RangeSubselect(e) => { let pg::RangeSubselect { lateral: _, subquery, alias: _ } = &$($mutability)? **e; some!(subquery) }
                NodeEnum::RangeFunction(e) => { let pg::RangeFunction { lateral: _, ordinality: _, is_rowsfrom: _, functions, alias: _, coldeflist: _ } = e; each!(functions) }
                NodeEnum::RangeTableSample(e) => { let pg::RangeTableSample { relation, method: _, args, repeatable, location: _ } = &$($mutability)? **e; some!(relation); each!(args); some!(repeatable) }
                NodeEnum::JoinExpr(e) => { let pg::JoinExpr { jointype: _, is_natural: _, larg, rarg, using_clause: _, join_using_alias: _, quals, alias: _, rtindex: _ } = &$($mutability)? **e; some!(larg); some!(rarg); some!(quals) }
                NodeEnum::SelectStmt(s) => $clause(s, visit),
                NodeEnum::InsertStmt(s) => {
                    let pg::InsertStmt { relation: _, cols: _, select_stmt, on_conflict_clause, returning_clause, with_clause, r#override: _ } = &$($mutability)? **s;
                    if let Some(w) = with_clause { each!(&$($mutability)? w.ctes) }
                    some!(select_stmt);
                    if let Some(c) = on_conflict_clause {
                        let pg::OnConflictClause { action: _, infer, target_list, where_clause, location: _ } = &$($mutability)? **c;
                        if let Some(i) = infer { let pg::InferClause { index_elems, where_clause, conname: _, location: _ } = &$($mutability)? **i; each!(index_elems); some!(where_clause) }
                        each!(target_list); some!(where_clause)
                    }
                    if let Some(r) = returning_clause { each!(&$($mutability)? r.exprs) }
                }
                NodeEnum::UpdateStmt(s) => {
                    let pg::UpdateStmt { relation: _, target_list, where_clause, from_clause, returning_clause, with_clause } = &$($mutability)? **s;
                    if let Some(w) = with_clause { each!(&$($mutability)? w.ctes) }
                    each!(target_list); each!(from_clause); some!(where_clause);
                    if let Some(r) = returning_clause { each!(&$($mutability)? r.exprs) }
                }
                NodeEnum::DeleteStmt(s) => {
                    let pg::DeleteStmt { relation: _, using_clause, where_clause, returning_clause, with_clause } = &$($mutability)? **s;
                    if let Some(w) = with_clause { each!(&$($mutability)? w.ctes) }
                    each!(using_clause); some!(where_clause);
                    if let Some(r) = returning_clause { each!(&$($mutability)? r.exprs) }
                }
                NodeEnum::JsonIsPredicate(e) => { let pg::JsonIsPredicate { expr, format: _, item_type: _, unique_keys: _, location: _ } = &$($mutability)? **e; some!(expr) }
                NodeEnum::RangeTableFunc(_) | NodeEnum::RangeTableFuncCol(_) | NodeEnum::JsonTable(_) | NodeEnum::JsonArgument(_)
                | NodeEnum::JsonTableColumn(_) | NodeEnum::JsonFuncExpr(_) => $table(kind, visit),
                NodeEnum::MergeStmt(s) => {
                    let pg::MergeStmt { relation: _, source_relation, join_condition, merge_when_clauses, returning_clause, with_clause } = &$($mutability)? **s;
                    if let Some(w) = with_clause { each!(&$($mutability)? w.ctes) }
                    some!(source_relation); some!(join_condition); each!(merge_when_clauses);
                    if let Some(r) = returning_clause { each!(&$($mutability)? r.exprs) }
                }
                NodeEnum::MergeWhenClause(w) => {
                    let pg::MergeWhenClause { match_kind: _, command_type: _, r#override: _, condition, target_list, values } = &$($mutability)? **w;
                    some!(condition); each!(target_list); each!(values)
                }
                not_in_a_query!() => {}
            }
        }
    };
}

/// XMLTABLE, JSON_TABLE and the functions of JSON that are syntax, and what stands in them.
macro_rules! table_children {
    ($name:ident, $($mutability:tt)?) => {
        fn $name<'a>(kind: &'a $($mutability)? NodeEnum, visit: &mut dyn FnMut(&'a $($mutability)? Node)) {
            macro_rules! each { ($list:expr) => { for child in $list { visit(child) } }; }
            macro_rules! some { ($child:expr) => { if let Some(child) = $child { visit(child) } }; }
            macro_rules! value { ($value:expr) => { if let Some(v) = $value {
                let pg::JsonValueExpr { raw_expr, formatted_expr, format: _ } = &$($mutability)? **v;
                some!(raw_expr); some!(formatted_expr)
            } }; }
            macro_rules! path { ($path:expr) => { if let Some(p) = $path {
                let pg::JsonTablePathSpec { string, name: _, name_location: _, location: _ } = &$($mutability)? **p;
                some!(string)
            } }; }
            macro_rules! behaviour { ($behaviour:expr) => { if let Some(b) = $behaviour {
                let pg::JsonBehavior { btype: _, expr, coerce: _, location: _ } = &$($mutability)? **b;
                some!(expr)
            } }; }
            if let NodeEnum::RangeTableFunc(t) = kind {
                let pg::RangeTableFunc { lateral: _, docexpr, rowexpr, namespaces, columns, alias: _, location: _ } = &$($mutability)? **t;
                some!(docexpr); some!(rowexpr); each!(namespaces); each!(columns)
            } else if let NodeEnum::RangeTableFuncCol(c) = kind {
                let pg::RangeTableFuncCol { colname: _, type_name: _, for_ordinality: _, is_not_null: _, colexpr, coldefexpr, location: _ } = &$($mutability)? **c;
                some!(colexpr); some!(coldefexpr)
            } else if let NodeEnum::JsonTable(t) = kind {
                let pg::JsonTable { context_item, pathspec, passing, columns, on_error, alias: _, lateral: _, location: _ } = &$($mutability)? **t;
                value!(context_item); path!(pathspec); each!(passing); each!(columns); behaviour!(on_error)
            } else if let NodeEnum::JsonFuncExpr(f) = kind {
                let pg::JsonFuncExpr { op: _, column_name: _, context_item, pathspec, passing, output: _, on_empty, on_error, wrapper: _, quotes: _, location: _ } = &$($mutability)? **f;
                value!(context_item); some!(pathspec); each!(passing); behaviour!(on_empty); behaviour!(on_error)
            } else if let NodeEnum::JsonArgument(a) = kind {
                let pg::JsonArgument { val, name: _ } = &$($mutability)? **a;
                value!(val)
            } else if let NodeEnum::JsonTableColumn(c) = kind {
                let pg::JsonTableColumn { coltype: _, name: _, type_name: _, pathspec, format: _, wrapper: _, quotes: _, columns, on_empty, on_error, location: _ } = &$($mutability)? **c;
                path!(pathspec); each!(columns); behaviour!(on_empty); behaviour!(on_error)
            }
        }
    };
}

macro_rules! select_children {
    ($name:ident, $($mutability:tt)?) => {
        fn $name<'a>(select: &'a $($mutability)? pg::SelectStmt, visit: &mut dyn FnMut(&'a $($mutability)? Node)) {
            macro_rules! each { ($list:expr) => { for child in $list { visit(child) } }; }
            macro_rules! some { ($child:expr) => { if let Some(child) = $child { visit(child) } }; }
            let pg::SelectStmt { distinct_clause, into_clause: _, target_list, from_clause, where_clause, group_clause, group_distinct: _, having_clause,
                window_clause, values_lists, sort_clause, limit_offset, limit_count, limit_option: _, locking_clause, with_clause, op: _, all: _, larg, rarg } = select;
            if let Some(w) = with_clause { each!(&$($mutability)? w.ctes) }
            each!(distinct_clause); each!(target_list); each!(from_clause); some!(where_clause); each!(group_clause); some!(having_clause);
            each!(window_clause); each!(values_lists); each!(sort_clause); some!(limit_offset); some!(limit_count); each!(locking_clause);
            if let Some(l) = larg { $name(l, visit) }
            if let Some(r) = rarg { $name(r, visit) }
        }
    };
}

table_children!(table_children,);
table_children!(table_children_mut, mut);
select_children!(select_children,);
select_children!(select_children_mut, mut);
children!(
    /// Visits the direct children of a node of a query. TOTAL: every field of every kind is named here.
    each_child, select_children, table_children,
);
children!(
    /// As [`each_child`], to change them.
    each_child_mut, select_children_mut, table_children_mut, mut
);

/// Visits a node and everything below it, sub-selects included.
pub fn walk<'a>(node: &'a Node, visit: &mut dyn FnMut(&'a Node)) {
    visit(node);
    each_child(node, &mut |child| walk(child, visit));
}

/// Every column reference in an expression, those inside sub-selects included.
pub fn each_column<'a>(node: &'a Node, visit: &mut dyn FnMut(&'a ColumnRef)) {
    walk(node, &mut |n| {
        if let Some(NodeEnum::ColumnRef(c)) = &n.node {
            visit(c);
        }
    });
}
