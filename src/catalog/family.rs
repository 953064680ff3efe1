//! Tables whose rows are seen through one another: a partitioned table and its partitions, a table and what inherits from it. To
//! the result cache they are one, named by their root.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::{Catalog, Relation, TEMPORARY_SCHEMA};

/// A root and what is below it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// pg_class.oid; where something has several parents, of one of the roots.
    pub root: u32,
    /// All are tables, partitioned or not, of this server, and lasting; none has rules or several parents. Only of such a family is
    /// it known what changes it.
    pub plain: bool,
    /// A change may run code that changes anything.
    pub opaque: bool,
    /// Roots of the families whose rows a change of this one changes by foreign keys, and theirs, and so on.
    pub cascades: Vec<u32>,
}

/// The families of all relations.
pub(super) fn all(catalog: &Catalog) -> HashMap<u32, Arc<Family>> {
    let relations = &catalog.snapshot.relations;
    let roots = roots(relations);
    let unlogged: BTreeSet<u32> = catalog.snapshot.unlogged.iter().copied().collect();
    let mut families: HashMap<u32, Family> = HashMap::new();
    for relation in relations {
        let root = roots[&relation.oid];
        let family = families.entry(root).or_insert_with(|| Family { root, plain: true, ..Family::default() });
        let lasting = relation.schema != TEMPORARY_SCHEMA && matches!(relation.kind, 'r' | 'p');
        family.plain &=
            lasting && relation.parents.len() < 2 && !catalog.has_rules(relation.oid) && !unlogged.contains(&relation.oid);
        // What another server does with it, or another database of this one, is not known.
        family.opaque |= catalog.has_rules(relation.oid) || relation.kind == 'f';
    }
    for oid in &catalog.snapshot.opaque {
        if let Some(family) = roots.get(oid).and_then(|root| families.get_mut(root)) {
            family.opaque = true;
        }
    }
    let mut direct: HashMap<u32, BTreeSet<u32>> = HashMap::new();
    for (referenced, referencing) in &catalog.snapshot.cascades {
        if let (Some(from), Some(to)) = (roots.get(referenced), roots.get(referencing)) {
            direct.entry(*from).or_default().insert(*to);
        }
    }
    let opaque: BTreeSet<u32> = families.values().filter(|f| f.opaque).map(|f| f.root).collect();
    for (root, family) in &mut families {
        let reached = reached(*root, &direct);
        family.opaque |= reached.iter().any(|r| opaque.contains(r));
        family.cascades = reached.into_iter().collect();
    }
    let families: HashMap<u32, Arc<Family>> = families.into_iter().map(|(root, family)| (root, Arc::new(family))).collect();
    roots.into_iter().filter_map(|(oid, root)| Some((oid, families.get(&root)?.clone()))).collect()
}

/// The root of each: what hangs together, by whatever parents, has one.
fn roots(relations: &[Relation]) -> HashMap<u32, u32> {
    let mut above: HashMap<u32, u32> = HashMap::new();
    for relation in relations {
        for parent in &relation.parents {
            let (a, b) = (top(&above, relation.oid), top(&above, *parent));
            if a != b {
                above.insert(a, b);
            }
        }
    }
    relations.iter().map(|r| (r.oid, top(&above, r.oid))).collect()
}

fn top(above: &HashMap<u32, u32>, mut oid: u32) -> u32 {
    while let Some(next) = above.get(&oid) {
        oid = *next;
    }
    oid
}

/// Everything that is reached from a root, itself only where something leads back to it.
fn reached(from: u32, direct: &HashMap<u32, BTreeSet<u32>>) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut open: Vec<u32> = vec![from];
    while let Some(next) = open.pop() {
        for to in direct.get(&next).into_iter().flatten() {
            if found.insert(*to) {
                open.push(*to);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{Catalog, Relation, Snapshot};

    fn relation(oid: u32, kind: char, parents: &[u32]) -> Relation {
        Relation {
            oid,
            schema: "public".to_owned(),
            name: format!("t{oid}"),
            kind,
            columns: vec![],
            parents: parents.to_vec(),
            is_partition: false,
            unique_keys: vec![],
            row_security: false,
        }
    }

    /// root, plain, opaque, cascades
    fn family(snapshot: &Snapshot, oid: u32) -> (u32, bool, bool, Vec<u32>) {
        let catalog = Catalog::new(snapshot.clone());
        let family = catalog.family(oid).expect("a family");
        (family.root, family.plain, family.opaque, family.cascades.clone())
    }

    #[test]
    fn what_is_seen_together_is_one_family() {
        let relations = vec![
            relation(1, 'p', &[]),
            relation(2, 'p', &[1]),
            relation(3, 'r', &[2]),
            relation(4, 'r', &[]),
            relation(5, 'r', &[]),
            relation(6, 'r', &[4, 5]),
            relation(7, 'p', &[]),
            relation(8, 'f', &[7]),
            relation(9, 'v', &[]),
        ];
        let mut snapshot = Snapshot { relations, ..Snapshot::default() };
        assert_eq!(family(&snapshot, 3), (1, true, false, vec![]));
        assert_eq!(family(&snapshot, 4), family(&snapshot, 5), "a child of two parents");
        assert!(!family(&snapshot, 5).1);
        assert!(!family(&snapshot, 7).1, "a partition of another server");
        assert!(!family(&snapshot, 9).1, "a view");
        snapshot.cascades = vec![(3, 9), (9, 7), (7, 9)];
        assert_eq!(family(&snapshot, 1).3, [7, 9]);
        assert_eq!(family(&snapshot, 9).3, [7, 9], "through another and back");
        snapshot.opaque = vec![8];
        assert!(family(&snapshot, 2).2, "by a trigger where the foreign key leads");
        assert!(!family(&snapshot, 4).2);
        snapshot.ruled = vec![2];
        assert!(family(&snapshot, 1).2 && !family(&snapshot, 1).1, "rules do something else");
    }
}
