//! A measure of the tests: every switch of `src/mutants.rs` breaks the program in one way, and a test must notice.
//!
//! `make mutants` builds with `--cfg mutants` and runs the second half: for each mutant the cases of `tests/isolation/*.md` in
//! this process, with the output check off, so that the text itself must tell; what they do not catch, and all mutants of
//! the output check, the unit tests must, in a process of their own.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use support::repository;

/// Not a mutant: the others are looked at without the check.
const WITHOUT_CHECK: &str = "no-output-check";

/// Every switch in the sources, and the file that it stands in.
fn switches() -> BTreeMap<String, PathBuf> {
    fn read(directory: &Path, found: &mut BTreeMap<String, PathBuf>) {
        for entry in fs::read_dir(directory).expect("a directory").map(|e| e.expect("an entry").path()) {
            if entry.is_dir() {
                read(&entry, found);
                continue;
            }
            let text = fs::read_to_string(&entry).expect("a source file");
            for (_, rest) in text.match_indices("crate::mutant!(\"").map(|(at, start)| text.split_at(at + start.len())) {
                let name = rest.split('"').next().unwrap_or_default();
                // The comment of the macro has an example.
                if name != "area.what-is-wrong" && found.insert(name.to_owned(), entry.clone()).is_some() {
                    panic!("the switch {name} stands twice");
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    read(&repository("src"), &mut found);
    found
}

#[test]
fn there_are_mutants_of_every_kind() {
    let switches = switches();
    assert!(switches.contains_key(WITHOUT_CHECK));
    for area in ["rewrite.", "guard.", "fence.", "quiet.", "names.", "write.", "mask.", "check."] {
        let count = switches.keys().filter(|name| name.starts_with(area)).count();
        assert!(count >= 4, "{count} mutants of {area}");
    }
    assert!(switches.len() > 100, "{} mutants", switches.len());
}

#[cfg(mutants)]
mod run {
    use std::process::Command;
    use std::sync::Arc;

    use bulkhead::catalog::{Catalog, SNAPSHOT_SQL};
    use bulkhead::config::Level;
    use bulkhead::gate::{Context, Gate, Protocol};
    use bulkhead::mutants::switch;
    use bulkhead::policy::model::PolicyModel;
    use bulkhead::principal::{Access, Principal, Tenant, TenantSet};

    use super::support::cases::{Block, asker, blocks, is_note, schema};
    use super::support::cluster::Cluster;
    use super::support::wire::Wire;
    use super::*;

    /// One `sql` block, and what it comes to without a mutation.
    struct Case {
        file: String,
        heading: String,
        sql: String,
        principal: Principal,
        protocol: Protocol,
        catalog: Arc<Catalog>,
        model: PolicyModel,
        expected: String,
    }

    impl Case {
        /// Decision and text, as one string.
        fn outcome(&self) -> String {
            let gate = match Gate::new(Level::Standard, self.catalog.clone(), &self.model) {
                Ok(gate) => gate,
                Err(problems) => return format!("{problems:?}"),
            };
            let context = Context {
                principal: &self.principal,
                search_path: &["public".into()],
                protocol: self.protocol,
                parameter_types: &[],
            };
            let one = |e: bulkhead::gate::Explanation| match e.outcome {
                Ok(sql) => sql,
                Err(denial) => denial.error.to_string(),
            };
            gate.explain(&self.sql, &context).into_iter().map(one).collect::<Vec<_>>().join("\n")
        }
    }

    /// The cases of one file, in a database of their own.
    fn cases_of(cluster: &Cluster, name: &str, path: &Path) -> Vec<Case> {
        let blocks = blocks(&fs::read_to_string(path).expect("read a file of cases"));
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("schema.sql");
        fs::write(&file, schema(&blocks)).expect("write the schema");
        cluster.create_database(name, &[&file], &[]);
        let answer = Wire::connect(&cluster.app(name)).expect("a session").query(SNAPSHOT_SQL);
        let snapshot = serde_json::from_str(&answer.scalar().expect("the catalog")).expect("a snapshot");
        let catalog = Arc::new(Catalog::new(snapshot));
        let mut cases: Vec<Case> = Vec::new();
        let mut policies: Vec<(usize, String)> = Vec::new();
        let mut heading = String::new();
        for block in blocks {
            match block {
                Block::Heading(level, text) => {
                    policies.retain(|(of, _)| *of < level);
                    heading = text.trim().to_owned();
                }
                Block::Code(kind, body) if kind == "toml" => {
                    policies.push((heading.chars().take_while(|c| *c == '#').count(), body));
                }
                Block::Code(kind, body) if kind == "sql" => {
                    let policy: String = policies.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join("\n");
                    let model = model(name, &policy);
                    let (tenant, roles) = asker(&body);
                    let sql: String = body.split_inclusive('\n').filter(|l| !is_note(l)).collect();
                    let several = pg_query::parse(&sql, 0).is_ok_and(|tree| tree.protobuf.stmts.len() > 1);
                    let access = match tenant {
                        Some(tenant) => Access::Fixed(Tenant(tenant.into())),
                        None => Access::Shared { tenants: TenantSet::Any, chosen: None },
                    };
                    let roles: Vec<Box<str>> = roles.iter().map(|r| r.as_str().into()).collect();
                    cases.push(Case {
                        file: path.file_name().expect("a name").to_string_lossy().into_owned(),
                        heading: heading.clone(),
                        sql: sql.trim_end().to_owned(),
                        principal: Principal {
                            user: "mutants".into(),
                            database: name.into(),
                            roles: roles.into(),
                            access,
                            tenant_setting: None,
                        },
                        protocol: if several { Protocol::Simple } else { Protocol::Extended },
                        catalog: catalog.clone(),
                        model,
                        expected: String::new(),
                    });
                }
                Block::Code(_, _) | Block::Text(_) => {}
            }
        }
        cases
    }

    fn model(database: &str, policy: &str) -> PolicyModel {
        let directory = tempfile::tempdir().expect("temporary directory");
        fs::write(directory.path().join("policy.toml"), policy).expect("write the policies");
        let all = bulkhead::policy::load::load(directory.path(), &[database.into()]).unwrap_or_else(|e| panic!("{e}"));
        all.of_database(database)
    }

    /// The library's own tests, built alike.
    fn unit_tests() -> PathBuf {
        let output = Command::new(env!("CARGO"))
            .args(["test", "--locked", "--lib", "--no-run", "--message-format=json"])
            .current_dir(repository(""))
            .output()
            .expect("cargo runs");
        let text = String::from_utf8_lossy(&output.stdout);
        let program = text.split("\"executable\":\"").nth(1).and_then(|rest| rest.split('"').next());
        program.unwrap_or_else(|| panic!("no unit tests: {}", String::from_utf8_lossy(&output.stderr))).into()
    }

    /// The first unit test that fails.
    fn failing_unit_test(program: &Path, mutant: &str) -> Option<String> {
        let output = Command::new(program)
            .args(["sql::", "plan::", "policy::", "gate::", "--skip", "large_texts"])
            .env("BULKHEAD_MUTANT", mutant)
            .output()
            .expect("the unit tests run");
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines().find_map(|l| l.strip_suffix(" ... FAILED")?.strip_prefix("test ").map(str::to_owned))
    }

    #[test]
    fn every_mutant_is_caught() {
        let cluster = Cluster::start();
        let mut files: Vec<PathBuf> =
            fs::read_dir(repository("tests/isolation")).expect("the directory").map(|e| e.expect("an entry").path()).collect();
        files.sort();
        let mut cases: Vec<Case> = Vec::new();
        for (n, path) in files.iter().filter(|p| p.extension().is_some_and(|e| e == "md")).enumerate() {
            cases.extend(cases_of(&cluster, &format!("mutants_{n}"), path));
        }
        let program = unit_tests();
        switch(&[]);
        for case in &mut cases {
            case.expected = case.outcome();
        }
        switch(&[WITHOUT_CHECK]);
        assert!(cases.iter().all(|c| c.outcome() == c.expected), "the output check changes nothing");
        assert_eq!(failing_unit_test(&program, ""), None, "without a mutation");
        let only = std::env::var("MUTANT").unwrap_or_default();
        let mut survivors = Vec::new();
        for name in switches().keys().filter(|n| *n != WITHOUT_CHECK && n.contains(&only)) {
            switch(&[WITHOUT_CHECK, name]);
            let case = if name.starts_with("check.") { None } else { cases.iter().find(|c| c.outcome() != c.expected) };
            let by = match case {
                Some(case) => Some(format!("{} {}", case.file, case.heading)),
                None => failing_unit_test(&program, name),
            };
            println!("{name:<36} {}", by.as_deref().unwrap_or("SURVIVES"));
            if by.is_none() {
                survivors.push(name.clone());
            }
        }
        assert!(survivors.is_empty(), "nobody notices {survivors:?}");
    }
}
