//! Policy and SQL in, verdict and rewritten SQL out: `isolation/*.md`, text that a DBA can read and veto.
//!
//! Headings are names of tests. A `toml` block holds policies; sub-headings inherit it. A `schema` block makes the
//! database of the file. A `sql` block is a case: `-- as: tenant 7, role support` says who asks; the block ends in
//! `-- error: 42501 text` where the statement is refused, else a `rewritten` block follows. `UPDATE=1` writes both anew.
//! What is sent must also be valid to PostgreSQL, with the columns of what came.

mod support;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use support::cases::{Block, asker, blocks, is_note, schema};
use support::cluster::Cluster;
use support::proxy::Setup;
use support::wire::Wire;
use support::{repository, update_wanted};

#[test]
fn verdicts_and_rewritten_text_are_as_written_down() {
    let cluster = Cluster::start();
    let mut failures = Vec::new();
    let mut cases = 0;
    let mut files: Vec<PathBuf> =
        fs::read_dir(repository("tests/isolation")).expect("the directory").map(|e| e.expect("an entry").path()).collect();
    files.sort();
    for (n, path) in files.iter().filter(|p| p.extension().is_some_and(|e| e == "md")).enumerate() {
        let text = fs::read_to_string(path).expect("read a file of cases");
        let blocks = blocks(&text);
        let database = Database::new(&cluster, &format!("isolation_{n}"), &blocks);
        let mut out = String::new();
        let mut policies: Vec<(usize, String)> = Vec::new();
        let mut heading = String::new();
        let mut skip_rewritten = false;
        for (i, block) in blocks.iter().enumerate() {
            match block {
                Block::Text(text) => out += text,
                Block::Heading(level, text) => {
                    policies.retain(|(of, _)| of < level);
                    heading = text.trim().to_owned();
                    out += text;
                }
                Block::Code(kind, body) if kind == "toml" => {
                    let level = heading.chars().take_while(|c| *c == '#').count();
                    policies.push((level, body.clone()));
                    out += &fenced(kind, body);
                }
                Block::Code(kind, body) if kind == "sql" => {
                    cases += 1;
                    let policy: String = policies.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n");
                    let found = database.explain(&cluster, &policy, body);
                    let expected = match blocks.get(i + 2) {
                        Some(Block::Code(kind, text)) if kind == "rewritten" => text.clone(),
                        _ => String::new(),
                    };
                    let (sql, rewritten) = found.as_blocks(body);
                    if (sql != *body || rewritten != expected) && !update_wanted() {
                        failures.push(format!(
                            "{} {heading}\n{body}\n expected:\n{expected}\n found:\n{sql}\n{rewritten}",
                            path.display()
                        ));
                    }
                    failures.extend(found.invalid.iter().map(|why| format!("{} {heading}\n{body}\n{why}", path.display())));
                    out += &fenced("sql", &sql);
                    if !rewritten.is_empty() {
                        out += "\n";
                        out += &fenced("rewritten", &rewritten);
                    }
                    skip_rewritten = !expected.is_empty();
                }
                Block::Code(kind, _) if kind == "rewritten" => {
                    assert!(skip_rewritten, "a rewritten block follows a sql block, one empty line between");
                    skip_rewritten = false;
                    // The empty line before it was kept as text.
                    if out.ends_with("\n\n") {
                        out.pop();
                    }
                }
                Block::Code(kind, body) => out += &fenced(kind, body),
            }
        }
        if update_wanted() && out != text {
            fs::write(path, out).expect("write a file of cases");
        }
    }
    assert!(cases > 0, "there are cases");
    assert!(failures.is_empty(), "{} of {cases} cases:\n{}", failures.len(), failures.join("\n\n"));
}

fn fenced(kind: &str, body: &str) -> String {
    format!("```{kind}\n{body}```\n")
}

/// The database of a file, and its catalog in a file.
struct Database {
    name: String,
    catalog: PathBuf,
    /// Holds `catalog`.
    _directory: tempfile::TempDir,
}

impl Database {
    fn new(cluster: &Cluster, name: &str, blocks: &[Block]) -> Database {
        let directory = tempfile::tempdir().expect("temporary directory");
        let schema = schema(blocks);
        assert!(!schema.is_empty(), "a file has a schema block");
        let file = directory.path().join("schema.sql");
        fs::write(&file, schema).expect("write the schema");
        cluster.create_database(name, &[&file], &[]);
        let mut wire = Wire::connect(&cluster.app(name)).expect("a session");
        let answer = wire.query(bulkhead::catalog::SNAPSHOT_SQL);
        let catalog = directory.path().join("catalog.json");
        fs::write(&catalog, answer.scalar().unwrap_or_else(|| panic!("the catalog: {answer:?}"))).expect("write the catalog");
        Database { name: name.to_owned(), catalog, _directory: directory }
    }

    /// What `bulkhead explain` says of the statements of a block.
    fn explain(&self, cluster: &Cluster, policy: &str, block: &str) -> Found {
        let (tenant, roles) = asker(block);
        let sql: String = block.split_inclusive('\n').filter(|l| !is_note(l)).collect();
        let setup = Setup::new(&[(self.name.clone(), cluster.app_url(&self.name))], &[], &[("policy.toml", policy)]);
        let mut arguments = vec!["explain", "--json", "--catalog", self.catalog.to_str().expect("a path in UTF-8")];
        arguments.extend(tenant.iter().flat_map(|t| ["--tenant", t]));
        arguments.extend(roles.iter().flat_map(|r| ["--role", r]));
        arguments.push(sql.trim_end());
        let output = setup.run(&arguments);
        let shown = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let Ok(list) = serde_json::from_slice::<Vec<serde_json::Value>>(&output.stdout) else {
            return Found { verdicts: Vec::new(), invalid: vec![format!("explain did not answer: {}", shown())] };
        };
        let mut found = Found { verdicts: Vec::new(), invalid: Vec::new() };
        for item in &list {
            let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
            if item["decision"] == "permit" {
                let (came, sent) = (text("sql"), text("final_sql"));
                found.invalid.extend(differs_to_postgresql(&cluster.app(&self.name), &came, &sent));
                found.verdicts.push(Ok(sent));
            } else {
                let mut error = format!("{} {}", text("sqlstate"), text("message"));
                if !text("hint").is_empty() {
                    let _ = write!(error, " (hint: {})", text("hint"));
                }
                found.verdicts.push(Err(error));
            }
        }
        found
    }
}

/// Is what is sent valid where what came is, and are its columns the same?
fn differs_to_postgresql(target: &support::wire::Target, came: &str, sent: &str) -> Option<String> {
    // So it shows where nobody has chosen a tenant: there is nothing to send.
    if sent.contains("<tenant>") {
        return None;
    }
    let mut wire = Wire::connect(target).expect("a session");
    let before = wire.describe(came.trim_end().trim_end_matches(';').as_bytes(), &[]);
    let after = wire.describe(sent.as_bytes(), &[]);
    match (&before.error, &after.error) {
        // A column that the tenant need not give is the proxy's to add: PREPARE, COPY and SHOW describe as nothing.
        (None, None) if before.parts.first().map(|p| &p.columns) == after.parts.first().map(|p| &p.columns) => None,
        // The check of new rows is a RETURNING of the proxy's own, whose rows no client sees.
        (None, None) if before.parts.is_empty() && sent.contains(" AS bulkhead_check") => None,
        (None, None) => Some(format!("the columns differ:\n came {before:?}\n sent {after:?}")),
        (None, Some(error)) => Some(format!("what is sent is not valid: {error:?}\n{sent}")),
        (Some(_), _) => None,
    }
}

/// What was decided of each statement: the text that is sent, or the error.
struct Found {
    verdicts: Vec<Result<String, String>>,
    /// Faults that no expectation excuses.
    invalid: Vec<String>,
}

impl Found {
    /// The `sql` block and the `rewritten` block as they should be.
    fn as_blocks(&self, block: &str) -> (String, String) {
        let mut sql: String = block.split_inclusive('\n').filter(|l| !l.starts_with("-- error: ")).collect();
        let mut rewritten = String::new();
        for verdict in &self.verdicts {
            match verdict {
                Ok(text) => rewritten += &format!("{}\n", text.trim_end()),
                Err(error) => sql += &format!("-- error: {}\n", error.replace('\n', " ")),
            }
        }
        (sql, rewritten)
    }
}

#[test]
fn a_file_is_the_sum_of_its_blocks() {
    let text = "# A\n\ntext\n\n```toml\nx = 1\n```\n\n## B\n```sql\n-- as: tenant 7, role a\nSELECT 1\n```\n";
    let whole: String = blocks(text)
        .iter()
        .map(|b| match b {
            Block::Text(t) | Block::Heading(_, t) => t.clone(),
            Block::Code(kind, body) => fenced(kind, body),
        })
        .collect();
    assert_eq!(whole, text);
    assert_eq!(asker("-- as: tenant 7, role a\nSELECT 1"), (Some("7".to_owned()), vec!["a".to_owned()]));
    assert!(Path::new(&repository("tests/isolation")).is_dir());
}
