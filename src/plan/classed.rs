//! Values that stand beside columns of a class that a policy wants told in the audit log: what such a column is compared with, is set
//! to, or is called with.
//!
//! It is not for isolation, but a value that is not told is one that nobody finds. In a statement of one level (tables, conditions, rows
//! of VALUES) a value is that of the columns which its expression names, or into which it is written. In any other, where a value may come
//! to a column by way of a sub-select, a list, a view, a whole row or another column, each value is told as that of all of them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use pg_query::protobuf::{AConst, InsertStmt, SelectStmt, a_const};
use pg_query::{Node, NodeEnum};
use smallvec::SmallVec;

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
use crate::sql::tree::{each_child, qualified_column, walk};
use crate::sql::types::oid;

/// Values, and the columns whose they are: each of the ones is that of each of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassedValues {
    columns: SmallVec<[Arc<Column>; 2]>,
    values: Box<[Source]>,
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

/// The values of a query of the client's. Looks at each of its nodes a few times, whatever it is.
pub(super) fn values(query: &Node, analysis: &Analysis, policies: &PolicySet, catalog: &Catalog) -> Box<[ClassedValues]> {
    let (columns, has_views) = columns(analysis, policies, catalog);
    if columns.is_empty() {
        return Box::default();
    }
    let mut found = Found { columns: &columns, groups: vec![], is_mixed: false };
    let has_whole_rows = analysis.rtes.iter().any(|rte| rte.whole_row);
    let is_of_one_level = !has_views && !has_whole_rows && is_of_one_level(query);
    let is_of_one_level = is_of_one_level || crate::mutant!("audit.values-of-one-level-only");
    if is_of_one_level {
        found.visit(query);
    }
    if is_of_one_level && !found.is_mixed {
        return found.groups.into();
    }
    let values = values_in(query);
    if values.is_empty() { Box::default() } else { Box::new([ClassedValues { columns: columns.into(), values }]) }
}

/// What stands where in a statement of one level.
struct Found<'c> {
    columns: &'c [Arc<Column>],
    groups: Vec<ClassedValues>,
    /// A column of a class meets another column: what that is compared with, or set to, may be a value of this one.
    is_mixed: bool,
}

impl Found<'_> {
    fn visit(&mut self, node: &Node) {
        match &node.node {
            Some(
                NodeEnum::AExpr(_)
                | NodeEnum::FuncCall(_)
                | NodeEnum::CaseExpr(_)
                | NodeEnum::CoalesceExpr(_)
                | NodeEnum::MinMaxExpr(_),
            ) => self.beside(node),
            // UPDATE, ON CONFLICT; an output column of the same name is told for nothing.
            Some(NodeEnum::ResTarget(target)) => {
                if let Some(value) = &target.val {
                    self.set(&target.name, value);
                    self.visit(value);
                }
            }
            Some(NodeEnum::InsertStmt(insert)) => {
                self.inserted(insert);
                each_child(node, &mut |child| self.visit(child));
            }
            Some(_) | None => each_child(node, &mut |child| self.visit(child)),
        }
    }

    /// An expression in which columns and values stand.
    fn beside(&mut self, expression: &Node) {
        let mut named: SmallVec<[bool; 16]> = SmallVec::from_elem(false, self.columns.len());
        let mut has_others = false;
        walk(expression, &mut |n| {
            if let Some(NodeEnum::ColumnRef(reference)) = &n.node {
                let Some((alias, name)) = qualified_column(reference) else { return has_others = true };
                let mut is_known = false;
                for (column, named) in self.columns.iter().zip(&mut named) {
                    let is = column.is(alias, name);
                    *named |= is;
                    is_known |= is;
                }
                has_others |= !is_known;
            }
        });
        let columns: SmallVec<[Arc<Column>; 2]> =
            self.columns.iter().zip(&named).filter(|(_, named)| **named).map(|(column, _)| column.clone()).collect();
        self.is_mixed |= !columns.is_empty() && (has_others || columns.len() > 1);
        self.note(columns, expression);
    }

    /// A column gets what stands there.
    fn set(&mut self, name: &str, value: &Node) {
        let columns: SmallVec<[Arc<Column>; 2]> = self.columns.iter().filter(|c| c.is_target && c.own == name).cloned().collect();
        walk(value, &mut |n| {
            if let Some(NodeEnum::ColumnRef(reference)) = &n.node {
                // What was to be inserted into the same column is told there.
                let is_own = qualified_column(reference).is_some_and(|(alias, own)| alias == "excluded" && own == name);
                let is_new = qualified_column(reference).is_some_and(|(alias, _)| alias == "excluded");
                self.is_mixed |= !is_own && (is_new || !columns.is_empty());
            }
        });
        self.note(columns, value);
    }

    fn note(&mut self, columns: SmallVec<[Arc<Column>; 2]>, expression: &Node) {
        if !columns.is_empty() {
            let values = values_in(expression);
            if !values.is_empty() {
                self.groups.push(ClassedValues { columns, values });
            }
        }
    }

    /// By place: columns are named.
    fn inserted(&mut self, insert: &InsertStmt) {
        let Some(select) = select_of(insert) else { return };
        for (at, column) in insert.cols.iter().enumerate() {
            let Some(NodeEnum::ResTarget(target)) = &column.node else { continue };
            let columns: SmallVec<[Arc<Column>; 2]> =
                self.columns.iter().filter(|c| c.is_target && c.own == target.name).cloned().collect();
            if columns.is_empty() {
                continue;
            }
            let mut values = vec![];
            for row in &select.values_lists {
                if let Some(NodeEnum::List(row)) = &row.node
                    && let Some(value) = row.items.get(at)
                {
                    values.extend(values_in(value));
                }
            }
            if !values.is_empty() {
                self.groups.push(ClassedValues { columns, values: values.into() });
            }
        }
        // A condition on what was to be inserted.
        let conditions = insert.on_conflict_clause.iter().filter_map(|conflict| conflict.where_clause.as_deref());
        conditions.for_each(|condition| {
            walk(condition, &mut |n| {
                if let Some(NodeEnum::ColumnRef(reference)) = &n.node {
                    let is_classed = |name: &str| self.columns.iter().any(|c| c.own == name);
                    self.is_mixed |=
                        qualified_column(reference).is_some_and(|(alias, own)| alias == "excluded" && !is_classed(own));
                }
            });
        });
    }
}

impl Column {
    fn is(&self, alias: &str, name: &str) -> bool {
        // The row that is to be inserted, or was there before, has a name of its own.
        let is_version = || self.is_target && matches!(alias, "excluded" | "old" | "new");
        self.own == name && (self.alias.as_deref() == Some(alias) || is_version())
    }
}

/// All of them, each once.
fn values_in(node: &Node) -> Box<[Source]> {
    let mut seen = HashSet::new();
    let mut values = vec![];
    walk(node, &mut |n| {
        if let Some(value) = n.node.as_ref().and_then(source)
            && seen.insert(value.clone())
        {
            values.push(value);
        }
    });
    values.into()
}

fn select_of(insert: &InsertStmt) -> Option<&SelectStmt> {
    match insert.select_stmt.as_deref()?.node.as_ref()? {
        NodeEnum::SelectStmt(select) => Some(select),
        _ => None, // tidy: nothing else stands there
    }
}

/// Whether values can come to columns in no other way than by the expression that they stand in.
fn is_of_one_level(query: &Node) -> bool {
    match &query.node {
        // Its rows are met by their place.
        Some(NodeEnum::InsertStmt(insert)) => is_values(insert) && is_plain_insert(insert),
        Some(_) | None => has_one_level(query),
    }
}

/// Kinds of which that is known: whatever else stands in it, all is told of all.
fn has_one_level(node: &Node) -> bool {
    let mut is = true;
    walk(node, &mut |node| match &node.node {
        Some(
            NodeEnum::UpdateStmt(_)
            | NodeEnum::DeleteStmt(_)
            | NodeEnum::ResTarget(_)
            | NodeEnum::MultiAssignRef(_)
            | NodeEnum::RangeVar(_)
            | NodeEnum::ColumnRef(_)
            | NodeEnum::ParamRef(_)
            | NodeEnum::AConst(_)
            | NodeEnum::AExpr(_)
            | NodeEnum::AArrayExpr(_)
            | NodeEnum::BoolExpr(_)
            | NodeEnum::BooleanTest(_)
            | NodeEnum::NullTest(_)
            | NodeEnum::CaseExpr(_)
            | NodeEnum::CaseWhen(_)
            | NodeEnum::CoalesceExpr(_)
            | NodeEnum::MinMaxExpr(_)
            | NodeEnum::RowExpr(_)
            | NodeEnum::FuncCall(_)
            | NodeEnum::NamedArgExpr(_)
            | NodeEnum::SqlvalueFunction(_)
            | NodeEnum::SetToDefault(_)
            | NodeEnum::TypeCast(_)
            | NodeEnum::TypeName(_)
            | NodeEnum::CollateClause(_)
            | NodeEnum::SortBy(_)
            | NodeEnum::WindowDef(_)
            | NodeEnum::LockingClause(_)
            | NodeEnum::List(_)
            | NodeEnum::AStar(_)
            | NodeEnum::String(_)
            | NodeEnum::Integer(_),
        )
        | None => {}
        Some(NodeEnum::JoinExpr(join)) => is &= join.using_clause.is_empty() && !join.is_natural,
        Some(NodeEnum::SelectStmt(select)) => is &= select.larg.is_none() && select.values_lists.is_empty(),
        Some(_) => is = false,
    });
    is
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
    // Versions of the row may have other names there.
    let has_names = insert.returning_clause.iter().any(|clause| !clause.options.is_empty());
    is_plain && !has_names && rows.chain(conflict).chain(returning).all(has_one_level)
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

impl ClassedValues {
    /// What they are in one execution: nothing where one is NULL, and some where a list or an array stands for one. `arguments`: of
    /// an EXECUTE.
    pub fn each<'v>(&'v self, values: &Values<'v>, arguments: &Arguments, put: &mut dyn FnMut(Classed<'v>)) {
        for source in &self.values {
            for column in &self.columns {
                source.each(column, values, arguments, &mut |value| {
                    put(Classed { column: &column.name, recording: &column.recording, value });
                });
            }
        }
    }

    /// About how many bytes they take.
    pub(super) fn size(&self) -> usize {
        size_of::<ClassedValues>() + size_of_val(&*self.values)
    }
}

impl Source {
    fn each<'v>(&'v self, column: &Column, values: &Values<'v>, arguments: &Arguments, put_one: &mut dyn FnMut(Cow<'v, [u8]>)) {
        // An array is told whole, for columns of arrays, and by its elements.
        let mut put_text = |value: Cow<'v, [u8]>| {
            let elements = elements_of_text(&value);
            put_one(value);
            elements.into_iter().flatten().for_each(|element| put_one(Cow::Owned(element)));
        };
        match self {
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
                let type_oid = if own { column.type_oid } else { parameter.type_oid };
                match elements_of_binary(value) {
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
    const FLOATS: (u32, u32) = (700, 701);
    const NUMERIC: u32 = 1700;
    const TIMESTAMPS: [u32; 2] = [1114, 1184];
    let hexadecimal = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let hex = || format!("\\x{}", hexadecimal(value));
    let text = match (type_oid, value.len()) {
        (oid::INT2, 2) => i16::from_be_bytes([value[0], value[1]]).to_string(),
        (oid::INT4, 4) => value.try_into().map(i32::from_be_bytes).unwrap_or_default().to_string(),
        (oid::INT8, 8) => value.try_into().map(i64::from_be_bytes).unwrap_or_default().to_string(),
        (oid::UUID, 16) => {
            let all = hexadecimal(value);
            [&all[..8], &all[8..12], &all[12..16], &all[16..20], &all[20..]].join("-")
        }
        (BOOL, 1) => if value[0] == 0 { "f" } else { "t" }.to_owned(),
        (kind, 4) if kind == FLOATS.0 => value.try_into().map(f32::from_be_bytes).unwrap_or_default().to_string(),
        (kind, 8) if kind == FLOATS.1 => value.try_into().map(f64::from_be_bytes).unwrap_or_default().to_string(),
        (NUMERIC, 8..) => numeric(value).unwrap_or_else(hex),
        // Days since 2000.
        (DATE, 4) => date(value.try_into().map(i32::from_be_bytes).unwrap_or_default().into()).unwrap_or_else(hex),
        (kind, 8) if TIMESTAMPS.contains(&kind) => {
            timestamp(value.try_into().map(i64::from_be_bytes).unwrap_or_default(), kind).unwrap_or_else(hex)
        }
        (oid::TEXT | oid::VARCHAR | oid::BPCHAR, _) => return value.to_vec(),
        (JSONB, 1..) => return value[1..].to_vec(),
        (known, _) if JSON.contains(&known) => return value.to_vec(),
        _ => hex(), // tidy: not a syntax kind
    };
    text.into_bytes()
}

/// `2024-01-31`, of days since 2000. `None`: before 1970, or too late for a date.
fn date(days: i64) -> Option<String> {
    const SINCE_1970: i64 = 10_957;
    let days = u64::try_from(days + SINCE_1970).ok().filter(|days| *days < 3_000_000)?;
    let (year, month, day) = crate::calendar::date(days);
    Some(format!("{year:04}-{month:02}-{day:02}"))
}

/// `2024-01-31 23:59:59.5+00`: microseconds since 2000, in UTC.
fn timestamp(micros: i64, type_oid: u32) -> Option<String> {
    const DAY: i64 = 86_400_000_000;
    let (days, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let fraction = if fraction == 0 { String::new() } else { format!(".{fraction:06}").trim_end_matches('0').to_owned() };
    let zone = if type_oid == 1184 { "+00" } else { "" };
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(format!("{} {hour:02}:{minute:02}:{second:02}{fraction}{zone}", date(days)?))
}

/// numeric_send: digits to the base of 10,000. `None`: NaN, infinity, or not one.
fn numeric(value: &[u8]) -> Option<String> {
    let mut words = value.chunks_exact(2).map(|two| i16::from_be_bytes([two[0], two[1]]));
    let (count, weight, sign, scale) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let digits: Vec<i16> = words.collect();
    if usize::try_from(count).ok()? != digits.len() || !(sign == 0 || sign == 0x4000) || !(0..=16_383).contains(&scale) {
        return None;
    }
    let digit = |place: i32| usize::try_from(i32::from(weight) - place).ok().and_then(|at| digits.get(at)).copied().unwrap_or(0);
    let whole: String = (0..=i32::from(weight.max(0))).rev().map(|place| format!("{:04}", digit(place))).collect();
    let whole = whole.trim_start_matches('0');
    let scale = usize::try_from(scale).ok()?;
    let groups = scale.div_ceil(4) as i32;
    let fraction: String = (1..=groups).map(|place| format!("{:04}", digit(-place))).collect();
    let minus = if sign == 0 { "" } else { "-" };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if scale == 0 { "" } else { "." };
    Some(format!("{minus}{whole}{point}{}", &fraction[..scale]))
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
            (&[0, 2, 0, 0, 0, 0, 0, 2, 0, 12, 0x13, 0x88], 1700, "12.50"),
            (&[0, 1, 0xff, 0xff, 0x40, 0, 0, 3, 0, 10], 1700, "-0.001"),
            (&[0, 2, 0, 1, 0, 0, 0, 0, 0, 1, 0, 5], 1700, "10005"),
            (&[0, 0, 0, 0, 0, 0, 0, 0], 1700, "0"),
            (&2.5f64.to_be_bytes(), 701, "2.5"),
            (&757_382_400_500_000i64.to_be_bytes(), 1184, "2024-01-01 00:00:00.5+00"),
            (&(-10_958i32).to_be_bytes(), 1082, "\\xffffd532"),
        ] {
            assert_eq!(String::from_utf8(in_text(value, type_oid)).as_deref(), Ok(expected));
        }
    }
}
