//! What stands on the disk, and how it gets there: segments, the tree over them, the newest checkpoint.
//!
//! A batch of lines is framed, appended and synced; then it is durable. What has not been synced is kept in memory too: where anything
//! fails, the segment is cut to what was durable and written again from there, since after a failed `fsync` nothing is known of what was
//! written before it.

use std::io;
use std::time::{Duration, Instant, SystemTime};

use super::checkpoint::{Checkpoint, PublicKey, Signer};
use super::disk::Disk;
use super::record::Record;
use super::segment::{self, Line, PREFIX};
use super::tree::Frontier;

/// Names in the directory.
pub const CHECKPOINT: &str = "checkpoint";
pub const PUBLIC_KEY: &str = "public.key";
pub const SIGNING_KEY: &str = "signing.key";
/// Room that is given up when the disk is full.
const RESERVE: &str = "reserve";

/// How it is written.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// About how long a segment is, in bytes.
    pub segment: u64,
    /// How often there is a checkpoint, where there are new records.
    pub checkpoint: Duration,
    /// In bytes.
    pub reserve: usize,
}

impl Default for Format {
    fn default() -> Self {
        Format { segment: 64 << 20, checkpoint: Duration::from_secs(1), reserve: 16 << 20 }
    }
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{name}: {error}")]
    Io { name: String, error: io::Error },
    #[error("the signing key: {0}")]
    Key(String),
    /// It is not what it was.
    #[error("{0}")]
    Tampered(String),
}

fn io_error(name: &str) -> impl FnOnce(io::Error) -> OpenError {
    move |error| OpenError::Io { name: name.to_owned(), error }
}

#[derive(Debug)]
pub struct Writer<D> {
    disk: D,
    format: Format,
    signer: Signer,
    /// The segment that is written.
    name: String,
    /// How much of it is durable, and the tree of that.
    durable: (u64, Frontier),
    /// Framed lines behind that: some may have been written, none is known to be durable.
    pending: Vec<u8>,
    /// The tree with them.
    tree: Frontier,
    /// Whether the segment may have bytes that are not durable.
    is_dirty: bool,
    /// What the newest checkpoint covers, and when it was made; `None`: by another process.
    signed: (u64, Option<Instant>),
    /// With so many records there is nothing that a new checkpoint would tell: those that are covered, and the record of that.
    told: u64,
    has_reserve: bool,
}

impl<D: Disk> Writer<D> {
    /// Opens a log, or makes one. `key`: of the checkpoints, in PEM; where there is none, one is made and kept beside the log.
    ///
    /// # Errors
    /// See [`OpenError`]. INVARIANT (EVIDENCE): a log that has lost what a checkpoint covers is never gone on with.
    pub fn open(mut disk: D, key: Option<&[u8]>, format: Format) -> Result<Writer<D>, OpenError> {
        let names = disk.names().map_err(io_error("the directory"))?;
        let is_new = !names.iter().any(|name| name == CHECKPOINT || segment::first_of(name).is_some());
        let signer = if is_new { begin(&mut disk, key)? } else { signer_of(&disk, key)? };
        let last = names.iter().filter_map(|name| segment::first_of(name)).max();
        let signed = read_checkpoint(&disk, signer.public())?;
        let name = match last {
            Some(first) => segment::name(first),
            None if signed.size == 0 => {
                let name = segment::name(0);
                let header = segment::header(&signed.origin, &Frontier::default());
                disk.replace(&name, header.as_bytes()).map_err(io_error(&name))?;
                name
            }
            None => {
                let size = signed.size;
                return Err(OpenError::Tampered(format!("its checkpoint covers {size} records, and there is no segment")));
            }
        };
        let found = recover(&disk, &name, &signed)?;
        let mut writer = Writer {
            disk,
            format,
            signer,
            name,
            durable: (found.length, found.tree.clone()),
            pending: vec![],
            tree: found.tree,
            is_dirty: true,
            signed: (signed.size, None),
            told: signed.size,
            has_reserve: names.iter().any(|name| name == RESERVE),
        };
        writer.note_recovery(&found.torn, signed.size)?;
        Ok(writer)
    }

    /// What a crash has left behind the last whole record is kept beside the log, and cut. Records that no checkpoint covers are gone on
    /// from, and that is recorded: they may have come from somebody else.
    fn note_recovery(&mut self, torn: &[u8], signed: u64) -> Result<(), OpenError> {
        if !torn.is_empty() {
            let name = format!("torn-{:020}", self.tree.size());
            if let Err(error) = self.disk.replace(&name, torn) {
                // As on a full disk: the log goes on, and says so.
                tracing::warn!("what a crash has left behind the last record of the audit log is not kept: {error}");
                self.give_up_reserve();
            }
        }
        if (!torn.is_empty() || self.tree.size() > signed) && !crate::mutant!("audit.recovery-is-not-told") {
            let record = Record::new("recovered").number("records", self.tree.size()).number("torn_bytes", torn.len() as u64);
            self.add(record.number("checkpoint", signed).end());
        }
        let name = self.name.clone();
        let written = self.flush();
        let full = written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull);
        let written = if full && self.give_up_reserve() { self.flush() } else { written };
        match written {
            Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(io_error(&name)(error)),
            // What becomes of statements meanwhile is for the settings to say.
            Err(_) | Ok(()) => Ok(()),
        }
    }

    /// The name of the log.
    pub fn origin(&self) -> &str {
        self.signer.public().name()
    }

    /// How many records it has.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Room for what comes: whether a segment with this much more is long enough.
    pub fn will_rotate(&self, bytes: usize) -> bool {
        self.durable.0 + (self.pending.len() + bytes) as u64 >= self.format.segment
    }

    /// Adds a record of the log's own.
    pub fn add(&mut self, record: Vec<u8>) {
        let mut line = vec![b' '; PREFIX];
        line.extend_from_slice(&record);
        line.push(b'\n');
        self.add_lines(&mut line);
    }

    /// Adds lines: each [`PREFIX`] bytes that are filled now, a record, and a line's end.
    pub fn add_lines(&mut self, lines: &mut [u8]) {
        let mut at = 0;
        while let Some(length) = memchr::memchr(b'\n', &lines[at..]) {
            self.tree.push(segment::seal(&mut lines[at..at + length]));
            at += length + 1;
        }
        self.pending.extend_from_slice(lines);
    }

    /// A checkpoint, where it is time, and the reserve, where there is none.
    ///
    /// # Errors
    /// The disk's. What is durable stays so, and unsigned until this succeeds.
    pub fn upkeep(&mut self) -> io::Result<()> {
        // Its record stands right behind what it covers, or verify would not know what that is: not while something waits for the disk.
        let is_written = self.pending.is_empty() || crate::mutant!("audit.notes-stand-anywhere");
        // What a process begins with is covered at once.
        let is_due = self.signed.1.is_none_or(|at| at.elapsed() >= self.format.checkpoint);
        if is_written && is_due && self.tree.size() > self.told {
            self.sign_here()?;
        }
        if !self.has_reserve && self.format.reserve > 0 {
            self.disk.replace(RESERVE, &vec![b'-'; self.format.reserve])?;
            self.has_reserve = true;
        }
        Ok(())
    }

    /// Whether what is written would be found again: the segment has not been removed, or replaced.
    ///
    /// # Errors
    /// It has.
    pub fn is_there(&mut self) -> io::Result<()> {
        let name = self.name.clone();
        self.disk.is_there(&name)
    }

    /// Makes all that was added durable.
    ///
    /// # Errors
    /// The disk's. Nothing is lost: it is tried again with the next.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.is_dirty && !crate::mutant!("audit.what-failed-stays") {
            self.disk.truncate(&self.name, self.durable.0)?;
            // Even where nothing is to be written: what is cut must stay so.
            self.disk.sync(&self.name)?;
            self.is_dirty = false;
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        self.is_dirty = true;
        self.disk.append(&self.name, &self.pending)?;
        if !crate::mutant!("audit.nothing-is-synced") {
            self.disk.sync(&self.name)?;
        }
        self.is_dirty = false;
        self.durable = (self.durable.0 + self.pending.len() as u64, self.tree.clone());
        self.pending.clear();
        Ok(())
    }

    /// Signs what is durable.
    fn sign(&mut self) -> io::Result<String> {
        let tree = &self.durable.1;
        let checkpoint = Checkpoint { origin: self.origin().to_owned(), size: tree.size(), root: tree.root() };
        let note = self.signer.sign(&checkpoint);
        self.disk.replace(CHECKPOINT, note.as_bytes())?;
        self.signed = (checkpoint.size, Some(Instant::now()));
        self.told = checkpoint.size;
        Ok(note)
    }

    /// Likewise, and in the log as well, durable with what comes next: where it was changed is told between two of them.
    fn sign_here(&mut self) -> io::Result<()> {
        let note = self.sign()?;
        self.add(Record::new("checkpoint").text("note", &note).end());
        self.told = self.tree.size();
        Ok(())
    }

    /// Ends the segment and begins the next.
    ///
    /// # Errors
    /// The disk's; this segment is gone on with.
    pub fn rotate(&mut self) -> io::Result<()> {
        self.flush()?;
        if !crate::mutant!("audit.segments-begin-unsigned") {
            self.sign()?;
        }
        let name = segment::name(self.tree.size());
        if name == self.name {
            return Ok(());
        }
        let header = segment::header(self.origin(), &self.tree);
        self.disk.replace(&name, header.as_bytes())?;
        self.name = name;
        self.durable = (header.len() as u64, self.tree.clone());
        Ok(())
    }

    /// The last thing before an orderly end: all of it is covered.
    ///
    /// # Errors
    /// The disk's.
    pub fn close(&mut self) -> io::Result<()> {
        self.flush()?;
        if self.signed.0 < self.tree.size() {
            self.sign()?;
        }
        Ok(())
    }

    /// Gives up the room that was kept for this. `false`: there is none.
    pub fn give_up_reserve(&mut self) -> bool {
        let had = self.has_reserve;
        self.has_reserve = false;
        had && self.disk.remove(RESERVE).is_ok()
    }

    /// How many bytes wait for the disk.
    pub fn backlog(&self) -> usize {
        self.pending.len()
    }

    /// Removes segments whose last record is older than `oldest`, but never the one that is written: once that is recorded and signed,
    /// since nobody else can add such a record. The first record that is left, or 0 where none was removed.
    ///
    /// # Errors
    /// The disk's.
    pub fn prune(&mut self, oldest: SystemTime) -> io::Result<u64> {
        let mut firsts: Vec<u64> = self.disk.names()?.iter().filter_map(|name| segment::first_of(name)).collect();
        firsts.sort_unstable();
        let (mut old, mut left) = (vec![], 0);
        for pair in firsts.windows(2) {
            let name = segment::name(pair[0]);
            if self.disk.modified(&name)? >= oldest {
                break;
            }
            old.push(name);
            left = pair[1];
        }
        if left > 0 {
            self.add(Record::new("pruned").number("first", left).end());
            self.flush()?;
            self.sign_here()?;
        }
        for name in old {
            self.disk.remove(&name)?;
        }
        Ok(left)
    }
}

/// Makes what verifies a log before the log: key, public key, the checkpoint of nothing.
fn begin(disk: &mut impl Disk, key: Option<&[u8]>) -> Result<Signer, OpenError> {
    let origin = format!("bulkhead/{:016x}", rand::random::<u64>());
    let made;
    let key = match key {
        Some(key) => key,
        None => {
            made = Signer::generate();
            disk.replace(SIGNING_KEY, made.as_bytes()).map_err(io_error(SIGNING_KEY))?;
            made.as_bytes()
        }
    };
    let signer = Signer::new(key, &origin).map_err(OpenError::Key)?;
    disk.replace(PUBLIC_KEY, format!("{}\n", signer.public()).as_bytes()).map_err(io_error(PUBLIC_KEY))?;
    let root = Frontier::default().root();
    let note = signer.sign(&Checkpoint { origin, size: 0, root });
    disk.replace(CHECKPOINT, note.as_bytes()).map_err(io_error(CHECKPOINT))?;
    Ok(signer)
}

/// The signer of a log that is there.
fn signer_of(disk: &impl Disk, key: Option<&[u8]>) -> Result<Signer, OpenError> {
    let public = disk.read(PUBLIC_KEY).map_err(io_error(PUBLIC_KEY))?;
    let public = PublicKey::parse(&String::from_utf8_lossy(&public)).map_err(OpenError::Key)?;
    let own;
    let key = match key {
        Some(key) => key,
        None => {
            own = disk.read(SIGNING_KEY).map_err(io_error(SIGNING_KEY))?;
            &own
        }
    };
    let signer = Signer::new(key, public.name()).map_err(OpenError::Key)?;
    if *signer.public() != public {
        return Err(OpenError::Key(format!("it is not the one of {PUBLIC_KEY}: begin a new log for a new key")));
    }
    Ok(signer)
}

fn read_checkpoint(disk: &impl Disk, public: &PublicKey) -> Result<Checkpoint, OpenError> {
    let note = disk.read(CHECKPOINT).map_err(io_error(CHECKPOINT))?;
    public.open(&String::from_utf8_lossy(&note)).map_err(|trouble| OpenError::Tampered(format!("{CHECKPOINT}: {trouble}")))
}

/// What is whole of the last segment.
struct Found {
    length: u64,
    tree: Frontier,
    /// What is behind it.
    torn: Vec<u8>,
}

fn recover(disk: &impl Disk, name: &str, signed: &Checkpoint) -> Result<Found, OpenError> {
    let file = disk.read(name).map_err(io_error(name))?;
    let bad_header = || OpenError::Tampered(format!("{name}: its first line is not as it was written"));
    let length = segment::header_length(&file).ok_or_else(bad_header)?;
    let (origin, mut tree) = segment::read_header(&file[..length - 1]).ok_or_else(bad_header)?;
    if origin != signed.origin || segment::first_of(name) != Some(tree.size()) {
        return Err(bad_header());
    }
    // A segment is begun when a checkpoint covers all before it.
    if signed.size < tree.size() {
        return Err(OpenError::Tampered(format!("the checkpoint covers {} records, and {name} begins later", signed.size)));
    }
    let mut whole = length;
    let mut root = (tree.size() == signed.size).then(|| tree.root());
    let (mut ended, mut foreign) = (false, false);
    for line in segment::lines(&file, length) {
        let Line::Record(record, leaf) = line else { break };
        foreign |= ended && tree.size() == signed.size && !is_begin(record);
        ended |= tree.size() + 1 == signed.size && is_end(record);
        whole += PREFIX + record.len() + 1;
        tree.push(leaf);
        if tree.size() == signed.size {
            root = Some(tree.root());
        }
    }
    let found = tree.size();
    if foreign && !crate::mutant!("audit.ended-logs-go-on") {
        let size = signed.size;
        return Err(OpenError::Tampered(format!("{name} goes on behind record {size}, with which the log was ended in order")));
    }
    match root {
        Some(root) if root == signed.root || crate::mutant!("audit.changed-logs-go-on") => {}
        Some(_) => return Err(OpenError::Tampered(format!("{name}: the records are not those that the checkpoint covers"))),
        None if crate::mutant!("audit.shortened-logs-go-on") => {}
        None => {
            let size = signed.size;
            return Err(OpenError::Tampered(format!("{name} ends with record {found}, and the checkpoint covers {size}")));
        }
    }
    Ok(Found { length: whole as u64, tree, torn: file[whole..].to_vec() })
}

/// The last record of a log that was ended in order: nothing follows it but what a process [begins](is_begin) with.
pub(super) fn is_end(record: &[u8]) -> bool {
    is_of(record, b"\"event\":\"stop\"")
}

/// What a process writes first.
pub(super) fn is_begin(record: &[u8]) -> bool {
    is_of(record, b"\"event\":\"start\"") || is_of(record, b"\"event\":\"recovered\"")
}

/// Whether a record is of an event: of its own fields only the time stands before that.
pub(super) fn is_of(record: &[u8], event: &[u8]) -> bool {
    memchr::memmem::find(&record[..record.len().min(80)], event).is_some()
}
