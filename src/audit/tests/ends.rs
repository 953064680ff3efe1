//! What is behind the last checkpoint: an end, a begin, and what anybody could have put there.

use super::*;

/// A line as the log writes them.
fn line(record: &[u8]) -> Vec<u8> {
    let mut line = vec![b' '; segment::PREFIX];
    line.extend_from_slice(record);
    segment::seal(&mut line);
    line.push(b'\n');
    line
}

fn append(disk: &Forgetful, name: &str, bytes: &[u8]) {
    disk.with(|inner| {
        let file = inner.files.get_mut(name).expect("there");
        file.now.extend_from_slice(bytes);
        file.durable.extend_from_slice(bytes);
    });
}

fn bad(told: Result<Verified, ReadError>) -> super::super::verify::Bad {
    match told {
        Err(ReadError::Bad(bad)) => bad,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_that_was_ended_in_order_is_not_gone_on_with_by_others() {
    let disk = Forgetful::default();
    log(&disk, Durability::Sync, OnFailure::FailOperation).end();
    let open = |disk: &Forgetful| Writer::open(disk.clone(), None, SMALL).map(|_| ()).map_err(|error| error.to_string());
    let size = Kept::of(&disk).verify(&[]).expect("whole").size;
    let changed = Forgetful::default();
    changed.with(|inner| inner.files = disk.with(|of| of.files.clone()));
    append(&changed, &segment::name(0), &line(&record(4711)));
    let told = bad(Kept::of(&changed).verify(&[]));
    assert!(told.record == size && told.why.contains("ended in order"), "{told}");
    assert!(open(&changed).is_err_and(|why| why.contains("ended in order")));
    assert_eq!(open(&disk), Ok(()));
}

/// Killed before anything was signed: the next one goes on, and says where from.
#[test]
fn who_dies_right_after_it_began_does_not_end_the_log() {
    let disk = Forgetful::default();
    log(&disk, Durability::Sync, OnFailure::FailOperation).end();
    for begun in 1..4 {
        let mut writer = Writer::open(disk.clone(), None, SMALL).expect("it goes on");
        writer.add(Record::new("start").end());
        writer.flush().expect("a good disk");
        drop(writer);
        assert_eq!(Kept::of(&disk).verify(&[]).expect("whole").recovered, begun - 1);
    }
    let mut writer = Writer::open(disk.clone(), None, SMALL).expect("it goes on");
    writer.add(Record::new("start").end());
    writer.flush().and_then(|()| writer.upkeep()).expect("a good disk");
    let verified = Kept::of(&disk).verify(&[]).expect("whole");
    assert_eq!((verified.signed, verified.recovered), (verified.size, 3), "what a process begins with is covered at once");
}

/// A record that nobody has signed says that what is missing was too old.
#[test]
fn nobody_else_makes_records_too_old() {
    let disk = Forgetful::default();
    write(&disk, 0, 20).expect("a log");
    let mut writer = Writer::open(disk.clone(), None, SMALL).expect("a log");
    writer.add(Record::new("start").end());
    writer.flush().expect("a good disk");
    let mut names = disk.names().expect("names");
    names.retain(|name| segment::first_of(name).is_some());
    let (first, last) = (segment::first_of(&names[1]).expect("a segment"), names[names.len() - 1].clone());
    append(&disk, &last, &line(&Record::new("pruned").number("first", first).end()));
    disk.with(|inner| inner.files.remove(&names[0]));
    let told = bad(Kept::of(&disk).verify(&[]));
    assert!(told.why.contains("nothing says"), "{told}");
}

/// Nothing shows which it was but the checkpoints around it.
#[test]
fn a_record_that_is_gone_or_twice_there_is_between_two_checkpoints() {
    let disk = Forgetful::default();
    let mut writer = Writer::open(disk.clone(), None, Format { segment: 1 << 20, ..SMALL }).expect("a log");
    for n in 0..30 {
        writer.add(record(n));
        let upkept = |writer: &mut Writer<_>| if n % 10 == 9 { writer.upkeep() } else { Ok(()) };
        writer.flush().and_then(|()| upkept(&mut writer)).expect("a good disk");
    }
    writer.close().expect("a good disk");
    let kept = Kept::of(&disk);
    let path = kept.segments().remove(0);
    let whole = std::fs::read(&path).expect("read");
    let begin = segment::header_length(&whole).expect("a first line");
    let ends: Vec<usize> = whole.iter().enumerate().skip(begin).filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
    for (n, pair) in ends.windows(2).enumerate().skip(13).take(5) {
        let (from, to) = (pair[0], pair[1]);
        let gone = [&whole[..from], &whole[to..]].concat();
        let twice = [&whole[..to], &whole[from..]].concat();
        for changed in [gone, twice] {
            let told = bad(kept.verify_with(&path, &changed));
            assert!(told.from as usize <= n + 1 && n as u64 <= told.record, "{n}: {told}");
        }
    }
}
