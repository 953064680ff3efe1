//! A measure of the tests: every switch of `src/mutants.rs` breaks the program in one way, and a test must notice.
//!
//! `make mutants` builds with `--cfg mutants` and runs the second half: for each mutant the cases of `tests/isolation/*.md` in
//! this process, with the output check off, so that the text itself must tell; what they do not catch, and all mutants of
//! the output check, the unit tests must, in a process of their own. Mutants of sessions and of the pool are for the scenes of
//! `tests/pool.rs`, their unit tests, `tests/wire_backend.rs` and `tests/lookup.rs`; those of the result cache for `tests/cache.rs`,
//! of its second tier for `tests/cache_redis.rs`, and of what follows the log for `tests/cache_follow.rs`; those of the audit log for
//! its unit tests and `tests/audit.rs`; those of threat rules and compliance (`watch.`) for `tests/threats.rs` and `tests/compliance.rs`.

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
    for area in [
        "rewrite.", "guard.", "fence.", "quiet.", "names.", "write.", "mask.", "check.", "session.", "lookup.", "cache.",
        "audit.", "watch.",
    ] {
        let count = switches.keys().filter(|name| name.starts_with(area)).count();
        assert!(count >= 4, "{count} mutants of {area}");
    }
    assert!(switches.len() > 100, "{} mutants", switches.len());
}

#[cfg(mutants)]
mod run {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use bulkhead::mutants::switch;

    use super::support::cases::{Case, cases_of};
    use super::support::cluster::Cluster;
    use super::*;

    /// Tests in a process of their own, built alike.
    struct Tests {
        program: PathBuf,
        arguments: &'static [&'static str],
    }

    impl Tests {
        /// `target`: as cargo names it.
        fn build(target: &[&str], arguments: &'static [&'static str]) -> Tests {
            let output = Command::new(env!("CARGO"))
                .args(["test", "--locked", "--no-run", "--message-format=json"])
                .args(target)
                .current_dir(repository(""))
                .output()
                .expect("cargo runs");
            let text = String::from_utf8_lossy(&output.stdout);
            let built = text.lines().filter(|l| l.contains("\"test\":true")).filter_map(|l| l.split("\"executable\":\"").nth(1));
            let program = built.filter_map(|rest| rest.split('"').next()).next_back();
            let program = program.unwrap_or_else(|| panic!("not built: {}", String::from_utf8_lossy(&output.stderr)));
            Tests { program: program.into(), arguments }
        }

        /// The first that fails; the others are not waited for. What they have started ends with them.
        fn failing(&self, mutant: &str) -> Option<String> {
            // What the killed leave; the servers' user must get in.
            let open = fs::Permissions::from_mode(0o755);
            let directory = tempfile::Builder::new().permissions(open).tempdir().expect("temporary directory");
            let mut child = Command::new(&self.program)
                .args(self.arguments)
                .env("BULKHEAD_MUTANT", mutant)
                .env("TMPDIR", directory.path())
                .current_dir(repository(""))
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("the tests run");
            let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
            let failed = { lines }.find_map(|l| l.strip_suffix(" ... FAILED")?.strip_prefix("test ").map(str::to_owned));
            if failed.is_some() {
                child.kill().expect("the tests are killed");
            }
            child.wait().expect("the tests end");
            failed
        }
    }

    /// Decisions and texts, as one string.
    fn outcome(case: &Case) -> String {
        let one = |sent: Result<String, String>| sent.unwrap_or_else(|error| error);
        case.sent().into_iter().map(one).collect::<Vec<_>>().join("\n")
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
        let units = Tests::build(&["--lib"], &["sql::", "plan::", "policy::", "gate::", "--skip", "large_texts"]);
        let scenes = Tests::build(&["--test", "pool"], &[]);
        let backends = Tests::build(&["--test", "wire_backend"], &[]);
        let lookups = Tests::build(&["--test", "lookup"], &[]);
        let caches = Tests::build(&["--test", "cache"], &[]);
        let redis = Tests::build(&["--test", "cache_redis"], &[]);
        let followed = Tests::build(&["--test", "cache_follow"], &[]);
        let audits = Tests::build(&["--test", "audit"], &[]);
        let threats = Tests::build(&["--test", "threats"], &[]);
        let compliance = Tests::build(&["--test", "compliance"], &[]);
        let logs = Tests { program: units.program.clone(), arguments: &["audit::"] };
        let kept = Tests { program: units.program.clone(), arguments: &["cache::", "catalog::"] };
        let sessions = Tests { program: units.program.clone(), arguments: &["session::", "backend::"] };
        switch(&[]);
        let expected: Vec<String> = cases.iter().map(outcome).collect();
        let differs = || cases.iter().zip(&expected).find(|(case, expected)| outcome(case) != **expected).map(|(case, _)| case);
        switch(&[WITHOUT_CHECK]);
        assert!(differs().is_none(), "the output check refuses what the rewriter should: {:?}", differs().map(|c| &c.sql));
        assert_eq!(units.failing(""), None, "without a mutation");
        for tests in
            [&scenes, &sessions, &backends, &lookups, &caches, &redis, &followed, &kept, &audits, &logs, &threats, &compliance]
        {
            assert_eq!(tests.failing(""), None, "without a mutation");
        }
        let only = std::env::var("MUTANT").unwrap_or_default();
        let mut survivors = Vec::new();
        for name in switches().keys().filter(|n| *n != WITHOUT_CHECK && n.contains(&only)) {
            switch(&[WITHOUT_CHECK, name]);
            let by = match name.split('.').next() {
                Some("session") => [&scenes, &sessions, &backends, &lookups].iter().find_map(|tests| tests.failing(name)),
                Some("cache") if name.starts_with("cache.redis") => redis.failing(name),
                Some("cache") if name.starts_with("cache.follow") => {
                    [&kept, &followed].iter().find_map(|tests| tests.failing(name))
                }
                Some("cache") => [&kept, &caches].iter().find_map(|tests| tests.failing(name)),
                Some("audit") => [&logs, &audits].iter().find_map(|tests| tests.failing(name)),
                Some("watch") => [&threats, &compliance].iter().find_map(|tests| tests.failing(name)),
                Some("lookup") => lookups.failing(name),
                Some("check") => units.failing(name),
                Some(_) | None => match differs() {
                    Some(case) => Some(format!("{} {}", case.file, case.heading)),
                    None => units.failing(name),
                },
            };
            println!("{name:<36} {}", by.as_deref().unwrap_or("SURVIVES"));
            if by.is_none() {
                survivors.push(name.clone());
            }
        }
        assert!(survivors.is_empty(), "nobody notices {survivors:?}");
    }
}
