//! Values that stand beside columns of a class that a policy wants told in the audit log: what such a column is compared with, is set
//! to, or is called with.
//!
//! It is not for isolation, but a value that is not told is one that nobody finds. In a statement of one level (tables, conditions, rows
//! of VALUES) a value is that of the columns which its expression names, or into which it is written. In any other, where a value may come
//! to a column by way of a sub-select, a list, a view or a whole row, each value that is not some column's already is told as that of all.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use pg_query::protobuf::{AConst, AExprKind, InsertStmt, SelectStmt, a_const};
use pg_query::{Node, NodeEnum};

use super::row_key::Values;
use super::{Parameters, literal};
use crate::audit::Classed;
use crate::catalog::Catalog;
use crate::finding::Recording;
use crate::policy::PolicySet;
use crate::policy::epoch::RelationPolicy;
use crate::sql::analyse::Analysis;
use crate::sql::analyse::scope::{RteKind, Usage};
use crate::sql::parse;
use crate::sql::sentinel::{self, Sign};
use crate::sql::tree::{qualified_column, walk};
use crate::sql::types::oid;

/// A value and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassedValue {
    column: Arc<Column>,
    value: Source,
    form: Form,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Column {
    /// `schema.table.column`
    name: String,
    /// `None`: it is behind a view.
    alias: Option<String>,
    is_target: bool,
    own: String,
    type_oid: u32,
    recording: Arc<Recording>,
}

/// Where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    /// The number of a literal; whether its sign is changed.
    Literal(u16, bool),
    /// From 1.
    Parameter(u16),
    /// In the text itself.
    Fixed(Box<str>),
}

/// Whether it may be an array, `{a,b}`, whose elements are the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    One,
    /// Of ANY and ALL.
    List,
    Either,
}

/// The values of a query of the client's.
pub(super) fn values(query: &Node, analysis: &Analysis, policies: &PolicySet, catalog: &Catalog) -> Box<[ClassedValue]> {
    let (columns, has_views) = columns(analysis, policies, catalog);
    if columns.is_empty() {
        return Box::default();
    }
    let mut found = Found::default();
    walk(query, &mut |node| match &node.node {
        Some(NodeEnum::AExpr(e)) => {
            let is_list = [AExprKind::AexprOpAny, AExprKind::AexprOpAll].iter().any(|kind| e.kind == *kind as i32);
            found.beside(node, &columns, if is_list { Form::List } else { Form::One });
        }
        Some(NodeEnum::FuncCall(_) | NodeEnum::CaseExpr(_) | NodeEnum::CoalesceExpr(_) | NodeEnum::MinMaxExpr(_)) => {
            found.beside(node, &columns, Form::One)
        }
        // UPDATE, ON CONFLICT; an output column of the same name is told for nothing.
        Some(NodeEnum::ResTarget(target)) => {
            if let Some(value) = &target.val {
                found.note(columns.iter().filter(|c| c.is_target && c.own == target.name), value, Form::One);
            }
        }
        Some(NodeEnum::InsertStmt(insert)) => found.inserted(insert, &columns),
        Some(_) | None => {} // tidy: what is neither compared nor written
    });
    let has_whole_rows = analysis.rtes.iter().any(|rte| rte.whole_row);
    let comes_by_itself = has_views || has_whole_rows || !is_of_one_level(query);
    if comes_by_itself && !crate::mutant!("audit.values-of-one-level-only") {
        found.others(query, &columns);
    }
    found.all.into()
}

#[derive(Default)]
struct Found {
    all: Vec<ClassedValue>,
    /// Of columns, by their address.
    seen: HashSet<(*const Column, Source)>,
    attributed: HashSet<Source>,
}

impl Found {
    /// An expression in which columns and values stand.
    fn beside(&mut self, node: &Node, columns: &[Arc<Column>], form: Form) {
        let mut named = vec![];
        walk(node, &mut |n| {
            if let Some(NodeEnum::ColumnRef(reference)) = &n.node
                && let Some((alias, name)) = qualified_column(reference)
            {
                // The row that is to be inserted, or was there before, has a name of its own.
                let is_version = |c: &Column| c.is_target && matches!(alias, "excluded" | "old" | "new");
                let is = |c: &&Arc<Column>| c.own == name && (c.alias.as_deref() == Some(alias) || is_version(c));
                named.extend(columns.iter().filter(is));
            }
        });
        self.note(named.into_iter(), node, form);
    }

    /// All values of an expression are told as those of these columns.
    fn note<'c>(&mut self, columns: impl Iterator<Item = &'c Arc<Column>>, expression: &Node, form: Form) {
        for column in columns {
            walk(expression, &mut |n| {
                if let Some(value) = n.node.as_ref().and_then(source) {
                    self.attributed.insert(value.clone());
                    self.add(column, value, form);
                }
            });
        }
    }

    fn add(&mut self, column: &Arc<Column>, value: Source, form: Form) {
        if self.seen.insert((Arc::as_ptr(column), value.clone())) {
            self.all.push(ClassedValue { column: column.clone(), value, form });
        }
    }

    /// By place: columns are named.
    fn inserted(&mut self, insert: &InsertStmt, columns: &[Arc<Column>]) {
        let Some(select) = select_of(insert) else { return };
        for (at, column) in insert.cols.iter().enumerate() {
            let Some(NodeEnum::ResTarget(target)) = &column.node else { continue };
            let own = || columns.iter().filter(|c| c.is_target && c.own == target.name);
            let rows = select.values_lists.iter().filter_map(|row| match &row.node {
                Some(NodeEnum::List(row)) => row.items.get(at),
                Some(_) | None => None,
            });
            rows.chain(select.target_list.get(at)).for_each(|value| self.note(own(), value, Form::One));
        }
    }

    /// Those that are no column's yet.
    fn others(&mut self, query: &Node, columns: &[Arc<Column>]) {
        let mut others = vec![];
        walk(query, &mut |n| others.extend(n.node.as_ref().and_then(source).filter(|value| !self.attributed.contains(value))));
        for value in others {
            columns.iter().for_each(|column| self.add(column, value.clone(), Form::Either));
        }
    }
}

fn select_of(insert: &InsertStmt) -> Option<&SelectStmt> {
    match insert.select_stmt.as_deref()?.node.as_ref()? {
        NodeEnum::SelectStmt(select) => Some(select),
        _ => None, // tidy: nothing else stands there
    }
}

/// Whether values can come to columns in no other way than by the expression that they stand in.
fn is_of_one_level(query: &Node) -> bool {
    let mut is = true;
    walk(query, &mut |node| match &node.node {
        Some(
            NodeEnum::SubLink(_)
            | NodeEnum::CommonTableExpr(_)
            | NodeEnum::RangeSubselect(_)
            | NodeEnum::RangeFunction(_)
            | NodeEnum::RangeTableFunc(_)
            | NodeEnum::JsonTable(_)
            | NodeEnum::MergeStmt(_)
            | NodeEnum::AIndirection(_),
        ) => is = false,
        Some(NodeEnum::JoinExpr(join)) => is &= join.using_clause.is_empty() && !join.is_natural,
        Some(NodeEnum::SelectStmt(select)) => is &= select.larg.is_none() && select.values_lists.is_empty(),
        // The rows of VALUES are met by their place.
        Some(NodeEnum::InsertStmt(insert)) => is &= insert.with_clause.is_none() && is_values(insert),
        Some(_) | None => {} // tidy: of one level
    });
    // INSERT .. VALUES has a SELECT of its own.
    is || matches!(&query.node, Some(NodeEnum::InsertStmt(insert)) if is_values(insert) && is_plain_insert(insert))
}

fn is_values(insert: &InsertStmt) -> bool {
    select_of(insert).is_none_or(|select| !select.values_lists.is_empty())
}

/// Whether what INSERT .. VALUES has besides its rows, and the rows themselves, are of one level.
fn is_plain_insert(insert: &InsertStmt) -> bool {
    let rows = select_of(insert).into_iter().flat_map(|select| &select.values_lists);
    let conflict = insert.on_conflict_clause.iter().flat_map(|c| c.target_list.iter().chain(c.where_clause.as_deref()));
    let returning = insert.returning_clause.iter().flat_map(|clause| &clause.exprs);
    let is_plain = insert.with_clause.is_none() && select_of(insert).is_none_or(|select| select.with_clause.is_none());
    is_plain && rows.chain(conflict).chain(returning).all(is_of_one_level)
}

/// Of relations that the statement names, and whether there are views among them, behind which any may be.
fn columns(analysis: &Analysis, policies: &PolicySet, catalog: &Catalog) -> (Vec<Arc<Column>>, bool) {
    let mut columns = vec![];
    let mut has_views = false;
    for rte in &analysis.rtes {
        let RteKind::Relation { oid, usage } = rte.kind else { continue };
        let Some(relation) = catalog.relation(oid) else { continue };
        has_views |= matches!(policies.policy_of(relation, catalog), Some(RelationPolicy::View));
        for (own, recording) in policies.recordings_of(relation, catalog) {
            columns.push(Arc::new(Column {
                name: format!("{}.{}.{own}", relation.schema, relation.name),
                alias: Some(rte.alias.clone()),
                is_target: usage != Usage::Select,
                own: own.to_owned(),
                type_oid: relation.column(own).map_or(0, |column| column.type_oid),
                recording: recording.clone(),
            }));
        }
    }
    if has_views {
        for (relation, own, recording) in policies.recordings(catalog) {
            let name = format!("{}.{}.{own}", relation.schema, relation.name);
            if columns.iter().all(|known: &Arc<Column>| known.name != name) {
                let type_oid = relation.column(own).map_or(0, |column| column.type_oid);
                let (own, recording) = (own.to_owned(), recording.clone());
                columns.push(Arc::new(Column { name, alias: None, is_target: false, own, type_oid, recording }));
            }
        }
    }
    (columns, has_views)
}

fn source(node: &NodeEnum) -> Option<Source> {
    match node {
        NodeEnum::ParamRef(parameter) => Some(Source::Parameter(u16::try_from(parameter.number).ok()?)),
        NodeEnum::AConst(constant) => Some(match sentinel::index_of_const(constant) {
            Some((index, sign)) => Source::Literal(index, sign == Sign::Minus),
            None => Source::Fixed(text_of(constant)?.into()),
        }),
        _ => None, // tidy: not a value by itself
    }
}

fn text_of(constant: &AConst) -> Option<String> {
    Some(match constant.val.as_ref()? {
        a_const::Val::Ival(i) => i.ival.to_string(),
        a_const::Val::Fval(f) => f.fval.clone(),
        a_const::Val::Sval(s) => s.sval.clone(),
        // There are two of them.
        a_const::Val::Boolval(_) => return None,
        // b101
        a_const::Val::Bsval(b) => b.bsval.get(1..)?.to_owned(),
    })
}

/// What an EXECUTE gives the parameters of its statement: the values in each argument's expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments(Vec<Vec<String>>);

impl Arguments {
    /// `execute`: one statement, as the client has sent it.
    pub fn of(execute: &str) -> Arguments {
        let Ok(tree) = parse::parse(execute) else { return Arguments::default() };
        let statement = tree.stmts.first().and_then(|raw| raw.stmt.as_ref()?.node.as_ref());
        let Some(NodeEnum::ExecuteStmt(execute)) = statement else { return Arguments::default() };
        let values = |argument: &Node| {
            let mut values = vec![];
            walk(argument, &mut |n| {
                if let Some(NodeEnum::AConst(constant)) = &n.node {
                    values.extend(text_of(constant));
                }
            });
            values
        };
        Arguments(execute.params.iter().map(values).collect())
    }
}

impl ClassedValue {
    /// What it is in one execution: nothing where it is NULL, and some where a list stands for one. `arguments`: of an EXECUTE.
    pub fn each<'v>(&'v self, values: &Values<'v>, arguments: &Arguments, put: &mut dyn FnMut(Classed<'v>)) {
        let mut put_one = |value| put(Classed { column: &self.column.name, recording: &self.column.recording, value });
        let mut put_text = |value: Cow<'v, [u8]>| {
            let elements = if self.form == Form::One { None } else { elements_of_text(&value) };
            if elements.is_none() || self.form == Form::Either {
                put_one(value);
            }
            elements.into_iter().flatten().for_each(|element| put_one(Cow::Owned(element)));
        };
        match &self.value {
            Source::Literal(index, negative) if usize::from(*index) < values.literals.len() => {
                let token = literal(values.source, values.literals, *index);
                each_value(token, *negative, &mut put_text);
            }
            Source::Literal(..) => {}
            Source::Fixed(text) => put_text(Cow::Borrowed(text.as_bytes())),
            Source::Parameter(number) => {
                let at = usize::from(*number).wrapping_sub(1);
                let given = arguments.0.get(at).into_iter().flatten();
                given.for_each(|value| put_text(Cow::Owned(value.clone().into_bytes())));
                let Parameters::Bound(bound) = values.parameters else { return };
                let Some((parameter, value)) = bound.get(at).and_then(|p| Some((p, p.value?))) else { return };
                if !parameter.binary {
                    return put_text(Cow::Borrowed(value));
                }
                let own = matches!(parameter.type_oid, 0 | oid::UNKNOWN);
                let type_oid = if own { self.column.type_oid } else { parameter.type_oid };
                match elements_of_binary(value).filter(|_| self.form != Form::One) {
                    Some(elements) => elements.into_iter().for_each(|element| put_one(Cow::Owned(element))),
                    None => put_one(Cow::Owned(in_text(value, type_oid))),
                }
            }
        }
    }
}

/// The values of a literal's token; the rest of a list after IN is one token: `'b', 'c'`.
fn each_value<'t>(token: &'t str, negative: bool, put: &mut dyn FnMut(Cow<'t, [u8]>)) {
    let mut plain = vec![];
    // Where strings go on over lines, or have escapes, their values are what PostgreSQL's scanner makes of them.
    let is_plain = !token.contains(['\\', '\n', '\r']) && split_plain(token, &mut plain);
    if is_plain {
        return plain.into_iter().for_each(|one| put(spelt(one, negative)));
    }
    let parsed = parse::parse(&format!("SELECT {token}")).ok();
    let select = parsed.as_ref().and_then(|tree| tree.stmts.first()?.stmt.as_ref()?.node.as_ref());
    let Some(NodeEnum::SelectStmt(select)) = select else { return put(Cow::Borrowed(token.as_bytes())) };
    for target in &select.target_list {
        walk(target, &mut |n| {
            if let Some(NodeEnum::AConst(constant)) = &n.node
                && let Some(text) = text_of(constant)
            {
                let text = if negative { format!("-{text}") } else { text };
                put(Cow::Owned(text.into_bytes()));
            }
        });
    }
}

/// Strings in plain quotes, and numbers, with commas between them. `false`: there is something else.
fn split_plain<'t>(token: &'t str, out: &mut Vec<&'t str>) -> bool {
    let mut rest = token;
    while let Some(from) = rest.find(|c: char| c != ',' && !c.is_ascii_whitespace()) {
        rest = &rest[from..];
        let length = match rest.as_bytes()[0] {
            b'\'' => end_of_string(rest),
            b'0'..=b'9' | b'.' => rest.find(|c: char| c == ',' || c.is_ascii_whitespace()).unwrap_or(rest.len()),
            _ => return false, // tidy: not a syntax kind
        };
        out.push(&rest[..length]);
        rest = &rest[length..];
    }
    true
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

/// A plain literal as its value is written where it is bound.
fn spelt(token: &str, negative: bool) -> Cow<'_, [u8]> {
    match token.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        Some(inside) if inside.contains('\'') => Cow::Owned(inside.replace("''", "'").into_bytes()),
        Some(inside) => Cow::Borrowed(inside.as_bytes()),
        None => {
            let is_integer = token.bytes().all(|b| b.is_ascii_digit());
            let digits = if is_integer { token.trim_start_matches('0') } else { token };
            let digits = if digits.is_empty() { "0" } else { digits };
            if negative { Cow::Owned(format!("-{digits}").into_bytes()) } else { Cow::Borrowed(digits.as_bytes()) }
        }
    }
}

/// The elements of `{a,"b c",NULL}`, in however many dimensions; `None`: it is no array.
fn elements_of_text(text: &[u8]) -> Option<Vec<Vec<u8>>> {
    let inside = text.strip_prefix(b"{")?.strip_suffix(b"}")?;
    let mut elements = vec![];
    let (mut element, mut quoted, mut was_quoted) = (vec![], false, false);
    let mut bytes = inside.iter().copied();
    let mut end = |element: &mut Vec<u8>, was_quoted: &mut bool| {
        let value = std::mem::take(element);
        let is_nothing = !std::mem::take(was_quoted) && (value.is_empty() || value.eq_ignore_ascii_case(b"null"));
        if !is_nothing {
            elements.push(value);
        }
    };
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => element.push(bytes.next()?),
            b'"' => {
                quoted = !quoted;
                was_quoted = true;
            }
            b',' | b'{' | b'}' if !quoted => end(&mut element, &mut was_quoted),
            other if !quoted && other.is_ascii_whitespace() && element.is_empty() => {}
            other => element.push(other),
        }
    }
    end(&mut element, &mut was_quoted);
    (!quoted).then_some(elements)
}

/// Of a binary array (array_send); `None`: it is none.
fn elements_of_binary(value: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut rest = value;
    let mut number = || {
        let (four, after) = rest.split_first_chunk()?;
        rest = after;
        Some(i32::from_be_bytes(*four))
    };
    let (dimensions, flags, element_type) = (number()?, number()?, number()?);
    if !(0..=6).contains(&dimensions) || !(0..=1).contains(&flags) {
        return None;
    }
    for _ in 0..dimensions {
        number()?;
        number()?;
    }
    let mut elements = vec![];
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk()?;
        // -1: NULL
        let (element, after) = match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => after.split_at_checked(length)?,
            Err(_) => (&[][..], after),
        };
        if i32::from_be_bytes(*length) >= 0 {
            elements.push(in_text(element, element_type as u32));
        }
        rest = after;
    }
    Some(elements)
}

/// A binary value as PostgreSQL prints it, where that is known; hexadecimal digits where it is not.
fn in_text(value: &[u8], type_oid: u32) -> Vec<u8> {
    const BOOL: u32 = 16;
    const JSON: [u32; 3] = [114, 142, 19];
    const JSONB: u32 = 3802;
    const DATE: u32 = 1082;
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let text = match (type_oid, value.len()) {
        (oid::INT2, 2) => i16::from_be_bytes([value[0], value[1]]).to_string(),
        (oid::INT4, 4) => value.try_into().map(i32::from_be_bytes).unwrap_or_default().to_string(),
        (oid::INT8, 8) => value.try_into().map(i64::from_be_bytes).unwrap_or_default().to_string(),
        (oid::UUID, 16) => {
            let all = hexadecimal(value);
            [&all[..8], &all[8..12], &all[12..16], &all[16..20], &all[20..]].join("-")
        }
        (BOOL, 1) => if value[0] == 0 { "f" } else { "t" }.to_owned(),
        // Days since 2000; before 1970, and infinity, as digits.
        (DATE, 4) => match u64::try_from(value.try_into().map_or(i64::MIN, |v| i64::from(i32::from_be_bytes(v)) + 10_957)) {
            Ok(days) if days < 3_000_000 => {
                let (year, month, day) = crate::calendar::date(days);
                format!("{year:04}-{month:02}-{day:02}")
            }
            Ok(_) | Err(_) => format!("\\x{}", hexadecimal(value)),
        },
        (oid::TEXT | oid::VARCHAR | oid::BPCHAR, _) => return value.to_vec(),
        (JSONB, 1..) => return value[1..].to_vec(),
        (known, _) if JSON.contains(&known) => return value.to_vec(),
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
            ("2, 3.5, .5, 007, 0", &["2", "3.5", ".5", "7", "0"]),
            ("E'a,b\\x41\\'c'", &["a,bA'c"]),
            ("'x', E'y\\n', $$z, 'z'$$", &["x", "y\n", "z, 'z'"]),
            ("$a$a, b$a$", &["a, b"]),
            ("U&'d\\0061t\\+000061'", &["data"]),
            ("U&'d!0061t!+000061' UESCAPE '!'", &["data"]),
            ("'a'\n  'b'", &["ab"]),
            ("B'101'", &["101"]),
            ("'c:\\dir'", &["c:\\dir"]),
        ] {
            let mut found = vec![];
            each_value(token, false, &mut |value| found.push(String::from_utf8(value.into_owned()).unwrap()));
            assert_eq!(found, expected, "{token}");
        }
        assert_eq!(*spelt("5", true), b"-5"[..]);
    }

    #[test]
    fn arguments_of_execute_are_told_each_as_its_parameter() {
        for (execute, expected) in [
            ("EXECUTE p('x', NULL)", &[&["x"][..], &[]][..]),
            ("EXECUTE p(NULL, 'p' || 'q')", &[&[], &["p", "q"]]),
            ("EXECUTE p(-5, ARRAY['x', 'y'], 'b'::varchar(5), true)", &[&["-5"], &["x", "y"], &["b"], &[]]),
            ("EXECUTE p", &[]),
            ("SELECT 1", &[]),
        ] {
            assert_eq!(Arguments::of(execute).0, expected, "{execute}");
        }
    }

    #[test]
    fn arrays_are_told_by_their_elements() {
        for (text, expected) in [
            ("{a,b}", Some(&["a", "b"][..])),
            ("{}", Some(&[])),
            ("{\"a, b\",NULL,\"null\",\"\"}", Some(&["a, b", "null", ""])),
            ("{{a, b},{\"c\\\"d\",e}}", Some(&["a", "b", "c\"d", "e"])),
            ("{a", None),
            ("a", None),
            ("{\"a}", None),
        ] {
            let found = elements_of_text(text.as_bytes())
                .map(|all| all.iter().map(|e| String::from_utf8(e.clone()).unwrap()).collect::<Vec<_>>());
            assert_eq!(
                found.as_deref(),
                expected.map(|e| e.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>()).as_deref(),
                "{text}"
            );
        }
        let number = |n: i32| n.to_be_bytes().to_vec();
        let array = [
            number(1),
            number(1),
            number(25),
            number(3),
            number(1),
            number(1),
            b"a".to_vec(),
            number(-1),
            number(2),
            b"bc".to_vec(),
        ];
        assert_eq!(elements_of_binary(&array.concat()), Some(vec![b"a".to_vec(), b"bc".to_vec()]));
        assert_eq!(elements_of_binary(&[0; 12]), Some(vec![]));
        assert_eq!(elements_of_binary(b"ann@example.com"), None);
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
            (&[1], 16, "t"),
            (&8_766i32.to_be_bytes(), 1082, "2024-01-01"),
            (b"\x01{}", 3802, "{}"),
        ] {
            assert_eq!(String::from_utf8(in_text(value, type_oid)).as_deref(), Ok(expected));
        }
    }
}
