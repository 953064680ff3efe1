//! From an analysis to a decision. INVARIANT (PERMIT): the only place that makes a [`Permit`].

use std::collections::{BTreeMap, BTreeSet};

use pg_query::Node;

use super::catalogs::{self, CatalogRule};
use super::epoch::{PolicySet, RelationPolicy, TenantPolicy};
use super::functions::{self, Verdict};
use super::masks::ColumnMask;
use super::model::{Mask, RuleAction};
use crate::catalog::{Catalog, Relation};
use crate::finding::Denial;
use crate::id::PolicyEpoch;
use crate::sql::analyse::scope::{MergeActions, Rte, RteId, RteKind, Usage};
use crate::sql::analyse::utility::is_readable;
use crate::sql::analyse::{Analysis, Argument, FunctionUse};
use crate::sql::template::TenantType;

/// The decision to let a statement run, with what must be added to it.
#[derive(Debug)]
pub struct Permit {
    epoch: PolicyEpoch,
    rows: BTreeMap<RteId, RowFilter>,
    catalogs: BTreeMap<RteId, CatalogRule>,
    masked_functions: BTreeSet<String>,
    masks: BTreeMap<RteId, Vec<MaskedColumn>>,
    touches_data: bool,
    setting_parameters: Vec<u16>,
    last_values: Vec<LastValue>,
}

/// What a statement asks of the backend's last values of sequences: they must be the client's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LastValue {
    /// `currval`
    Of { sequence: u32, name: String },
    /// `lastval`
    Any,
}

/// A column that reads as its mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskedColumn {
    /// `attnum`
    pub number: i16,
    /// Its name in the catalog.
    pub name: String,
    pub mask: Mask,
    /// The secret of [`Mask::Hash`]; empty otherwise.
    pub key: Box<str>,
    /// Nothing is written into it.
    pub never_stored: bool,
    /// `attnum` of the tenant column, whose value belongs to what [`Mask::Hash`] hashes.
    pub tenant_column: Option<i16>,
}

/// The rows of one governed relation that the statement may see or write, for the principal's roles.
#[derive(Clone, Debug)]
pub struct RowFilter {
    /// `schema.table`, for messages and errors.
    pub schema: String,
    pub table: String,
    /// `attnum` of the tenant column.
    pub tenant_column: i16,
    pub type_: TenantType,
    /// What rows must satisfy besides, over columns of [`super::epoch::ROW`].
    pub using: Option<Node>,
    /// What new rows must satisfy besides, likewise.
    pub check: Option<Node>,
    /// Of INSERT: what rows must satisfy that ON CONFLICT DO UPDATE has changed.
    pub changed: Option<Node>,
}

impl Permit {
    pub fn epoch(&self) -> PolicyEpoch {
        self.epoch
    }

    /// The filter of a governed relation; `None` for what is not governed.
    pub fn rows(&self, rte: RteId) -> Option<&RowFilter> {
        self.rows.get(&rte)
    }

    pub fn all_rows(&self) -> impl Iterator<Item = (RteId, &RowFilter)> {
        self.rows.iter().map(|(id, filter)| (*id, filter))
    }

    /// The masked columns of an entry.
    pub fn masks(&self, rte: RteId) -> &[MaskedColumn] {
        self.masks.get(&rte).map_or(&[], Vec::as_slice)
    }

    /// Whether some column reads as a pseudonym, whose key the text to send then holds.
    pub fn hashes_a_column(&self) -> bool {
        self.masks.values().flatten().any(|m| m.mask == Mask::Hash)
    }

    /// Whether anything that the statement names is masked.
    pub fn has_masks(&self) -> bool {
        !self.masks.is_empty()
    }

    pub fn catalog_rule(&self, rte: RteId) -> Option<&CatalogRule> {
        self.catalogs.get(&rte)
    }

    /// Parameters whose values must name settings that tenants may read.
    pub fn setting_parameters(&self) -> &[u16] {
        &self.setting_parameters
    }

    /// The last values that must be the client's own.
    pub fn last_values(&self) -> &[LastValue] {
        &self.last_values
    }

    /// Functions whose calls read NULL.
    pub fn masks_function(&self, name: &str) -> bool {
        self.masked_functions.contains(name)
    }

    /// Whether it reads or writes relations outside the catalogs: no tenant, no data.
    pub fn touches_data(&self) -> bool {
        self.touches_data
    }
}

/// Decides about a statement for a set of roles.
///
/// # Errors
/// 42501 naming the relation, function or operator that policy denies.
pub fn decide(analysis: &Analysis, policies: &PolicySet, catalog: &Catalog, roles: &[Box<str>]) -> Result<Permit, Denial> {
    let mut permit = Permit {
        epoch: policies.epoch,
        rows: BTreeMap::new(),
        catalogs: BTreeMap::new(),
        masked_functions: BTreeSet::new(),
        masks: BTreeMap::new(),
        touches_data: false,
        setting_parameters: vec![],
        last_values: vec![],
    };
    for (id, rte) in analysis.rtes.iter().enumerate() {
        match &rte.kind {
            RteKind::Relation { oid, usage } => {
                let relation =
                    catalog.relation(*oid).ok_or_else(|| Denial::policy("permission denied for an unknown relation"))?;
                relation_access(&mut permit, id, rte, relation, *usage, policies, catalog, roles)?;
            }
            RteKind::Derived | RteKind::Function | RteKind::Cte | RteKind::Excluded | RteKind::Version(_) | RteKind::Merged => {}
        }
    }
    mask_excluded(&mut permit, analysis)?;
    mask_versions(&mut permit, analysis);
    let settings = policies.settings_for(roles);
    for call in &analysis.functions {
        let candidates: Vec<_> = catalog.functions_named(&call.name).filter(|f| call.candidates.contains(&f.oid)).collect();
        let admitted = |schema: &str, name: &str| policies.admits_function(schema, name, roles);
        match functions::judge(call, &candidates, &admitted, &settings) {
            Verdict::Allowed => {
                permit.setting_parameters.extend(functions::setting_parameters(call));
                let by_file = candidates.iter().all(|f| admitted(&f.schema, &f.name));
                sequence_access(&mut permit, call, by_file, policies, catalog)?;
            }
            Verdict::Masked => {
                permit.masked_functions.insert(call.name.clone());
            }
            Verdict::Refused => {
                return Err(
                    Denial::policy(format!("permission denied for function {}", call.name)).hint(functions::hint(&call.name))
                );
            }
        }
    }
    for oid in &analysis.foreign_operators {
        let operator = catalog.snapshot().operators.iter().find(|o| o.oid == *oid);
        if !operator.is_some_and(|o| functions::trusts_operator(o.extension.as_deref())) {
            let name = operator.map_or("?", |o| o.name.as_str());
            return Err(Denial::policy(format!("permission denied for operator {name}")));
        }
    }
    for oid in &analysis.cast_functions {
        cast_access(*oid, policies, catalog, roles)?;
    }
    Ok(permit)
}

/// A function that a cast calls must be one that the statement may call by name.
fn cast_access(oid: u32, policies: &PolicySet, catalog: &Catalog, roles: &[Box<str>]) -> Result<(), Denial> {
    let function = catalog.snapshot().functions.iter().find(|f| f.oid == oid);
    if function.is_some_and(|f| functions::is_allowed(f) || policies.admits_function(&f.schema, &f.name, roles)) {
        return Ok(());
    }
    let name = function.map_or("?", |f| f.name.as_str());
    Err(Denial::policy(format!("permission denied for function {name}, which a cast calls")).hint(functions::hint(name)))
}

/// `by_file`: a policy file admits the function by name.
fn sequence_access(
    permit: &mut Permit,
    call: &FunctionUse,
    by_file: bool,
    policies: &PolicySet,
    catalog: &Catalog,
) -> Result<(), Denial> {
    if let Some(Argument::Sequence(sequence)) = call.arguments.first() {
        let relation = catalog.relation(*sequence).ok_or_else(|| Denial::policy("permission denied for an unknown sequence"))?;
        if !policies.admits_sequence(*sequence, catalog) && !crate::mutant!("write.any-sequence") {
            return Err(denied(relation));
        }
        if call.name == "currval" && !by_file {
            permit.last_values.push(LastValue::Of { sequence: *sequence, name: relation.name.clone() });
        }
    }
    if call.name == "lastval" && !by_file {
        permit.last_values.push(LastValue::Any);
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn relation_access(
    permit: &mut Permit,
    id: RteId,
    rte: &Rte,
    relation: &Relation,
    usage: Usage,
    policies: &PolicySet,
    catalog: &Catalog,
    roles: &[Box<str>],
) -> Result<(), Denial> {
    if matches!(relation.schema.as_str(), "pg_catalog" | "information_schema") {
        let rule = catalogs::rule(&relation.schema, &relation.name).filter(|_| usage == Usage::Select && !rte.locked);
        let mut rule = rule.ok_or_else(|| denied(relation))?;
        if relation.name == "pg_settings" && rte.only_name.as_deref().is_some_and(is_readable) {
            rule = catalogs::ONE_SETTING;
        }
        if rule.nested_only && !rte.nested {
            return Err(denied(relation));
        }
        if let Some(column) = rule.refused.iter().find(|c| rte.named.contains(**c)) {
            return Err(Denial::policy(format!("permission denied for column {column} of {}", relation.name)));
        }
        permit.catalogs.insert(id, rule);
        return Ok(());
    }
    permit.touches_data = true;
    let masks: Vec<MaskedColumn> =
        policies.masks_of(relation, catalog, roles).into_iter().filter_map(|m| masked_column(m, relation)).collect();
    if !masks.is_empty() {
        permit.masks.insert(id, masks);
    }
    let only_read = usage == Usage::Select && !rte.locked;
    match policies.policy_of(relation, catalog) {
        Some(RelationPolicy::View) => Err(Denial::unsupported(format!(
            "what is done to the view \"{}\" here cannot be secured: it can be read in FROM, and its tables can be written",
            relation.name
        ))),
        Some(RelationPolicy::Tenant(_)) if relation.kind == 'v' && !only_read => {
            let message = format!("writes to the view \"{}\", and row locks, cannot be secured: write its tables", relation.name);
            Err(Denial::unsupported(message))
        }
        Some(RelationPolicy::Tenant(_))
            if usage != Usage::Select && catalog.has_rules(relation.oid) && !crate::mutant!("write.rules") =>
        {
            let message =
                format!("writes to \"{}\" cannot be secured: it has rules, which do other things instead", relation.name);
            Err(Denial::unsupported(message))
        }
        Some(RelationPolicy::Tenant(policy)) => {
            permit.rows.insert(id, row_filter(rte, relation, policy, usage, roles)?);
            Ok(())
        }
        Some(RelationPolicy::Shared) if only_read => Ok(()),
        Some(RelationPolicy::Shared) if usage == Usage::Select => {
            Err(denied(relation).hint("rows of a shared table cannot be locked: name the others, FOR UPDATE OF .."))
        }
        Some(RelationPolicy::Shared | RelationPolicy::Denied) | None => Err(denied(relation)),
    }
}

fn masked_column(mask: &ColumnMask, relation: &Relation) -> Option<MaskedColumn> {
    let number = |name: &String| relation.column(name).map(|c| c.number);
    Some(MaskedColumn {
        number: number(&mask.column)?,
        name: mask.column.clone(),
        mask: mask.mask,
        key: mask.key.clone(),
        never_stored: mask.never_stored,
        tenant_column: mask.tenant_column.as_ref().and_then(number),
    })
}

/// `excluded` shows what its target shows: triggers and defaults may have filled it.
fn mask_excluded(permit: &mut Permit, analysis: &Analysis) -> Result<(), Denial> {
    let excluded = analysis.rtes.iter().enumerate().filter(|(_, r)| matches!(r.kind, RteKind::Excluded));
    for (id, _) in excluded {
        // Which of several targets it belongs to is not known: they must agree.
        let mut targets = analysis.rtes.iter().enumerate().filter_map(|(id, r)| match r.kind {
            RteKind::Relation { oid: _, usage: Usage::Insert } => Some(permit.masks(id)),
            RteKind::Relation { oid: _, usage: Usage::Select | Usage::Update | Usage::Delete | Usage::Merge(_) }
            | RteKind::Derived
            | RteKind::Function
            | RteKind::Cte
            | RteKind::Excluded
            | RteKind::Version(_)
            | RteKind::Merged => None,
        });
        let masks = targets.next().unwrap_or_default().to_vec();
        if targets.any(|t| t != masks.as_slice()) {
            return Err(Denial::unsupported("ON CONFLICT beside INSERT into a table with other masks cannot be secured"));
        }
        if !masks.is_empty() {
            permit.masks.insert(id, masks);
        }
    }
    Ok(())
}

/// `old` and `new` of RETURNING show what their target shows.
fn mask_versions(permit: &mut Permit, analysis: &Analysis) {
    for (id, rte) in analysis.rtes.iter().enumerate() {
        let RteKind::Version(target) = rte.kind else { continue };
        let masks = permit.masks(target).to_vec();
        if !masks.is_empty() && !crate::mutant!("mask.versions") {
            permit.masks.insert(id, masks);
        }
    }
}

fn denied(relation: &Relation) -> Denial {
    let kind = match relation.kind {
        'v' => "view",
        'm' => "materialized view",
        'S' => "sequence",
        'f' => "foreign table",
        _ => "table", // tidy: not a syntax kind
    };
    Denial::policy(format!("permission denied for {kind} {}", relation.name))
}

/// Combines the rules for what the statement does to the relation, as PostgreSQL combines policies
/// (CREATE POLICY, "Policies Applied by Command Type").
fn row_filter(
    rte: &Rte,
    relation: &Relation,
    policy: &TenantPolicy,
    usage: Usage,
    roles: &[Box<str>],
) -> Result<RowFilter, Denial> {
    let column = relation
        .column(&policy.column)
        .ok_or_else(|| Denial::policy(format!("permission denied for table {}", relation.name)))?;
    let using = |action| policy.using(action, roles);
    let reads = rte.read || rte.whole_row;
    let mut changed = vec![];
    let (rows, check) = match usage {
        Usage::Select => {
            let mut parts = vec![using(RuleAction::Select)];
            if rte.locked {
                parts.push(using(RuleAction::Update));
            }
            (parts, vec![])
        }
        Usage::Insert => {
            let mut check = vec![policy.check(RuleAction::Insert, roles)];
            changed.push(policy.check(RuleAction::Update, roles));
            if reads {
                check.push(using(RuleAction::Select));
                changed.push(using(RuleAction::Select));
            }
            // The rows that ON CONFLICT DO UPDATE may change.
            (vec![using(RuleAction::Update), using(RuleAction::Select)], check)
        }
        Usage::Update => {
            let mut rows = vec![using(RuleAction::Update)];
            let mut check = vec![policy.check(RuleAction::Update, roles)];
            if reads {
                rows.push(using(RuleAction::Select));
                check.push(using(RuleAction::Select));
            }
            (rows, check)
        }
        Usage::Delete => {
            let mut rows = vec![using(RuleAction::Delete)];
            if reads {
                rows.push(using(RuleAction::Select));
            }
            (rows, vec![])
        }
        Usage::Merge(actions) => {
            merge_rules(relation, policy, actions, roles)?;
            (vec![using(RuleAction::Select)], vec![])
        }
    };
    let all = |parts: Vec<Option<Node>>| {
        let mut distinct: Vec<Node> = vec![];
        for part in parts.into_iter().flatten() {
            if !distinct.contains(&part) {
                distinct.push(part);
            }
        }
        crate::sql::tree::and(distinct)
    };
    Ok(RowFilter {
        schema: relation.schema.clone(),
        table: relation.name.clone(),
        tenant_column: column.number,
        type_: policy.type_,
        using: all(rows),
        check: all(check),
        changed: all(changed),
    })
}

/// MERGE sees rows as SELECT does; one that an action may not touch is an error to PostgreSQL, and there is no place for
/// the check of new rows: where rules ask for either, MERGE is refused.
fn merge_rules(relation: &Relation, policy: &TenantPolicy, actions: MergeActions, roles: &[Box<str>]) -> Result<(), Denial> {
    let using = |action| policy.using(action, roles);
    let refused = |what: &str| {
        let name = &relation.name;
        Err(Denial::unsupported(format!("MERGE that {what} rows of \"{name}\" cannot be secured under the rules for that table")))
    };
    if actions.insert && policy.check(RuleAction::Insert, roles).is_some() {
        return refused("inserts");
    }
    let updates = [using(RuleAction::Select), using(RuleAction::Update), policy.check(RuleAction::Update, roles)];
    if actions.update && updates.iter().any(Option::is_some) {
        return refused("updates");
    }
    let deletes = using(RuleAction::Delete);
    if actions.delete && deletes.is_some() && deletes != using(RuleAction::Select) {
        return refused("deletes");
    }
    Ok(())
}
