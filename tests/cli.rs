//! The program as a user meets it: what it prints, and its exit status.
//!
//! `tests/policies/*.toml` and `tests/config/*.toml` are checked with `bulkhead check`; what it says stands beside each, in
//! a file that `UPDATE=1 cargo test --test cli` writes anew.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const CONFIG: &str = "\
[[database]]
name = \"shop\"
upstream = \"postgres://app:secret@127.0.0.1:1/shop\"
[[user]]
name = \"acme\"
password = \"secret\"
tenant = \"1\"
";

/// A directory with a configuration and policies; commands run in it, without the environment of the test.
struct Place(tempfile::TempDir);

impl Place {
    fn new(config: &str, policies: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("proxy.toml"), config).unwrap();
        fs::create_dir(directory.path().join("policies")).unwrap();
        for (name, text) in policies {
            fs::write(directory.path().join("policies").join(name), text).unwrap();
        }
        Place(directory)
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
        command.args(arguments).current_dir(self.0.path()).env_clear().envs(variables.iter().copied());
        command.output().unwrap()
    }
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Checks each file of a directory and compares with what stands beside it.
fn compare_all(directory: &str, place_of: impl Fn(&str, &str) -> Place) {
    let directory = Path::new("tests").join(directory);
    let update = std::env::var_os("UPDATE").is_some();
    let mut differences = Vec::new();
    let mut names: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    names.sort();
    assert!(!names.is_empty());
    for path in names {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let place = place_of(&name, &fs::read_to_string(&path).unwrap());
        let output = place.run(&["check"], &[("SECRET", "x")]);
        let said = format!("exit status {}\n\n{}\n{}", status(&output), stdout(&output), stderr(&output));
        let expected_path = path.with_extension("txt");
        if update {
            fs::write(&expected_path, &said).unwrap();
        }
        let expected = fs::read_to_string(&expected_path).unwrap_or_default();
        if said != expected {
            differences.push(format!("=== {} (UPDATE=1 rewrites)\n{said}\n=== expected\n{expected}", path.display()));
        }
        assert!(!said.contains("hush"), "a secret is quoted: {said}");
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn problems_of_policies_are_told_with_their_places() {
    compare_all("policies", |name, text| Place::new(CONFIG, &[(name, text)]));
}

#[test]
fn problems_of_configurations_are_told_with_their_places() {
    compare_all("config", |_, text| Place::new(text, &[]));
}

#[test]
fn problems_of_all_files_are_told_at_once() {
    let policies = [("a.toml", "[[table]]\nname = \"t\"\nscope = \"x\"\n"), ("b.toml", "nope = 1\n"), ("b.txt", "not read")];
    let place = Place::new(CONFIG, &policies);
    fs::create_dir_all(place.0.path().join("policies/deep/er")).unwrap();
    fs::write(place.0.path().join("policies/deep/er/c.toml"), "[[table]]\nname = \"t\"\n").unwrap();
    fs::write(place.0.path().join("policies/.hidden.toml"), "not read").unwrap();
    let output = place.run(&["check"], &[]);
    assert_eq!(status(&output), 1);
    for part in ["a.toml:3:9", "b.toml:1:1", "deep/er/c.toml:1:1"] {
        assert!(stderr(&output).contains(part), "{part}: {}", stderr(&output));
    }
}

#[test]
fn a_wrong_configuration_is_1_for_check_and_2_for_what_cannot_run_with_it() {
    let place = Place::new("nonsense = 1", &[]);
    assert_eq!(status(&place.run(&["check"], &[])), 1);
    for arguments in [&["serve"][..], &["explain", "--tenant", "1", "SELECT 1"], &["test"]] {
        let output = place.run(arguments, &[]);
        assert_eq!(status(&output), 2, "{arguments:?}");
        assert!(stderr(&output).contains("unknown key `nonsense`"), "{arguments:?}: {}", stderr(&output));
    }
    for arguments in [&[][..], &["sevre"], &["check", "--config", "missing.toml"], &["explain"], &["serve", "--set", "x"]] {
        assert_eq!(status(&place.run(arguments, &[])), 2, "{arguments:?}");
    }
}

#[test]
fn nothing_to_serve_is_said_before_anything_is_opened() {
    let output = Place::new("", &[]).run(&["serve"], &[]);
    assert_eq!(status(&output), 2);
    assert!(stderr(&output).contains("no [[database]]") && stderr(&output).contains("no [[user]]"), "{}", stderr(&output));
}

/// What no file says: `check` warns, since it may run elsewhere, and `serve` does not start.
#[test]
fn what_the_machine_lacks_is_told_before_anything_is_opened() {
    let server = "[server]\nlisten = \"127.0.0.1:47001\"\n";
    let (pem, other) = ("cert.pem", "key.pem");
    for (config, told) in [
        (
            format!("[server]\nlisten = \"127.0.0.1:47001\"\ntls_certificate = \"{pem}\"\ntls_key = \"{other}\"\n"),
            "tls_certificate, tls_key",
        ),
        (format!("{server}[audit]\npath = \"proxy.toml/audit\"\n"), "[audit] path: proxy.toml/audit cannot be written"),
        (format!("{server}admin_listen = \"127.0.0.1:47001\"\n"), "listen and admin_listen are both"),
        (format!("{server}[cache]\nmemory_mb = 268435456\n"), "this machine has"),
    ] {
        let place = Place::new(&(config.clone() + CONFIG), &[("a.toml", "[[table]]\nname = \"a\"\nscope = \"shared\"\n")]);
        let checked = place.run(&["check"], &[]);
        assert!(status(&checked) == 0 && stdout(&checked).contains(told), "{config}: {}{}", stdout(&checked), stderr(&checked));
        assert_eq!(status(&place.run(&["check", "--strict"], &[])), 1);
        let served = place.run(&["serve"], &[]);
        assert!(status(&served) == 2 && stderr(&served).contains(told), "{config}: {}", stderr(&served));
    }
    // Without these it starts: only what needs them is refused.
    let keys = format!("{server}[audit]\npath = \"log\"\nvalue_keys = \"proxy.toml\"\n{CONFIG}");
    let checked = Place::new(&keys, &[]).run(&["check"], &[]);
    assert!(stdout(&checked).contains("[audit] value_keys: proxy.toml cannot be written"), "{}", stdout(&checked));
    let unknown = CONFIG.replace("/shop\"", "/shop?sslmode=verify-full&sslrootcert=nowhere.pem\"");
    let checked = Place::new(&unknown, &[]).run(&["check"], &[]);
    assert!(
        stdout(&checked).contains("upstream of database \"shop\"") && stdout(&checked).contains("nowhere.pem"),
        "{}",
        stdout(&checked)
    );
}

#[test]
fn variables_and_flags_are_checked_like_the_file() {
    let place = Place::new(CONFIG, &[]);
    let check = |arguments: &[&str], variables: &[(&str, &str)]| {
        let output = place.run(&[&["check"], arguments].concat(), variables);
        (status(&output), stderr(&output))
    };
    assert_eq!(
        check(&[], &[("LOG_LEVEL", "debug"), ("TENANT_ISOLATION_LEVEL", "strict"), ("PERFORMANCE_OPTIMIZATION", "true")]).0,
        0
    );
    let (code, said) = check(&[], &[("GDPR_STRICT_MODE", "true"), ("BULKHEAD_LIMITS_POOL_WAITS", "3s"), ("LOG_LEVEL", "loud")]);
    assert_eq!(code, 1);
    for part in ["GDPR_STRICT_MODE=true", "not built yet", "did you mean BULKHEAD_LIMITS_POOL_WAIT?", "LOG_LEVEL=loud"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (code, said) = check(&["--set", "server.lisen=127.0.0.1:1"], &[]);
    assert!(code == 1 && said.contains("did you mean `server.listen`?"), "{said}");
    assert_eq!(check(&["--set", "limits.pool_wait=3s"], &[("BULKHEAD_LIMITS_POOL_WAIT", "soon")]).0, 1);
}

#[test]
fn findings_are_json_where_a_program_reads_them() {
    let output = Place::new("nonsense = 1", &[]).run(&["check", "--json"], &[]);
    assert_eq!(status(&output), 1);
    let report: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(report["ok"], false);
    assert_eq!(report["problems"][0]["message"], "unknown key `nonsense` in the file");
}

#[test]
fn every_command_has_help_that_teaches() {
    let place = Place::new("", &[]);
    for command in ["serve", "check", "explain", "test"] {
        let output = place.run(&[command, "--help"], &[]);
        assert_eq!(status(&output), 0);
        assert!(stdout(&output).contains("Examples:\n  bulkhead "), "{command}: {}", stdout(&output));
        assert!(stdout(&output).contains("--config"), "{command}");
    }
    assert!(stdout(&place.run(&["--help"], &[])).contains("Exit status: 0 fine"));
}

#[test]
fn the_reference_names_every_setting_and_metric() {
    let reference = stdout(&Place::new("", &[]).run(&["check", "--reference"], &[]));
    for part in
        ["BULKHEAD_SERVER_LISTEN", "TENANT_ISOLATION_LEVEL", "tenant_token_key", "with_check", "bulkhead_added_latency_seconds"]
    {
        assert!(reference.contains(part), "{part}");
    }
}

#[test]
fn without_a_catalog_explain_and_test_say_what_to_do() {
    let policy = "[[test]]\nsql = \"SELECT 1\"\nexpect = { decision = \"permit\" }\n";
    let place = Place::new(CONFIG, &[("p.toml", policy)]);
    for arguments in [&["explain", "--tenant", "1", "SELECT 1"][..], &["test"]] {
        let output = place.run(arguments, &[]);
        assert_eq!(status(&output), 2, "{arguments:?}");
        assert!(stderr(&output).contains("cannot read the catalog of 127.0.0.1:1/shop"), "{}", stderr(&output));
    }
    let output = place.run(&["explain", "--catalog", "proxy.toml", "SELECT 1"], &[]);
    assert!(status(&output) == 2 && stderr(&output).contains("not a catalog"), "{}", stderr(&output));
}

/// The first thing that a newcomer runs: every stop of its tour is checked, and it ends without a terminal.
#[test]
fn the_demo_shows_what_it_says() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulkhead"));
    let output = command.arg("demo").stdin(std::process::Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("NOT AS IT SHOULD BE"), "{said}");
}
