//! The name that PostgreSQL gives to a column that has none: `FigureColname` of parse_target.c.

use pg_query::protobuf::{AExprKind, JsonExprOp, MinMaxOp, SqlValueFunctionOp, SubLinkType, XmlExprOp};
use pg_query::{Node, NodeEnum};

use super::super::kinds::not_an_expression;
use super::super::tree::as_string;

/// How good a name is: a type's name yields to anything better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Strength {
    None,
    Weak,
    Strong,
}

/// The name of a target list entry without AS.
pub fn figure_column_name(expression: &Node) -> String {
    figure(expression).0.unwrap_or_else(|| "?column?".to_owned())
}

fn strong(name: impl Into<String>) -> (Option<String>, Strength) {
    (Some(name.into()), Strength::Strong)
}

fn figure(expression: &Node) -> (Option<String>, Strength) {
    const NONE: (Option<String>, Strength) = (None, Strength::None);
    let Some(kind) = &expression.node else { return NONE };
    match kind {
        NodeEnum::ColumnRef(c) => c.fields.iter().rev().find_map(as_string).map_or(NONE, strong),
        NodeEnum::AIndirection(i) => match i.indirection.iter().rev().find_map(as_string) {
            Some(field) => strong(field),
            None => i.arg.as_deref().map_or(NONE, figure),
        },
        NodeEnum::FuncCall(f) => f.funcname.last().and_then(as_string).map_or(NONE, strong),
        NodeEnum::AExpr(e) if e.kind == AExprKind::AexprNullif as i32 => strong("nullif"),
        NodeEnum::AExpr(_) => NONE,
        NodeEnum::TypeCast(c) => {
            let inner = c.arg.as_deref().map_or(NONE, figure);
            let type_name = c.type_name.as_ref().and_then(|t| t.names.last()).and_then(as_string);
            match (inner.1, type_name) {
                (Strength::None | Strength::Weak, Some(name)) => (Some(name.to_owned()), Strength::Weak),
                (Strength::None | Strength::Weak, None) | (Strength::Strong, _) => inner,
            }
        }
        NodeEnum::CollateClause(c) => c.arg.as_deref().map_or(NONE, figure),
        NodeEnum::GroupingFunc(_) => strong("grouping"),
        NodeEnum::SubLink(s) => match SubLinkType::try_from(s.sub_link_type) {
            Ok(SubLinkType::ExistsSublink) => strong("exists"),
            Ok(SubLinkType::ArraySublink) => strong("array"),
            Ok(SubLinkType::ExprSublink) => sub_select_name(s.subselect.as_deref()),
            Ok(
                SubLinkType::AllSublink
                | SubLinkType::AnySublink
                | SubLinkType::RowcompareSublink
                | SubLinkType::MultiexprSublink
                | SubLinkType::CteSublink
                | SubLinkType::Undefined,
            )
            | Err(_) => NONE,
        },
        NodeEnum::CaseExpr(c) => {
            let inner = c.defresult.as_deref().map_or(NONE, figure);
            if inner.1 == Strength::Strong { inner } else { (Some("case".to_owned()), Strength::Weak) }
        }
        NodeEnum::AArrayExpr(_) => strong("array"),
        NodeEnum::RowExpr(_) => strong("row"),
        NodeEnum::CoalesceExpr(_) => strong("coalesce"),
        NodeEnum::MinMaxExpr(m) => strong(if m.op == MinMaxOp::IsGreatest as i32 { "greatest" } else { "least" }),
        NodeEnum::SqlvalueFunction(f) => sql_value_name(f.op).map_or(NONE, strong),
        NodeEnum::MergeSupportFunc(_) => strong("merge_action"),
        NodeEnum::XmlExpr(x) => xml_name(x.op).map_or(NONE, strong),
        NodeEnum::XmlSerialize(_) => strong("xmlserialize"),
        NodeEnum::JsonFuncExpr(f) => match JsonExprOp::try_from(f.op) {
            Ok(JsonExprOp::JsonExistsOp) => strong("json_exists"),
            Ok(JsonExprOp::JsonQueryOp) => strong("json_query"),
            Ok(JsonExprOp::JsonValueOp) => strong("json_value"),
            Ok(JsonExprOp::JsonTableOp | JsonExprOp::Undefined) | Err(_) => NONE,
        },
        NodeEnum::ParamRef(_)
        | NodeEnum::AConst(_)
        | NodeEnum::BoolExpr(_)
        | NodeEnum::CaseWhen(_)
        | NodeEnum::NullTest(_)
        | NodeEnum::BooleanTest(_)
        | NodeEnum::JsonIsPredicate(_)
        | NodeEnum::NamedArgExpr(_)
        | NodeEnum::SetToDefault(_)
        | NodeEnum::List(_) => NONE,
        not_an_expression!() => NONE,
    }
}

fn sub_select_name(subselect: Option<&Node>) -> (Option<String>, Strength) {
    let mut current = match subselect.and_then(|n| n.node.as_ref()) {
        Some(NodeEnum::SelectStmt(s)) => s,
        Some(_) | None => return (None, Strength::None),
    };
    while let Some(left) = &current.larg {
        current = left;
    }
    match current.target_list.first().and_then(|n| n.node.as_ref()) {
        Some(NodeEnum::ResTarget(t)) if !t.name.is_empty() => strong(t.name.clone()),
        Some(NodeEnum::ResTarget(t)) => t.val.as_deref().map_or((None, Strength::None), figure),
        Some(_) | None => (None, Strength::None),
    }
}

fn sql_value_name(op: i32) -> Option<&'static str> {
    match SqlValueFunctionOp::try_from(op).ok()? {
        SqlValueFunctionOp::SvfopCurrentDate => Some("current_date"),
        SqlValueFunctionOp::SvfopCurrentTime | SqlValueFunctionOp::SvfopCurrentTimeN => Some("current_time"),
        SqlValueFunctionOp::SvfopCurrentTimestamp | SqlValueFunctionOp::SvfopCurrentTimestampN => Some("current_timestamp"),
        SqlValueFunctionOp::SvfopLocaltime | SqlValueFunctionOp::SvfopLocaltimeN => Some("localtime"),
        SqlValueFunctionOp::SvfopLocaltimestamp | SqlValueFunctionOp::SvfopLocaltimestampN => Some("localtimestamp"),
        SqlValueFunctionOp::SvfopCurrentRole => Some("current_role"),
        SqlValueFunctionOp::SvfopCurrentUser => Some("current_user"),
        SqlValueFunctionOp::SvfopUser => Some("user"),
        SqlValueFunctionOp::SvfopSessionUser => Some("session_user"),
        SqlValueFunctionOp::SvfopCurrentCatalog => Some("current_catalog"),
        SqlValueFunctionOp::SvfopCurrentSchema => Some("current_schema"),
        SqlValueFunctionOp::SqlvalueFunctionOpUndefined => None,
    }
}

fn xml_name(op: i32) -> Option<&'static str> {
    match XmlExprOp::try_from(op).ok()? {
        XmlExprOp::IsXmlconcat => Some("xmlconcat"),
        XmlExprOp::IsXmlelement => Some("xmlelement"),
        XmlExprOp::IsXmlforest => Some("xmlforest"),
        XmlExprOp::IsXmlparse => Some("xmlparse"),
        XmlExprOp::IsXmlpi => Some("xmlpi"),
        XmlExprOp::IsXmlroot => Some("xmlroot"),
        XmlExprOp::IsXmlserialize => Some("xmlserialize"),
        XmlExprOp::IsDocument | XmlExprOp::Undefined => None,
    }
}
