//! Look-ups of one row by a unique key, as the simple protocol sends them, literals in the text. Servers take half the time for
//! them as prepared statements with the literals bound. That keeps the meaning, and the plan:
//!
//! - an integer literal is an int4 or an int8 to PostgreSQL (`make_const`), and so is the parameter declared as such; a string
//!   compared with a text, varchar or uuid takes the type that the parameter is declared with (`oper`, of one unknown operand);
//! - no value that is sent can be refused as one of its type, so that no error is another one, or has another place;
//! - nothing in the text is read at another time (`'now'`): it has no literals left but these;
//! - the key is unique, so the plan for any value is the plan for this one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::BytesMut;
use pg_query::protobuf::{
    AConst, BoolExprType, ColumnRef, LimitOption, ParseResult, RangeVar, SelectStmt, SetOperation, a_const,
};
use pg_query::{Node, NodeEnum};
use smallvec::SmallVec;

use super::quiet::is_equality;
use super::{Literals, Plan, Segment, TenantType, Upstream, literal, tenant};
use crate::catalog::{Catalog, Relation, UniqueKey};
use crate::principal::Tenant;
use crate::sql::sentinel::{self, Kind, Sign};
use crate::sql::tree::qualified_column;
use crate::sql::types::oid;
use crate::wire::frontend::{self, Target};

/// A look-up by a unique key.
#[derive(Debug)]
pub struct Lookup {
    upstream: Upstream,
    /// What the parameters stand for, in order; the tenant's comes after them.
    values: Box<[Value]>,
    /// How often it was asked for, up to [`OFTEN`].
    uses: AtomicU32,
}

/// A statement that was asked for so often will be asked for again: preparing it pays.
const OFTEN: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    /// Of the client's text.
    literal: u16,
    type_: ValueType,
}

/// What a literal is bound as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ValueType {
    Int4,
    Int8,
    Text,
    Uuid,
}

impl ValueType {
    /// pg_type.oid
    fn oid(self) -> u32 {
        match self {
            ValueType::Int4 => oid::INT4,
            ValueType::Int8 => oid::INT8,
            ValueType::Text => oid::TEXT,
            ValueType::Uuid => oid::UUID,
        }
    }

    /// What a string is when it is compared with a column of this type (pg_type.oid): text, varchar or uuid.
    fn of_string(column: u32) -> Option<ValueType> {
        if column == oid::UUID {
            return Some(ValueType::Uuid);
        }
        matches!(column, oid::TEXT | oid::VARCHAR).then_some(ValueType::Text)
    }
}

/// How often it was asked for does not matter to what it is.
impl PartialEq for Lookup {
    fn eq(&self, other: &Self) -> bool {
        self.upstream == other.upstream && self.values == other.values
    }
}

impl Eq for Lookup {}

impl Lookup {
    /// Of a plan that has its segments; `tree` is what they were cut from.
    pub(super) fn of(tree: &ParseResult, plan: &Plan, catalog: &Catalog) -> Option<Lookup> {
        let [statement] = tree.stmts.as_slice() else { return None };
        let Some(NodeEnum::SelectStmt(select)) = &statement.stmt.as_deref()?.node else { return None };
        if plan.parameters > 0 || plan.hides_rows || !plan.obligations.is_empty() || !plan.advances.is_empty() {
            return None;
        }
        let types = Found::in_select(select, catalog)?.types;
        let mut values: Vec<Value> = vec![];
        for segment in &plan.segments {
            if let Segment::Literal(i) = segment
                && !values.iter().any(|v| v.literal == *i)
            {
                values.push(Value { literal: *i, type_: *types.get(i)? });
            }
        }
        if values.is_empty() || values.len() != types.len() {
            return None;
        }
        let mut text = BytesMut::new();
        plan.write_lookup(&|i| values.iter().position(|v| v.literal == i), values.len(), &mut text)?;
        let mut oids: Vec<u32> = values.iter().map(|v| v.type_.oid()).collect();
        if plan.has_tenant_parameter() {
            oids.push(plan.tenant_parameter_type());
        }
        let upstream = Upstream::new(text.freeze(), &oids, &[]);
        Some(Lookup { upstream, values: values.into(), uses: AtomicU32::new(0) })
    }

    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    pub(super) fn size(&self) -> usize {
        self.upstream.text.len() + self.upstream.name.len() + self.values.len() * size_of::<Value>()
    }

    /// Whether it has been asked for often enough; it is asked for once more.
    pub(super) fn is_frequent(&self) -> bool {
        self.uses.load(Ordering::Relaxed) >= OFTEN || {
            self.uses.fetch_add(1, Ordering::Relaxed);
            false
        }
    }

    /// See [`super::Bound::write_lookup`].
    pub(super) fn write(&self, source: &str, literals: &Literals, tenant: Option<&Tenant>, out: &mut BytesMut) -> bool {
        let token = |v: &Value| literal(source, literals, v.literal);
        let any = crate::mutant!("lookup.values-of-any-form");
        if !any && !self.values.iter().all(|v| can_be_bound(token(v), v.type_)) {
            return false;
        }
        let mut values: SmallVec<[Cow<'_, [u8]>; 4]> = self.values.iter().map(|v| value_of(token(v), v.type_)).collect();
        values.extend(tenant.map(|tenant| Cow::Borrowed(tenant.0.as_bytes())));
        frontend::put_bind_text(out, &self.upstream.name, values.into_iter());
        frontend::put_describe(out, Target::Portal(""));
        frontend::put_execute(out, "", 0);
        frontend::put_sync(out);
        true
    }
}

/// Whether the token's value is the contents of its quotes, and one that no input function refuses.
fn can_be_bound(token: &str, type_: ValueType) -> bool {
    match type_ {
        ValueType::Int4 | ValueType::Int8 => !token.is_empty() && token.bytes().all(|b| b.is_ascii_digit()),
        ValueType::Text => sentinel::is_plain_string(token),
        ValueType::Uuid => inside(token).is_some_and(|value| tenant::is_canonical_uuid(value.as_bytes())),
    }
}

fn inside(token: &str) -> Option<&str> {
    token.strip_prefix('\'')?.strip_suffix('\'')
}

/// What [can be bound](can_be_bound) as a value of Bind, in text format.
fn value_of(token: &str, type_: ValueType) -> Cow<'_, [u8]> {
    match type_ {
        ValueType::Int4 | ValueType::Int8 => Cow::Borrowed(token.as_bytes()),
        ValueType::Text | ValueType::Uuid => match inside(token).unwrap_or_default() {
            value if value.contains('\'') && !crate::mutant!("lookup.quotes-stay-doubled") => {
                Cow::Owned(value.replace("''", "'").into_bytes())
            }
            value => Cow::Borrowed(value.as_bytes()),
        },
    }
}

/// What is found in a SELECT.
#[derive(Default)]
struct Found {
    /// Columns (`attnum`) that must equal one value.
    equal: BTreeSet<i16>,
    /// Literals of the template, and what they are bound as.
    types: BTreeMap<u16, ValueType>,
}

impl Found {
    /// `None`: it is more than a look-up.
    fn in_select(select: &SelectStmt, catalog: &Catalog) -> Option<Found> {
        let SelectStmt {
            distinct_clause,
            into_clause: None,
            target_list,
            from_clause,
            where_clause: Some(condition),
            group_clause,
            group_distinct: false,
            having_clause: None,
            window_clause,
            values_lists,
            sort_clause,
            limit_offset: None,
            limit_count,
            limit_option,
            locking_clause,
            with_clause: None,
            op,
            all: false,
            larg: None,
            rarg: None,
        } = select
        else {
            return None;
        };
        let lists = [distinct_clause, group_clause, window_clause, values_lists, locking_clause];
        if lists.iter().any(|list| !list.is_empty()) || SetOperation::try_from(*op) != Ok(SetOperation::SetopNone) {
            return None;
        }
        if !target_list.iter().all(is_a_column) || !sort_clause.iter().all(is_a_column) {
            return None;
        }
        let [Node { node: Some(NodeEnum::RangeVar(from)) }] = from_clause.as_slice() else { return None };
        let RangeVar { catalogname: _, schemaname, relname, inh: _, relpersistence: _, alias: _, location: _ } = from;
        // A plan for any value locks all partitions, and what inherits from a table is not in its key.
        let relation = catalog.relation_named(schemaname, relname)?;
        if relation.kind != 'r' || !catalog.children(relation.oid).is_empty() {
            return None;
        }
        let mut found = Found::default();
        found.condition(condition, relation)?;
        if let Some(count) = limit_count {
            let counts = LimitOption::try_from(*limit_option) == Ok(LimitOption::Count);
            let Some(NodeEnum::AConst(count)) = count.node.as_ref().filter(|_| counts) else { return None };
            found.literal(count, None)?;
        }
        let is_found = |key: &UniqueKey| key.columns.iter().all(|c| found.equal.contains(c));
        let unique = relation.unique_keys.iter().any(is_found) || crate::mutant!("lookup.without-a-key");
        unique.then_some(found)
    }

    /// ANDs of `column = constant`.
    fn condition(&mut self, condition: &Node, relation: &Relation) -> Option<()> {
        match condition.node.as_ref()? {
            NodeEnum::BoolExpr(b) if b.boolop == BoolExprType::AndExpr as i32 => {
                b.args.iter().try_for_each(|arg| self.condition(arg, relation))
            }
            NodeEnum::AExpr(e) if is_equality(e) => {
                let (left, right) = (e.lexpr.as_deref()?.node.as_ref()?, e.rexpr.as_deref()?.node.as_ref()?);
                match (left, right) {
                    (NodeEnum::ColumnRef(c), other) | (other, NodeEnum::ColumnRef(c)) => self.equality(c, other, relation),
                    (_, _) => None,
                }
            }
            _ => None, // tidy: no wall stands here; what is not named is sent as text
        }
    }

    fn equality(&mut self, reference: &ColumnRef, other: &NodeEnum, relation: &Relation) -> Option<()> {
        let (_, name) = qualified_column(reference)?;
        let column = relation.column(name)?;
        if let NodeEnum::AConst(constant) = other {
            self.literal(constant, Some(column.type_oid))?;
        } else {
            slot(other)?;
        }
        self.equal.insert(column.number);
        Some(())
    }

    /// A literal, compared with a column of this type.
    fn literal(&mut self, constant: &AConst, column: Option<u32>) -> Option<()> {
        let (index, sign) = sentinel::index_of_const(constant)?;
        if sign == Sign::Minus && !crate::mutant!("lookup.without-the-sign") {
            return None;
        }
        let type_ = match constant.val.as_ref()? {
            a_const::Val::Ival(_) => ValueType::Int4,
            a_const::Val::Fval(f) if sentinel::number_kind(&f.fval) == Some(Kind::Int8) => ValueType::Int8,
            a_const::Val::Sval(_) => ValueType::of_string(column?)?,
            a_const::Val::Fval(_) | a_const::Val::Boolval(_) | a_const::Val::Bsval(_) => return None,
        };
        // One parameter has one type.
        self.types.insert(index, type_).is_none_or(|before| before == type_).then_some(())
    }
}

/// The tenant's slot.
fn slot(expression: &NodeEnum) -> Option<TenantType> {
    let NodeEnum::TypeCast(cast) = expression else { return None };
    let NodeEnum::AConst(AConst { isnull: false, val: Some(a_const::Val::Sval(s)), location: _ }) =
        cast.arg.as_deref()?.node.as_ref()?
    else {
        return None;
    };
    sentinel::slot_of_string(&s.sval)
}

fn is_a_column(entry: &Node) -> bool {
    let value = match &entry.node {
        Some(NodeEnum::ResTarget(target)) => target.val.as_deref(),
        Some(NodeEnum::SortBy(by)) => by.node.as_deref(),
        Some(_) | None => None,
    };
    let Some(Some(NodeEnum::ColumnRef(column))) = value.map(|v| &v.node) else { return false };
    qualified_column(column).is_some()
}
