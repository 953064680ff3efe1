//! Lists of literals after IN: one key for all lengths. What the lexer takes for such a list is one only where the parser says so;
//! [`only_in_lists`] asks it.

use std::collections::BTreeSet;
use std::ops::Range;

use pg_query::protobuf::{AExpr, AExprKind, ParseResult};
use pg_query::{Node, NodeEnum};
use smallvec::SmallVec;

use super::{Folded, Literals, Repeated};
use crate::sql::sentinel::{self, Kind, Sign};
use crate::sql::tree::walk;

/// `None`: there is no such list. The key is added to `keys`.
pub(super) fn fold(text: &str, source: Range<u32>, literals: &Literals, keys: &mut String) -> Option<Folded> {
    let mut folded = Literals::new();
    let mut rests: SmallVec<[u16; 2]> = SmallVec::new();
    let mut at = 0;
    while let Some(first) = literals.get(at) {
        let run = length_of_run(text, &literals[at..]);
        let last = &literals[at + run - 1];
        folded.push(first.clone());
        if run > 2 && follows_in(text, first.start as usize) && is_closed(text, last.end as usize) {
            rests.push(u16::try_from(folded.len()).ok()?);
            folded.push(literals[at + 1].start..last.end);
        } else {
            folded.extend(literals[at + 1..at + run].iter().cloned());
        }
        at += run;
    }
    if rests.is_empty() {
        return None;
    }
    let start = keys.len();
    write_key(text, source, &folded, keys);
    Some(Folded { key: start..keys.len(), literals: folded, repeated: Repeated::Lists(rests) })
}

/// How many literals of one kind stand at the beginning with nothing but commas between them.
fn length_of_run(text: &str, literals: &[Range<u32>]) -> usize {
    let token = |r: &Range<u32>| &text[r.start as usize..r.end as usize];
    let goes_on = |pair: &[Range<u32>]| {
        let between = text[pair[0].end as usize..pair[1].start as usize].trim_ascii();
        between == "," && kind(token(&pair[0])) == kind(token(&pair[1]))
    };
    1 + literals.windows(2).take_while(|pair| goes_on(pair)).count()
}

pub(super) fn kind(token: &str) -> Option<Kind> {
    if token.starts_with('\'') { Some(Kind::String) } else { sentinel::number_kind(token) }
}

fn follows_in(text: &str, at: usize) -> bool {
    let before = text[..at].trim_ascii_end().strip_suffix('(').map(str::trim_ascii_end);
    before.and_then(|b| b.len().checked_sub(2).and_then(|n| b.get(n..))).is_some_and(|word| word.eq_ignore_ascii_case("in"))
}

fn is_closed(text: &str, at: usize) -> bool {
    text[at..].trim_ascii_start().starts_with(')')
}

/// The text with a stand-in for each literal. Nothing else in it is left out of a key.
fn write_key(text: &str, source: Range<u32>, literals: &Literals, key: &mut String) {
    let mut copied = source.start as usize;
    for (index, literal) in literals.iter().enumerate() {
        key.push_str(&text[copied..literal.start as usize]);
        copied = literal.end as usize;
        // Of a list, its first: all are of one kind.
        let token = &text[literal.start as usize..copied];
        let first =
            if token.starts_with('\'') { "'" } else { token.split([',', ' ', '\t', '\n', '\r', '\x0c']).next().unwrap_or(token) };
        if let Some(kind) = kind(first) {
            sentinel::write(kind, index as u16, key);
        }
    }
    key.push_str(&text[copied..source.end as usize]);
}

/// Whether each of these literals stands nowhere but last in a list after IN, among literals: then it may be more of them.
pub fn only_in_lists(tree: &ParseResult, rests: &[u16]) -> bool {
    let mut in_lists: BTreeSet<u16> = BTreeSet::new();
    let (mut everywhere, mut inside) = (0, 0);
    for statement in tree.stmts.iter().filter_map(|s| s.stmt.as_deref()) {
        walk(statement, &mut |node| match &node.node {
            Some(NodeEnum::AConst(_)) => everywhere += usize::from(literal(node).is_some_and(|i| rests.contains(&i))),
            Some(NodeEnum::AExpr(e)) => {
                if let Some(rest) = rest_of_list(e).filter(|rest| rests.contains(rest)) {
                    inside += 1;
                    in_lists.insert(rest);
                }
            }
            Some(_) | None => {}
        });
    }
    everywhere == inside && rests.iter().all(|rest| in_lists.contains(rest))
}

/// The second of two literals that are all of a list after IN.
fn rest_of_list(e: &AExpr) -> Option<u16> {
    if AExprKind::try_from(e.kind) != Ok(AExprKind::AexprIn) {
        return None;
    }
    let Some(NodeEnum::List(list)) = &e.rexpr.as_deref()?.node else { return None };
    let [first, second] = list.items.as_slice() else { return None };
    literal(first).and_then(|_| literal(second))
}

fn literal(node: &Node) -> Option<u16> {
    let Some(NodeEnum::AConst(constant)) = &node.node else { return None };
    match sentinel::index_of_const(constant)? {
        (index, Sign::Plus) => Some(index),
        (_, Sign::Minus) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Scratch, read};
    use super::*;
    use crate::sql::parse;

    /// The key, and the literals; a rest in brackets.
    fn folded(text: &str) -> Option<(String, Vec<String>)> {
        let mut scratch = Scratch::default();
        read(text, &mut scratch).unwrap();
        scratch.fold(text);
        let folded = scratch.statements().last().unwrap().folded.as_ref()?;
        let Repeated::Lists(rests) = &folded.repeated else { return None };
        let token = |(i, r): (usize, &Range<u32>)| {
            let token = &text[r.start as usize..r.end as usize];
            if rests.contains(&(i as u16)) { format!("[{token}]") } else { token.to_owned() }
        };
        Some((scratch.folded_key(folded).to_owned(), folded.literals.iter().enumerate().map(token).collect()))
    }

    #[test]
    fn a_list_has_one_key_however_long() {
        let (key, literals) = folded("SELECT 'x' FROM t WHERE id IN (1, 2,3 ,\n4) AND c in('a','b''','c') LIMIT 5").unwrap();
        assert_eq!(literals, ["'x'", "1", "[2,3 ,\n4]", "'a'", "['b''','c']", "5"]);
        assert_eq!(
            key,
            "SELECT 'qzaaaa' FROM t WHERE id IN (2107300001, 2107300002) AND c in('qzaaad','qzaaae') LIMIT 2107300005"
        );
        assert_eq!(folded("SELECT 'y' FROM t WHERE id IN (7, 8, 9) AND c in('','',' ') LIMIT 50").unwrap().0, key);
    }

    #[test]
    fn what_is_no_list_of_literals_stays() {
        for text in [
            "SELECT id IN (1, 2)",
            "SELECT id IN (1, 2, x, 3)",
            "SELECT id IN (1, 2.5, 3)",
            "SELECT id IN (1, -2, 3)",
            "SELECT id IN (1, 2, 3 + 4)",
            "SELECT f(1, 2, 3)",
            "SELECT id IN (1, /* c */ 2, 3)",
            "SELECT id IN (1, 2, 3000000000)",
            "INSERT INTO t VALUES (1, 2, 3)",
        ] {
            assert_eq!(folded(text), None, "{text}");
        }
    }

    #[test]
    fn the_parser_says_whether_it_is_a_list() {
        let is_list = |text: &str| only_in_lists(&parse::parse(text).unwrap(), &[1]);
        assert!(is_list("SELECT 1 WHERE a IN (2107300000, 2107300001) OR b NOT IN ('qzaaaa', 'qzaaab')"));
        for text in [
            "SELECT s.in(2107300000, 2107300001)",
            "SELECT a IN (2107300000, 2107300001) OR 2107300001 = 1",
            "SELECT (a, b) IN ((2107300000, 2107300001))",
            "SELECT a IN (2107300001, 2107300000)",
            "SELECT a IN (2107300000, -2107300001)",
            "SELECT a IN (2107300000, 2107300001::int8)",
            "SELECT a IN (b, 2107300001)",
            "SELECT a IN (2107300000)",
        ] {
            assert!(!is_list(text), "{text}");
        }
    }
}
