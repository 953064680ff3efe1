//! A segment: a file of some of the log's records, in lines.
//!
//! The first line says where it begins in the tree, then each record is `<hash> <json>`: the first half of its leaf's hash tells a
//! changed or torn record by itself, the tree tells the rest. Nothing in a file is without a meaning, so that no byte can be changed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::tree::{self, Frontier, Hash};

/// How long what stands before a record is: hexadecimal digits and a blank.
pub const PREFIX: usize = 17;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    bulkhead_audit: u32,
    log: String,
    first: u64,
    frontier: Vec<String>,
}

const VERSION: u32 = 1;

/// The file's name, by its first record.
pub fn name(first: u64) -> String {
    format!("{first:020}.log")
}

/// `None`: it is no segment's name.
pub fn first_of(file: &str) -> Option<u64> {
    let first = file.strip_suffix(".log")?.parse().ok().filter(|first| *first < 1 << 62)?;
    (name(first) == file).then_some(first)
}

/// The first line, with its end.
pub fn header(origin: &str, before: &Frontier) -> String {
    let header = Header {
        bulkhead_audit: VERSION,
        log: origin.to_owned(),
        first: before.size(),
        frontier: before.roots().iter().map(|hash| BASE64.encode(hash)).collect(),
    };
    serde_json::to_string(&header).expect("a header is plain data") + "\n"
}

/// What the first line says: which log it is of, and what comes before. `None`: it is none.
pub fn read_header(line: &[u8]) -> Option<(String, Frontier)> {
    let header: Header = serde_json::from_slice(line).ok().filter(|h: &Header| h.bulkhead_audit == VERSION)?;
    let hash = |text: &String| BASE64.decode(text).ok()?.try_into().ok();
    let roots = header.frontier.iter().map(hash).collect::<Option<Vec<Hash>>>()?;
    let frontier = Frontier::new(header.first, roots)?;
    // One spelling.
    (self::header(&header.log, &frontier).as_bytes().strip_suffix(b"\n") == Some(line)).then_some((header.log, frontier))
}

/// Fills what stands before a record, and gives its leaf's hash. `line` is without its end.
pub fn seal(line: &mut [u8]) -> Hash {
    let leaf = tree::leaf(&line[PREFIX..]);
    line[..PREFIX].copy_from_slice(&prefix(&leaf));
    leaf
}

fn prefix(leaf: &Hash) -> [u8; PREFIX] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b' '; PREFIX];
    for (pair, byte) in text.chunks_exact_mut(2).zip(leaf) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
    text
}

/// One line after the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'s> {
    /// A record that is what it says, and its leaf.
    Record(&'s [u8], Hash),
    /// Neither whole nor as it was written, from this byte of the file on.
    Bad { at: usize },
}

/// The lines of a segment after the first; ends with the first bad one.
pub fn lines(file: &[u8], header: usize) -> impl Iterator<Item = Line<'_>> {
    let mut at = header;
    let mut over = false;
    std::iter::from_fn(move || {
        if over || at >= file.len() {
            return None;
        }
        let rest = &file[at..];
        let record = memchr::memchr(b'\n', rest).and_then(|end| {
            let record = rest[..end].get(PREFIX..)?;
            let leaf = tree::leaf(record);
            (rest[..PREFIX] == prefix(&leaf) || crate::mutant!("audit.prefixes-are-not-compared")).then_some((
                record,
                leaf,
                end + 1,
            ))
        });
        let Some((record, leaf, length)) = record else {
            over = true;
            return Some(Line::Bad { at });
        };
        at += length;
        Some(Line::Record(record, leaf))
    })
}

/// How long the first line is, with its end; `None`: it has none.
pub fn header_length(file: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', file).map(|end| end + 1)
}
