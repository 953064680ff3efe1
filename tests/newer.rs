//! What newer servers add, on such a server: each statement of `newer/*.sql` gives tenant 1, through the proxy on a database
//! of all tenants, what it gives on one that holds only that tenant's rows, leaves the same rows behind, and leaves those of
//! the others alone. `SUBJECT=plain` shows that the test can fail.

mod support;

use std::fs;

use support::answer::Answer;
use support::cluster::Cluster;
use support::compare::{Names, Order, Shape};
use support::repository;
use support::subject::Subject;
use support::wire::{Target, Wire};

const ALL: &str = "everyone";
const TWIN: &str = "only_tenant_1";

/// Rows of tenant 1, in a total order.
const OWN: &str =
    "SELECT 'a', id, email, balance::text FROM account UNION ALL SELECT 'p', id, note, amount::text FROM part ORDER BY 1, 2";

/// `pristine` holds copies of the tables.
const RESTORE: &str = "TRUNCATE account, part, ratio, card; INSERT INTO card SELECT * FROM pristine.card; INSERT INTO account SELECT * FROM pristine.account; INSERT INTO part SELECT * FROM pristine.part; INSERT INTO ratio SELECT id, tenant_id, base FROM pristine.ratio";

#[test]
fn statements_of_newer_servers_are_those_of_the_tenants_own_database() {
    let cluster = Cluster::start_newer();
    let file = |name: &str| repository(&format!("tests/newer/{name}"));
    cluster.create_database(ALL, &[&file("schema.sql")], &[]);
    cluster.create_database(TWIN, &[&file("schema.sql")], &[("solo", "1")]);
    let policies = fs::read_to_string(file("policies.toml")).expect("read the policies");
    let subject = Subject::start(&cluster, &[ALL.to_owned()], &policies, "", None);
    let (names, twin_names) = (Names::load(&cluster, ALL), Names::load(&cluster, TWIN));
    let foreign = || {
        let mut wire = Wire::connect(&cluster.superuser(ALL)).expect("superuser connection");
        wire.query("SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM (SELECT a::text FROM account a WHERE tenant_id <> 1 UNION ALL SELECT p::text FROM part p WHERE tenant_id <> 1 UNION ALL SELECT concat(id, tenant_id, base) FROM ratio WHERE tenant_id <> 1 UNION ALL SELECT c::text FROM card c WHERE tenant_id <> 1) t").scalar()
    };
    let before = foreign();
    let mut failures = Vec::new();
    let text = fs::read_to_string(file("statements.sql")).expect("read the statements");
    let statements: Vec<&str> = text.split("\n\n").map(str::trim).filter(|s| !s.is_empty()).collect();
    for block in &statements {
        let sql: String = block.split_inclusive('\n').filter(|l| !l.starts_with("--")).collect();
        let refused = block.lines().find_map(|l| l.strip_prefix("-- refused: "));
        let (answer, after) = run(&subject.tenant(&cluster, ALL), &sql, "COMMIT");
        let (twin, twin_after) = run(&cluster.app(TWIN), &sql, "ROLLBACK");
        if foreign() != before {
            failures.push(format!("LEAK: rows of other tenants changed\n{sql}"));
        }
        cluster.execute(ALL, RESTORE);
        if String::from_utf8_lossy(&answer.raw).contains("CANARY") {
            failures.push(format!("LEAK: a foreign value\n{sql}\n{answer:?}"));
        }
        if let Some(state) = refused {
            if answer.sqlstate() != state {
                failures.push(format!("not refused with {state}\n{sql}\n{answer:?}"));
            }
            continue;
        }
        let (shape, expected) = (Shape::of(&answer, &names, Order::Any), Shape::of(&twin, &twin_names, Order::Any));
        if let Some(difference) = shape.difference(&expected) {
            failures.push(format!("{difference}\n{sql}\n proxy: {answer:?}\n twin: {twin:?}"));
        } else if after != twin_after {
            failures.push(format!("other rows are left\n{sql}\n proxy: {after:?}\n twin: {twin_after:?}"));
        }
    }
    assert!(statements.len() > 10, "there are statements");
    assert!(failures.is_empty(), "{} of {}:\n{}", failures.len(), statements.len(), failures.join("\n\n"));
}

/// The answer, and the tenant's rows after it.
fn run(target: &Target, sql: &str, end: &str) -> (Answer, Vec<Vec<Option<Vec<u8>>>>) {
    let mut wire = Wire::connect(target).expect("a session");
    wire.query("BEGIN");
    wire.query("SAVEPOINT s");
    let answer = wire.query(sql);
    if answer.error.is_some() {
        wire.query("ROLLBACK TO s");
    }
    let rows = wire.query(OWN).rows().cloned().collect();
    wire.query(end);
    (answer, rows)
}
