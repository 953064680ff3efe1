//! Rows of INSERT .. VALUES: one key for any number of three and more, where all are the first with other literals. What the
//! lexer takes for rows are rows only where plans say so (`plan::rows`).

use std::ops::Range;

use super::lists::kind;
use super::{Folded, Literals, Repeated};
use crate::sql::lexer::is_identifier_byte;
use crate::sql::sentinel;

/// Which literals of a folded statement are those of its second row, which stands for itself and all that follow.
///
/// Literals are numbered as in a statement of two rows; those of the third and later rows come after all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// The first literal of the second row: as many as a row has.
    pub width: u16,
    /// How many literals a statement of two rows has.
    pub live: u16,
}

/// Where the rows stand in a text: bytes.
struct Found {
    width: usize,
    count: usize,
    /// From its parenthesis to its parenthesis.
    first: Range<usize>,
    last_end: usize,
}

/// `None`: there are no such rows. The key is added to `keys`.
pub(super) fn fold(text: &str, source: Range<u32>, literals: &Literals, keys: &mut String) -> Option<Folded> {
    let found = find(text, source.clone(), literals)?;
    let (two, all) = (2 * found.width, found.count * found.width);
    let order = (0..two).chain(all..literals.len()).chain(two..all);
    let start = keys.len();
    found.write(text, source, literals, 2, keys);
    Some(Folded {
        key: start..keys.len(),
        literals: order.map(|i| literals[i].clone()).collect(),
        repeated: Repeated::Rows(Rows {
            width: u16::try_from(found.width).ok()?,
            live: u16::try_from(literals.len() - (all - two)).ok()?,
        }),
    })
}

/// The key of the same statement with three rows.
pub(super) fn three(text: &str, source: Range<u32>, literals: &Literals) -> Option<String> {
    let mut key = String::new();
    find(text, source.clone(), literals)?.write(text, source, literals, 3, &mut key);
    Some(key)
}

fn find(text: &str, source: Range<u32>, literals: &Literals) -> Option<Found> {
    let start = source.start as usize;
    let head = &text[start..literals.first()?.start as usize];
    if !head.get(..6)?.eq_ignore_ascii_case("insert") {
        return None;
    }
    let open = start + after_values(head)?;
    let (end, width) = first_row(text, open, literals)?;
    let mut found = Found { width, count: 1, first: open..end, last_end: end };
    while let Some(end) = found.next_row(text, literals) {
        (found.count, found.last_end) = (found.count + 1, end);
    }
    // With another row of another kind they would not be all of them.
    let is_all = !text[found.last_end..source.end as usize].trim_ascii_start().starts_with(',');
    (found.count > 2 && is_all).then_some(found)
}

/// Where the parenthesis stands that follows the last VALUES.
fn after_values(head: &str) -> Option<usize> {
    const VALUES: &[u8] = b"values";
    let bytes = head.as_bytes();
    let at = bytes.windows(VALUES.len()).rposition(|w| w.eq_ignore_ascii_case(VALUES))?;
    let is_word = at > 0 && !is_identifier_byte(bytes[at - 1]);
    let open = at + VALUES.len() + bytes[at + VALUES.len()..].iter().position(|b| !b.is_ascii_whitespace())?;
    (is_word && bytes[open] == b'(').then_some(open)
}

/// Where it ends, and how many literals it has: at least one.
fn first_row(text: &str, open: usize, literals: &[Range<u32>]) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let (mut at, mut depth, mut width) = (open, 0, 0);
    loop {
        if let Some(literal) = literals.get(width).filter(|r| r.start as usize == at) {
            at = literal.end as usize;
            width += 1;
            continue;
        }
        match bytes.get(at)? {
            b'(' => depth += 1,
            b')' if depth == 1 => return (width > 0).then_some((at + 1, width)),
            b')' => depth -= 1,
            b'"' => at += 1 + bytes[at + 1..].iter().position(|b| *b == b'"')?,
            // A string that is no literal: B'', X''.
            b'\'' => return None,
            _ => {} // bytes, not syntax nodes
        }
        at += 1;
    }
}

impl Found {
    /// Where the row after the last one ends, if it is as the first.
    fn next_row(&self, text: &str, literals: &[Range<u32>]) -> Option<usize> {
        let row = literals.get(self.count * self.width..(self.count + 1) * self.width)?;
        let after = text[self.last_end..].trim_ascii_start().strip_prefix(',')?.trim_ascii_start();
        let (mut at, mut first_at) = (text.len() - after.len(), self.first.start);
        for (literal, first) in row.iter().zip(literals) {
            let token = |r: &Range<u32>| &text[r.start as usize..r.end as usize];
            let is_same = text.get(at..literal.start as usize)? == &text[first_at..first.start as usize];
            if !is_same || kind(token(literal)) != kind(token(first)) {
                return None;
            }
            (at, first_at) = (literal.end as usize, first.end as usize);
        }
        let rest = &text[first_at..self.first.end];
        text[at..].starts_with(rest).then_some(at + rest.len())
    }

    /// The text with its first rows, a stand-in for each literal: numbered in order, but for those of a third row, which come
    /// after all others. Nothing else is left out of a key, but whitespace between rows.
    fn write(&self, text: &str, source: Range<u32>, literals: &[Range<u32>], rows: usize, key: &mut String) {
        let (two, all) = (2 * self.width, self.count * self.width);
        let live = literals.len() - (all - two);
        let mut copied = source.start as usize;
        for row in 0..rows {
            if row > 0 {
                key.push_str(", ");
                copied = self.first.start;
            }
            let base = if row < 2 { row * self.width } else { live };
            write_stand_ins(text, &mut copied, &literals[..self.width], base, key);
            key.push_str(&text[copied..self.first.end]);
        }
        copied = self.last_end;
        write_stand_ins(text, &mut copied, &literals[all..], two, key);
        key.push_str(&text[copied..source.end as usize]);
    }
}

fn write_stand_ins(text: &str, copied: &mut usize, literals: &[Range<u32>], base: usize, key: &mut String) {
    for (index, literal) in literals.iter().enumerate() {
        key.push_str(&text[*copied..literal.start as usize]);
        *copied = literal.end as usize;
        if let Some(kind) = kind(&text[literal.start as usize..*copied]) {
            sentinel::write(kind, (base + index) as u16, key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Scratch, read};

    /// The key of two rows and that of three, and the literals.
    fn folded(text: &str) -> Option<(String, String, Vec<String>)> {
        let mut scratch = Scratch::default();
        read(text, &mut scratch).unwrap();
        scratch.fold(text);
        let statement = scratch.statements().last().unwrap();
        let folded = statement.folded.as_ref()?;
        let literals = folded.literals.iter().map(|r| text[r.start as usize..r.end as usize].to_owned()).collect();
        Some((scratch.folded_key(folded).to_owned(), statement.with_three_rows(text)?, literals))
    }

    #[test]
    fn rows_have_one_key_however_many() {
        let text = "insert into \"t (\" (a, b) Values (1, f('x')),(2, f('y''s')) ,\n (3, f('z')), (4, f(' ')) RETURNING a + 7";
        let (two, three, literals) = folded(text).unwrap();
        assert_eq!(literals, ["1", "'x'", "2", "'y''s'", "7", "3", "'z'", "4", "' '"]);
        assert_eq!(
            two,
            "insert into \"t (\" (a, b) Values (2107300000, f('qzaaab')), (2107300002, f('qzaaad')) RETURNING a + 2107300004"
        );
        assert_eq!(three, two.replace(" RETURNING", ", (2107300005, f('qzaaag')) RETURNING"));
        let more = "insert into \"t (\" (a, b) Values (1, f('x')),(2, f('y')),(3, f('z')) RETURNING a + 0";
        assert_eq!(folded(more).unwrap().0, two);
    }

    #[test]
    fn rows_that_are_not_alike_stay() {
        for text in [
            "INSERT INTO t VALUES (1, 2)",
            "INSERT INTO t VALUES (1), (2)",
            "INSERT INTO t VALUES (1), (2), (3), (NULL)",
            "INSERT INTO t VALUES (1), (2), ('3')",
            "INSERT INTO t VALUES (1), (2), (3000000000)",
            "INSERT INTO t VALUES (1), (2), (-3)",
            "INSERT INTO t VALUES (1), (2), (3, 4)",
            "INSERT INTO t VALUES (1, $1), (2, $2), (3, $3)",
            "INSERT INTO t VALUES (1, B'1'), (2, B'1'), (3, B'1')",
            "INSERT INTO t VALUES (1), (/* c */ 2), (3)",
            "SELECT 1 FROM (VALUES (1), (2), (3)) v",
            "INSERT INTO t SELECT 1, 2, 3",
        ] {
            assert_eq!(folded(text), None, "{text}");
        }
    }
}
