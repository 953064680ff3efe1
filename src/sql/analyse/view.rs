//! Views: a view that policies list is read through its definition, which stands in the place of its name as a sub-select.
//!
//! So each table in it is governed by its own entry, and conditions of the view's own are guarded like a client's. The
//! definition's names are resolved by themselves: it sees neither the WITH clauses nor the columns of the statement around it,
//! nor the session's search_path.

use std::collections::HashSet;

use pg_query::protobuf::{Alias, RangeSubselect, RangeVar, SelectStmt, a_const};
use pg_query::{Node, NodeEnum};

use super::super::tree::{boxed, node, walk};
use super::super::{parse, sentinel};
use super::Analyser;
use super::from::{alias_columns, rename, strings};
use super::scope::{Item, Output, RteColumn, RteKind};
use crate::catalog::Catalog;
use crate::finding::Denial;

/// Views on views multiply.
const MAX_EXPANDED: usize = 64;
/// How many stand in one another.
const MAX_NESTED: usize = 8;

/// How many levels the definitions of these views can add to the tree of a statement, with what stands in them.
pub fn levels_of_views(views: &HashSet<u32>, catalog: &Catalog) -> u32 {
    let mut all: Vec<(&str, &str)> = vec![];
    for view in views {
        all.extend(catalog.relation(*view).map(|r| r.name.as_str()).zip(catalog.definition_of_view(*view)));
    }
    let deepest = all.iter().map(|(_, definition)| parse::levels_of(definition)).max().unwrap_or_default();
    // Where a name is printed in quotes, those in it are doubled.
    let names = |definition: &str| all.iter().any(|(name, _)| name.contains('"') || definition.contains(name));
    let nested = if all.iter().any(|(_, definition)| names(definition)) { MAX_NESTED as u32 } else { 1 };
    deepest.saturating_mul(nested)
}

impl Analyser<'_> {
    /// The view that a name in FROM means, where it is one to be read through its definition.
    pub(super) fn view_named(&mut self, range: &RangeVar) -> Result<Option<u32>, Denial> {
        if !range.catalogname.is_empty() || self.cte_named(range)?.is_some() {
            return Ok(None);
        }
        // What is not found is told by whoever looks for a relation.
        let found = self.find_relation(&range.schemaname, &range.relname).ok();
        let is_listed = |oid| self.context.views.contains(&oid) || crate::mutant!("names.unlisted-views");
        Ok(found.filter(|r| r.kind == 'v' && is_listed(r.oid)).map(|r| r.oid))
    }

    /// The view as a sub-select, resolved, and what the statement sees of it.
    pub(super) fn read_view(&mut self, view: u32, range: &RangeVar) -> Result<(Node, Item), Denial> {
        self.expanded += 1;
        if self.expanded > MAX_EXPANDED {
            return Err(Denial::unsupported(format!("a statement that reads more than {MAX_EXPANDED} views cannot be secured")));
        }
        let catalog = self.context.catalog;
        let is_deep = |text: &str| parse::is_deep(text);
        let (Some(relation), Some(definition)) = (catalog.relation(view), catalog.definition_of_view(view)) else {
            return Err(Denial::unsupported("a view without a definition cannot be secured"));
        };
        if self.in_views >= MAX_NESTED || self.in_views > 0 && is_deep(definition) {
            let message = format!("the view \"{}\" inside of others cannot be secured: they nest too deep", relation.name);
            return Err(Denial::unsupported(message));
        }
        let of_view = |denial: Denial| in_view(&relation.name, denial);
        let mut select = read_definition(definition).map_err(of_view)?;
        let outputs = self.query_by_itself(&mut select).map_err(of_view)?;
        if !outputs.iter().map(|o| &o.name).eq(relation.columns.iter().map(|c| &c.name)) {
            return Err(of_view(Denial::unsupported("its definition has other columns")));
        }
        let visible = range.alias.as_ref().map_or_else(|| relation.name.clone(), |a| a.aliasname.clone());
        let renamed = alias_columns(range.alias.as_ref());
        let mut columns: Vec<RteColumn> =
            outputs.into_iter().map(|o| RteColumn { name: o.name, number: 0, typed: o.typed, sources: o.sources }).collect();
        rename(&mut columns, &renamed, &visible)?;
        let id = self.add_rte(&visible, RteKind::Derived, columns)?;
        let sub_select = RangeSubselect {
            lateral: false,
            subquery: boxed(node(NodeEnum::SelectStmt(Box::new(select)))),
            alias: Some(Alias { aliasname: self.rtes[id].alias.clone(), colnames: strings(&renamed) }),
        };
        let qualified = range.alias.is_none().then(|| (relation.schema.clone(), relation.name.clone()));
        Ok((node(NodeEnum::RangeSubselect(Box::new(sub_select))), self.item(id, visible, qualified)))
    }

    /// Resolves a query that sees nothing of the statement around it.
    fn query_by_itself(&mut self, select: &mut SelectStmt) -> Result<Vec<Output>, Denial> {
        if crate::mutant!("names.views-see-the-statement") {
            return self.query(select, None);
        }
        let scopes = std::mem::take(&mut self.scopes);
        let frames = std::mem::take(&mut self.cte_frames);
        self.in_views += 1;
        let outputs = self.query(select, None);
        self.in_views -= 1;
        self.scopes = scopes;
        self.cte_frames = frames;
        outputs
    }
}

/// A definition's query. One that holds what stands for a literal or for the tenant elsewhere is refused.
fn read_definition(definition: &str) -> Result<SelectStmt, Denial> {
    let tree = parse::parse(definition)?;
    let [statement] = tree.stmts.as_slice() else { return Err(Denial::unsupported("its definition is not one statement")) };
    let Some(query) = statement.stmt.as_deref() else { return Err(Denial::unsupported("its definition is empty")) };
    let mut taken = false;
    walk(query, &mut |n| match &n.node {
        Some(NodeEnum::AConst(c)) => {
            let is_slot = matches!(&c.val, Some(a_const::Val::Sval(s)) if sentinel::looks_like_slot(&s.sval));
            taken |= is_slot || sentinel::index_of_const(c).is_some();
        }
        Some(NodeEnum::String(s)) => taken |= sentinel::looks_like_slot(&s.sval),
        Some(_) | None => {}
    });
    match &query.node {
        Some(NodeEnum::SelectStmt(select)) if !taken => Ok((**select).clone()),
        Some(_) | None => Err(Denial::unsupported("its definition holds what cannot be told from a literal's place")),
    }
}

/// What is wrong inside of a view; no position in the client's text is.
fn in_view(name: &str, denial: Denial) -> Denial {
    let Denial { reason, mut error } = denial;
    error.position = None;
    let message = format!("view \"{name}\" cannot be secured: {}", error.message);
    match error.sqlstate {
        crate::error::sqlstate::INSUFFICIENT_PRIVILEGE => Denial { reason, error },
        _ => Denial::unsupported(message), // tidy: not a syntax kind
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Relation, Snapshot};

    #[test]
    fn a_statement_has_the_levels_of_the_views_in_it() {
        let view = |oid, name: &str| Relation {
            oid,
            schema: "public".into(),
            name: name.into(),
            kind: 'v',
            columns: vec![],
            parents: vec![],
            is_partition: false,
            unique_keys: vec![],
            row_security: false,
        };
        let deep = format!("SELECT {}1{} AS n", "(1 + ".repeat(20), ")".repeat(20));
        let levels = |on_top: &str, name: &str| {
            let relations = vec![view(1, name), view(2, "top")];
            let views = vec![(1, deep.clone()), (2, on_top.to_owned())];
            levels_of_views(&HashSet::from([1, 2]), &Catalog::new(Snapshot { relations, views, ..Snapshot::default() }))
        };
        let alone = parse::levels_of(&deep);
        assert!(alone > 20);
        assert_eq!(levels("SELECT 1 AS n", "bottom"), alone);
        assert!(levels("SELECT n FROM public.bottom", "bottom") >= 2 * alone, "one in the other");
        assert!(levels("SELECT n FROM public.\"bot\"\"tom\"", "bot\"tom") >= 2 * alone, "whatever the name");
        assert_eq!(levels_of_views(&HashSet::new(), &Catalog::default()), 0);
    }
}
