//! `bulkhead check --database` and `check --sql` against a live schema. What they say stands in `tests/check/*.txt`, which
//! `UPDATE=1 cargo test --test check` writes anew.

mod support;

use std::fs;
use std::process::{Command, Output};

use support::cluster::Cluster;
use support::{repository, update_wanted};
use tempfile::TempDir;

/// A configuration for a database of its own, made from `tests/check/{schema}.sql`.
struct World {
    directory: TempDir,
    cluster: Cluster,
}

impl World {
    fn start(schema: &str) -> World {
        let cluster = Cluster::start();
        cluster.create_database("shop", &[&repository(&format!("tests/check/{schema}.sql"))], &[]);
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "[[database]]\nname = \"shop\"\nupstream = \"{}\"\n[[user]]\nname = \"acme\"\npassword = \"x\"\ntenant = \"1\"\n",
            cluster.app_url("shop")
        );
        fs::write(directory.path().join("proxy.toml"), config).unwrap();
        fs::create_dir(directory.path().join("policies")).unwrap();
        let own = repository(&format!("tests/check/{schema}.toml"));
        let policies = if own.exists() { own } else { repository("tests/check/shop.toml") };
        fs::copy(policies, directory.path().join("policies/shop.toml")).unwrap();
        World { directory, cluster }
    }

    fn check(&self, arguments: &[&str]) -> (i32, String) {
        let url = self.cluster.app_url("shop");
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.args(["check", "--database", &url]).args(arguments).current_dir(self.directory.path()).env_clear();
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
        (status.code().unwrap_or(-1), said)
    }
}

#[track_caller]
fn compare(name: &str, said: &str) {
    let path = repository(&format!("tests/check/{name}.txt"));
    if update_wanted() {
        fs::write(&path, said).unwrap();
    }
    assert_eq!(said, fs::read_to_string(&path).unwrap_or_default(), "{name} (UPDATE=1 rewrites)");
}

#[test]
fn what_a_schema_leaks_is_told_with_what_to_do() {
    let world = World::start("planted");
    let (status, said) = world.check(&[]);
    compare("planted", &said);
    assert_eq!(status, 0, "warnings do not fail");
    assert_eq!(world.check(&["--strict"]).0, 1);

    let (_, said) = world.check(&["--json"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let warnings = report["warnings"].as_array().unwrap();
    let nullable = warnings.iter().find(|w| w["lint"] == "nullable").unwrap();
    assert_eq!((nullable["file"].as_str(), nullable["line"].as_i64()), (Some("policies/shop.toml"), Some(2)));
}

#[test]
fn what_a_view_needs_is_told() {
    let (status, said) = World::start("views").check(&[]);
    compare("views", &said);
    assert_eq!(status, 1);
}

#[test]
fn a_schema_that_leaks_nothing_gets_no_warning() {
    let (status, said) = World::start("clean").check(&["--strict"]);
    assert_eq!((status, said.contains("warning")), (0, false), "{said}");
}

#[test]
fn the_statements_of_a_file_are_judged_one_by_one() {
    let world = World::start("planted");
    fs::copy(repository("tests/check/app.sql"), world.directory.path().join("app.sql")).unwrap();
    let (status, said) = world.check(&["--sql", "app.sql"]);
    compare("app", &said);
    assert_eq!(status, 1);

    let (_, said) = world.check(&["--json", "--sql", "app.sql"]);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!(report["each"].as_array().unwrap().len(), report["statements"].as_u64().unwrap() as usize);
    assert_eq!(report["each"][0]["decision"], "permit");

    fs::write(world.directory.path().join("fine.sql"), "SELECT 1;\nTABLE tidy;\n").unwrap();
    assert_eq!(world.check(&["--sql", "fine.sql"]).0, 0);
    assert_eq!(world.check(&["--sql", "fine.sql", "missing.sql"]).0, 2);
}
