//! Casts that the database made itself: `CREATE CAST .. WITH FUNCTION` lets a statement call a function that it does not name.
//!
//! An explicit cast is found by the type that it asks for. Where PostgreSQL casts without being asked is not repeated here
//! (find_coercion_pathway of parse_coerce.c is called in dozens of places): such a cast counts for every statement that has
//! both of its types, each wherever it may be. A type of PostgreSQL's own may be anywhere; one that is assigned to is that of
//! a column of a table that is written, or of a parameter that EXECUTE gives.

use std::collections::BTreeSet;

use pg_query::{Node, NodeEnum};

use super::scope::{RteKind, Usage};
use super::{Analyser, FunctionUse, Statement};
use crate::catalog::{Cast, Catalog, FIRST_NORMAL, Relation};
use crate::sql::types::{Environment, type_of};

/// `CAST (.. AS wanted)`; `given` is 0 where it is not known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    given: u32,
    wanted: u32,
}

impl Analyser<'_> {
    /// Notes a cast of an argument, or of a value that nothing is known of, to a type (of an array, the elements' type).
    pub(super) fn note_cast(&mut self, arg: Option<&Node>, wanted: u32) {
        let given = match arg.and_then(|a| a.node.as_ref()) {
            // The type's input function reads it; what cuts it to a length is a cast from the type to itself.
            Some(NodeEnum::AConst(_)) => wanted,
            Some(NodeEnum::ParamRef(p)) if self.parameter(p.number) == 0 => wanted,
            Some(_) | None => arg.map_or(0, |a| type_of(a, self).oid),
        };
        self.casts.push(Asked { given, wanted });
    }

    /// pg_proc.oid of the functions that casts of the statement may call.
    pub(super) fn functions_of_casts(&self, statement: &Statement) -> Vec<u32> {
        let catalog = self.context.catalog;
        if crate::mutant!("names.casts") || catalog.own_casts().next().is_none() {
            return vec![];
        }
        let types = self.types_that_occur();
        let occurs = |t: u32| t < FIRST_NORMAL || types.contains(&t);
        let assigned = self.types_assigned_to();
        let is_assigned_to = |t: u32| assigned.contains(&t) || matches!(statement, Statement::Execute { .. });
        let runs = |cast: &&Cast| {
            let reaches = cast.context == 'i' && occurs(cast.target) || cast.context == 'a' && is_assigned_to(cast.target);
            let unasked = reaches && occurs(cast.source) && !is_an_extensions(cast, catalog);
            unasked || self.casts.iter().any(|asked| asks_for(*asked, cast, catalog))
        };
        let found: BTreeSet<u32> = catalog.own_casts().filter(runs).map(|c| c.function).collect();
        found.into_iter().collect()
    }

    fn types_that_occur(&self) -> BTreeSet<u32> {
        let catalog = self.context.catalog;
        let mut types = BTreeSet::new();
        for t in self.types_named.iter().chain(self.context.parameter_types) {
            add_parts(*t, catalog, &mut types);
        }
        for (relation, _) in self.relations() {
            relation.columns.iter().for_each(|c| add_parts(c.type_oid, catalog, &mut types));
        }
        let called = |call: &FunctionUse| {
            let of_name = catalog.functions_named(&call.name);
            of_name.filter(|f| call.candidates.contains(&f.oid)).collect::<Vec<_>>()
        };
        for function in self.functions.iter().flat_map(called) {
            let outputs = function.outputs.iter().map(|(_, t)| t);
            for t in function.arguments.iter().chain([&function.returns]).chain(outputs) {
                add_parts(*t, catalog, &mut types);
            }
        }
        for operator in catalog.snapshot().operators.iter().filter(|o| self.foreign_operators.contains(&o.oid)) {
            [operator.left, operator.right, operator.result].into_iter().for_each(|t| add_parts(t, catalog, &mut types));
        }
        types
    }

    fn types_assigned_to(&self) -> BTreeSet<u32> {
        let mut types = BTreeSet::new();
        for (relation, usage) in self.relations() {
            match usage {
                Usage::Insert | Usage::Update | Usage::Merge(_) => {
                    relation.columns.iter().for_each(|c| add_parts(c.type_oid, self.context.catalog, &mut types));
                }
                Usage::Select | Usage::Delete => {}
            }
        }
        types
    }

    fn relations(&self) -> impl Iterator<Item = (&Relation, Usage)> {
        self.rtes.iter().filter_map(|rte| match rte.kind {
            RteKind::Relation { oid, usage } => Some((self.context.catalog.relation(oid)?, usage)),
            RteKind::Derived | RteKind::Function | RteKind::Cte | RteKind::Excluded | RteKind::Version(_) | RteKind::Merged => {
                None
            }
        })
    }
}

/// Whether the cast is one that runs.
fn asks_for(asked: Asked, cast: &Cast, catalog: &Catalog) -> bool {
    let mut wanted = BTreeSet::new();
    add_parts(asked.wanted, catalog, &mut wanted);
    // Of a row or an array, each part is cast: only of two plain types is it certain that a cast is another's.
    let plain = |t: u32| catalog.type_(t).is_some_and(|t| matches!(t.kind, 'b' | 'e') && t.element == 0);
    let is_anothers = match asked.given == asked.wanted {
        true => cast.source != cast.target,
        false => plain(asked.given) && plain(asked.wanted) && asked.given != cast.source,
    };
    wanted.contains(&cast.target) && !is_anothers
}

/// What an extension's casts call without being asked is the extension's own affair, as are its input functions and operator
/// classes.
fn is_an_extensions(cast: &Cast, catalog: &Catalog) -> bool {
    catalog.snapshot().functions.iter().any(|f| f.oid == cast.function && f.extension.is_some())
}

/// The type and what it is made of: elements of an array, the base of a domain, columns of a row.
fn add_parts(type_oid: u32, catalog: &Catalog, found: &mut BTreeSet<u32>) {
    if !found.insert(type_oid) {
        return;
    }
    let Some(t) = catalog.type_(type_oid) else { return };
    for part in [t.element, t.base].into_iter().filter(|part| *part != 0) {
        add_parts(part, catalog, found);
    }
    for column in catalog.relation(t.relation).into_iter().flat_map(|r| &r.columns) {
        add_parts(column.type_oid, catalog, found);
    }
}
