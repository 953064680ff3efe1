//! Values that stand beside columns of a class that a policy wants told in the audit log: what such a column is compared with, is set
//! to, or is called with.
//!
//! It is not for isolation: where it is not sure whose value one is, it is told as that of every such column of the same expression.

use std::borrow::Cow;
use std::sync::Arc;

use pg_query::protobuf::{AConst, InsertStmt, a_const};
use pg_query::{Node, NodeEnum};

use super::row_key::Values;
use super::{Literals, Parameters, literal};
use crate::audit::Classed;
use crate::catalog::Catalog;
use crate::finding::Recording;
use crate::policy::PolicySet;
use crate::sql::analyse::Analysis;
use crate::sql::analyse::scope::{RteKind, Usage};
use crate::sql::sentinel::{self, Sign};
use crate::sql::tree::{qualified_column, walk};
use crate::sql::types::oid;

/// Of one statement; a list of literals may be one.
const MOST: usize = 1000;

/// A value and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassedValue {
    column: Arc<Column>,
    value: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    /// `schema.table.column`
    name: String,
    alias: String,
    is_target: bool,
    own: String,
    type_oid: u32,
    recording: Arc<Recording>,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Literal {
        index: u16,
        sign: Sign,
    },
    /// From 1.
    Parameter(u16),
    /// In the text itself.
    Fixed(Box<str>),
}

/// The values of a query of the client's.
pub(super) fn values(query: &Node, analysis: &Analysis, policies: &PolicySet, catalog: &Catalog) -> Box<[ClassedValue]> {
    let columns = columns(analysis, policies, catalog);
    if columns.is_empty() {
        return Box::default();
    }
    let mut found: Vec<ClassedValue> = vec![];
    let mut note = |column: &Arc<Column>, expression: &Node| {
        walk(expression, &mut |n| {
            let value = n.node.as_ref().and_then(source);
            if let Some(one) = value.map(|value| ClassedValue { column: column.clone(), value })
                && found.len() < MOST
                && !found.contains(&one)
            {
                found.push(one);
            }
        });
    };
    walk(query, &mut |node| match &node.node {
        Some(
            NodeEnum::AExpr(_)
            | NodeEnum::FuncCall(_)
            | NodeEnum::CaseExpr(_)
            | NodeEnum::CoalesceExpr(_)
            | NodeEnum::MinMaxExpr(_),
        ) => {
            let mut named = vec![];
            walk(node, &mut |n| {
                if let Some(NodeEnum::ColumnRef(reference)) = &n.node
                    && let Some((alias, name)) = qualified_column(reference)
                {
                    named.extend(columns.iter().filter(|c| c.alias == alias && c.own == name));
                }
            });
            named.into_iter().for_each(|column| note(column, node));
        }
        Some(NodeEnum::SubLink(link)) => {
            // x IN (SELECT ..): what stands in the SELECT is met there.
            let named = link.testexpr.as_ref().and_then(|test| test.node.as_ref());
            if let Some(NodeEnum::ColumnRef(reference)) = named
                && let Some((alias, name)) = qualified_column(reference)
            {
                columns.iter().filter(|c| c.alias == alias && c.own == name).for_each(|column| note(column, node));
            }
        }
        // UPDATE, ON CONFLICT, MERGE; an output column of the same name is told for nothing.
        Some(NodeEnum::ResTarget(target)) => {
            if let Some(value) = &target.val {
                columns.iter().filter(|c| c.is_target && c.own == target.name).for_each(|column| note(column, value));
            }
        }
        Some(NodeEnum::InsertStmt(insert)) => inserted(insert, &columns, &mut note),
        Some(_) | None => {} // tidy: what is neither compared nor written
    });
    found.into()
}

/// Of relations that the statement names.
fn columns(analysis: &Analysis, policies: &PolicySet, catalog: &Catalog) -> Vec<Arc<Column>> {
    let mut columns = vec![];
    for rte in &analysis.rtes {
        let RteKind::Relation { oid, usage } = rte.kind else { continue };
        let Some(relation) = catalog.relation(oid) else { continue };
        for (own, recording) in policies.recordings_of(relation, catalog) {
            columns.push(Arc::new(Column {
                name: format!("{}.{}.{own}", relation.schema, relation.name),
                alias: rte.alias.clone(),
                is_target: usage != Usage::Select,
                own: own.to_owned(),
                type_oid: relation.column(own).map_or(0, |column| column.type_oid),
                recording: recording.clone(),
            }));
        }
    }
    columns
}

/// By place: columns are named.
fn inserted(insert: &InsertStmt, columns: &[Arc<Column>], note: &mut dyn FnMut(&Arc<Column>, &Node)) {
    let Some(NodeEnum::SelectStmt(select)) = insert.select_stmt.as_deref().and_then(|s| s.node.as_ref()) else { return };
    for (at, column) in insert.cols.iter().enumerate() {
        let Some(NodeEnum::ResTarget(target)) = &column.node else { continue };
        for column in columns.iter().filter(|c| c.is_target && c.own == target.name) {
            for row in &select.values_lists {
                if let Some(NodeEnum::List(row)) = &row.node
                    && let Some(value) = row.items.get(at)
                {
                    note(column, value);
                }
            }
            if let Some(value) = select.target_list.get(at) {
                note(column, value);
            }
        }
    }
}

fn source(node: &NodeEnum) -> Option<Source> {
    match node {
        NodeEnum::ParamRef(parameter) => Some(Source::Parameter(u16::try_from(parameter.number).ok()?)),
        NodeEnum::AConst(constant) => Some(match sentinel::index_of_const(constant) {
            Some((index, sign)) => Source::Literal { index, sign },
            None => Source::Fixed(fixed(constant)?),
        }),
        _ => None, // tidy: not a value by itself
    }
}

fn fixed(constant: &AConst) -> Option<Box<str>> {
    Some(match constant.val.as_ref()? {
        a_const::Val::Ival(i) => i.ival.to_string().into(),
        a_const::Val::Fval(f) => f.fval.as_str().into(),
        a_const::Val::Sval(s) => s.sval.as_str().into(),
        // There are two of them.
        a_const::Val::Boolval(_) => return None,
        a_const::Val::Bsval(b) => b.bsval.as_str().into(),
    })
}

impl ClassedValue {
    /// What it is in one execution: nothing where it is NULL, and some where a list stands for one.
    pub fn each<'v>(&'v self, values: &Values<'v>, put: &mut dyn FnMut(Classed<'v>)) {
        let mut put = |value| put(Classed { column: &self.column.name, recording: &self.column.recording, value });
        match &self.value {
            Source::Literal { index, sign } if usize::from(*index) < values.literals.len() => {
                each_literal(literal(values.source, values.literals, *index), &mut |token| put(spelt(token, *sign)));
            }
            Source::Literal { .. } => {}
            Source::Parameter(number) => self.parameter(*number, values).into_iter().for_each(put),
            Source::Fixed(text) => put(Cow::Borrowed(text.as_bytes())),
        }
    }

    /// Of an EXECUTE: its arguments, where each is a literal.
    pub fn arguments(source: &str, literals: &Literals, count: usize) -> Vec<Vec<u8>> {
        if literals.len() != count {
            return vec![];
        }
        (0..count).map(|i| spelt(literal(source, literals, i as u16), Sign::Plus).into_owned()).collect()
    }

    fn parameter<'v>(&self, number: u16, values: &Values<'v>) -> Option<Cow<'v, [u8]>> {
        let Parameters::Bound(bound) = values.parameters else { return None };
        let parameter = bound.get(usize::from(number).checked_sub(1)?)?;
        let value = parameter.value?;
        let type_oid = if matches!(parameter.type_oid, 0 | oid::UNKNOWN) { self.column.type_oid } else { parameter.type_oid };
        Some(if parameter.binary { Cow::Owned(in_text(value, type_oid)) } else { Cow::Borrowed(value) })
    }
}

/// The rest of a list after IN stands for one literal: `'b', 'c'`.
fn each_literal<'t>(token: &'t str, put: &mut dyn FnMut(&'t str)) {
    // Of other spellings there are no lists.
    if !token.starts_with(|c: char| c == '\'' || c == '.' || c.is_ascii_digit()) {
        return put(token);
    }
    let mut rest = token;
    while let Some(from) = rest.find(|c: char| c != ',' && !c.is_ascii_whitespace()) {
        rest = &rest[from..];
        let length = if rest.starts_with('\'') {
            end_of_string(rest)
        } else {
            rest.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(rest.len())
        };
        put(&rest[..length]);
        rest = &rest[length..];
    }
}

/// Where the string ends that this begins with; a quote in it is two.
fn end_of_string(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match (bytes[at], bytes.get(at + 1)) {
            (b'\'', Some(b'\'')) => at += 2,
            (b'\'', _) => return at + 1,
            (_, _) => at += 1,
        }
    }
    bytes.len()
}

/// A literal as its value is written where it is bound.
fn spelt(token: &str, sign: Sign) -> Cow<'_, [u8]> {
    match token.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inside) if inside.contains('\'') => Cow::Owned(inside.replace("''", "'").into_bytes()),
        Some(inside) => Cow::Borrowed(inside.as_bytes()),
        None if sign == Sign::Minus => Cow::Owned(format!("-{token}").into_bytes()),
        None => Cow::Borrowed(token.as_bytes()),
    }
}

/// A binary value as PostgreSQL prints it, where that is known; hexadecimal digits where it is not.
fn in_text(value: &[u8], type_oid: u32) -> Vec<u8> {
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let text = match (type_oid, value.len()) {
        (oid::INT2, 2) => i16::from_be_bytes([value[0], value[1]]).to_string(),
        (oid::INT4, 4) => value.try_into().map(i32::from_be_bytes).unwrap_or_default().to_string(),
        (oid::INT8, 8) => value.try_into().map(i64::from_be_bytes).unwrap_or_default().to_string(),
        (oid::UUID, 16) => {
            let all = hexadecimal(value);
            [&all[..8], &all[8..12], &all[12..16], &all[16..20], &all[20..]].join("-")
        }
        (oid::TEXT | oid::VARCHAR | oid::BPCHAR, _) => return value.to_vec(),
        _ => format!("\\x{}", hexadecimal(value)), // tidy: not a syntax kind
    };
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_are_told_as_their_values() {
        for (token, expected) in [
            ("'a'", &["a"][..]),
            ("'it''s'", &["it's"]),
            ("''", &[""]),
            ("''''", &["'"]),
            ("'a, b'", &["a, b"]),
            ("'b', 'c''d' ,'', 'e'", &["b", "c'd", "", "e"]),
            ("2, 3.5,\n.5", &["2", "3.5", ".5"]),
            ("E'a,b'", &["E'a,b'"]),
            ("$$a, b$$", &["$$a, b$$"]),
        ] {
            let mut found = vec![];
            each_literal(token, &mut |token| found.push(String::from_utf8(spelt(token, Sign::Plus).into_owned()).unwrap()));
            assert_eq!(found, expected, "{token}");
        }
        assert_eq!(*spelt("5", Sign::Minus), b"-5"[..]);
    }

    #[test]
    fn binary_values_are_told_as_texts() {
        for (value, type_oid, expected) in [
            (&(-5i32).to_be_bytes()[..], oid::INT4, "-5"),
            (&7i64.to_be_bytes(), oid::INT8, "7"),
            (&2i16.to_be_bytes(), oid::INT2, "2"),
            ("ä".as_bytes(), oid::TEXT, "ä"),
            (&[0x0f; 16], oid::UUID, "0f0f0f0f-0f0f-0f0f-0f0f-0f0f0f0f0f0f"),
            (&[1, 0xab], 17, "\\x01ab"),
        ] {
            assert_eq!(String::from_utf8(in_text(value, type_oid)).as_deref(), Ok(expected));
        }
    }
}
