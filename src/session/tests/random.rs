//! Random conversations, sent without waiting: the client must get from the proxy what it gets directly.

use super::*;
use rand::prelude::*;

const QUERIES: &[&str] = &[
    "select 1",
    "select 1/0",
    "begin",
    "commit",
    "rollback",
    "savepoint a",
    "rollback to a",
    "release a",
    "select generate_series(1, 3)",
    "set work_mem to '3MB'",
    "set local work_mem to '5MB'",
    "show work_mem",
    "reset work_mem",
    "insert into rows values (1)",
    "select count(*) from rows",
    "copy rows from stdin",
    "copy (select 7) to stdout",
    "nonsense",
    "",
    "select 1; select 2",
    "insert into rows values (2); select 1/0",
    "select 5; begin; select 6",
    "commit; select 8",
    "deallocate all",
    "set timezone to 'UTC'; select 9",
];
const NAMES: &[&str] = &["", "a", "b"];

/// One message, at random.
fn message(random: &mut StdRng, rows: &str, out: &mut BytesMut) {
    let query = QUERIES.choose(random).unwrap().replace("rows", rows);
    let name = *NAMES.choose(random).unwrap();
    let portal = *NAMES.choose(random).unwrap();
    match random.random_range(0..100) {
        0..25 => frontend::put_query(out, &query),
        25..40 => frontend::put_parse(out, name, &query, &[]),
        40..46 => frontend::put_parse(out, name, "select $1::int", &[]),
        46..58 => bind(out, portal, name, if random.random_bool(0.3) { &["7"] } else { &[] }),
        58..72 => frontend::put_execute(out, portal, random.random_range(0..3)),
        72..78 => frontend::put_describe(out, Target::Statement(name)),
        78..82 => frontend::put_describe(out, Target::Portal(portal)),
        82..86 => frontend::put_close(out, Target::Statement(name)),
        86..88 => frontend::put_close(out, Target::Portal(portal)),
        88..90 => frontend::put_flush(out),
        90..92 => frontend::put_copy_data(out, b"1\n"),
        92..93 => frontend::put_copy_done(out),
        _ => frontend::put_sync(out),
    }
}

/// What the client gets, without what may differ: notices, settings, wording of local errors.
fn talk(wire: &mut Wire, seed: u64) -> Vec<String> {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..random.random_range(1..25) {
        message(&mut random, "random_rows", wire.out());
    }
    frontend::put_copy_fail(wire.out(), "over");
    frontend::put_sync(wire.out());
    frontend::put_query(wire.out(), "rollback");
    frontend::put_query(wire.out(), "select 'the very end'");
    wire.flush();
    let mut heard = Vec::new();
    loop {
        let Some(message) = wire.read() else { return heard };
        match message.tag {
            b'N' | b'S' => {}
            b'E' => heard.push(format!("E {}", message.sqlstate())),
            _ => heard.push(message.line(true)),
        }
        let ended = heard.iter().any(|line| line.contains("the very end"));
        if ended && message.tag == b'Z' {
            return heard;
        }
    }
}

#[test]
fn conversations_are_as_directly() {
    let proxy = Proxy::start(1);
    table(&proxy, "random_rows");
    let mut owner = proxy.direct();
    for seed in seeds() {
        owner.run("delete from random_rows");
        let expected = talk(&mut proxy.postgres.connect("app"), seed);
        owner.run("delete from random_rows");
        let heard = talk(&mut proxy.connect("one"), seed);
        assert!(
            expected == heard,
            "seed {seed}\n--- directly\n{}\n--- through the proxy\n{}",
            expected.join("\n"),
            heard.join("\n")
        );
    }
}

/// Conversations with bytes changed, and cut off: whatever they became, the session ends, and leaves nothing behind.
#[test]
fn spoilt_conversations_end() {
    let proxy = Proxy::start(2);
    table(&proxy, "spoilt_rows");
    for seed in 0..200 {
        let mut wire = proxy.connect("one");
        let mut random = StdRng::seed_from_u64(seed);
        for _ in 0..random.random_range(1..12) {
            message(&mut random, "spoilt_rows", wire.out());
        }
        let length = wire.out().len();
        for _ in 0..random.random_range(0..4) {
            let at = random.random_range(0..length);
            wire.out()[at] = random.random();
        }
        wire.out().truncate(random.random_range(length / 2..length + 1));
        wire.flush();
        wire.writer().shutdown(std::net::Shutdown::Write).unwrap();
        while wire.read().is_some() {}
    }
    assert_eq!(proxy.connect("one").run("select 1"), ["1"]);
    // No transaction is left open: the table can be locked.
    proxy.direct().run("set lock_timeout to '10s'; begin; lock table spoilt_rows in access exclusive mode; rollback");
}

fn seeds() -> std::ops::Range<u64> {
    0..150
}
