//! What a plan reads and writes, as far as the result cache must know. Default: nothing is cacheable, everything is written.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pg_query::protobuf::{self as pg, ParseResult, RangeVar, TypeName};
use pg_query::{Node, NodeEnum};

use super::row_key::{RowKey, Values, columns_of_keys, leaves, shows_its_row, stays_in_its_row};
use crate::audit;
use crate::catalog::{Catalog, FIRST_NORMAL, Function, Relation, TEMPORARY_SCHEMA};
use crate::event::Uncached;
use crate::policy::PolicySet;
use crate::policy::epoch::RelationPolicy;
use crate::sql::tree::{as_string, qualified_column, walk};
use crate::sql::types::oid;

/// Of what an answer is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reads {
    /// Of rows of these families, of the statement's own text, and of settings: as long as they stay, so does the answer.
    Families {
        sources: Box<[Touched]>,
        /// How long, where policies say it.
        ttl: Option<Duration>,
    },
    Unknown(Uncached),
}

/// Rows of one family that are read or may be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Its root's pg_class.oid.
    pub family: u32,
    pub whose: Whose,
    pub rows: Rows,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those of the statement's tenant.
    Tenant,
    Anyones,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rows {
    All,
    /// Read: those that are there. Written: those that an INSERT adds.
    Added,
    One(Arc<RowKey>),
    /// Read: a row of the answer is this row, so that there can be no other of its key.
    Shown(Arc<RowKey>),
}

impl Rows {
    /// The row, for these values; `None`: it is not one that is known.
    pub fn row(&self, values: &Values<'_>) -> Option<u64> {
        match self {
            Rows::All | Rows::Added => None,
            Rows::One(key) | Rows::Shown(key) => key.hash(values),
        }
    }
}

/// How the answers of one template fare: counted in its plan.
#[derive(Debug, Default)]
pub struct TemplateUse {
    /// What it is called, with `$1` and so on for literals.
    pub audited: Arc<audit::Template>,
    pub hits: AtomicU64,
    pub fills: AtomicU64,
    /// What the server took for the fills together, in microseconds.
    pub microseconds: AtomicU64,
    /// Whether its answers are asked for again, as far as the last of them tell.
    rare: AtomicBool,
    /// Hits and fills when that was last looked at.
    looked_at: [AtomicU64; 2],
}

impl TemplateUse {
    /// After so many fills it is looked at again.
    const WINDOW: u64 = 256;
    /// Rare is what has fewer hits than one of so many fills.
    const WORTH: u64 = 32;
    /// So many hits of those that were asked for twice are enough.
    const ENOUGH: u64 = 8;

    pub(super) fn of(audited: Arc<audit::Template>) -> TemplateUse {
        TemplateUse { audited, ..TemplateUse::default() }
    }

    /// Whether answers of its kind are seldom asked for again: then only those are worth the trouble that have been asked for before.
    pub fn is_rare(&self) -> bool {
        let load = |n: &AtomicU64| n.load(Ordering::Relaxed);
        let [old_hits, old_fills] = &self.looked_at;
        let (hits, fills) = (load(&self.hits), load(&self.fills));
        let (new_hits, new_fills) = (hits.saturating_sub(load(old_hits)), fills.saturating_sub(load(old_fills)));
        let rare = self.rare.load(Ordering::Relaxed);
        if new_fills >= Self::WINDOW || rare && new_hits >= Self::ENOUGH {
            self.rare.store(new_hits * Self::WORTH < new_fills, Ordering::Relaxed);
            old_hits.store(hits, Ordering::Relaxed);
            old_fills.store(fills, Ordering::Relaxed);
        }
        rare
    }
}

/// What a statement may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writes {
    Nothing,
    Families(Box<[Touched]>),
    Everything,
}

/// Built-in functions that are STABLE for settings' sake only, all of which are part of a key.
const OF_SETTINGS: [&str; 21] = [
    "array_to_json",
    "array_to_string",
    "concat",
    "concat_ws",
    "date_part",
    "date_trunc",
    "extract",
    "format",
    "json_agg",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "row_to_json",
    "to_char",
    "to_json",
    "to_jsonb",
    "to_number",
];

/// Types whose values depend on the text, or the value, that is cast and on settings.
const TYPES: [&str; 19] = [
    "bool", "bpchar", "bytea", "char", "float4", "float8", "inet", "int2", "int4", "int8", "json", "jsonb", "name", "numeric",
    "text", "uuid", "varchar", "cidr", "bit",
];

/// Types whose input reads `now` and its like: of constants that is looked for when they are known.
const TIMES: [&str; 5] = ["date", "interval", "time", "timestamp", "timestamptz"];

/// pg_type.oid
pub const TIMETZ: u32 = 1266;
/// pg_type.oid
pub const TIMETZ_ARRAY: u32 = 1270;

/// What the rewritten statement reads.
pub(super) fn reads(tree: &Node, catalog: &Catalog, policies: &PolicySet) -> Reads {
    let mut sources = Sources { tree, levels: vec![], found: vec![], ttl: None };
    let mut problem = None;
    if catalog.snapshot().default_isolation != "read committed" {
        return Reads::Unknown(Uncached::Isolation);
    }
    if !matches!(tree.node, Some(NodeEnum::SelectStmt(_))) {
        return Reads::Unknown(Uncached::Command);
    }
    // An implicit cast that calls a function of the database's own shows in no node, and neither does a comparison to sort by.
    if catalog.own_casts().any(|c| c.context == 'i') || catalog.snapshot().own_classes {
        return Reads::Unknown(Uncached::Function);
    }
    walk(tree, &mut |node| {
        if problem.is_none() {
            problem = read_node(node, catalog, policies, &mut sources).err();
        }
    });
    match problem {
        Some(problem) => Reads::Unknown(problem),
        // `SELECT 1` asks whether the server is there.
        None if sources.found.is_empty() => Reads::Unknown(Uncached::Relation),
        None => Reads::Families { sources: sources.found.into(), ttl: sources.ttl },
    }
}

/// What was found to be read.
struct Sources<'t> {
    tree: &'t Node,
    /// Tables, and the SELECT in whose FROM they stand.
    levels: Vec<(&'t RangeVar, &'t pg::SelectStmt)>,
    found: Vec<Touched>,
    ttl: Option<Duration>,
}

impl<'t> Sources<'t> {
    fn add(&mut self, touched: Touched) {
        if !self.found.contains(&touched) {
            self.found.push(touched);
        }
    }

    /// A join has no rows of other rows of a table than those that WHERE, which comes after it, wants: whatever join it is.
    fn enter(&mut self, select: &'t pg::SelectStmt) {
        let mut open: Vec<&Node> = select.from_clause.iter().collect();
        while let Some(next) = open.pop() {
            match &next.node {
                Some(NodeEnum::RangeVar(range)) => self.levels.push((range, select)),
                Some(NodeEnum::JoinExpr(join)) => open.extend(join.larg.as_deref().into_iter().chain(join.rarg.as_deref())),
                // They have levels of their own.
                Some(_) | None => {}
            }
        }
    }

    /// `column AT TIME ZONE ..` of a timestamp: of a time of day it depends on the day.
    fn shifts_a_timestamp(&self, call: &pg::FuncCall, catalog: &Catalog) -> bool {
        let [_, value] = call.args.as_slice() else { return false };
        let Some(NodeEnum::ColumnRef(column)) = &value.node else { return false };
        let Some((table, name)) = qualified_column(column) else { return false };
        let is_timestamp = |range: &RangeVar| {
            let column = relation(range, catalog).and_then(|r| r.column(name));
            column.is_some_and(|c| matches!(c.type_oid, oid::TIMESTAMP | oid::TIMESTAMPTZ))
        };
        let mut named = self.levels.iter().map(|(range, _)| *range).filter(|range| name_of(range) == Some(table)).peekable();
        let own = catalog.functions_named("timezone").any(|f| f.oid >= FIRST_NORMAL);
        let is_timezone = matches!(parts(&call.funcname), Some((Some("pg_catalog"), "timezone")));
        is_timezone && !own && named.peek().is_some() && named.all(is_timestamp)
    }

    fn rows(&self, range: &RangeVar, tenant_column: &str, catalog: &Catalog) -> Rows {
        let Some((_, select)) = self.levels.iter().find(|(known, _)| std::ptr::eq(*known, range)) else { return Rows::All };
        let Some(key) = RowKey::in_condition(range, select.where_clause.as_deref(), self.tree, tenant_column, catalog) else {
            return Rows::All;
        };
        let is_outermost =
            matches!(&self.tree.node, Some(NodeEnum::SelectStmt(outermost)) if std::ptr::eq(&**outermost, *select));
        match is_outermost && shows_its_row(select) {
            true => Rows::Shown(Arc::new(key)),
            false => Rows::One(Arc::new(key)),
        }
    }
}

fn read_node<'t>(node: &'t Node, catalog: &Catalog, policies: &PolicySet, sources: &mut Sources<'t>) -> Result<(), Uncached> {
    match &node.node {
        // A CTE where it has no schema: all relations have one.
        Some(NodeEnum::RangeVar(range)) if range.schemaname.is_empty() => Ok(()),
        Some(NodeEnum::RangeVar(range)) => {
            let relation = relation(range, catalog).ok_or(Uncached::Relation)?;
            let family = catalog.family(relation.oid).filter(|f| f.plain).ok_or(Uncached::Relation)?;
            // Policies of row security read what no tree shows.
            if relation.row_security && !crate::mutant!("cache.policies-read-nothing") {
                return Err(Uncached::Relation);
            }
            // What a time with a zone is compared or converted to depends on the day.
            if relation.columns.iter().any(|c| matches!(c.type_oid, TIMETZ | TIMETZ_ARRAY)) {
                return Err(Uncached::Type);
            }
            let (whose, rows) = match policies.policy_of(relation, catalog) {
                Some(RelationPolicy::Tenant(policy)) => (Whose::Tenant, sources.rows(range, &policy.column, catalog)),
                Some(RelationPolicy::Shared) => (Whose::Anyones, Rows::All),
                Some(RelationPolicy::View | RelationPolicy::Denied) | None => return Err(Uncached::Relation),
            };
            sources.add(Touched { family: family.root, whose, rows });
            let ttl = policies.cache_ttl(relation, catalog);
            sources.ttl = [sources.ttl, ttl].into_iter().flatten().min();
            if ttl == Some(Duration::ZERO) {
                return Err(Uncached::Told);
            }
            Ok(())
        }
        Some(NodeEnum::SelectStmt(select)) => {
            sources.enter(select);
            if select.into_clause.is_some() { Err(Uncached::Writes) } else { Ok(()) }
        }
        Some(NodeEnum::FuncCall(call)) if sources.shifts_a_timestamp(call, catalog) => Ok(()),
        Some(NodeEnum::FuncCall(call)) => is_repeatable(&call.funcname, catalog),
        Some(NodeEnum::AExpr(e)) => is_built_in(&e.name, catalog),
        Some(NodeEnum::SubLink(link)) => is_built_in(&link.oper_name, catalog),
        Some(NodeEnum::SortBy(sort)) => is_built_in(&sort.use_op, catalog),
        Some(NodeEnum::TypeCast(cast)) => cast_is_repeatable(cast, catalog),
        Some(NodeEnum::ColumnRef(c)) => match c.fields.last().and_then(as_string) {
            // A lock is enough to change some of them, and VACUUM others.
            Some("xmin" | "xmax" | "cmin" | "cmax" | "ctid") => Err(Uncached::Relation),
            Some(_) | None => Ok(()),
        },
        Some(NodeEnum::LockingClause(_)) => Err(Uncached::Locks),
        Some(NodeEnum::SqlvalueFunction(_)) => Err(Uncached::Function),
        Some(NodeEnum::InsertStmt(_) | NodeEnum::UpdateStmt(_) | NodeEnum::DeleteStmt(_) | NodeEnum::MergeStmt(_)) => {
            Err(Uncached::Writes)
        }
        Some(
            NodeEnum::AArrayExpr(_)
            | NodeEnum::AConst(_)
            | NodeEnum::AIndices(_)
            | NodeEnum::AIndirection(_)
            | NodeEnum::AStar(_)
            | NodeEnum::Alias(_)
            | NodeEnum::BoolExpr(_)
            | NodeEnum::BooleanTest(_)
            | NodeEnum::CaseExpr(_)
            | NodeEnum::CaseWhen(_)
            | NodeEnum::CoalesceExpr(_)
            | NodeEnum::CollateClause(_)
            | NodeEnum::CommonTableExpr(_)
            | NodeEnum::GroupingFunc(_)
            | NodeEnum::GroupingSet(_)
            | NodeEnum::JoinExpr(_)
            | NodeEnum::List(_)
            | NodeEnum::MinMaxExpr(_)
            | NodeEnum::NamedArgExpr(_)
            | NodeEnum::NullTest(_)
            | NodeEnum::ParamRef(_)
            | NodeEnum::RangeFunction(_)
            | NodeEnum::RangeSubselect(_)
            | NodeEnum::ResTarget(_)
            | NodeEnum::RowExpr(_)
            | NodeEnum::String(_)
            | NodeEnum::Integer(_)
            | NodeEnum::WindowDef(_),
        ) => Ok(()),
        // DISTINCT without ON is a list of one node that is nothing.
        None => Ok(()),
        Some(_) => Err(Uncached::Construct), // tidy: what is not named is not cached
    }
}

/// What a table is called in its query; `None`: its columns may have other names.
pub(super) fn name_of(range: &RangeVar) -> Option<&str> {
    match &range.alias {
        Some(alias) if alias.colnames.is_empty() || crate::mutant!("cache.rows-by-another-name") => Some(&alias.aliasname),
        Some(_) => None,
        None => Some(&range.relname),
    }
}

/// The last part of a name, and the schema before it.
fn parts(name: &[Node]) -> Option<(Option<&str>, &str)> {
    match name {
        [name] => Some((None, as_string(name)?)),
        [schema, name] => Some((Some(as_string(schema)?), as_string(name)?)),
        _ => None, // tidy: not a syntax kind
    }
}

fn is_repeatable(name: &[Node], catalog: &Catalog) -> Result<(), Uncached> {
    let (schema, name) = parts(name).ok_or(Uncached::Function)?;
    let mut candidates =
        catalog.functions_named(name).filter(|f| schema.is_none_or(|s| f.schema == s) || f.oid >= FIRST_NORMAL).peekable();
    let known = candidates.peek().is_some();
    let repeats = |volatility| volatility == 'i' || volatility == 's' && OF_SETTINGS.contains(&name);
    let own = |oid: u32, found: &str| oid >= FIRST_NORMAL || found != "pg_catalog";
    let safe = known && candidates.all(|f| !own(f.oid, &f.schema) && repeats(f.volatility));
    // to_json and its like call casts to json.
    let calls_casts = name.contains("json") && catalog.own_casts().next().is_some();
    if safe && !calls_casts { Ok(()) } else { Err(Uncached::Function) }
}

pub(super) fn is_built_in(name: &[Node], catalog: &Catalog) -> Result<(), Uncached> {
    if name.is_empty() {
        return Ok(());
    }
    let (schema, name) = parts(name).ok_or(Uncached::Function)?;
    let own = catalog.operators_named(name).any(|o| o.oid >= FIRST_NORMAL || o.schema != "pg_catalog");
    if schema == Some("pg_catalog") || !own { Ok(()) } else { Err(Uncached::Function) }
}

fn cast_is_repeatable(cast: &pg::TypeCast, catalog: &Catalog) -> Result<(), Uncached> {
    let name = cast.type_name.as_ref().and_then(|t: &TypeName| parts(&t.names)).ok_or(Uncached::Type)?;
    let is_catalogs = match name {
        (Some(schema), _) => schema == "pg_catalog",
        (None, name) => !is_own_type(name, catalog),
    };
    let oid = catalog.type_named("pg_catalog", name.1).map_or(0, |t| t.oid);
    if !is_catalogs || catalog.own_casts().any(|c| c.target == oid) {
        return Err(Uncached::Type);
    }
    let constant = matches!(cast.arg.as_deref().and_then(|a| a.node.as_ref()), Some(NodeEnum::AConst(_) | NodeEnum::ParamRef(_)));
    let known = TYPES.contains(&name.1) || TIMES.contains(&name.1) && constant;
    if known { Ok(()) } else { Err(Uncached::Type) }
}

/// Whether the database has a type of its own of that name.
pub(super) fn is_own_type(name: &str, catalog: &Catalog) -> bool {
    catalog.snapshot().types.iter().any(|t| t.name == name && t.schema != "pg_catalog")
}

/// What the rewritten statement may write. `policies`: where its rows are one tenant's.
pub(super) fn writes(tree: &Node, catalog: &Catalog, policies: Option<&PolicySet>) -> Writes {
    if catalog.snapshot().own_classes {
        return Writes::Everything;
    }
    let mut found = Found::new(catalog, policies);
    let mut of = |tree: &Node| walk(tree, &mut |node| found.note(node, tree));
    // A walk does not enter these by itself.
    match &tree.node {
        Some(NodeEnum::CopyStmt(s)) => s.query.as_deref().into_iter().for_each(&mut of),
        Some(NodeEnum::DeclareCursorStmt(s)) => s.query.as_deref().into_iter().for_each(&mut of),
        Some(NodeEnum::ExplainStmt(s)) => s.query.as_deref().into_iter().for_each(&mut of),
        Some(NodeEnum::CreateTableAsStmt(s)) => s.query.as_deref().into_iter().for_each(&mut of),
        Some(
            NodeEnum::SelectStmt(_)
            | NodeEnum::InsertStmt(_)
            | NodeEnum::UpdateStmt(_)
            | NodeEnum::DeleteStmt(_)
            | NodeEnum::MergeStmt(_),
        ) => of(tree),
        Some(_) | None => return Writes::Everything,
    }
    found.finish()
}

/// What COPY FROM writes.
pub(super) fn writes_of_copy(range: Option<&RangeVar>, catalog: &Catalog) -> Writes {
    let mut found = Found::new(catalog, None);
    found.target(range, Rows::Added, Cascades::No);
    found.finish()
}

/// Whether rows of other tables may change with it, by foreign keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cascades {
    Yes,
    No,
}

struct Found<'a> {
    catalog: &'a Catalog,
    policies: Option<&'a PolicySet>,
    /// Families of which rows of the statement's tenant change.
    own: Vec<(u32, Rows)>,
    /// Of which rows of any tenant may.
    any: BTreeSet<u32>,
    everything: bool,
}

impl<'a> Found<'a> {
    fn new(catalog: &'a Catalog, policies: Option<&'a PolicySet>) -> Found<'a> {
        Found { catalog, policies, own: vec![], any: BTreeSet::new(), everything: false }
    }

    /// `tree`: the whole statement.
    fn note(&mut self, node: &Node, tree: &Node) {
        let catalog = self.catalog;
        match &node.node {
            Some(NodeEnum::InsertStmt(s)) => {
                let (rows, cascades) = self.inserted(s, tree);
                self.target(s.relation.as_ref(), rows, cascades);
            }
            Some(NodeEnum::UpdateStmt(s)) => {
                let (rows, cascades) = self.updated(s, tree);
                self.target(s.relation.as_ref(), rows, cascades);
            }
            Some(NodeEnum::DeleteStmt(s)) => {
                let rows = self.row(s.relation.as_ref(), s.where_clause.as_deref(), tree);
                self.target(s.relation.as_ref(), rows, Cascades::Yes);
            }
            Some(NodeEnum::MergeStmt(s)) => self.target(s.relation.as_ref(), Rows::All, Cascades::Yes),
            Some(NodeEnum::FuncCall(call)) => {
                let may_write = |name: &str| {
                    let mut candidates = catalog.functions_named(name).peekable();
                    candidates.peek().is_none() || candidates.any(Function::may_write)
                };
                self.everything |= parts(&call.funcname).is_none_or(|(_, name)| may_write(name));
            }
            // A view that is read by its name hides what it calls.
            Some(NodeEnum::RangeVar(range)) => {
                let is_view = relation(range, catalog).is_some_and(|r| r.kind == 'v' && r.oid >= FIRST_NORMAL);
                self.everything |= is_view && has_own_writers(catalog);
            }
            Some(NodeEnum::AExpr(e)) => self.operator(&e.name),
            Some(NodeEnum::SubLink(link)) => self.operator(&link.oper_name),
            Some(NodeEnum::TypeCast(cast)) => {
                let name = cast.type_name.as_ref().and_then(|t| t.names.last()).and_then(as_string).unwrap_or_default();
                // The constraint of a domain may call anything.
                let mut named = catalog.snapshot().types.iter().filter(|t| t.name == name);
                let is_constrained = named.any(|t| t.oid >= FIRST_NORMAL && t.kind != 'e');
                self.everything |= is_constrained && has_own_writers(catalog);
                self.everything |= catalog.own_casts().any(|c| may_write(c.function, catalog));
            }
            // Nothing else calls what may write.
            Some(_) | None => {}
        }
    }

    fn operator(&mut self, name: &[Node]) {
        let catalog = self.catalog;
        let Some(name) = name.last().and_then(as_string) else { return };
        self.everything |= catalog.operators_named(name).any(|o| o.oid >= FIRST_NORMAL && may_write(o.function, catalog));
    }

    /// Of the target, those that the condition holds for.
    fn row(&self, range: Option<&RangeVar>, condition: Option<&Node>, tree: &Node) -> Rows {
        let key = range.and_then(|range| {
            let column = self.tenant_column(range)?;
            RowKey::in_condition(range, condition, tree, column, self.catalog)
        });
        key.map_or(Rows::All, |key| Rows::One(Arc::new(key)))
    }

    fn updated(&self, update: &pg::UpdateStmt, tree: &Node) -> (Rows, Cascades) {
        let Some(relation) = update.relation.as_ref().and_then(|r| relation(r, self.catalog)) else {
            return (Rows::All, Cascades::Yes);
        };
        let stays =
            leaves(&update.target_list, &columns_of_keys(relation, true), relation) || crate::mutant!("cache.rows-that-move");
        let rows = if stays { self.row(update.relation.as_ref(), update.where_clause.as_deref(), tree) } else { Rows::All };
        (rows, self.cascades(relation, &update.target_list))
    }

    /// Foreign keys refer to unique keys. What has partitions or heirs may have others there.
    fn cascades(&self, relation: &Relation, assigned: &[Node]) -> Cascades {
        let is_alone = relation.parents.is_empty() && self.catalog.children(relation.oid).is_empty();
        let stays = is_alone && leaves(assigned, &columns_of_keys(relation, false), relation);
        if stays || crate::mutant!("cache.updates-do-not-cascade") { Cascades::No } else { Cascades::Yes }
    }

    fn inserted(&self, insert: &pg::InsertStmt, tree: &Node) -> (Rows, Cascades) {
        let Some(relation) = insert.relation.as_ref().and_then(|r| relation(r, self.catalog)) else {
            return (Rows::All, Cascades::Yes);
        };
        let column = insert.relation.as_ref().and_then(|range| self.tenant_column(range));
        let (stays, cascades) = match insert.on_conflict_clause.as_deref() {
            Some(conflict) => (stays_in_its_row(conflict, relation), self.cascades(relation, &conflict.target_list)),
            None => (true, Cascades::No),
        };
        let rows = match column.and_then(|column| RowKey::of_insert(insert, tree, column, self.catalog)) {
            _ if !stays && !crate::mutant!("cache.conflicts-of-any-row") => Rows::All,
            Some(key) => Rows::One(Arc::new(key)),
            // A row that is there already may change.
            None if insert.on_conflict_clause.as_deref().is_some_and(|c| !c.target_list.is_empty()) => Rows::All,
            None => Rows::Added,
        };
        (rows, cascades)
    }

    fn tenant_column(&self, range: &RangeVar) -> Option<&'a str> {
        match self.policies?.policy_of(relation(range, self.catalog)?, self.catalog)? {
            RelationPolicy::Tenant(policy) => Some(&policy.column),
            RelationPolicy::Shared | RelationPolicy::View | RelationPolicy::Denied => None,
        }
    }

    fn target(&mut self, range: Option<&RangeVar>, rows: Rows, cascades: Cascades) {
        let catalog = self.catalog;
        if range.is_some_and(|r| r.schemaname == TEMPORARY_SCHEMA) {
            return;
        }
        let family = range.and_then(|r| relation(r, catalog)).and_then(|r| catalog.family(r.oid));
        let Some(family) = family.filter(|f| !f.opaque || crate::mutant!("cache.triggers-write-nothing")) else {
            self.everything = true;
            return;
        };
        self.own.push((family.root, rows));
        if !family.plain {
            self.any.insert(family.root);
        }
        if cascades == Cascades::Yes && !crate::mutant!("cache.no-cascades") {
            self.any.extend(&family.cascades);
        }
    }

    fn finish(self) -> Writes {
        let Found { own, any, everything, catalog: _, policies: _ } = self;
        let own = own.into_iter().map(|(family, rows)| Touched { family, whose: Whose::Tenant, rows });
        let any = any.into_iter().map(|family| Touched { family, whose: Whose::Anyones, rows: Rows::All });
        let all: Box<[Touched]> = own.chain(any).collect();
        match everything {
            true => Writes::Everything,
            false if all.is_empty() => Writes::Nothing,
            false => Writes::Families(all),
        }
    }
}

/// Whether the database has functions of its own that may write, and that statements may call.
fn has_own_writers(catalog: &Catalog) -> bool {
    // pg_type.oid of trigger and event_trigger.
    let is_trigger = |returns: u32| matches!(returns, 2279 | 3838);
    catalog.snapshot().functions.iter().any(|f| f.may_write() && !is_trigger(f.returns))
}

/// Whether a text of an unrestricted user, which no review has resolved, cannot write: SELECT that calls nothing of the database's
/// own, and what only opens or ends transactions, or sets and shows settings.
pub fn only_reads(tree: &ParseResult, catalog: &Catalog) -> bool {
    let own_writers = has_own_writers(catalog);
    let is_systems = |range: &RangeVar| matches!(range.schemaname.as_str(), "pg_catalog" | "information_schema");
    let reads = |node: &Node| {
        let mut hidden = false;
        walk(node, &mut |n| {
            // Its name may be a temporary view's, of which nothing is known.
            hidden |= matches!(&n.node, Some(NodeEnum::RangeVar(range)) if own_writers && !is_systems(range));
            // PostgreSQL's own may change more than tables: pg_reload_conf().
            hidden |= matches!(&n.node, Some(NodeEnum::FuncCall(call)) if is_volatile(&call.funcname, catalog));
        });
        !hidden && writes(node, catalog, None) == Writes::Nothing
    };
    tree.stmts.iter().filter_map(|s| s.stmt.as_deref()).all(|node| match &node.node {
        Some(NodeEnum::SelectStmt(select)) => !makes_a_table(select) && reads(node),
        Some(NodeEnum::VariableSetStmt(_) | NodeEnum::VariableShowStmt(_)) => true,
        Some(NodeEnum::TransactionStmt(s)) => {
            use pg::TransactionStmtKind::{
                TransStmtBegin, TransStmtCommit, TransStmtRelease, TransStmtRollback, TransStmtRollbackTo, TransStmtSavepoint,
                TransStmtStart,
            };
            [
                TransStmtBegin,
                TransStmtStart,
                TransStmtCommit,
                TransStmtRollback,
                TransStmtSavepoint,
                TransStmtRelease,
                TransStmtRollbackTo,
            ]
            .iter()
            .any(|kind| s.kind == *kind as i32)
        }
        Some(_) | None => false,
    })
}

fn is_volatile(name: &[Node], catalog: &Catalog) -> bool {
    parts(name).is_none_or(|(_, name)| catalog.functions_named(name).any(|f| f.volatility == 'v'))
}

/// SELECT INTO, of which the first arm says so.
fn makes_a_table(select: &pg::SelectStmt) -> bool {
    select.into_clause.is_some() || select.larg.as_deref().is_some_and(makes_a_table)
}

fn may_write(function: u32, catalog: &Catalog) -> bool {
    let found = catalog.snapshot().functions.iter().find(|f| f.oid == function);
    function >= FIRST_NORMAL && found.is_none_or(Function::may_write)
}

fn relation<'c>(range: &RangeVar, catalog: &'c Catalog) -> Option<&'c Relation> {
    catalog.relation_named(&range.schemaname, &range.relname)
}

/// Whether a text, or a parameter's value, may name the present time: `'now'`, `'today 04:05'`. Whatever spells characters in another way
/// (escapes, literals that go on in the next line) may.
pub fn names_the_present(text: &[u8]) -> bool {
    let escapes = memchr::memchr3(b'\\', b'\n', b'\r', text).is_some() || memchr::memmem::find(text, b"&'").is_some();
    if escapes || has_word_of_the_present(text) {
        return true;
    }
    // `n"ow"` in an array or a range.
    memchr::memchr(b'"', text).is_some() && {
        let unquoted: Vec<u8> = text.iter().copied().filter(|b| *b != b'"').collect();
        has_word_of_the_present(&unquoted)
    }
}

fn has_word_of_the_present(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];
    let is_letter = |at: Option<usize>| at.and_then(|at| text.get(at)).is_some_and(u8::is_ascii_alphabetic);
    let ends_at = |last: usize| {
        !is_letter(Some(last + 1))
            && WORDS.iter().any(|word| {
                let before = &text[..=last];
                let start = before.len().checked_sub(word.len());
                start.is_some_and(|s| before[s..].eq_ignore_ascii_case(word) && !is_letter(s.checked_sub(1)))
            })
    };
    // Their last letters: most texts have few.
    memchr::memchr2_iter(b'w', b'W', text).chain(memchr::memchr2_iter(b'y', b'Y', text)).any(ends_at)
}

/// Types (pg_type.oid) of parameters whose binary format spells no word: numbers, booleans, uuids, bytes, times.
pub const SPELL_NOTHING: [u32; 12] = [16, 17, 20, 21, 23, 700, 701, 1082, 1114, 1184, 1700, 2950];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Snapshot;
    use crate::sql::parse;

    fn function(oid: u32, name: &str, volatility: char) -> Function {
        Function {
            oid,
            schema: if oid < FIRST_NORMAL { "pg_catalog" } else { "public" }.to_owned(),
            name: name.to_owned(),
            kind: 'f',
            arguments: vec![],
            defaults: 0,
            variadic: false,
            returns: 23,
            returns_set: false,
            volatility,
            strict: false,
            outputs: vec![],
            extension: None,
        }
    }

    #[test]
    fn an_unrestricted_users_text_only_reads_where_nothing_can_write() {
        let built_in = [function(1, "count", 'i'), function(2, "pg_reload_conf", 'v'), function(3, "version", 's')];
        let with = |more: Option<Function>| {
            let functions = built_in.iter().cloned().chain(more).collect();
            Catalog::new(Snapshot { functions, ..Snapshot::default() })
        };
        let reads = |sql: &str, catalog: &Catalog| only_reads(&parse::parse(sql).unwrap(), catalog);
        let plain = with(None);
        for sql in [
            "SELECT count(*), version() FROM accounts a JOIN pg_class ON true",
            "BEGIN; SELECT 1; COMMIT",
            "SET work_mem = '8MB'; SHOW work_mem",
            "SAVEPOINT s; RELEASE s; ROLLBACK TO s",
        ] {
            assert!(reads(sql, &plain), "{sql}");
        }
        for sql in [
            "SELECT 1; UPDATE accounts SET id = 1",
            "WITH w AS (DELETE FROM accounts RETURNING id) SELECT * FROM w",
            "SELECT 1 INTO t",
            "SELECT 1 INTO t UNION SELECT 2",
            "SELECT pg_reload_conf()",
            "SELECT unknown()",
            "COPY accounts FROM STDIN",
            "COPY (SELECT 1) TO STDOUT",
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
            "EXECUTE p",
            "CALL p()",
            "DO 'BEGIN END'",
            "ALTER SYSTEM SET work_mem = '8MB'",
        ] {
            assert!(!reads(sql, &plain), "{sql}");
        }
        let own = with(Some(function(FIRST_NORMAL, "own", 's')));
        assert!(reads("SELECT count(*) FROM pg_catalog.pg_class", &own));
        assert!(!reads("SELECT own()", &own));
        assert!(!reads("SELECT count(*) FROM accounts", &own), "it may be a temporary view");
    }

    #[test]
    fn what_nobody_asks_for_again_is_rare() {
        let used = TemplateUse::default();
        let fill = |n: u64| used.fills.fetch_add(n, Ordering::Relaxed);
        assert!(!used.is_rare(), "nothing is known yet");
        fill(300);
        used.is_rare();
        assert!(used.is_rare());
        // It is asked for again now.
        fill(20);
        used.hits.fetch_add(8, Ordering::Relaxed);
        used.is_rare();
        assert!(!used.is_rare());
    }

    #[test]
    fn the_present_is_known_by_its_words() {
        for text in [
            "'now'",
            "x'NOW ",
            "'04:05today'",
            "'Tomorrow'",
            "yesterday",
            "E'\\x6eow'",
            "U&'\\006eow'",
            "'no'\n'w'",
            "{n\"ow\"}",
            "{n\\ow}",
        ] {
            assert!(names_the_present(text.as_bytes()), "{text}");
        }
        for text in ["knowledge", "nowhere", "'2024-01-01'", "todays", ""] {
            assert!(!names_the_present(text.as_bytes()), "{text}");
        }
    }
}
