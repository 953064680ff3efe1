//! Reads a log that is written elsewhere, or no more: whether it is what it was, and proofs for those who do not have it.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, PublicKey};
use super::segment::{self, Line, PREFIX};
use super::tree::{self, Frontier, Hash, Leaves};
use super::writer::{CHECKPOINT, PUBLIC_KEY, is_begin, is_end, is_of};

/// Where a log is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// The first record that is not, as far as that can be told.
    pub record: u64,
    /// Where a checkpoint tells no more than that it is one of several: the first that may be it.
    pub from: u64,
    pub file: String,
    /// In the file, in bytes.
    pub at: usize,
    pub why: String,
}

impl fmt::Display for Bad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bad { record, from, file, at, why } = self;
        if from == record {
            write!(f, "record {record} ({file}, byte {at}): {why}")
        } else {
            write!(f, "one of the records {from} to {record} ({file}, before byte {at}): {why}")
        }
    }
}

/// What was found in a log that is what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub origin: String,
    /// The first record that is still there.
    pub first: u64,
    /// How many records there are, those that are not there any more included.
    pub size: u64,
    /// How many of them the newest checkpoint covers: the rest is as it was written, which nobody has signed yet.
    pub signed: u64,
    /// How many checkpoints were compared, those inside of the log included.
    pub checkpoints: u64,
    /// How often it was gone on with after a crash, from records that no checkpoint covered.
    pub recovered: u64,
    /// Bytes of a record that is being written, or was when the proxy died.
    pub unfinished: usize,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: {trouble}", path.display())]
    Note { path: PathBuf, trouble: String },
    #[error("there is no segment in {}", .0.display())]
    Empty(PathBuf),
    /// It cannot be proved.
    #[error("{0}")]
    Absent(String),
    /// It is not what it was.
    #[error("{0}")]
    Bad(Bad),
}

/// A log's directory.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    key: PublicKey,
    /// First records of the segments, in order.
    firsts: Vec<u64>,
}

/// A record that was read.
#[derive(Clone, Copy, Debug)]
pub struct Read<'r> {
    pub index: u64,
    pub json: &'r [u8],
    pub leaf: Hash,
}

impl Reader {
    /// `key`: a line, as the log's public.key has it, or a file with one; `None`: the log's own file, which whoever changed the log may
    /// have changed too.
    ///
    /// # Errors
    /// It cannot be read, or there is none.
    pub fn open(path: &Path, key: Option<&str>) -> Result<Reader, ReadError> {
        let own = path.join(PUBLIC_KEY);
        let line = match key {
            Some(line) if line.contains('+') && !Path::new(line).exists() => line.to_owned(),
            Some(file) => read_text(Path::new(file))?,
            None => read_text(&own)?,
        };
        let told = key.map_or(own, PathBuf::from);
        let key = PublicKey::parse(&line).map_err(|trouble| ReadError::Note { path: told, trouble })?;
        let mut reader = Reader { path: path.to_owned(), key, firsts: vec![] };
        reader.look()?;
        Ok(reader)
    }

    /// Which segments there are now.
    fn look(&mut self) -> Result<(), ReadError> {
        let entries = fs::read_dir(&self.path).map_err(|error| ReadError::Io { path: self.path.clone(), error })?;
        self.firsts = entries.filter_map(|entry| segment::first_of(&entry.ok()?.file_name().to_string_lossy())).collect();
        self.firsts.sort_unstable();
        Ok(())
    }

    /// The checkpoint that a file has, if it is this log's.
    ///
    /// # Errors
    /// It cannot be read, or is none that this key has signed.
    pub fn checkpoint(&self, path: &Path) -> Result<Checkpoint, ReadError> {
        let note = read_text(path)?;
        self.key.open(&note).map_err(|trouble| ReadError::Note { path: path.to_owned(), trouble })
    }

    /// The newest, which stands beside the segments.
    ///
    /// # Errors
    /// See [`checkpoint`](Self::checkpoint).
    pub fn newest(&self) -> Result<Checkpoint, ReadError> {
        self.checkpoint(&self.path.join(CHECKPOINT))
    }

    /// Reads all of it, and compares it with its own checkpoints and with these, of earlier. `each` gets every record.
    ///
    /// # Errors
    /// [`ReadError::Bad`]: it is not what it was.
    pub fn verify(&mut self, earlier: &[Checkpoint], mut each: impl FnMut(Read<'_>)) -> Result<Verified, ReadError> {
        let newest = self.look_with_newest()?;
        let first = *self.firsts.first().ok_or_else(|| bad_file("", "there is no segment"))?;
        let mut expected: Vec<&Checkpoint> = earlier.iter().chain([&newest]).collect();
        expected.sort_by_key(|checkpoint| checkpoint.size);
        let mut walk = Walk {
            key: &self.key,
            expected: &expected,
            tree: None,
            compared: 0,
            good: first,
            signed: newest.size,
            pruned: 0,
            recovered: 0,
            ended: false,
        };
        let mut unfinished = 0;
        for (i, first) in self.firsts.iter().enumerate() {
            let is_last = i + 1 == self.firsts.len();
            unfinished = walk.segment(&self.read(*first)?, *first, is_last, &mut each)?;
        }
        let size = walk.tree.map_or(0, |tree| tree.size());
        if let Some(missing) = walk.expected.first().filter(|_| !crate::mutant!("audit.cut-tails-are-well")) {
            let file = segment::name(self.firsts.last().copied().unwrap_or(first));
            let why = format!("it is missing: a checkpoint covers {} records", missing.size);
            return Err(ReadError::Bad(Bad { record: size, from: size, at: 0, file, why }));
        }
        // Whoever removes a segment cannot add the record of it, signed, as the log does itself.
        if walk.pruned < first {
            let why = "it and what is before it are missing, and nothing says that they were too old".to_owned();
            let file = segment::name(first);
            return Err(ReadError::Bad(Bad { record: first.saturating_sub(1), from: walk.pruned, file, at: 0, why }));
        }
        let origin = newest.origin.clone();
        let (checkpoints, recovered) = (walk.compared, walk.recovered);
        Ok(Verified { origin, first, size, signed: newest.size, checkpoints, recovered, unfinished })
    }

    /// The newest checkpoint, and the segments of then: what is written meanwhile is more than it covers, never less, and what is dropped
    /// for its age is covered before, so that none may be made between the two looks.
    fn look_with_newest(&mut self) -> Result<Checkpoint, ReadError> {
        let told = |error| match error {
            ReadError::Note { path: _, trouble } => bad_file(CHECKPOINT, &trouble),
            ReadError::Io { path: _, error } if error.kind() == io::ErrorKind::NotFound => bad_file(CHECKPOINT, "it is missing"),
            other => other,
        };
        let mut newest = self.newest().map_err(told)?;
        loop {
            self.look()?;
            let again = self.newest().map_err(told)?;
            if again.size == newest.size {
                return Ok(newest);
            }
            newest = again;
        }
    }

    fn read(&self, first: u64) -> Result<Vec<u8>, ReadError> {
        let name = segment::name(first);
        let path = self.path.join(&name);
        let found = fs::symlink_metadata(&path).map_err(|error| ReadError::Io { path: path.clone(), error })?;
        if !found.is_file() || found.len() > LONGEST {
            return Err(bad_file(&name, "it is no segment: another kind of file, or larger than any"));
        }
        fs::read(&path).map_err(|error| ReadError::Io { path, error })
    }

    /// Calls `each` with the records from `from` on, unverified but for their own hashes, until it says `false`.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn records(&self, from: u64, mut each: impl FnMut(Read<'_>) -> bool) -> Result<(), ReadError> {
        let begin = self.firsts.partition_point(|first| *first <= from).saturating_sub(1);
        for first in &self.firsts[begin.min(self.firsts.len())..] {
            let file = self.read(*first)?;
            let header = segment::header_length(&file).unwrap_or(file.len());
            let is_last = self.firsts.last() == Some(first);
            for (index, line) in (*first..).zip(segment::lines(&file, header)) {
                let (json, leaf) = match line {
                    Line::Record(json, leaf) => (json, leaf),
                    Line::Bad { at } if is_last && is_torn(&file[at..]) => break,
                    Line::Bad { at } => {
                        let why = "it is not what was written".to_owned();
                        return Err(ReadError::Bad(Bad { record: index, from: index, file: segment::name(*first), at, why }));
                    }
                };
                if index >= from && !each(Read { index, json, leaf }) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// How many records there are.
    ///
    /// # Errors
    /// The last segment cannot be read.
    pub fn size(&self) -> Result<u64, ReadError> {
        let last = *self.firsts.last().ok_or_else(|| ReadError::Empty(self.path.clone()))?;
        let mut size = last;
        self.records(last, |read| {
            size = read.index + 1;
            true
        })?;
        Ok(size)
    }

    /// The tree's leaves up to `size`, as far as they are there.
    fn leaves(&self, size: u64) -> Result<Remembered, ReadError> {
        let first = *self.firsts.first().ok_or_else(|| ReadError::Empty(self.path.clone()))?;
        let file = self.read(first)?;
        let header = segment::header_length(&file).and_then(|length| segment::read_header(&file[..length - 1]));
        let before = header.map(|(_, frontier)| frontier).unwrap_or_default();
        let mut leaves = vec![];
        self.records(first, |read| {
            leaves.push(read.leaf);
            read.index + 1 < size
        })?;
        Ok(Remembered { before, leaves })
    }

    /// What shows to whoever has the public key that the log has this record.
    ///
    /// # Errors
    /// It is not there, or not covered by a checkpoint yet.
    pub fn prove(&self, index: u64) -> Result<Proof, ReadError> {
        let checkpoint = self.newest()?;
        let note = read_text(&self.path.join(CHECKPOINT))?;
        let absent = |why: &str| ReadError::Absent(format!("record {index} {why}"));
        if index >= checkpoint.size {
            return Err(absent("is not covered by a checkpoint yet"));
        }
        let mut record = None;
        self.records(index, |read| {
            record = (read.index == index).then(|| String::from_utf8_lossy(read.json).into_owned());
            false
        })?;
        let record = record.ok_or_else(|| absent("is not there any more"))?;
        let leaves = self.leaves(checkpoint.size)?;
        let path =
            tree::inclusion(&leaves, index, checkpoint.size).ok_or_else(|| absent("cannot be proved: records are missing"))?;
        let proof = Proof { index, record, path: path.iter().map(encode).collect(), checkpoint: note };
        match proof.check(&self.key) {
            Ok(_) => Ok(proof),
            Err(why) => Err(bad_file("", &format!("{why}: the records are not those that the checkpoint covers"))),
        }
    }

    /// What shows that the log of the newer checkpoint goes on from that of the older.
    ///
    /// # Errors
    /// It does not, or that cannot be told any more.
    pub fn consistency(&self, old: &Checkpoint, new: &Checkpoint) -> Result<Vec<String>, ReadError> {
        let leaves = self.leaves(new.size)?;
        let proof = match old.size {
            0 => vec![],
            size => tree::consistency(&leaves, size, new.size)
                .ok_or_else(|| ReadError::Absent("records that it would take are not there any more".to_owned()))?,
        };
        if old.size > 0 && !tree::is_consistent((old.size, &old.root), (new.size, &new.root), &proof) {
            let file = segment::name(self.firsts.first().copied().unwrap_or_default());
            let why = format!("the log that was signed with {} records is not the beginning of that with {}", old.size, new.size);
            return Err(ReadError::Bad(Bad { record: old.size, from: 0, file, at: 0, why }));
        }
        Ok(proof.iter().map(encode).collect())
    }
}

/// No segment is longer, in bytes: a batch may go past what one is meant to have.
const LONGEST: u64 = 1 << 30;

/// A file that is not the log's any more.
fn bad_file(file: &str, why: &str) -> ReadError {
    ReadError::Bad(Bad { record: 0, from: 0, file: file.to_owned(), at: 0, why: why.to_owned() })
}

/// Whether what is no record may be one that was being written: the end of its line is not there yet.
fn is_torn(rest: &[u8]) -> bool {
    memchr::memchr(b'\n', rest).is_none()
}

fn read_text(path: &Path) -> Result<String, ReadError> {
    fs::read_to_string(path).map_err(|error| ReadError::Io { path: path.to_owned(), error })
}

/// A log that is read from its begin.
struct Walk<'w> {
    key: &'w PublicKey,
    /// Checkpoints that are not compared yet, by size.
    expected: &'w [&'w Checkpoint],
    tree: Option<Frontier>,
    compared: u64,
    /// Up to here a checkpoint has told that all is well.
    good: u64,
    /// What the newest checkpoint covers.
    signed: u64,
    /// What is before this was removed for its age.
    pruned: u64,
    recovered: u64,
    /// The last record was that of an orderly end.
    ended: bool,
}

impl Walk<'_> {
    /// How many bytes at its end are no record.
    fn segment(&mut self, file: &[u8], first: u64, is_last: bool, each: &mut impl FnMut(Read<'_>)) -> Result<usize, ReadError> {
        let name = segment::name(first);
        let length = self.header(file, first, &name)?;
        let mut at = length;
        self.compare(&name, at)?;
        for line in segment::lines(file, length) {
            let index = self.size();
            match line {
                Line::Record(json, leaf) => {
                    at += PREFIX + json.len() + 1;
                    self.check_noted(json, &name, at)?;
                    if std::mem::replace(&mut self.ended, is_end(json)) && !is_begin(json) {
                        let why = "it follows the end of a log that was ended in order".to_owned();
                        return Err(ReadError::Bad(Bad { record: index, from: index, file: name, at, why }));
                    }
                    if let Some(tree) = &mut self.tree {
                        tree.push(leaf);
                    }
                    self.note(index, json);
                    each(Read { index, json, leaf });
                    self.compare(&name, at)?;
                }
                // What is behind the last checkpoint may be in the middle of being written.
                Line::Bad { at } if is_last && self.expected.is_empty() && is_torn(&file[at..]) => return Ok(file.len() - at),
                Line::Bad { at } => {
                    let why = "it is not what was written".to_owned();
                    return Err(ReadError::Bad(Bad { record: index, from: index, file: name, at, why }));
                }
            }
        }
        Ok(0)
    }

    fn size(&self) -> u64 {
        self.tree.as_ref().map_or(0, Frontier::size)
    }

    /// What the log says of itself.
    fn note(&mut self, index: u64, json: &[u8]) {
        // Anybody can write what nobody has signed.
        let is_signed = index < self.signed || crate::mutant!("audit.anybody-prunes");
        if is_signed && is_of(json, b"\"event\":\"pruned\"") {
            let record: Option<serde_json::Value> = serde_json::from_slice(json).ok();
            self.pruned = self.pruned.max(record.and_then(|record| record["first"].as_u64()).unwrap_or(0));
        }
        self.recovered += u64::from(is_of(json, b"\"event\":\"recovered\""));
    }

    /// The first line, which says nothing new but in the first segment: there it is told by the first checkpoint.
    fn header(&mut self, file: &[u8], first: u64, name: &str) -> Result<usize, ReadError> {
        let index = self.tree.as_ref().map_or(first, Frontier::size);
        let bad = |why: &str| {
            let why = why.to_owned();
            ReadError::Bad(Bad { record: index, from: index, file: name.to_owned(), at: 0, why })
        };
        let length = segment::header_length(file).ok_or_else(|| bad("its segment has no first line"))?;
        let read = segment::read_header(&file[..length - 1]);
        let (origin, before) = read.ok_or_else(|| bad("the first line of its segment is not what was written"))?;
        if origin != self.key.name() {
            return Err(bad(&format!("its segment is of the log {origin}")));
        }
        match &self.tree {
            Some(tree) if tree.size() < first => return Err(bad("it is missing, and what comes after it is there")),
            Some(tree) if *tree != before && !crate::mutant!("audit.first-lines-are-not-compared") => {
                return Err(bad("the first line of its segment is not what was written"));
            }
            None if before.size() != first => return Err(bad("its segment has another one's name")),
            Some(_) | None => self.tree = Some(before),
        }
        Ok(length)
    }

    /// A checkpoint that is a record itself covers what stands before it.
    fn check_noted(&mut self, json: &[u8], name: &str, at: usize) -> Result<(), ReadError> {
        if !is_of(json, b"\"event\":\"checkpoint\"") {
            return Ok(());
        }
        let note = serde_json::from_slice::<serde_json::Value>(json).ok().and_then(|v| Some(v["note"].as_str()?.to_owned()));
        let opened = self.key.open(note.as_deref().unwrap_or_default());
        let index = self.size();
        let root = self.tree.as_ref().map(Frontier::root);
        let bad = |from, why| Err(ReadError::Bad(Bad { record: index, from, file: name.to_owned(), at, why }));
        match opened {
            Err(trouble) => bad(index, format!("it is a checkpoint that is {trouble}")),
            Ok(noted) if noted.size != index => {
                let size = noted.size;
                bad(
                    self.good.min(index),
                    format!("{index} records stand before a checkpoint of {size}: some are missing, or not the log's"),
                )
            }
            Ok(noted) if Some(noted.root) != root && !crate::mutant!("audit.notes-inside-are-not-compared") => {
                bad(self.good, "they are not those that the next checkpoint covers".to_owned())
            }
            Ok(_) => {
                self.compared += 1;
                self.good = index;
                Ok(())
            }
        }
    }

    fn compare(&mut self, name: &str, at: usize) -> Result<(), ReadError> {
        let Some(tree) = &self.tree else { return Ok(()) };
        while let Some((checkpoint, later)) = self.expected.split_first().filter(|(c, _)| c.size <= tree.size()) {
            // Of what was pruned nothing can be said but by what goes on from it.
            if checkpoint.size == tree.size()
                && checkpoint.root != tree.root()
                && !crate::mutant!("audit.checkpoints-are-not-compared")
            {
                let record = tree.size().saturating_sub(1);
                let why = format!("they are not those that the checkpoint of {} records covers", checkpoint.size);
                return Err(ReadError::Bad(Bad { record, from: self.good.min(record), file: name.to_owned(), at, why }));
            }
            if checkpoint.size == tree.size() {
                self.good = tree.size();
                self.compared += 1;
            }
            self.expected = later;
        }
        Ok(())
    }
}

/// Leaves behind a frontier.
struct Remembered {
    before: Frontier,
    leaves: Vec<Hash>,
}

impl Leaves for Remembered {
    fn root(&self, from: u64, to: u64) -> Option<Hash> {
        let first = self.before.size();
        if from >= first {
            return self.leaves[..].root(from - first, to - first);
        }
        // One of the frontier's subtrees, or some of the last of them and what follows: these stand side by side, the largest first.
        let mut at = 0;
        for (i, root) in self.before.roots().iter().enumerate() {
            let size = 1 << (63 - (first - at).leading_zeros());
            if (at, at + size) == (from, to) {
                return Some(*root);
            }
            if at == from && to > first {
                let mut tree = Frontier::new(first - from, self.before.roots()[i..].to_vec())?;
                self.leaves.get(..(to - first) as usize)?.iter().for_each(|leaf| tree.push(*leaf));
                return Some(tree.root());
            }
            at += size;
        }
        None
    }
}

/// Shows that a log has a record: all that is needed but the public key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    pub index: u64,
    pub record: String,
    /// The audit path, in Base64.
    pub path: Vec<String>,
    /// The signed note.
    pub checkpoint: String,
}

impl Proof {
    /// Whether the log of this key has that record.
    ///
    /// # Errors
    /// It does not show that.
    pub fn check(&self, key: &PublicKey) -> Result<Checkpoint, String> {
        let checkpoint = key.open(&self.checkpoint)?;
        let path = self.path.iter().map(|hash| decode(hash)).collect::<Option<Vec<Hash>>>().ok_or("a hash is none")?;
        let leaf = tree::leaf(self.record.as_bytes());
        match tree::includes(&checkpoint.root, checkpoint.size, self.index, leaf, &path) {
            true => Ok(checkpoint),
            false => Err(format!("it does not show that record {} is this one", self.index)),
        }
    }
}

fn encode(hash: &Hash) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(hash)
}

fn decode(hash: &str) -> Option<Hash> {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(hash).ok()?.try_into().ok()
}
