//! Names that libpg_query's deparser takes for syntax, which reads back as something else: `bpchar` without a length becomes
//! `char`, a length of one, and a call of `pg_catalog.overlay` becomes OVERLAY .. PLACING. Under another schema's name it leaves them
//! alone; the right one is put into the text. Whoever calls compares what that text reads as with the tree.

use pg_query::protobuf::{CoercionForm, ParseResult, TypeName};
use pg_query::{Node, NodeEnum};

use crate::finding::Denial;
use crate::sql::tree;

/// Stands for `pg_catalog`.
const STAND_IN: &str = "bulkhead_pg_catalog";

/// The text with these names as they are; `None`: there are none.
pub(super) fn print(
    tree: &ParseResult,
    deparse: impl FnOnce(&ParseResult) -> Result<String, Denial>,
) -> Result<Option<String>, Denial> {
    let mut copy = tree.clone();
    let mut found = false;
    copy.stmts.iter_mut().filter_map(|s| s.stmt.as_mut()).for_each(|statement| respell(statement, &mut found));
    if !found {
        return Ok(None);
    }
    let text = deparse(&copy)?;
    Ok(Some(text.replace(&format!("{STAND_IN}."), "pg_catalog.")))
}

fn respell(node: &mut Node, found: &mut bool) {
    let Some(kind) = &mut node.node else { return };
    if let NodeEnum::TypeCast(cast) = kind
        && let Some(name) = &mut cast.type_name
        && is_plain_bpchar(name)
    {
        stand_in(&mut name.names, found);
    } else if let NodeEnum::FuncCall(call) = kind
        && call.funcformat == CoercionForm::CoerceExplicitCall as i32
        && is_of_catalog(&call.funcname, "overlay")
    {
        stand_in(&mut call.funcname, found);
    }
    // Statements around a query, whose children `each_child_mut` does not know.
    if let NodeEnum::ExplainStmt(s) = kind {
        s.query.iter_mut().for_each(|query| respell(query, found));
    } else if let NodeEnum::PrepareStmt(s) = kind {
        s.query.iter_mut().for_each(|query| respell(query, found));
    } else if let NodeEnum::DeclareCursorStmt(s) = kind {
        s.query.iter_mut().for_each(|query| respell(query, found));
    } else if let NodeEnum::CopyStmt(s) = kind {
        s.query.iter_mut().for_each(|query| respell(query, found));
    }
    tree::each_child_mut(node, &mut |child| respell(child, found));
}

fn is_plain_bpchar(name: &TypeName) -> bool {
    name.typmods.is_empty() && is_of_catalog(&name.names, "bpchar")
}

fn is_of_catalog(names: &[Node], wanted: &str) -> bool {
    matches!(names, [schema, name] if tree::as_string(schema) == Some("pg_catalog") && tree::as_string(name) == Some(wanted))
}

fn stand_in(names: &mut [Node], found: &mut bool) {
    if let [schema, _] = names {
        *schema = tree::string(STAND_IN);
        *found = true;
    }
}
