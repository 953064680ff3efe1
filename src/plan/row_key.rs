//! Which row a statement reads or writes, where the primary key in its condition tells: another row's change is none of its own.

use std::hash::{DefaultHasher, Hash, Hasher};

use pg_query::protobuf::{
    AConst, BoolExprType, ColumnRef, InsertStmt, OnConflictAction, OnConflictClause, OverridingKind, RangeVar, SelectStmt,
    TypeCast, a_const,
};
use pg_query::{Node, NodeEnum};

use super::cached::{is_built_in, is_own_type, name_of};
use super::quiet::is_equality;
use super::{Literals, Parameters, literal, tenant};
use crate::catalog::{Catalog, Column, FIRST_NORMAL, Relation, UniqueKey};
use crate::policy::PolicySet;
use crate::policy::epoch::RelationPolicy;
use crate::principal::Tenant;
use crate::sql::sentinel::{self, Sign};
use crate::sql::tree::{as_string, qualified_column, walk};
use crate::sql::types::oid;

/// The row of a tenant whose primary key is this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowKey {
    /// Of the key's columns in order, the tenant's left out.
    parts: Box<[Part]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    kind: Kind,
    value: Value,
    /// pg_type.oid of the column, or of the cast: what a parameter of no declared type is.
    type_oid: u32,
}

/// Types of which equal values have one spelling here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Text,
    Uuid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// Of the template.
    Literal { index: u16, sign: Sign },
    /// From 1. `alone`: it stands nowhere else, so that nothing else decides its type.
    Parameter { number: u16, alone: bool },
}

/// Where the values of one execution stand.
#[derive(Clone, Copy, Debug)]
pub struct Values<'a> {
    pub source: &'a str,
    pub literals: &'a Literals,
    pub parameters: Parameters<'a>,
}

impl Kind {
    fn of(type_oid: u32) -> Option<Kind> {
        match type_oid {
            oid::INT2 | oid::INT4 | oid::INT8 => Some(Kind::Integer),
            oid::TEXT | oid::VARCHAR => Some(Kind::Text),
            oid::UUID => Some(Kind::Uuid),
            _ => None, // tidy: not a syntax kind
        }
    }

    /// Equal values alike; `None`: it is spelt in a way of which it is not known what it equals.
    fn hash_text(self, text: &[u8], sign: Sign, hasher: &mut DefaultHasher) -> Option<()> {
        match self {
            Kind::Integer => {
                let digits = text.strip_prefix(b"-");
                let negative = digits.is_some() != (sign == Sign::Minus);
                let digits = digits.unwrap_or(text);
                // All of them fit.
                if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
                    return None;
                }
                let value = digits.iter().fold(0i64, |v, d| v * 10 + i64::from(d - b'0'));
                if negative { -value } else { value }.hash(hasher);
            }
            // A quote is two in a literal.
            Kind::Text if text.contains(&b'\'') => return None,
            Kind::Text => text.hash(hasher),
            Kind::Uuid => {
                tenant::is_canonical_uuid(text).then_some(())?;
                let digits = text.iter().filter(|b| **b != b'-');
                digits.fold(0u128, |v, d| v << 4 | u128::from((*d as char).to_digit(16).unwrap_or_default())).hash(hasher);
            }
        }
        Some(())
    }
}

impl RowKey {
    /// A number for the row, the same in all processes; `None`: a value is spelt in a way of which it is not known what it equals.
    pub fn hash(&self, values: &Values<'_>) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        for part in &self.parts {
            part.hash(values, &mut hasher)?;
        }
        Some(hasher.finish())
    }

    /// Of the one table in FROM, or the target, that `condition` holds for.
    pub(super) fn in_condition(
        range: &RangeVar,
        condition: Option<&Node>,
        tree: &Node,
        tenant_column: &str,
        catalog: &Catalog,
    ) -> Option<RowKey> {
        let (relation, key) = keyed(range, catalog)?;
        let alias = name_of(range)?;
        let mut found = vec![];
        let mut equality = |reference: &ColumnRef, other: &Node| {
            if let Some((table, name)) = qualified_column(reference)
                && table == alias
                && let Some(part) = Part::of(relation, name, other, tree, catalog)
            {
                found.push((name.to_owned(), part));
            }
        };
        each_equality(condition?, catalog, &mut equality);
        RowKey::of(relation, key, tenant_column, &|name| found.iter().find(|(n, _)| n == name).map(|(_, part)| *part))
    }

    /// Of the one row that is inserted.
    pub(super) fn of_insert(insert: &InsertStmt, tree: &Node, tenant_column: &str, catalog: &Catalog) -> Option<RowKey> {
        let (relation, key) = keyed(insert.relation.as_ref()?, catalog)?;
        // What is supplied for the column may not be what it gets.
        if insert.r#override == OverridingKind::OverridingUserValue as i32 && !crate::mutant!("cache.overridden-keys") {
            return None;
        }
        let Some(NodeEnum::SelectStmt(select)) = &insert.select_stmt.as_deref()?.node else { return None };
        let [Node { node: Some(NodeEnum::List(row)) }] = select.values_lists.as_slice() else { return None };
        let value = |name: &str| {
            let named = |c: &Node| matches!(&c.node, Some(NodeEnum::ResTarget(t)) if t.name == name && t.indirection.is_empty());
            let value = row.items.get(insert.cols.iter().position(named)?)?;
            // varchar(3) makes 'abc' of 'abc '.
            relation
                .column(name)
                .filter(|c| c.type_oid != oid::VARCHAR || c.typmod == -1 || crate::mutant!("cache.rows-cut-short"))?;
            Part::of(relation, name, value, tree, catalog)
        };
        RowKey::of(relation, key, tenant_column, &value)
    }

    fn of(relation: &Relation, key: &UniqueKey, tenant: &str, part: &dyn Fn(&str) -> Option<Part>) -> Option<RowKey> {
        let columns = key.columns.iter().map(|number| relation.columns.iter().find(|c| c.number == *number));
        let others = columns.filter(|column| column.is_none_or(|c| c.name != tenant));
        Some(RowKey { parts: others.map(|column| part(&column?.name)).collect::<Option<_>>()? })
    }
}

/// What a key's column is told apart by.
fn kind_of(column: &Column) -> Option<Kind> {
    let kind = Kind::of(column.type_oid)?;
    // 'a' may equal 'A': all collations that come with PostgreSQL are deterministic.
    let may_be_loose = kind == Kind::Text && column.collation >= FIRST_NORMAL;
    (!may_be_loose || crate::mutant!("cache.rows-of-any-collation")).then_some(kind)
}

impl Part {
    /// `value`: what the column is compared with, or gets.
    fn of(relation: &Relation, column: &str, value: &Node, tree: &Node, catalog: &Catalog) -> Option<Part> {
        let column = relation.column(column)?;
        let kind = kind_of(column)?;
        let (value, type_oid) = match value.node.as_ref()? {
            NodeEnum::TypeCast(cast) => (cast.arg.as_deref()?.node.as_ref()?, type_of(cast, catalog)?),
            other => (other, column.type_oid), // tidy: what is neither a constant nor a parameter is none below
        };
        let value = match value {
            NodeEnum::AConst(constant) => Value::of_constant(constant)?,
            NodeEnum::ParamRef(p) => {
                let number = u16::try_from(p.number).ok()?;
                let mut times = 0;
                walk(tree, &mut |n| times += u32::from(matches!(&n.node, Some(NodeEnum::ParamRef(o)) if o.number == p.number)));
                Value::Parameter { number, alone: times == 1 }
            }
            _ => return None, // tidy: what is not named tells no row
        };
        (Kind::of(type_oid) == Some(kind)).then_some(Part { kind, value, type_oid })
    }

    fn hash(&self, values: &Values<'_>, hasher: &mut DefaultHasher) -> Option<()> {
        match self.value {
            Value::Literal { index, sign } => {
                let token = values.literals.get(usize::from(index)).map(|_| literal(values.source, values.literals, index))?;
                if token.starts_with('\'') {
                    let inside = sentinel::is_plain_string(token).then(|| token.get(1..token.len() - 1)).flatten()?;
                    self.kind.hash_text(inside.as_bytes(), Sign::Plus, hasher)
                } else if self.kind == Kind::Integer {
                    self.kind.hash_text(token.as_bytes(), sign, hasher)
                } else {
                    None
                }
            }
            Value::Parameter { number, alone } => {
                let Parameters::Bound(bound) = values.parameters else { return None };
                let parameter = bound.get(usize::from(number).checked_sub(1)?)?;
                let type_oid = match parameter.type_oid {
                    0 | oid::UNKNOWN if alone => self.type_oid,
                    declared => declared,
                };
                (Kind::of(type_oid) == Some(self.kind)).then_some(())?;
                match parameter.binary {
                    false => self.kind.hash_text(parameter.value?, Sign::Plus, hasher),
                    true => self.hash_binary(parameter.value?, type_oid, hasher),
                }
            }
        }
    }

    fn hash_binary(&self, value: &[u8], type_oid: u32, hasher: &mut DefaultHasher) -> Option<()> {
        match self.kind {
            Kind::Integer => match type_oid {
                oid::INT2 => i64::from(i16::from_be_bytes(value.try_into().ok()?)),
                oid::INT4 => i64::from(i32::from_be_bytes(value.try_into().ok()?)),
                oid::INT8 => i64::from_be_bytes(value.try_into().ok()?),
                _ => return None, // tidy: not a syntax kind
            }
            .hash(hasher),
            Kind::Text => return self.kind.hash_text(value, Sign::Plus, hasher),
            Kind::Uuid => u128::from_be_bytes(value.try_into().ok()?).hash(hasher),
        }
        Some(())
    }
}

impl Value {
    fn of_constant(constant: &AConst) -> Option<Value> {
        match constant.val.as_ref()? {
            a_const::Val::Ival(_) | a_const::Val::Fval(_) | a_const::Val::Sval(_) => {
                let (index, sign) = sentinel::index_of_const(constant)?;
                Some(Value::Literal { index, sign })
            }
            a_const::Val::Boolval(_) | a_const::Val::Bsval(_) => None,
        }
    }
}

/// A row that has changed, as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedRow {
    /// Its family's root.
    pub family: u32,
    /// `None`: it may be anyone's.
    pub tenant: Option<Tenant>,
    /// As [`RowKey::hash`]; `None`: it is not known which.
    pub row: Option<u64>,
}

impl ChangedRow {
    /// Of a relation; `value`: by column, in text as PostgreSQL prints it.
    pub fn of<'v>(
        relation: u32,
        catalog: &Catalog,
        policies: &PolicySet,
        value: &dyn Fn(&str) -> Option<&'v [u8]>,
    ) -> Option<ChangedRow> {
        let family = catalog.family(relation)?.root;
        let column = match policies.policy_of(catalog.relation(relation)?, catalog) {
            Some(RelationPolicy::Tenant(policy)) => Some(policy.column.as_str()),
            Some(RelationPolicy::Shared | RelationPolicy::View | RelationPolicy::Denied) | None => None,
        };
        let tenant = column.and_then(value).and_then(|text| std::str::from_utf8(text).ok());
        let row = column.and_then(|column| hash_of_row(catalog.relation(family)?, column, catalog, value));
        Some(ChangedRow { family, tenant: tenant.map(|tenant| Tenant(tenant.into())), row })
    }
}

fn hash_of_row<'v>(
    root: &Relation,
    tenant_column: &str,
    catalog: &Catalog,
    value: &dyn Fn(&str) -> Option<&'v [u8]>,
) -> Option<u64> {
    let key = key_of(root, catalog)?;
    let mut hasher = DefaultHasher::new();
    for number in &key.columns {
        let column = root.columns.iter().find(|c| c.number == *number)?;
        if column.name != tenant_column {
            kind_of(column)?.hash_text(value(&column.name)?, Sign::Plus, &mut hasher)?;
        }
    }
    Some(hasher.finish())
}

/// A table all of whose rows of one key are this one: the root of its family, and its primary key.
fn keyed<'c>(range: &RangeVar, catalog: &'c Catalog) -> Option<(&'c Relation, &'c UniqueKey)> {
    let relation = catalog.relation_named(&range.schemaname, &range.relname)?;
    Some((relation, key_of(relation, catalog)?))
}

fn key_of<'c>(relation: &'c Relation, catalog: &Catalog) -> Option<&'c UniqueKey> {
    let is_root = catalog.family(relation.oid)?.root == relation.oid;
    let is_whole = crate::mutant!("cache.rows-of-heirs") || relation.kind == 'p' || catalog.children(relation.oid).is_empty();
    let key = relation.unique_keys.iter().find(|key| key.primary)?;
    (is_root && is_whole).then_some(key)
}

/// ANDs of `column = value`, and whatever else narrows it.
fn each_equality<'n>(condition: &'n Node, catalog: &Catalog, found: &mut dyn FnMut(&'n ColumnRef, &'n Node)) {
    match &condition.node {
        Some(NodeEnum::BoolExpr(b)) if b.boolop == BoolExprType::AndExpr as i32 || crate::mutant!("cache.rows-by-or") => {
            b.args.iter().for_each(|arg| each_equality(arg, catalog, found));
        }
        Some(NodeEnum::AExpr(e)) if is_equality(e) && is_built_in(&e.name, catalog).is_ok() => {
            let (Some(left), Some(right)) = (e.lexpr.as_deref(), e.rexpr.as_deref()) else { return };
            match (&left.node, &right.node) {
                (Some(NodeEnum::ColumnRef(column)), _) => found(column, right),
                (_, Some(NodeEnum::ColumnRef(column))) => found(column, left),
                (_, _) => {}
            }
        }
        // It may be anything, and makes no more rows.
        Some(_) | None => {}
    }
}

/// A cast to a type that has no length.
fn type_of(cast: &TypeCast, catalog: &Catalog) -> Option<u32> {
    let name = cast.type_name.as_ref()?;
    if !name.typmods.is_empty() || !name.array_bounds.is_empty() || name.setof {
        return None;
    }
    let name = match name.names.as_slice() {
        [schema, name] if as_string(schema) == Some("pg_catalog") => as_string(name)?,
        [name] => as_string(name).filter(|name| !is_own_type(name, catalog))?,
        _ => return None, // tidy: not a syntax kind
    };
    Some(catalog.type_named("pg_catalog", name)?.oid)
}

/// Whether rows of the answer are rows of the table, so that there is one where there is one.
pub(super) fn shows_its_row(select: &SelectStmt) -> bool {
    let [Node { node: Some(NodeEnum::RangeVar(_)) }] = select.from_clause.as_slice() else { return false };
    let mut calls = false;
    for target in &select.target_list {
        walk(target, &mut |n| calls |= matches!(&n.node, Some(NodeEnum::FuncCall(_))));
    }
    // An aggregate has a row where there is none.
    !calls && select.group_clause.is_empty() && select.having_clause.is_none() && select.larg.is_none()
}

/// Whether assignments leave all of these columns as they are.
pub(super) fn leaves(assigned: &[Node], columns: &[&str], relation: &Relation) -> bool {
    // What is computed changes with what it is computed from.
    let computed = columns.iter().any(|c| relation.column(c).is_none_or(|c| c.generated));
    if computed && !crate::mutant!("cache.computed-keys-stay") {
        return false;
    }
    assigned.iter().all(|a| matches!(&a.node, Some(NodeEnum::ResTarget(t)) if !columns.contains(&t.name.as_str())))
}

/// The names of a table's primary key's columns, or of all its unique keys'.
pub(super) fn columns_of_keys(relation: &Relation, primary: bool) -> Vec<&str> {
    let keys = relation.unique_keys.iter().filter(|key| key.primary || !primary);
    let numbers: Vec<i16> = keys.flat_map(|key| key.columns.iter().copied()).collect();
    relation.columns.iter().filter(|c| numbers.contains(&c.number)).map(|c| c.name.as_str()).collect()
}

/// Whether what conflicts can only be the row of the same primary key, and stays it.
pub(super) fn stays_in_its_row(conflict: &OnConflictClause, relation: &Relation) -> bool {
    if conflict.action != OnConflictAction::OnconflictUpdate as i32 {
        return true;
    }
    // A condition may infer an index of some rows only, of another collation.
    if conflict.infer.as_ref().is_some_and(|infer| infer.where_clause.is_some()) {
        return false;
    }
    let key = columns_of_keys(relation, true);
    let inferred: Vec<&str> = (conflict.infer.iter().flat_map(|infer| &infer.index_elems))
        .filter_map(|e| match &e.node {
            Some(NodeEnum::IndexElem(e)) => Some(e.name.as_str()),
            Some(_) | None => None,
        })
        .collect();
    // Another index of the same columns may have another collation.
    let primary = relation.unique_keys.iter().find(|k| k.primary);
    let is_same = |k: &&UniqueKey| {
        primary.is_some_and(|p| p.columns.iter().all(|c| k.columns.contains(c)) && p.columns.len() == k.columns.len())
    };
    if relation.unique_keys.iter().filter(is_same).count() != 1 && !crate::mutant!("cache.any-index-of-the-key") {
        return false;
    }
    inferred.len() == key.len() && key.iter().all(|c| inferred.contains(c)) && leaves(&conflict.target_list, &key, relation)
}
