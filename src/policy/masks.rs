//! Masks bound to a catalog: which column of which relation shows what instead, and to whom.

use std::collections::HashMap;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::load::PolicyProblem;
use super::model::{Mask, MaskPolicy, TablePolicy};
use crate::catalog::{Catalog, Column, Relation};
use crate::sql::types::oid;

/// A masked column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnMask {
    pub column: String,
    pub mask: Mask,
    /// What stands in the text to send; empty but for [`Mask::Hash`].
    pub key: Box<str>,
    /// With [`Mask::Hash`]: whose rows differ in their pseudonyms. A shared table has none.
    pub tenant_column: Option<String>,
    unless_roles: Vec<String>,
    /// Roles of purposes, one of which must be there too.
    purposes: Vec<String>,
    /// Nothing is written into it.
    pub never_stored: bool,
}

impl ColumnMask {
    /// Whether it hides the same from the same.
    fn is_like(&self, other: &ColumnMask) -> bool {
        let ColumnMask { column, mask, key: _, tenant_column: _, unless_roles, purposes, never_stored } = other;
        self.column == *column
            && self.mask == *mask
            && self.unless_roles == *unless_roles
            && self.purposes == *purposes
            && self.never_stored == *never_stored
    }

    /// Whether it applies to a principal: none of its roles lifts it.
    pub fn applies_to(&self, roles: &[Box<str>]) -> bool {
        let has = |wanted: &[String]| wanted.iter().any(|w| roles.iter().any(|r| **r == **w));
        // Who has broken the glass has said why.
        let is_broken = roles.iter().any(|role| **role == *BROKEN_GLASS);
        let spared = match (self.unless_roles.is_empty(), self.purposes.is_empty()) {
            (_, true) => has(&self.unless_roles),
            (true, false) => has(&self.purposes),
            (false, false) => {
                has(&self.unless_roles) && (is_broken || has(&self.purposes) || crate::mutant!("watch.purposes-need-not-be-said"))
            }
        };
        self.never_stored || !spared
    }
}

/// The role of whoever has broken the glass, besides those that this gives.
pub const BROKEN_GLASS: &str = "glass:broken";

/// What the role of a purpose begins with: `purpose:billing`.
pub const PURPOSE: &str = "purpose:";

/// What [`ColumnMask::key`] begins with.
pub const KEY_PREFIX: &str = "bulkhead_mask_";

/// The text without the keys of pseudonyms in it, for people to read.
pub fn without_keys(text: &str) -> String {
    let mut parts = text.split(KEY_PREFIX);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str("<mask key>");
        out.push_str(part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    }
    out
}

/// The masks of all relations that have some, by OID.
#[derive(Debug, Default)]
pub struct Masks(HashMap<u32, Vec<ColumnMask>>);

impl Masks {
    /// Binds the masks of a table.
    ///
    /// # Errors
    /// Every mask that cannot serve its column.
    pub fn bind(
        &mut self,
        table: &TablePolicy,
        tenant_column: Option<&str>,
        relation: &Relation,
        catalog: &Catalog,
    ) -> Result<(), Vec<PolicyProblem>> {
        let mut problems = vec![];
        let mut masks = vec![];
        for policy in &table.columns {
            let Some(mask) = &policy.mask else { continue };
            let Some(column) = relation.column(&policy.name) else {
                let message = format!("table {}.{} has no column {}", table.schema, table.name, policy.name);
                problems.push(policy.place.problem(message, "a mask of nothing"));
                continue;
            };
            // That of a class is for columns of all types.
            let fits = mask.mask == Mask::Null || !mask.of_class || serves(mask.mask, column, catalog).is_ok();
            let shown = if fits { mask.mask } else { Mask::Null };
            if let Err(why) = serves(shown, column, catalog) {
                let message = format!("the mask `{}` cannot serve the column {}", shown.as_str(), column.name);
                problems.push(mask.place.problem(message, why));
                continue;
            }
            masks.push(ColumnMask {
                column: column.name.clone(),
                mask: shown,
                key: derived_key(mask, relation, column).into(),
                tenant_column: tenant_column.filter(|_| shown == Mask::Hash).map(str::to_owned),
                unless_roles: mask.unless_roles.clone(),
                purposes: mask.purposes.iter().map(|purpose| format!("{PURPOSE}{purpose}")).collect(),
                never_stored: mask.never_stored,
            });
        }
        if !masks.is_empty() {
            self.0.insert(relation.oid, masks);
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// What a table's rows are seen through must have the masks that the table has.
    ///
    /// # Errors
    /// Masks of a partition or child that its parent lacks.
    pub fn check_parents(
        &self,
        table: &TablePolicy,
        relation: &Relation,
        readable: &dyn Fn(u32) -> bool,
        catalog: &Catalog,
    ) -> Result<(), Vec<PolicyProblem>> {
        let mut problems = vec![];
        for mask in self.0.get(&relation.oid).into_iter().flatten() {
            for parent in ancestors(relation, catalog).into_iter().filter(|p| readable(p.oid)) {
                let same = self.own_or_inherited(parent, catalog).into_iter().any(|m| m.is_like(mask));
                if same || parent.column(&mask.column).is_none() {
                    continue;
                }
                let place = table.columns.iter().find(|c| c.name == mask.column).map_or(&table.place, |c| &c.place);
                let message = format!(
                    "{}.{} shows the rows of {}.{}, but does not mask {} in the same way",
                    parent.schema, parent.name, relation.schema, relation.name, mask.column
                );
                problems.push(place.problem(message, "put the mask on the parent"));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// The masks of a relation for these roles: its own, and those of what it is a partition or child of.
    pub fn of(&self, relation: &Relation, catalog: &Catalog, roles: &[Box<str>]) -> Vec<&ColumnMask> {
        if self.0.is_empty() {
            return vec![];
        }
        self.own_or_inherited(relation, catalog).into_iter().filter(|m| m.applies_to(roles)).collect()
    }

    pub fn any_for(&self, roles: &[Box<str>]) -> bool {
        self.0.values().flatten().any(|m| m.applies_to(roles))
    }

    fn own_or_inherited(&self, relation: &Relation, catalog: &Catalog) -> Vec<&ColumnMask> {
        let mut found: Vec<&ColumnMask> = self.0.get(&relation.oid).into_iter().flatten().collect();
        for parent in ancestors(relation, catalog) {
            for mask in self.0.get(&parent.oid).into_iter().flatten() {
                if !found.iter().any(|f| f.column == mask.column) && relation.column(&mask.column).is_some() {
                    found.push(mask);
                }
            }
        }
        found
    }
}

/// What a relation is a partition or child of, nearest first.
pub(super) fn ancestors<'a>(relation: &Relation, catalog: &'a Catalog) -> Vec<&'a Relation> {
    let mut found: Vec<&Relation> = vec![];
    let mut next: Vec<u32> = relation.parents.clone();
    while let Some(oid) = next.pop() {
        let Some(parent) = catalog.relation(oid).filter(|p| !found.iter().any(|f| f.oid == p.oid)) else { continue };
        next.extend(&parent.parents);
        found.push(parent);
    }
    found
}

/// A key of its own for each column: one that is found out is of no use elsewhere.
fn derived_key(policy: &MaskPolicy, relation: &Relation, column: &Column) -> String {
    let Some(key) = &policy.key else { return String::new() };
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.0.as_bytes()) else { return String::new() };
    for part in [&relation.schema, &relation.name, &column.name] {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part.as_bytes());
    }
    let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    format!("{KEY_PREFIX}{hex}")
}

/// Whether a mask can show something of the column's own type and modifier that never raises.
fn serves(mask: Mask, column: &Column, catalog: &Catalog) -> Result<(), String> {
    let Some(type_) = catalog.type_(column.type_oid) else { return Err("a column of an unknown type".to_owned()) };
    if type_.kind == 'd' {
        return Err(format!("{} is a domain, whose checks a mask could fail", type_.name));
    }
    let is_text = matches!(column.type_oid, oid::TEXT | oid::VARCHAR | oid::BPCHAR);
    if mask != Mask::Null && !is_text {
        return Err(format!("it is {}; only text, varchar and char can be masked so, others with `null`", type_.name));
    }
    let modified = [oid::VARCHAR, oid::BPCHAR, oid::NUMERIC, oid::TIMESTAMP, oid::TIMESTAMPTZ, oid::TIME, oid::TIMETZ];
    if column.typmod != -1 && !modified.contains(&column.type_oid) {
        return Err(format!("it is {} with a modifier", type_.name));
    }
    if column.type_oid == oid::BPCHAR && column.typmod == -1 {
        return Err("it is bpchar without a length".to_owned());
    }
    // Before PostgreSQL 18 they raise for substring searches.
    let deterministic = catalog.collation(column.collation).is_none_or(|c| c.deterministic);
    if matches!(mask, Mask::Email | Mask::Hash) && !deterministic {
        return Err("its collation is nondeterministic".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_shown_to_people() {
        let key = format!("{KEY_PREFIX}{}", "0a".repeat(32));
        assert_eq!(without_keys(&format!("a('{key}'), b('{key}')")), "a('<mask key>'), b('<mask key>')");
        assert_eq!(without_keys("nothing"), "nothing");
    }
}
