//! The attack corpus: every statement of `attacks/attacks.sql` through the proxy as tenant 1, by the simple and by the
//! extended protocol, judged as the head of that file says.
//!
//! `SUBJECT=plain cargo test --test attacks` shows that the test can fail. `UPDATE=1` rewrites `attacks/refused.txt`, the
//! exact list of what is refused though it should be rewritten: it may shrink in review, never grow unseen.
//!
//! The whole corpus runs twice: as it is, and with `accounts.ssn` masked, where the twin holds the masked values.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use support::answer::Answer;
use support::cluster::Cluster;
use support::compare::{Names, Order, Shape};
use support::subject::{Subject, like_the_others};
use support::wire::{ConnectError, Extended, Target, Wire};
use support::{repository, update_wanted};

const ALL: &str = "everyone";
const TWIN: &str = "only_tenant_1";
const REFUSED: &str = "tests/attacks/refused.txt";

/// Statements that only reset the session: they may be emulated.
const RESETS: [&str; 5] = ["reset-all", "reset-role", "set-role-none", "set-session-auth", "deallocate-all"];

/// What a COPY into accounts is sent where it must be refused: a row that is in order, and one of another tenant.
const HOSTILE_ROWS: &[u8] = b"9001\t1\town@x\t0\tx\n9002\t2\tforged@x\t0\tx\n";

/// Entries that are an attack only after another one has worked; where that one is refused they mean what they say, and
/// are judged as `rewrite`.
const ONLY_AFTER: [(&str, &str); 1] = [("scs-off-used", "scs-off-setconfig")];

/// Answers that no rewriting can make equal: existence through keys that are unique, or referenced, across tenants. The
/// README lists the channel; canaries and foreign rows are judged all the same.
const RESIDUAL: [(&str, &str); 7] = [
    ("dup-pk-probe", "a primary key that is unique across tenants"),
    ("upsert-do-nothing-probe", "a primary key that is unique across tenants"),
    ("upsert-other-tenant", "a primary key that is unique across tenants"),
    ("upsert-where-probe", "a primary key that is unique across tenants"),
    ("upsert-returning-old", "a primary key that is unique across tenants"),
    ("merge-matched", "a primary key that is unique across tenants"),
    ("fk-probe-insert", "a foreign key that does not hold the tenant"),
];

/// Answers that are plans: they show the policy, and not the estimates that the twin shows. What is asked for is the twin's
/// description of rows, and nothing that a row of another tenant had a part in.
const PLANS: [&str; 1] = ["explain-plain"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Reject,
    /// `rewrite` and `allow`: the answer of the twin.
    Twin,
}

#[derive(Debug)]
struct Entry {
    id: String,
    class: String,
    expected: Expected,
    /// Run before it on the same connection.
    setup: Vec<String>,
    notes: String,
    sql: Vec<u8>,
}

/// With masks: what a tenant may not do to a masked column, or sees otherwise than a database would that holds the masks.
const MASKED: [(&str, &str); 1] = [("insert-returning", "RETURNING shows a new value as its mask too")];

#[test]
fn no_attack_gets_through() {
    let entries = corpus();
    let run: Vec<&Entry> = entries.iter().filter(|e| e.class != "mask").collect();
    let refused = judge_all(&Bench::start(Columns::AsTheyAre), &run, &entries);
    if let Some(refused) = refused {
        if update_wanted() {
            fs::write(repository(REFUSED), list(&refused)).expect("write the list");
        }
        let known = fs::read_to_string(repository(REFUSED)).unwrap_or_default();
        assert_eq!(known, list(&refused), "what is refused has changed; UPDATE=1 rewrites {REFUSED}");
    }
}

#[test]
fn no_masked_value_gets_through() {
    let entries = corpus();
    let run: Vec<&Entry> = entries.iter().collect();
    let refused = judge_all(&Bench::start(Columns::Masked), &run, &entries);
    if let Some(refused) = refused {
        let known = fs::read_to_string(repository(REFUSED)).unwrap_or_default();
        let more: Vec<&String> = refused.keys().filter(|id| !known.contains(&format!("\n{id}: "))).collect();
        assert!(more.is_empty(), "refused though it could be rewritten, with masks: {more:?}");
    }
}

/// Judges entries by both protocols; what is refused though it could be rewritten, if it is the proxy that is judged.
fn judge_all(bench: &Bench, run: &[&Entry], entries: &[Entry]) -> Option<BTreeMap<String, String>> {
    let mut failures = Vec::new();
    let mut refused = BTreeMap::new();
    let mut counts: BTreeMap<&'static str, usize> = BTreeMap::new();
    for entry in run {
        for protocol in [Protocol::Simple, Protocol::Extended] {
            let verdict = bench.judge(entry, protocol, entries);
            let label = match verdict {
                Verdict::Refused => "refused as it must be",
                Verdict::Emulated => "emulated",
                Verdict::Equal => "equal to the twin",
                Verdict::Residual => "published residual channel",
                Verdict::RefusedThoughRewritable(why) => {
                    refused.insert(format!("{} {protocol:?}", entry.id), why);
                    "refused though it could be rewritten"
                }
                Verdict::Failed(why) => {
                    failures.push(format!("{} ({protocol:?}): {why}\n    {}", entry.id, String::from_utf8_lossy(&entry.sql)));
                    "FAILED"
                }
            };
            *counts.entry(label).or_default() += 1;
        }
    }
    eprintln!("attacks: {counts:#?}");
    for (id, why) in &refused {
        eprintln!("refused though it could be rewritten: {id}: {why}");
    }
    assert!(failures.is_empty(), "{} of the attacks:\n{}", failures.len(), failures.join("\n"));
    bench.subject.is_proxy().then_some(refused)
}

/// The text of `refused.txt`, which holds exactly what is refused.
fn list(refused: &BTreeMap<String, String>) -> String {
    let mut text = String::from("# Refused though it could be rewritten. Written by `UPDATE=1 cargo test --test attacks`.\n");
    for (id, why) in refused {
        let _ = writeln!(text, "{id}: {why}");
    }
    text
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Simple,
    Extended,
}

enum Verdict {
    Refused,
    Emulated,
    Equal,
    Residual,
    RefusedThoughRewritable(String),
    Failed(String),
}

/// Hashes of what a statement may change.
#[derive(Debug, PartialEq, Eq)]
struct State {
    own: String,
    foreign: String,
    schema: String,
}

/// What tenants see of `accounts.ssn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    AsTheyAre,
    /// `mask = "last4"`
    Masked,
}

/// The mask, as the test has it. It is its own fixed point.
const LAST4: &str = "CASE WHEN length(ssn) >= 8 THEN '****' || right(ssn, 4) WHEN ssn IS NOT NULL THEN '****' END";

struct Bench {
    columns: Columns,
    cluster: Cluster,
    subject: Subject,
    names: Names,
    twin_names: Names,
    pristine: State,
    twin_pristine: State,
    /// The hash of the schema before the statement at hand: `restore` does not undo DDL.
    schema: RefCell<String>,
    /// Superuser sessions, to look and to restore.
    watch: RefCell<Wire>,
    twin_watch: RefCell<Wire>,
}

impl Bench {
    fn start(columns: Columns) -> Bench {
        let cluster = Cluster::start();
        let schema = repository("tests/attacks/schema.sql");
        let mut pristine = repository("tests/attacks/pristine.sql");
        let mut twin = vec![schema.clone()];
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut policies = "tests/attacks/policies.toml";
        if columns == Columns::Masked {
            policies = "tests/attacks/policies_mask.toml";
            // The twin holds what the tenant sees, in the order of before; what a statement changed is compared through the mask.
            let write = |name: &str, text: &str| {
                let path = directory.path().join(name);
                fs::write(&path, text).expect("write a script");
                path
            };
            twin.push(write("mask.sql", &format!("UPDATE accounts SET ssn = {LAST4}; CLUSTER accounts USING accounts_pkey;")));
            let text = fs::read_to_string(&pristine).expect("read a script");
            let line = "'a' || accounts::text";
            assert!(text.contains(line));
            pristine =
                write("pristine.sql", &text.replace(line, &format!("'a' || ROW(id, tenant_id, email, balance, {LAST4})::text")));
        }
        twin.push(pristine.clone());
        cluster.create_database(ALL, &[&schema, &pristine], &[]);
        cluster.create_database(TWIN, &twin.iter().map(AsRef::as_ref).collect::<Vec<_>>(), &[("solo", "1")]);
        let policies = fs::read_to_string(repository(policies)).expect("read the policies");
        let rls = fs::read_to_string(repository("tests/attacks/rls.sql")).expect("read the row security");
        let subject = Subject::start(&cluster, &[ALL.to_owned()], &policies, &rls, None);
        like_the_others(&cluster, TWIN);
        let (names, twin_names) = (Names::load(&cluster, ALL), Names::load(&cluster, TWIN));
        let superuser = |database| RefCell::new(Wire::connect(&cluster.superuser(database)).expect("superuser connection"));
        let (watch, twin_watch) = (superuser(ALL), superuser(TWIN));
        let (pristine, twin_pristine) = (state(&watch), state(&twin_watch));
        let schema = RefCell::new(pristine.schema.clone());
        Bench { columns, schema, cluster, subject, names, twin_names, pristine, twin_pristine, watch, twin_watch }
    }

    fn judge(&self, entry: &Entry, protocol: Protocol, entries: &[Entry]) -> Verdict {
        let prerequisite = ONLY_AFTER.iter().find(|(id, _)| *id == entry.id);
        let mut setup: Vec<Vec<u8>> = entry.setup.iter().map(|s| s.clone().into_bytes()).collect();
        let mut expected = entry.expected;
        if let Some((_, before)) = prerequisite {
            let before = entries.iter().find(|e| e.id == *before).expect("an entry of that name");
            setup.push(before.sql.clone());
            expected = Expected::Twin;
        }
        // How many parameters there are is PostgreSQL's to say.
        let parameters = match protocol {
            Protocol::Simple => 0,
            Protocol::Extended => parameters(&self.cluster.app(TWIN), &entry.sql),
        };
        let data = (expected == Expected::Reject).then_some(HOSTILE_ROWS);
        let answer = match run(&self.subject.tenant(&self.cluster, ALL), &setup, &entry.sql, protocol, parameters, data) {
            Ok(answer) => answer,
            Err(error) => return Verdict::Failed(format!("no session: {error:?}")),
        };
        let after = state(&self.watch);
        let verdict = match self.leak(&answer, &after) {
            Some(leak) => Verdict::Failed(format!("LEAK: {leak}\n{answer:?}")),
            None if expected == Expected::Reject => self.judge_reject(entry, &answer, &after),
            None => self.judge_twin(entry, protocol, &setup, parameters, &answer, &after),
        };
        if after.own != self.pristine.own || after.foreign != self.pristine.foreign {
            restore(&self.watch);
        }
        verdict
    }

    /// What no statement may show or do, whatever is expected of it.
    fn leak(&self, answer: &Answer, after: &State) -> Option<String> {
        if let Some(canary) = canary(&answer.raw) {
            return Some(format!("the canary {canary:?} in the bytes to the client"));
        }
        if self.columns == Columns::Masked {
            if let Some(raw) = raw_ssn(&answer.raw) {
                return Some(format!("the masked value {raw:?} in the bytes to the client"));
            }
            let changed = "SELECT id FROM accounts JOIN pristine.accounts p USING (id) WHERE accounts.ssn IS DISTINCT FROM p.ssn";
            if self.watch.borrow_mut().query(changed).rows().next().is_some() {
                return Some("a masked value was written over".to_owned());
            }
        }
        if after.foreign != self.pristine.foreign {
            return Some("rows of other tenants changed".to_owned());
        }
        let before = self.schema.replace(after.schema.clone());
        (after.schema != before).then(|| "the schema changed".to_owned())
    }

    /// Entries marked `weak` have the same answer without any filter: their rewritten text must name the tenant's column
    /// more often than they do themselves.
    fn unfiltered(&self, entry: &Entry, protocol: Protocol) -> Option<String> {
        let Subject::Proxy(proxy) = &self.subject else { return None };
        if protocol != Protocol::Simple || !entry.notes.contains("-- weak:") {
            return None;
        }
        let sql = String::from_utf8_lossy(&entry.sql);
        let output = proxy.setup.run(&["explain", "--json", "--tenant", "1", "--role", "app", "--", &sql]);
        let list: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let sent: Vec<&str> = list.iter().filter_map(|e| e["final_sql"].as_str()).collect();
        let filters = sent.join(" ").matches("tenant_id").count();
        (!sent.is_empty() && filters <= sql.matches("tenant_id").count()).then(|| format!("no filter in what is sent: {sent:?}"))
    }

    fn judge_reject(&self, entry: &Entry, answer: &Answer, after: &State) -> Verdict {
        if after.own != self.pristine.own {
            return Verdict::Failed("must be refused, yet rows changed".to_owned());
        }
        match &answer.error {
            // The statement is let through: what counts is what becomes of the data.
            Some(error) if answer.copy_formats.is_some() && error.sqlstate() != "42501" => {
                Verdict::Failed(format!("hostile data was refused for another reason: {error:?}"))
            }
            Some(_) if answer.rows().next().is_none() => Verdict::Refused,
            Some(error) => Verdict::Failed(format!("rows before the refusal: {error:?}\n{answer:?}")),
            None if RESETS.contains(&entry.id.as_str()) => Verdict::Emulated,
            None => Verdict::Failed(format!("must be refused, but was answered\n{answer:?}")),
        }
    }

    fn judge_twin(
        &self,
        entry: &Entry,
        protocol: Protocol,
        setup: &[Vec<u8>],
        parameters: usize,
        answer: &Answer,
        after: &State,
    ) -> Verdict {
        // On the twin a prerequisite that the proxy refuses would work.
        let setup = if ONLY_AFTER.iter().any(|(id, _)| *id == entry.id) { &[] } else { setup };
        let twin = run(&self.cluster.app(TWIN), setup, &entry.sql, protocol, parameters, None).expect("a session on the twin");
        let twin_after = state(&self.twin_watch);
        if twin_after != self.twin_pristine {
            restore(&self.twin_watch);
        }
        let order = if entry.notes.contains("result is random") { Order::Random } else { Order::Any };
        let shape = Shape::of(answer, &self.names, order);
        let twin_shape = Shape::of(&twin, &self.twin_names, order);
        if PLANS.contains(&entry.id.as_str()) && !is_refusal(answer) {
            return judge_plan(answer, &twin);
        }
        let masked = self.columns == Columns::Masked && MASKED.iter().any(|(id, _)| *id == entry.id);
        let residual = masked || RESIDUAL.iter().any(|(id, _)| *id == entry.id);
        match shape.difference(&twin_shape) {
            None if after.own == twin_after.own => match self.unfiltered(entry, protocol) {
                None => Verdict::Equal,
                Some(why) => Verdict::Failed(why),
            },
            None => Verdict::Failed("the caller's own rows are not as on the twin".to_owned()),
            // It runs on a newer server, or with an extension: here an error is all that is asked for.
            Some(_) if answer.error.is_some() && entry.notes.contains("-- needs:") => Verdict::Refused,
            // A refusal is the answer that the policy asks for; it tells no more than the constraint does.
            Some(_) if residual && is_refusal(answer) && after.own == self.pristine.own => Verdict::Residual,
            Some(_) if is_refusal(answer) && after.own == self.pristine.own => {
                let error = answer.error.as_ref().expect("a refusal is an error");
                Verdict::RefusedThoughRewritable(format!("{} {}", error.sqlstate(), error.message()))
            }
            Some(_) if residual => Verdict::Residual,
            Some(difference) => {
                Verdict::Failed(format!("not as on the twin: {difference}\n proxy:\n{answer:?}\n twin:\n{twin:?}"))
            }
        }
    }
}

fn judge_plan(answer: &Answer, twin: &Answer) -> Verdict {
    let text = String::from_utf8_lossy(&answer.raw);
    let columns = |a: &Answer| a.parts.first().map(|p| format!("{:?}", p.columns));
    if answer.error.is_some() || columns(answer) != columns(twin) {
        return Verdict::Failed(format!("not described as on the twin\n proxy:\n{answer:?}\n twin:\n{twin:?}"));
    }
    let estimates = ["cost=", "rows=", "width="].iter().any(|word| text.contains(word));
    if estimates || !text.contains("tenant_id = 1") {
        return Verdict::Failed(format!("estimates, or no policy, in the plan: {answer:?}"));
    }
    Verdict::Equal
}

/// An error that the proxy raises by itself.
fn is_refusal(answer: &Answer) -> bool {
    matches!(answer.sqlstate(), "0A000" | "42501" | "42601" | "54000" | "54001")
}

fn run(
    target: &Target,
    setup: &[Vec<u8>],
    sql: &[u8],
    protocol: Protocol,
    parameters: usize,
    copy_data: Option<&[u8]>,
) -> Result<Answer, ConnectError> {
    let mut wire = Wire::connect(target)?;
    for before in setup {
        wire.query(before);
    }
    wire.copy_data = copy_data.map(<[u8]>::to_vec);
    Ok(match protocol {
        Protocol::Simple => wire.query(sql),
        Protocol::Extended => wire.extended(&Extended { sql, parameters: &vec![Some("1"); parameters], ..Extended::default() }),
    })
}

fn parameters(target: &Target, sql: &[u8]) -> usize {
    let mut wire = Wire::connect(target).expect("a session on the twin");
    wire.describe(sql, &[]).parameters.map_or(0, |p| p.len())
}

/// The first canary in bytes sent to a client: text, or a number as PostgreSQL sends it in either format.
fn canary(raw: &[u8]) -> Option<String> {
    let text = raw.windows(7).find(|w| *w == b"CANARY2" || *w == b"CANARY3");
    if let Some(text) = text {
        return Some(String::from_utf8_lossy(text).into_owned());
    }
    for run in raw.split(|b| !b.is_ascii_digit()) {
        let whole = run.len() == 6 && (run.starts_with(b"2220") || run.starts_with(b"3330"));
        if whole && &run[3..] != b"000" {
            return Some(String::from_utf8_lossy(run).into_owned());
        }
    }
    let foreign = |n: u32| (222_001..=222_030).contains(&n) || (333_001..=333_030).contains(&n);
    let binary = raw.windows(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]])).find(|n| foreign(*n));
    binary.map(|n| format!("{n} in binary"))
}

/// 11111 and four digits: an ssn of tenant 1 as it is. In binary format text is the same.
fn raw_ssn(raw: &[u8]) -> Option<String> {
    let found = raw.windows(9).find(|w| w.starts_with(b"11111") && w.iter().all(u8::is_ascii_digit));
    found.map(|w| String::from_utf8_lossy(w).into_owned())
}

fn state(watch: &RefCell<Wire>) -> State {
    let answer = watch.borrow_mut().query("SELECT * FROM pristine.state");
    let row = answer.rows().next().unwrap_or_else(|| panic!("the state of a database: {answer:?}"));
    let text = |i: usize| String::from_utf8_lossy(row[i].as_deref().unwrap_or_default()).into_owned();
    State { own: text(0), foreign: text(1), schema: text(2) }
}

fn restore(watch: &RefCell<Wire>) {
    let answer = watch.borrow_mut().query("SELECT pristine.restore()");
    assert!(answer.error.is_none(), "restore: {answer:?}");
}

fn corpus() -> Vec<Entry> {
    let text = fs::read(repository("tests/attacks/attacks.sql")).expect("read the corpus");
    let mut entries = Vec::new();
    let mut lines: Vec<&[u8]> = Vec::new();
    let mut head: Option<String> = None;
    for line in text.split(|b| *b == b'\n') {
        if line.starts_with(b"-- id: ") {
            entries.extend(head.take().map(|h| entry(&h, &lines)));
            head = Some(String::from_utf8_lossy(line).into_owned());
            lines.clear();
        } else {
            lines.push(line);
        }
    }
    entries.extend(head.map(|h| entry(&h, lines.strip_suffix(&[&b""[..]]).unwrap_or(&lines))));
    entries
}

fn entry(head: &str, lines: &[&[u8]]) -> Entry {
    let fields: Vec<&str> = head.trim_start_matches("-- id: ").split(" | ").collect();
    let [id, class, expected] = fields[..] else { panic!("a head of three fields: {head}") };
    let expected = match expected.trim_start_matches("expected: ") {
        "reject" => Expected::Reject,
        "rewrite" | "allow" => Expected::Twin,
        other => panic!("expected: {other}"),
    };
    let annotation =
        |line: &[u8]| ["note", "enc", "setup", "weak", "needs"].iter().any(|k| line.starts_with(format!("-- {k}:").as_bytes()));
    let annotations = lines.iter().take_while(|l| annotation(l)).count();
    let notes: Vec<String> = lines[..annotations].iter().map(|l| String::from_utf8_lossy(l).into_owned()).collect();
    let mut sql = lines[annotations..].join(&b'\n');
    if notes.iter().any(|n| n == "-- enc: c") {
        sql = decode(&sql);
    }
    let setup = notes.iter().filter_map(|n| n.strip_prefix("-- setup:")).map(|s| s.trim().to_owned()).collect();
    Entry { id: id.to_owned(), class: class.to_owned(), expected, setup, notes: notes.join("\n"), sql }
}

/// C escapes: `\x00`, `\r`, `\n`, `\t`, `\\`.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&escape, after) = rest.split_first().expect("something follows a backslash");
        rest = after;
        match escape {
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).expect("two hex digits");
                out.push(u8::from_str_radix(digits, 16).expect("two hex digits"));
                rest = &rest[2..];
            }
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            other => out.push(other),
        }
    }
    out
}

#[test]
fn the_corpus_is_read_as_its_head_says() {
    let entries = corpus();
    assert_eq!(entries.len(), 312);
    let sql = |id: &str| &entries.iter().find(|e| e.id == id).expect("an entry").sql[..];
    assert_eq!(sql("bom"), b"\xef\xbb\xbfSELECT * FROM accounts");
    assert_eq!(sql("string-continuation"), b"SELECT 'a'\n'b'");
    assert_eq!(sql("compat-savepoint"), b"SAVEPOINT a");
}
