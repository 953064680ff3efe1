//! What `tests/isolation/guard.md` and `loud.md` send, run: with other tenants' rows that make whatever can raise raise, and without. A
//! tenant must see no difference.

mod support;

use support::cases::cases_of;
use support::cluster::Cluster;
use support::repository;
use support::wire::Wire;

/// Rows of tenant 1, alike in both databases.
const OWN: &str = "
INSERT INTO acc (id, tenant_id, note, amt, bal, ca, cb, ci, js, doc, bx, d, ts, at, i8, arr, tarr, region, feeling, span, vc, u, net, f8)
  SELECT g, 1, g::text, g, g, 'a', 'a', 'z', '{}', '{\"n\": 1}', '(1,1),(0,0)', date '2020-01-01' + g, '2020-01-01', '2020-01-01', g, '{1}',
    '{a}', 'EU', 'sad', '[1,5)', 'x', '00000000-0000-0000-0000-000000000001', '10.0.0.1', g FROM generate_series(1, 3) g;
INSERT INTO orders SELECT 10 + g, 1, g, (10 * g)::text, 10 * g, g::text FROM generate_series(1, 3) g;
INSERT INTO orphans SELECT 10 + g, 1, g, g::text FROM generate_series(1, 2) g;
INSERT INTO ref SELECT g, g::text, g % 3 FROM generate_series(1, 5) g;
INSERT INTO ruled VALUES (1, 1, 2, '<a/>'), (2, 1, 3, 'hidden, and < no xml'), (77, 1, 5, '<b/>');
INSERT INTO risky VALUES (1, 1, 2, 'a'), (2, 1, 3, 'b');
";

/// Rows of others: values at the edges of their types, and texts that are nothing else.
const FOREIGN: &str = "
INSERT INTO acc (id, tenant_id, note, amt, bal, ca, cb, ci, js, doc, bx, d, ts, at, i8, arr, tarr, jarr, region, vc, f8)
  SELECT 100 + g, 2, 'SECRET' || g, 2147483647, 1e400, 'SA', 'SB', 'SECRET-CI', '{\"k\": 1}', '{\"n\": \"SECRETJ\"}', '(1e300,1e300),(0,0)',
    '5874897-12-31', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', 9223372036854775807, '{1,null}', '{SECRET}',
    ARRAY['{}'::json], 'EU', 'SECRET', 1.7e308 FROM generate_series(1, 5) g;
INSERT INTO acc (id, tenant_id, note) SELECT 200 + g, 2, 'SECRET' FROM generate_series(1, 5) g;
INSERT INTO orders SELECT 100 + g, 2, 1 + g % 3, '<SECRET-ON', 0, 'SECRET-C' FROM generate_series(1, 5) g;
INSERT INTO orders VALUES (200, 2, 1, '<SECRET-20', 20, '1');
INSERT INTO orphans SELECT 100 + g, CASE WHEN g > 3 THEN 2 END, 1 + g % 3, '<SECRET-ORPHAN' FROM generate_series(1, 5) g;
INSERT INTO ruled VALUES (101, 2, 2, '<SECRET'), (177, 2, 5, '<SECRET');
INSERT INTO risky VALUES (101, 2, 0, 'a');
";

#[test]
fn rows_of_others_make_no_difference() {
    let cluster = Cluster::start();
    let path = repository("tests/isolation/guard.md");
    let cases = cases_of(&cluster, "alone", &path);
    cases_of(&cluster, "among", &path);
    for database in ["alone", "among"] {
        cluster.execute(database, OWN);
    }
    cluster.execute("among", FOREIGN);
    for database in ["alone", "among"] {
        cluster.execute(database, "ANALYZE");
    }
    let mut connections = ["alone", "among"].map(|database| Wire::connect(&cluster.app(database)).expect("a session"));
    let (mut compared, mut raised, mut faults) = (0, 0, Vec::new());
    for case in &cases {
        for sent in case.sent().into_iter().flatten() {
            // How often random() comes out low is nobody's; parameters would need values.
            if sent.contains("random()") || sent.contains('$') {
                continue;
            }
            let [alone, among] = connections.each_mut().map(|wire| {
                wire.query("BEGIN");
                let answer = wire.query(&sent);
                wire.query("ROLLBACK");
                answer
            });
            // A busy machine has no time for a gigabyte: how far either has come says nothing.
            let is_late = |answer: &support::answer::Answer| answer.error.as_ref().is_some_and(|e| e.sqlstate() == "57014");
            if is_late(&alone) && is_late(&among) {
                continue;
            }
            compared += 1;
            raised += usize::from(alone.error.is_some());
            // In which order rows come is the plan's.
            let sorted = |answer: &support::answer::Answer| {
                let mut lines: Vec<String> = format!("{answer:?}").lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            if sorted(&alone) != sorted(&among) {
                faults.push(format!("{}\n{sent}\nalone {alone:?}\namong {among:?}", case.heading));
            }
        }
    }
    assert!(compared > 80 && raised > 0, "{compared} statements, {raised} of them raise for the tenant's own rows");
    assert!(faults.is_empty(), "{} of {compared}:\n{}", faults.len(), faults.join("\n\n"));
}

/// An index that orders by a distance computes it of everybody's rows.
#[test]
fn distances_to_rows_of_others_are_not_computed() {
    let cluster = Cluster::start();
    let cases = cases_of(&cluster, "among", &repository("tests/isolation/loud.md"));
    cluster.execute(
        "among",
        "INSERT INTO places SELECT g, 1, point(g, g), 'a' || g FROM generate_series(1, 20) g;
         INSERT INTO places VALUES (4200042, 2, '(1.7e308,1.7e308)', 'SECRET'); ANALYZE places",
    );
    let mut wire = Wire::connect(&cluster.app("among")).expect("a session");
    wire.query("SET enable_seqscan = off");
    for key in ["p <-> '(-1,0)'", "'(-1,0)' <-> p", "(p <-> '(-1,0)')::float8"] {
        let answer = wire.query(format!("SELECT id FROM places WHERE tenant_id = 1 ORDER BY {key} LIMIT 1"));
        assert_eq!(answer.sqlstate(), "22003", "{key} does raise without a guard: {answer:?}");
    }
    let about = cases.iter().filter(|case| case.sql.contains("places"));
    let sent: Vec<String> = about.flat_map(|case| case.sent()).map(|sent| sent.expect("permitted")).collect();
    assert!(sent.len() >= 7, "{} cases", sent.len());
    for sql in sent {
        let answer = wire.query(&sql);
        assert!(answer.error.is_none() && !format!("{answer:?}").contains("4200042"), "{sql}: {answer:?}");
    }
}

#[test]
fn what_the_guards_are_for_does_raise_without_them() {
    let cluster = Cluster::start();
    let path = repository("tests/isolation/guard.md");
    cases_of(&cluster, "among", &path);
    cluster.execute("among", OWN);
    cluster.execute("among", FOREIGN);
    let mut wire = Wire::connect(&cluster.app("among")).expect("a session");
    for condition in [
        "acc.ca < acc.cb",
        "acc.ca IN (acc.cb)",
        "acc.ci LIKE 'q%'",
        "acc.bx < '(1,1),(0,0)'::box",
        "acc = acc",
        "acc.jarr = acc.jarr",
        "acc.note LIKE E'SECRET\\\\'",
        "coalesce(acc.bal, 1::float8) IS NULL",
        "(CASE WHEN acc.amt IS NULL THEN 1::float8 ELSE acc.bal END) IS NULL",
        "coalesce(acc.d, timestamp '2020-01-01') IS NULL",
        "coalesce(acc.i8, 5::oid) IS NULL",
        "(acc.amt + 1) IS NULL",
        "acc.d::timestamp IS NULL",
    ] {
        let answer = wire.query(format!("SELECT acc.id FROM acc WHERE acc.tenant_id OPERATOR(pg_catalog.=) 1 AND {condition}"));
        assert!(answer.error.is_some(), "{condition}: {answer:?}");
    }
}
