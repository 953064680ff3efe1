//! The Merkle tree of RFC 6962, section 2.1: hashes, the frontier that a writer keeps, and both kinds of proof.

use sha2::{Digest, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// Of one record.
pub fn leaf(record: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(record).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Of a tree without leaves.
fn empty() -> Hash {
    Sha256::digest([]).into()
}

/// The roots of the whole subtrees that a tree of some size is made of, the largest first: all that must be known to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    roots: Vec<Hash>,
}

impl Frontier {
    /// `None`: a tree of this size has another number of them.
    pub fn new(size: u64, roots: Vec<Hash>) -> Option<Frontier> {
        (roots.len() == size.count_ones() as usize).then_some(Frontier { size, roots })
    }

    /// How many leaves the tree has.
    pub fn size(&self) -> u64 {
        self.size
    }

    pub fn roots(&self) -> &[Hash] {
        &self.roots
    }

    pub fn push(&mut self, leaf: Hash) {
        // As many subtrees of one size are joined as a carry runs far when one is added.
        let mut hash = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                hash = node(&left, &hash);
            }
        }
        self.roots.push(hash);
        self.size += 1;
    }

    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        let Some(last) = roots.next() else { return empty() };
        roots.fold(*last, |right, left| node(left, &right))
    }
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// Where leaves are read again. Ranges are of indices, the end is not in them.
pub trait Leaves {
    /// The root of the subtree over these leaves, which are some.
    fn root(&self, from: u64, to: u64) -> Option<Hash>;
}

impl Leaves for [Hash] {
    fn root(&self, from: u64, to: u64) -> Option<Hash> {
        let mut frontier = Frontier::default();
        self.get(usize::try_from(from).ok()?..usize::try_from(to).ok()?)?.iter().for_each(|leaf| frontier.push(*leaf));
        Some(frontier.root())
    }
}

/// The audit path of leaf `index` in the tree of `size` leaves (2.1.1). `None`: a part of the tree is not there any more.
pub fn inclusion(leaves: &(impl Leaves + ?Sized), index: u64, size: u64) -> Option<Vec<Hash>> {
    let (mut from, mut to) = (0, size);
    let mut path = vec![];
    while to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(leaves.root(middle, to)?);
            to = middle;
        } else {
            path.push(leaves.root(from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Some(path)
}

/// Whether `path` shows that the tree of this root has that leaf there (RFC 9162, 2.1.3.2).
pub fn includes(root: &Hash, size: u64, index: u64, leaf: Hash, path: &[Hash]) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = leaf;
    for part in path {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(part, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, part);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// What shows that the tree of `old` leaves is the beginning of that of `new` ones (2.1.2); `old` is not 0. `None`: a part of the tree
/// is not there any more.
pub fn consistency(leaves: &(impl Leaves + ?Sized), old: u64, new: u64) -> Option<Vec<Hash>> {
    let (mut from, mut to) = (0, new);
    let mut proof = vec![];
    // Whether the subtree that is left is known to who has the old root.
    let mut known = true;
    while old != to {
        let middle = from + split(to - from);
        if old <= middle {
            proof.push(leaves.root(middle, to)?);
            to = middle;
        } else {
            proof.push(leaves.root(from, middle)?);
            from = middle;
            known = false;
        }
    }
    if !known {
        proof.push(leaves.root(from, to)?);
    }
    proof.reverse();
    Some(proof)
}

/// Whether `proof` shows that the tree of the new root goes on from that of the old one (RFC 9162, 2.1.4.2).
pub fn is_consistent(old: (u64, &Hash), new: (u64, &Hash), proof: &[Hash]) -> bool {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size > new_size || old_size == 0 {
        return false;
    }
    if old_size == new_size {
        return proof.is_empty() && old_root == new_root;
    }
    let mut proof = proof.iter();
    let first = if old_size.is_power_of_two() { Some(old_root) } else { proof.next() };
    let Some(first) = first else { return false };
    let (mut at, mut last) = (old_size - 1, new_size - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let (mut of_old, mut of_new) = (*first, *first);
    for part in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            of_old = node(part, &of_old);
            of_new = node(part, &of_new);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            of_new = node(&of_new, part);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && of_old == *old_root && of_new == *new_root
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|i| leaf(&i.to_be_bytes())).collect()
    }

    /// MTH of RFC 6962, as it is written there.
    fn defined(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty(),
            [one] => *one,
            many => {
                let (left, right) = many.split_at(split(many.len() as u64) as usize);
                node(&defined(left), &defined(right))
            }
        }
    }

    #[test]
    fn roots_are_those_of_the_rfc() {
        let hex = |hash: Hash| hash.iter().map(|b| format!("{b:02x}")).collect::<String>();
        // Test vectors of certificate-transparency: the empty tree, one empty leaf.
        assert_eq!(hex(Frontier::default().root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(leaf(b"")), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        let mut frontier = Frontier::default();
        for (i, leaf) in leaves(200).into_iter().enumerate() {
            assert_eq!(frontier.root(), defined(&leaves(i as u64)));
            frontier.push(leaf);
            let again = Frontier::new(frontier.size(), frontier.roots().to_vec());
            assert_eq!(again.as_ref(), Some(&frontier));
            assert_eq!(Frontier::new(frontier.size() + 1, frontier.roots().to_vec()).is_some(), i % 4 == 0);
        }
    }

    #[test]
    fn proofs_show_what_is_so_and_nothing_else() {
        for size in 1..40 {
            let all = leaves(size);
            let root = defined(&all);
            for index in 0..size {
                let path = inclusion(&all[..], index, size).expect("all leaves are there");
                let own = all[index as usize];
                assert!(includes(&root, size, index, own, &path), "{index} of {size}");
                assert!(!includes(&root, size, (index + 1) % size, own, &path) || size == 1);
                assert!(!includes(&root, size, index, leaf(b"another"), &path));
                for at in 0..path.len() {
                    let mut other = path.clone();
                    other[at][0] ^= 1;
                    assert!(!includes(&root, size, index, own, &other));
                    other.remove(at);
                    assert!(!includes(&root, size, index, own, &other));
                }
                assert!(!includes(&root, size, index, own, &[&path[..], &[root]].concat()));
            }
            for old in 1..=size {
                let before = defined(&all[..old as usize]);
                let proof = consistency(&all[..], old, size).expect("all leaves are there");
                assert!(is_consistent((old, &before), (size, &root), &proof), "{old} of {size}");
                assert!(!is_consistent((old, &leaf(b"another")), (size, &root), &proof));
                assert!(!is_consistent((old, &before), (size, &leaf(b"another")), &proof));
                for at in 0..proof.len() {
                    let mut other = proof.clone();
                    other[at][0] ^= 1;
                    assert!(!is_consistent((old, &before), (size, &root), &other));
                }
                assert!(!is_consistent((old, &before), (size, &root), &[&proof[..], &[root]].concat()));
            }
        }
    }
}
