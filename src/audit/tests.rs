//! The log on a disk that forgets what was not synced, tears what it was writing, and fails.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::event::Events;

mod ends;

use super::checkpoint::{Checkpoint, PublicKey, Signer};
use super::disk::Disk;
use super::record::Record;
use super::segment::{self, Line};
use super::tree::Frontier;
use super::verify::{Proof, ReadError, Reader, Verified};
use super::writer::{CHECKPOINT, Format, OpenError, PUBLIC_KEY, Writer};
use super::{Durability, Log, OnFailure, Outcome, Reach, Refused, Settings, Template, Trail, Who};

/// A disk in memory. INVARIANT of its kind: what was synced stays; of what was written since, any beginning stays, or all is another.
#[derive(Clone, Debug, Default)]
struct Forgetful(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    files: BTreeMap<String, File>,
    /// Operations until one fails; it fails at that one, and then once for each of `failures`.
    good: Option<u32>,
    failures: u32,
    kind: Option<io::ErrorKind>,
    /// Everything fails from then on: the machine is off.
    off: bool,
    operations: u32,
    /// What was synced takes effect only when somebody lets it.
    held: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    durable: Vec<u8>,
    now: Vec<u8>,
}

impl Inner {
    /// One operation; `Err`: it fails.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.off {
            return Err(io::Error::other("off"));
        }
        match &mut self.good {
            Some(0) if self.failures > 0 => {
                self.failures -= 1;
                Err(self.kind.unwrap_or(io::ErrorKind::Other).into())
            }
            Some(0) | None => Ok(()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut File> {
        self.files.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Forgetful {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().expect("no panic"))
    }

    /// Fails `failures` times after so many operations.
    fn fail_after(&self, good: u32, failures: u32, kind: io::ErrorKind) {
        self.with(|inner| (inner.good, inner.failures, inner.kind) = (Some(good), failures, Some(kind)));
    }

    /// The machine loses its power: `kept` of what was not synced stays, in 256ths, and the byte after that may be any.
    fn lose_power(&self, kept: usize) {
        self.with(|inner| {
            for file in inner.files.values_mut() {
                let common = file.durable.iter().zip(&file.now).take_while(|(a, b)| a == b).count();
                let unsynced = file.now.len().saturating_sub(common);
                let mut left = if file.now.len() >= file.durable.len() || kept > 128 {
                    file.now[..common + unsynced * kept / 256].to_vec()
                } else {
                    // Even a cut may not have come there.
                    file.durable.clone()
                };
                if kept % 3 == 1 && left.len() > common {
                    left.extend_from_slice(&[0; 7]);
                }
                *file = File { durable: left.clone(), now: left };
            }
            (inner.off, inner.good, inner.failures) = (false, None, 0);
        });
    }

    fn off(&self) {
        self.with(|inner| inner.off = true);
    }

    fn text(&self, name: &str) -> String {
        self.with(|inner| String::from_utf8_lossy(&inner.files[name].now).into_owned())
    }
}

impl Disk for Forgetful {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.with(|inner| inner.files.keys().cloned().collect()))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.with(|inner| Ok(inner.file(name)?.now.clone()))
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(|inner| {
            let failed = inner.step();
            // Half of it is there where it fails.
            let written = if failed.is_err() { &bytes[..bytes.len() / 2] } else { bytes };
            inner.file(name)?.now.extend_from_slice(written);
            failed
        })
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        while self.with(|inner| inner.held) {
            std::thread::yield_now();
        }
        self.with(|inner| {
            inner.step()?;
            let file = inner.file(name)?;
            file.durable = file.now.clone();
            Ok(())
        })
    }

    fn truncate(&mut self, name: &str, length: u64) -> io::Result<()> {
        self.with(|inner| {
            inner.step()?;
            inner.file(name)?.now.truncate(length as usize);
            Ok(())
        })
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(|inner| {
            inner.step()?;
            let file = File { durable: bytes.to_vec(), now: bytes.to_vec() };
            inner.files.insert(name.to_owned(), file);
            Ok(())
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.with(|inner| {
            inner.step()?;
            inner.files.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
        })
    }

    fn is_there(&mut self, name: &str) -> io::Result<()> {
        self.with(|inner| inner.file(name).map(|_| ()))
    }

    fn modified(&self, _name: &str) -> io::Result<SystemTime> {
        Ok(SystemTime::UNIX_EPOCH)
    }
}

/// Segments of few records, and a checkpoint with each flush.
const SMALL: Format = Format { segment: 900, checkpoint: Duration::ZERO, reserve: 64 };

fn record(n: usize) -> Vec<u8> {
    Record::new("test").number("n", n as u64).end()
}

/// The numbers of the records that are there, read by who knows nothing of the writer.
fn numbers(disk: &Forgetful) -> Vec<u64> {
    let names = disk.names().expect("names");
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| segment::first_of(name)).collect();
    firsts.sort_unstable();
    let mut tree = Frontier::default();
    let mut found = vec![];
    for first in firsts {
        let file = disk.read(&segment::name(first)).expect("a segment");
        let header = segment::header_length(&file).expect("a first line");
        let (_, before) = segment::read_header(&file[..header - 1]).expect("a first line");
        assert_eq!(before, tree, "segment {first} goes on from what is before it");
        for line in segment::lines(&file, header) {
            let Line::Record(json, leaf) = line else { break };
            tree.push(leaf);
            let value: serde_json::Value = serde_json::from_slice(json).expect("JSON");
            found.extend(value["n"].as_u64());
        }
    }
    let key = PublicKey::parse(disk.text(PUBLIC_KEY).trim()).expect("a key");
    let checkpoint = key.open(&disk.text(CHECKPOINT)).expect("a checkpoint");
    assert!(checkpoint.size <= tree.size(), "what is signed is there");
    found
}

/// Writes batches of records until the disk fails or `batches` are there: how many records are durable, by what was told.
fn write(disk: &Forgetful, from: usize, batches: usize) -> Result<usize, OpenError> {
    let mut writer = Writer::open(disk.clone(), None, SMALL)?;
    let mut durable = from;
    let mut next = from;
    for batch in 0..batches {
        for _ in 0..=batch % 3 {
            writer.add(record(next));
            next += 1;
        }
        let rotates = writer.will_rotate(0);
        if writer.flush().is_ok() {
            durable = next;
        }
        let _ = if rotates { writer.rotate() } else { Ok(()) };
        let _ = writer.upkeep();
    }
    let _ = writer.close();
    Ok(durable)
}

/// How many operations that takes.
fn operations(batches: usize) -> u32 {
    let disk = Forgetful::default();
    assert!(matches!(write(&disk, 0, batches), Ok(n) if n > batches));
    disk.with(|inner| inner.operations)
}

#[test]
fn whenever_the_power_is_lost_what_was_durable_is_there_and_it_goes_on() {
    const BATCHES: usize = 14;
    for at in 0..operations(BATCHES) {
        for kept in [0, 60, 130, 200, 255, 256] {
            let disk = Forgetful::default();
            disk.fail_after(at, u32::MAX, io::ErrorKind::Other);
            let durable = write(&disk, 0, BATCHES).unwrap_or(0);
            disk.off();
            disk.lose_power(kept);
            // Before the first checkpoint there is no log yet.
            if !disk.names().expect("names").iter().any(|name| name == CHECKPOINT) {
                assert_eq!(durable, 0);
                continue;
            }
            let writer = Writer::open(disk.clone(), None, SMALL).unwrap_or_else(|error| panic!("at {at}, {kept}: {error}"));
            drop(writer);
            let found = numbers(&disk);
            assert!(found.len() >= durable, "at {at}, {kept}: {durable} were durable, {} are there", found.len());
            assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "at {at}, {kept}: in order, each once");
            let more = write(&disk, found.len(), 5).expect("it goes on");
            assert_eq!(numbers(&disk), (0..more as u64).collect::<Vec<_>>());
        }
    }
}

#[test]
fn whatever_fails_for_a_while_is_made_good_and_nothing_is_lost() {
    const BATCHES: usize = 14;
    for at in 8..operations(BATCHES) {
        for failures in 1..5 {
            let disk = Forgetful::default();
            disk.fail_after(at, failures, io::ErrorKind::StorageFull);
            let Ok(durable) = write(&disk, 0, BATCHES) else { continue };
            let found = numbers(&disk);
            assert!(found.len() >= durable && durable > 0);
            assert_eq!(found, (0..found.len() as u64).collect::<Vec<_>>(), "at {at}: in order, each once");
        }
    }
}

#[test]
fn a_log_without_what_its_checkpoint_covers_is_not_gone_on_with() {
    let disk = Forgetful::default();
    write(&disk, 0, 20).expect("a log");
    let last = disk.names().expect("names").into_iter().rfind(|name| segment::first_of(name).is_some()).expect("a segment");
    let whole = disk.with(|inner| inner.files[&last].clone());
    let open = || Writer::open(disk.clone(), None, SMALL).map(|_| ()).map_err(|error| error.to_string());
    assert_eq!(open(), Ok(()));
    let whole = if disk.with(|inner| inner.files[&last].now.len()) < whole.now.len() {
        whole
    } else {
        disk.with(|i| i.files[&last].clone())
    };
    // Cut by a line; a byte changed in the last line but one; not there at all.
    let cut = whole.now[..whole.now.len() - 40].to_vec();
    disk.with(|inner| inner.files.get_mut(&last).expect("there").now = cut);
    assert!(open().is_err_and(|why| why.contains("the checkpoint covers")));
    disk.with(|inner| inner.files.remove(&last));
    assert!(open().is_err());
    disk.with(|inner| inner.files.insert(last.clone(), whole));
    assert_eq!(open(), Ok(()));
    // The checkpoint of another time, or none.
    disk.with(|inner| inner.files.remove(CHECKPOINT));
    assert!(open().is_err());
}

/// A record changed by who knows how lines are made: it looks like any other by itself.
fn forge(file: &[u8], line: usize) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = file.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let mut forged = vec![b' '; segment::PREFIX];
    forged.extend_from_slice(&record(4711));
    segment::seal(&mut forged);
    forged.push(b'\n');
    lines[line] = forged;
    lines.concat()
}

#[test]
fn a_forged_record_is_told_within_a_second_of_its_own_and_not_gone_on_with() {
    // One segment, with a checkpoint in itself after each two records.
    let disk = Forgetful::default();
    let mut writer = Writer::open(disk.clone(), None, Format { segment: 1 << 20, ..SMALL }).expect("a log");
    for n in 0..20 {
        writer.add(record(2 * n));
        writer.add(record(2 * n + 1));
        writer.flush().and_then(|()| writer.upkeep()).expect("a good disk");
    }
    writer.close().expect("a good disk");
    let kept = Kept::of(&disk);
    let [path] = kept.segments().try_into().expect("one segment");
    let file = std::fs::read(&path).expect("read");
    for line in 1..file.iter().filter(|b| **b == b'\n').count() {
        let forged = line as u64 - 1;
        match kept.verify_with(&path, &forge(&file, line)) {
            Err(ReadError::Bad(bad)) => {
                assert!(bad.from <= forged && forged <= bad.record && bad.record - bad.from < 7, "line {line}: {bad}");
            }
            other => panic!("line {line}: {other:?}"),
        }
    }
    let disk = Forgetful::default();
    write(&disk, 0, 20).expect("a log");
    let last = disk.names().expect("names").into_iter().rfind(|name| segment::first_of(name).is_some()).expect("a segment");
    let whole = disk.text(&last).into_bytes();
    disk.with(|inner| inner.files.get_mut(&last).expect("there").now = forge(&whole, 1));
    let opened = Writer::open(disk, None, SMALL).map(|_| ()).map_err(|error| error.to_string());
    assert!(opened.as_ref().is_err_and(|why| why.contains("not those that the checkpoint covers")), "{opened:?}");
}

#[test]
fn what_nobody_signed_is_told_when_it_is_gone_on_with() {
    let disk = Forgetful::default();
    let mut writer = Writer::open(disk.clone(), None, SMALL).expect("a log");
    writer.add(record(0));
    writer.flush().and_then(|()| writer.upkeep()).expect("a good disk");
    writer.add(record(1));
    writer.flush().expect("a good disk");
    drop(writer);
    disk.lose_power(0);
    drop(Writer::open(disk.clone(), None, SMALL).expect("nothing is missing that was signed"));
    assert_eq!((numbers(&disk), count(&disk, "recovered")), (vec![0, 1], 1), "it may have come from somebody else");
}

#[test]
fn a_failure_in_between_leaves_a_log_that_verifies() {
    let disk = Forgetful::default();
    let mut writer = Writer::open(disk.clone(), None, SMALL).expect("a log");
    for n in 0..6 {
        writer.add(record(n));
        // The records cannot be written; what is written anew as a whole can.
        disk.fail_after(0, 1, io::ErrorKind::StorageFull);
        assert!(writer.flush().is_err());
        writer.upkeep().expect("a good disk");
        writer.flush().and_then(|()| writer.upkeep()).expect("a good disk");
    }
    writer.close().expect("a good disk");
    let verified = Kept::of(&disk).verify(&[]).expect("it is what was written");
    assert!(verified.signed == verified.size && verified.checkpoints > 5, "{verified:?}");
}

#[test]
fn who_has_proved_nothing_cannot_fill_the_disk() {
    let disk = Forgetful::default();
    let log = log(&disk, Durability::Sync, OnFailure::FailOperation);
    (0..1000).for_each(|_| log.note_refused_login(Record::new("login_refused")));
    log.end();
    // Twenty in each second that it has taken.
    let told = count(&disk, "login_refused");
    assert!((20..=200).contains(&told), "{told} of 1000");
}

#[test]
fn a_full_disk_has_room_for_what_is_refused() {
    let disk = Forgetful::default();
    let mut writer = Writer::open(disk.clone(), None, SMALL).expect("a log");
    writer.add(record(0));
    writer.flush().and_then(|()| writer.upkeep()).expect("room");
    assert!(disk.names().expect("names").iter().any(|name| name == "reserve"));
    assert!(writer.give_up_reserve() && !writer.give_up_reserve(), "once");
    assert!(!disk.names().expect("names").iter().any(|name| name == "reserve"));
}

/// A closed log of several segments in a directory, and a checkpoint of when it had fewer records.
struct Kept {
    directory: tempfile::TempDir,
    earlier: Checkpoint,
}

impl Kept {
    fn new(batches: usize) -> Kept {
        let disk = Forgetful::default();
        write(&disk, 0, batches / 2).expect("a log");
        let key = PublicKey::parse(disk.text(PUBLIC_KEY).trim()).expect("a key");
        let earlier = key.open(&disk.text(CHECKPOINT)).expect("a checkpoint");
        write(&disk, 0, batches / 2).expect("a log");
        Kept { earlier, ..Kept::of(&disk) }
    }

    /// The checkpoint of earlier is that of now.
    fn of(disk: &Forgetful) -> Kept {
        let key = PublicKey::parse(disk.text(PUBLIC_KEY).trim()).expect("a key");
        let earlier = key.open(&disk.text(CHECKPOINT)).expect("a checkpoint");
        let directory = tempfile::tempdir().expect("a directory");
        disk.with(|inner| {
            for (name, file) in &inner.files {
                std::fs::write(directory.path().join(name), &file.now).expect("write");
            }
        });
        Kept { directory, earlier }
    }

    /// The files with records, in order.
    fn segments(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path()).expect("a directory");
        let mut names: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
        names.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        names.sort();
        names
    }

    fn verify(&self, earlier: &[Checkpoint]) -> Result<Verified, ReadError> {
        Reader::open(self.directory.path(), None).and_then(|mut reader| reader.verify(earlier, |_| {}))
    }

    /// What `verify` says of a log in which one file is another.
    fn verify_with(&self, path: &Path, bytes: &[u8]) -> Result<Verified, ReadError> {
        let whole = std::fs::read(path).expect("read");
        std::fs::write(path, bytes).expect("write");
        let verified = self.verify(std::slice::from_ref(&self.earlier));
        std::fs::write(path, whole).expect("write");
        verified
    }
}

#[test]
fn whichever_byte_is_changed_verify_names_a_record_at_or_before_it() {
    let kept = Kept::new(14);
    let whole = kept.verify(std::slice::from_ref(&kept.earlier)).expect("it is what was written");
    assert!(whole.size > 20 && whole.signed == whole.size && whole.checkpoints > 4, "{whole:?}");
    for path in kept.segments() {
        let file = std::fs::read(&path).expect("read");
        let first = segment::first_of(&path.file_name().expect("a name").to_string_lossy()).expect("a segment");
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= [1, 4, 32][at % 3];
            let lines = file[..at].iter().filter(|b| **b == b'\n').count() as u64;
            match kept.verify_with(&path, &changed) {
                Err(ReadError::Bad(bad)) => {
                    let record = first + lines.saturating_sub(1);
                    assert!(bad.from <= record && record <= bad.record + 1, "byte {at} of {}: {bad}", path.display());
                }
                other => panic!("byte {at} of {}: {other:?}", path.display()),
            }
        }
    }
}

#[test]
fn what_is_moved_removed_or_cut_is_told() {
    let kept = Kept::new(20);
    let told = |path: &Path, bytes: &[u8], part: &str| match kept.verify_with(path, bytes) {
        Err(ReadError::Bad(bad)) => assert!(bad.to_string().contains(part), "{bad} for {part}"),
        other => panic!("{part}: {other:?}"),
    };
    let segments = kept.segments();
    for path in &segments {
        let file = std::fs::read(path).expect("read");
        let lines: Vec<&[u8]> = file.split_inclusive(|b| *b == b'\n').collect();
        for i in 1..lines.len() {
            // Whole lines, which by themselves are what they say.
            let without = [&lines[..i], &lines[i + 1..]].concat().concat();
            told(path, &without, "record");
            // What is behind the last checkpoint is nobody's yet: it is told when the log is gone on with.
            if path != segments.last().expect("some") || i + 1 < lines.len() {
                let twice = [&lines[..=i], &lines[i..]].concat().concat();
                told(path, &twice, "record");
            }
            if i + 1 < lines.len() {
                let mut swapped = lines.clone();
                swapped.swap(i, i + 1);
                told(path, &swapped.concat(), "record");
            }
            told(path, &lines[..i].concat(), "record");
        }
        let torn = &file[..file.len() - 5];
        told(path, torn, "record");
    }
    // A whole segment, of the middle and the last.
    for path in [&segments[1], &segments[segments.len() - 1]] {
        let file = std::fs::read(path).expect("read");
        std::fs::remove_file(path).expect("remove");
        assert!(matches!(kept.verify(&[]), Err(ReadError::Bad(_))), "{}", path.display());
        std::fs::write(path, file).expect("write");
    }
    assert!(kept.verify(&[]).is_ok());
}

#[test]
fn who_has_the_key_and_writes_the_log_anew_is_told_by_a_checkpoint_of_before() {
    let kept = Kept::new(20);
    let read = |name: &str| std::fs::read(kept.directory.path().join(name)).expect("read");
    let (key, public) = (read("signing.key"), read(PUBLIC_KEY));
    let public = PublicKey::parse(&String::from_utf8(public).expect("text")).expect("a key");
    // The same log but for one value, by the same key.
    let signer = Signer::new(&key, public.name()).expect("a key");
    let mut tree = Frontier::default();
    let mut forged = segment::header(public.name(), &tree).into_bytes();
    let size = kept.verify(&[]).expect("whole").size;
    for n in 0..size {
        let mut line = vec![b' '; segment::PREFIX];
        line.extend_from_slice(&record(if n == 3 { 4711 } else { n as usize }));
        tree.push(segment::seal(&mut line));
        forged.extend_from_slice(&line);
        forged.push(b'\n');
    }
    kept.segments().iter().for_each(|path| std::fs::remove_file(path).expect("remove"));
    std::fs::write(kept.directory.path().join(segment::name(0)), forged).expect("write");
    let note = signer.sign(&Checkpoint { origin: public.name().to_owned(), size, root: tree.root() });
    std::fs::write(kept.directory.path().join(CHECKPOINT), note).expect("write");
    assert!(kept.verify(&[]).is_ok(), "by itself it is a log like any other");
    let told = kept.verify(std::slice::from_ref(&kept.earlier));
    assert!(matches!(&told, Err(ReadError::Bad(bad)) if bad.from == 0), "{told:?}");
}

#[test]
fn proofs_go_without_the_log() {
    let kept = Kept::new(20);
    let reader = Reader::open(kept.directory.path(), None).expect("a log");
    let size = kept.verify(&[]).expect("whole").size;
    let key = PublicKey::parse(&std::fs::read_to_string(kept.directory.path().join(PUBLIC_KEY)).expect("read")).expect("a key");
    for index in 0..size {
        let proof = reader.prove(index).expect("a proof");
        assert_eq!(proof.check(&key).expect("it shows it").size, size);
        let other = Proof { record: proof.record.replace("\"n\":", "\"n\":1"), ..proof.clone() };
        assert!(other.record == proof.record || other.check(&key).is_err());
        assert!(Proof { index: (index + 1) % size, ..proof }.check(&key).is_err());
    }
    assert!(matches!(reader.prove(size), Err(ReadError::Absent(_))));
    let newest = reader.newest().expect("a checkpoint");
    assert!(!reader.consistency(&kept.earlier, &newest).expect("it goes on").is_empty());
    let another = Checkpoint { root: [7; 32], ..kept.earlier.clone() };
    assert!(matches!(reader.consistency(&another, &newest), Err(ReadError::Bad(_))));
}

#[test]
fn what_is_not_kept_any_more_leaves_the_rest_provable() {
    let disk = Forgetful::default();
    write(&disk, 0, 20).expect("a log");
    let kept = Kept::of(&disk);
    let whole = Reader::open(kept.directory.path(), None).expect("a log");
    let size = kept.verify(&[]).expect("whole").size;
    let records: Vec<String> = (0..size).map(|index| whole.prove(index).expect("a proof").record).collect();
    let key = PublicKey::parse(disk.text(PUBLIC_KEY).trim()).expect("a key");
    // By hand.
    for path in &kept.segments()[..kept.segments().len() - 1] {
        std::fs::remove_file(path).expect("remove");
        let told = kept.verify(&[]);
        assert!(matches!(&told, Err(ReadError::Bad(bad)) if bad.why.contains("nothing says")), "{told:?}");
    }
    // For its age, and the log says so.
    let mut writer = Writer::open(disk.clone(), None, SMALL).expect("a log");
    let first = writer.prune(SystemTime::now()).expect("a good disk");
    writer.flush().and_then(|()| writer.close()).expect("a good disk");
    let kept = Kept::of(&disk);
    let verified = kept.verify(&[]).expect("the rest is what was written");
    assert!(first > 5 && verified.first == first && verified.size > size);
    let reader = Reader::open(kept.directory.path(), None).expect("a log");
    for index in 0..size {
        match reader.prove(index) {
            Ok(proof) => {
                assert!(index >= first && proof.record == records[index as usize], "{index} of {first}..");
                proof.check(&key).expect("it shows it");
            }
            Err(error) => assert!(index < first, "{index} of {first}..{size}: {error}"),
        }
    }
}

fn log(disk: &Forgetful, durability: Durability, on_failure: OnFailure) -> Log {
    let settings = Settings { durability, on_failure, format: SMALL, retention: None, value_keys: None };
    Log::on(disk.clone(), None, settings, Events::default()).expect("a log")
}

fn who() -> Who<'static> {
    Who { user: "u", database: "d", roles: &[], client: "c", application: None, is_encrypted: false, is_unrestricted: false }
}

fn template() -> Arc<Template> {
    Arc::new(Template::new("UPDATE", "UPDATE t SET a = $1".to_owned(), ""))
}

/// The events of the records that are there, in order.
fn events(disk: &Forgetful) -> Vec<(String, serde_json::Value)> {
    let mut found = vec![];
    for name in disk.names().expect("names").iter().filter(|name| segment::first_of(name).is_some()) {
        // One that is too old may go meanwhile.
        let Ok(file) = disk.read(name) else { continue };
        for line in segment::lines(&file, segment::header_length(&file).expect("a first line")) {
            let Line::Record(json, _) = line else { break };
            let value: serde_json::Value = serde_json::from_slice(json).expect("JSON");
            found.push((value["event"].as_str().unwrap_or_default().to_owned(), value));
        }
    }
    found
}

fn count(disk: &Forgetful, event: &str) -> usize {
    events(disk).iter().filter(|(name, _)| name == event).count()
}

#[tokio::test]
async fn under_sync_an_intent_is_waited_for_however_slow_the_disk_is() {
    let disk = Forgetful::default();
    let log = Arc::new(log(&disk, Durability::Sync, OnFailure::FailOperation));
    let mut trail = Trail::begin(Some(&log), &who());
    trail.safe().await.expect("a good disk");
    disk.with(|inner| inner.held = true);
    let mut open = trail.open(template, Some("1"), Reach::Writes, vec![]).expect("a good disk");
    assert!(!trail.is_safe());
    {
        let waiting = trail.safe();
        tokio::pin!(waiting);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending(), "it is not on the disk");
        assert_eq!(count(&disk, "intent"), 0);
        disk.with(|inner| inner.held = false);
        waiting.await.expect("a good disk");
    }
    disk.lose_power(0);
    assert_eq!(count(&disk, "intent"), 1, "whatever happens now");
    open.complete(Outcome::Done { rows: 1, bytes: 0 });
}

#[tokio::test]
async fn under_interval_nobody_waits_and_all_is_there_at_the_end() {
    let disk = Forgetful::default();
    let log = Arc::new(log(&disk, Durability::Interval(Duration::from_millis(1)), OnFailure::FailOperation));
    let mut trail = Trail::begin(Some(&log), &who());
    disk.with(|inner| inner.held = true);
    for _ in 0..500 {
        let mut open = trail.open(template, None, Reach::Writes, vec![]).expect("a good disk");
        assert!(trail.is_safe());
        open.complete(Outcome::Done { rows: 1, bytes: 0 });
    }
    let unknown = trail.open(template, None, Reach::Reads, vec![]).expect("a good disk");
    drop(unknown);
    disk.with(|inner| inner.held = false);
    drop(trail);
    log.close();
    assert_eq!((count(&disk, "intent"), count(&disk, "outcome"), count(&disk, "session_end")), (500, 500, 1));
    let last = events(&disk).into_iter().rfind(|(name, _)| name == "statement").expect("the read").1;
    assert_eq!(last["outcome"], "unknown", "what broke off is not forgotten");
    assert!(matches!(Writer::open(disk, None, SMALL), Ok(writer) if writer.size() > 1000));
}

#[tokio::test]
async fn under_interval_what_a_policy_says_is_waited_for_and_soon_there() {
    let disk = Forgetful::default();
    let hour = Duration::from_secs(3600);
    let log = Arc::new(log(&disk, Durability::Interval(hour), OnFailure::FailOperation));
    let mut trail = Trail::begin(Some(&log), &who());
    let awaited = Arc::new(Template::new("SELECT", "SELECT a FROM t".to_owned(), "").awaited(true));
    let first = trail.open(template, None, Reach::Writes, vec![]).expect("a good disk");
    assert!(trail.is_safe());
    trail.give(&awaited, Some("1"), 8, std::time::Instant::now()).expect("a good disk");
    tokio::time::timeout(hour / 60, trail.safe()).await.expect("at once").expect("a good disk");
    disk.lose_power(0);
    assert_eq!(count(&disk, "intent"), 2, "with what was before it");
    drop(first);
}

#[tokio::test]
async fn each_segment_says_what_its_templates_are() {
    let disk = Forgetful::default();
    let log = Arc::new(log(&disk, Durability::Sync, OnFailure::FailOperation));
    let mut trail = Trail::begin(Some(&log), &who());
    for _ in 0..40 {
        let mut open = trail.open(template, None, Reach::Writes, vec![]).expect("a good disk");
        trail.safe().await.expect("a good disk");
        open.complete(Outcome::Done { rows: 1, bytes: 0 });
    }
    drop(trail);
    log.close();
    let mut segments = 0;
    for name in disk.names().expect("names").iter().filter(|name| segment::first_of(name).is_some()) {
        let text = disk.text(name);
        let (said, used) = (text.find("\"event\":\"template\""), text.find("\"event\":\"intent\""));
        assert!(used.is_none() || said < used && said.is_some(), "{name}: {text}");
        segments += usize::from(used.is_some());
    }
    assert!(segments > 3);
}

#[tokio::test]
async fn while_it_cannot_be_written_statements_are_refused_or_counted_as_it_says() {
    for on_failure in [OnFailure::FailOperation, OnFailure::Continue, OnFailure::Shutdown] {
        let disk = Forgetful::default();
        let log = Arc::new(log(&disk, Durability::Sync, on_failure));
        let mut trail = Trail::begin(Some(&log), &who());
        trail.safe().await.expect("a good disk");
        disk.fail_after(0, u32::MAX, io::ErrorKind::StorageFull);
        // The first finds it out, unless a checkpoint that was due just now has.
        let first = trail.open(template, None, Reach::Writes, vec![]);
        let taken = u64::from(first.is_ok());
        let told = if taken == 1 { trail.safe().await } else { Err(super::Unavailable) };
        drop(first);
        assert!(log.has_failed());
        let next = trail.open(template, None, Reach::Writes, vec![]);
        assert_eq!((told.is_ok(), next.is_ok()), (on_failure == OnFailure::Continue, on_failure == OnFailure::Continue));
        assert_eq!(trail.admits(), on_failure == OnFailure::Continue);
        drop(next);
        let refused = Refused { tenant: None, reason: "limit", sqlstate: "58030", message: "no", rules: &[], text: None };
        assert!(trail.refuse(&refused).is_some(), "and that is recorded when it can be");
        if on_failure == OnFailure::Shutdown {
            log.must_end().await;
        }
        disk.with(|inner| inner.failures = 0);
        while log.has_failed() {
            tokio::task::yield_now().await;
        }
        let intents = count(&disk, "intent") as u64;
        assert_eq!((count(&disk, "gap"), count(&disk, "refused")), (1, 1), "{on_failure:?}");
        let gap = events(&disk).into_iter().find(|(name, _)| name == "gap").expect("a gap").1;
        let missed = gap["missed"].as_u64().expect("a number");
        match on_failure {
            // Both have run; of the first there is a record, unless the checkpoint had found it out.
            OnFailure::Continue => assert!(intents + missed == 2 && missed >= 1, "{intents}, {gap}"),
            OnFailure::FailOperation | OnFailure::Shutdown => assert_eq!((intents, missed), (taken, 0), "{on_failure:?}: {gap}"),
        }
        trail.open(template, None, Reach::Writes, vec![]).expect("as before").complete(Outcome::Skipped);
    }
}

/// The thread drops what is too old by itself, when a segment ends.
#[test]
fn old_segments_go_by_themselves_and_the_rest_is_provable() {
    let disk = Forgetful::default();
    let (durability, on_failure) = (Durability::Interval(Duration::from_millis(1)), OnFailure::FailOperation);
    let settings = Settings { durability, on_failure, format: SMALL, retention: Some(Duration::ZERO), value_keys: None };
    let log = Log::on(disk.clone(), None, settings, Events::default()).expect("a log");
    let begun = std::time::Instant::now();
    while count(&disk, "pruned") == 0 {
        log.note(Record::new("test").text("filler", &"x".repeat(200)));
        assert!(begun.elapsed() < Duration::from_secs(30), "nothing goes");
    }
    log.end();
    let verified = Kept::of(&disk).verify(&[]).expect("the rest is what was written");
    assert!(verified.first > 0 && verified.size > verified.first, "{verified:?}");
    assert!(!disk.names().expect("names").contains(&segment::name(0)));
}
