//! `bulkhead doctor`: tries the known ways round the proxy and round row security, as the role of the upstream.

use std::sync::Arc;

use serde::Deserialize;

use super::{Common, Outcome, complain_of, harden, say};
use crate::backend;
use crate::catalog::Catalog;
use crate::config::{Config, Database, Level};
use crate::policy::lock::{self, Governed, LockKey, State};
use crate::policy::model::PolicyModel;

/// One row of JSON: [`Findings`].
const FINDINGS_SQL: &str = include_str!("doctor.sql");

/// The oldest minor versions in which planner statistics do not show rows that row security hides (CVE-2025-8713).
const PATCHED: [u32; 5] = [130_022, 140_019, 150_014, 160_010, 170_006];

/// Try the known ways round the proxy and round row security, and tell what to do about each
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bulkhead doctor
  bulkhead doctor --json

It logs in as the upstream's role, as someone would who has learnt its password, and tries to read and to change what belongs to
tenants; whatever it tries is rolled back. Without `bulkhead harden` nothing but the proxy stands between tenants: that is `weak`, and
`broken` under level paranoid.
Exit status: 0 all ok, 1 something is weak or broken, 2 could not run.")]
pub struct Args {
    /// The [[database]] to look at; all where absent
    #[arg(long, value_name = "D")]
    database: Option<String>,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Ok,
    /// Not seen from here: for a human to look at.
    Unseen,
    /// The proxy stands alone there, or what is there may lead past it.
    Weak,
    /// A way round.
    Broken,
}

impl Grade {
    fn word(self) -> &'static str {
        match self {
            Grade::Ok => "ok",
            Grade::Unseen => "unseen",
            Grade::Weak => "weak",
            Grade::Broken => "broken",
        }
    }
}

/// One thing looked at.
#[derive(Debug, serde::Serialize)]
struct Check {
    database: String,
    name: &'static str,
    grade: Grade,
    /// What was found; empty where all is well.
    found: Vec<String>,
    advice: &'static str,
}

/// What the catalog says about the role's ways.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Findings {
    version: u32,
    strings: String,
    row_security: String,
    role: String,
    creates: Vec<String>,
    predefined: Vec<String>,
    roles: Vec<String>,
    relations: Vec<Readable>,
    definers: Vec<String>,
    leakproof: Vec<String>,
    extensions: Vec<String>,
    languages: Vec<String>,
    large_objects: u64,
    files: Vec<String>,
}

/// A relation that the role may read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Readable {
    oid: u32,
    name: String,
    kind: char,
    /// A view with security_invoker.
    invoker: bool,
    /// Granted to PUBLIC.
    public: bool,
    /// TRUNCATE, REFERENCES or TRIGGER.
    more: bool,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let (config, policies) = match common.load_all() {
        Ok(loaded) => loaded,
        Err(outcome) => return outcome,
    };
    let databases: Vec<&Database> =
        config.databases.iter().filter(|d| args.database.as_ref().is_none_or(|name| *name == d.name)).collect();
    if databases.is_empty() {
        complain_of("there is no such [[database]]");
        return Outcome::CouldNotRun;
    }
    let mut checks = vec![];
    for database in databases {
        match super::block_on(examine(&config, &policies, database)) {
            Ok(Ok(found)) => checks.extend(found),
            Ok(Err(error)) | Err(error) => {
                complain_of(format!("database \"{}\": {error}", database.name));
                return Outcome::CouldNotRun;
            }
        }
    }
    report(&checks, args.json);
    let well = checks.iter().all(|c| matches!(c.grade, Grade::Ok | Grade::Unseen));
    if well { Outcome::Fine } else { Outcome::FoundSomethingWrong }
}

fn report(checks: &[Check], json: bool) {
    if json {
        let well = checks.iter().all(|c| matches!(c.grade, Grade::Ok | Grade::Unseen));
        say(&format!("{:#}\n", serde_json::json!({ "ok": well, "checks": checks })));
        return;
    }
    for check in checks {
        say(&format!("{:7} {}: {}\n", check.grade.word(), check.database, check.name));
        for found in &check.found {
            say(&format!("          {found}\n"));
        }
        if check.grade != Grade::Ok {
            say(&format!("        > {}\n", check.advice));
        }
    }
}

async fn examine(config: &Config, policies: &PolicyModel, database: &Database) -> Result<Vec<Check>, String> {
    let told = |error: crate::error::SqlError| error.to_string();
    let upstream = &database.upstream;
    // Without a key the rest can be looked at still.
    let key = LockKey::of(&Database { lock_key: Some(secret(database)), ..database.clone() })?;
    let catalog = Arc::new(Catalog::new(backend::catalog::load(upstream).await.map_err(told)?));
    let governed = lock::governed(&policies.of_database(&database.name), &catalog)
        .map_err(|problems| crate::config::Problems(problems).render(false))?;
    let state = backend::lock::state(upstream, &key).await.map_err(told)?;
    let findings: Findings = {
        let text = backend::lock::answers(upstream, &[FINDINGS_SQL.to_owned()]).await.map_err(told)?;
        let text = text.into_iter().flatten().next().ok_or("the findings cannot be asked for")?;
        serde_json::from_str(&text).map_err(|e| format!("the findings cannot be read: {e}"))?
    };
    let mut doctor = Doctor { database, paranoid: config.level == Level::Paranoid, checks: vec![] };
    doctor.role(&state, &findings);
    doctor.lock(&state, &governed);
    doctor.attempts(&governed, &findings).await?;
    doctor.relations(&findings, &governed, &catalog, &policies.of_database(&database.name));
    doctor.code(&findings);
    doctor.server(&findings);
    Ok(doctor.checks)
}

/// Of a database that has no secret at all: the lock cannot be in place then, and is reported so.
fn secret(database: &Database) -> crate::config::LockSecret {
    let password = || database.upstream.password.clone().map(crate::config::LockSecret);
    database.lock_key.clone().or_else(password).unwrap_or_else(|| crate::config::LockSecret("none".to_owned()))
}

struct Doctor<'a> {
    database: &'a Database,
    paranoid: bool,
    checks: Vec<Check>,
}

impl Doctor<'_> {
    fn check(&mut self, name: &'static str, bad: Grade, found: Vec<String>, advice: &'static str) {
        let grade = if found.is_empty() { Grade::Ok } else { bad };
        self.checks.push(Check { database: self.database.name.clone(), name, grade, found, advice });
    }

    /// What is broken where the lock is promised, and weak where the proxy stands alone.
    fn promised(&self) -> Grade {
        if self.paranoid { Grade::Broken } else { Grade::Weak }
    }

    fn role(&mut self, state: &State, findings: &Findings) {
        self.check(
            "the role is no superuser, has no BYPASSRLS and leads to no such role",
            Grade::Broken,
            state.faults_of_role(),
            "ALTER ROLE .. NOSUPERUSER NOBYPASSRLS; REVOKE the memberships",
        );
        self.check(
            "the role is a member of no predefined role",
            Grade::Weak,
            findings.predefined.iter().map(|r| format!("role \"{}\" is a member of {r}", findings.role)).collect(),
            "REVOKE it: pg_read_all_data and the like reach tables that nobody granted, others reach files and other sessions",
        );
        self.check(
            "the role can create nothing",
            Grade::Weak,
            findings.creates.iter().map(|c| format!("role \"{}\" may CREATE in {c}", findings.role)).collect(),
            "REVOKE CREATE ON .. FROM it and from PUBLIC: functions and operators of its own could read what a query passes to them",
        );
    }

    fn lock(&mut self, state: &State, governed: &[Governed]) {
        let role = state.faults_of_role();
        let faults = state.faults(governed).into_iter().filter(|f| !role.contains(f)).collect();
        let bad = self.promised();
        let whole = Vec::is_empty(&faults);
        self.check("row security doubles the wall on every table and partition", bad, faults, "bulkhead harden --apply");
        let silent = if whole && !self.paranoid {
            vec!["row security is in place, and Bulkhead names no tenant to it: tenants see no rows".to_owned()]
        } else {
            vec![]
        };
        self.check(
            "tenants are named to row security",
            Grade::Broken,
            silent,
            "set [isolation] level = \"paranoid\" and start serve again, or harden --revert --apply",
        );
        let derived = match (&self.database.lock_key, &self.database.upstream.password) {
            (Some(_), _) => vec![],
            (None, Some(_)) => vec!["the key of the tokens is derived from the upstream's password".to_owned()],
            (None, None) => vec!["there is no key for the tokens, and no password to derive one from".to_owned()],
        };
        let advice = "set lock_key = \"file:..\" in [[database]] and run bulkhead harden --apply: else who has learnt the password can make tokens";
        self.check("the key of the second lock is a secret of its own", Grade::Weak, derived, advice);
    }

    /// Really tries: each in a transaction of its own that is rolled back.
    async fn attempts(&mut self, governed: &[Governed], findings: &Findings) -> Result<(), String> {
        let mut tricks: Vec<(String, String)> = vec![
            ("just logging in".to_owned(), String::new()),
            ("SET row_security = off".to_owned(), "SET LOCAL row_security = off;".to_owned()),
            ("RESET ALL".to_owned(), "RESET ALL;".to_owned()),
        ];
        for user in tenants_to_forge(self.database) {
            for setting in ["bulkhead.tenant", lock::SETTING] {
                tricks.push((format!("SET {setting}"), format!("SET LOCAL {setting} = {};", harden::literal(&user))));
            }
        }
        for role in &findings.roles {
            tricks.push((format!("SET ROLE {role}"), format!("SET LOCAL ROLE {};", harden::identifier(role))));
        }
        let bad = self.promised();
        let (mut what, mut queries) = (vec![], vec![]);
        for (name, sql) in &tricks {
            for table in governed {
                let of = format!("{}.{}", harden::identifier(&table.schema), harden::identifier(&table.name));
                queries.push(format!("BEGIN; {sql} SELECT pg_catalog.count(*) FROM {of}; ROLLBACK"));
                what.push((name, table));
            }
        }
        let counts = backend::lock::answers(&self.database.upstream, &queries).await.map_err(|error| error.to_string())?;
        // An error is what each should give, or no rows.
        let read = what.iter().zip(counts).filter_map(|((name, table), count)| {
            let count = count.filter(|c| c != "0")?;
            Some(format!("{name}: reads {count} rows of {}.{}", table.schema, table.name))
        });
        let read = read.collect();
        let advice =
            "bulkhead harden --apply; and let nobody but Bulkhead reach the server as this role (pg_hba.conf, the network)";
        self.check("a login past the proxy reads no tenant's rows", bad, read, advice);
        Ok(())
    }

    fn relations(&mut self, findings: &Findings, governed: &[Governed], catalog: &Catalog, policies: &PolicyModel) {
        let of = |kinds: &str| findings.relations.iter().filter(|r| kinds.contains(r.kind)).collect::<Vec<_>>();
        let named = |found: Vec<&Readable>| found.into_iter().map(|r| r.name.clone()).collect::<Vec<_>>();
        let is_governed = |r: &Readable| governed.iter().any(|g| g.oid == r.oid);
        let listed = |r: &Readable| {
            let relation = catalog.relation(r.oid);
            relation.is_some_and(|r| policies.tables.iter().any(|t| t.schema == r.schema && t.name == r.name))
        };
        let unlisted = of("rp").into_iter().filter(|r| !is_governed(r) && !listed(r)).collect();
        let advice = "list it in a policy, or REVOKE SELECT: the proxy denies it, PostgreSQL does not";
        self.check("the role reads no table that no policy lists", Grade::Weak, named(unlisted), advice);
        let views = of("v").into_iter().filter(|r| !r.invoker).collect();
        let advice = "ALTER VIEW .. SET (security_invoker = true), or REVOKE: a view reads with its owner's rights, which row security may not hold";
        self.check("views have the reader's rights", Grade::Weak, named(views), advice);
        let advice = "REVOKE SELECT: it holds a copy of rows, which no policy covers";
        self.check("the role reads no materialised view", Grade::Weak, named(of("m")), advice);
        let advice = "REVOKE SELECT: the rows are another server's, whose policies are not these";
        self.check("the role reads no foreign table", Grade::Weak, named(of("f")), advice);
        let public = of("rp").into_iter().filter(|r| r.public && is_governed(r)).collect();
        let advice = "REVOKE ALL ON .. FROM PUBLIC: every role of the server reads it";
        self.check("tenants' tables are not granted to PUBLIC", Grade::Weak, named(public), advice);
        let more = of("rp").into_iter().filter(|r| r.more && is_governed(r)).collect();
        let advice = "REVOKE TRUNCATE, REFERENCES, TRIGGER: row security does not apply to them";
        self.check("the role cannot truncate, reference or put triggers on tenants' tables", Grade::Weak, named(more), advice);
    }

    fn code(&mut self, findings: &Findings) {
        let advice = "REVOKE EXECUTE, also FROM PUBLIC: it runs with its owner's rights";
        self.check("the role runs no SECURITY DEFINER function", Grade::Weak, findings.definers.clone(), advice);
        let advice = "ALTER FUNCTION .. NOT LEAKPROOF: it would be run on rows before row security has judged them";
        self.check("no function of this database's own is LEAKPROOF", Grade::Weak, findings.leakproof.clone(), advice);
        let advice = "DROP EXTENSION, or see that this role can use none of it: it reaches other servers, files or raw pages";
        self.check("no extension reaches outside", Grade::Weak, findings.extensions.clone(), advice);
        let advice = "DROP EXTENSION, or see that no function in it can be run by this role";
        self.check("no untrusted language is installed", Grade::Weak, findings.languages.clone(), advice);
        let advice = "REVOKE EXECUTE FROM PUBLIC and from this role";
        self.check("the role runs no function that reads or writes files", Grade::Broken, findings.files.clone(), advice);
        let large = match findings.large_objects {
            0 => vec![],
            n => vec![format!("{n} large objects")],
        };
        let advice = "they belong to no tenant: keep such data in bytea columns, turn lo_compat_privileges off";
        self.check("the role reads no large object", Grade::Weak, large, advice);
    }

    fn server(&mut self, findings: &Findings) {
        let is = |name: &str, value: &str| if value == "on" { vec![] } else { vec![format!("{name} is {value}")] };
        let advice = "ALTER SYSTEM SET .. = on, and look for ALTER ROLE and ALTER DATABASE .. SET";
        self.check(
            "standard_conforming_strings is on",
            Grade::Broken,
            is("standard_conforming_strings", &findings.strings),
            advice,
        );
        self.check("row_security is on", Grade::Weak, is("row_security", &findings.row_security), advice);
        let major = findings.version / 10_000;
        let old = match PATCHED.iter().find(|p| *p / 10_000 == major) {
            Some(patched) if findings.version < *patched => vec![format!("{} is older than {patched}", findings.version)],
            None if major < 13 => vec![format!("{} is no longer maintained", findings.version)],
            Some(_) | None => vec![],
        };
        let advice = "update: planner statistics show rows that row security hides (CVE-2025-8713)";
        self.check("the server is patched", Grade::Weak, old, advice);
        self.checks.push(Check {
            database: self.database.name.clone(),
            name: "the server is reached through Bulkhead only",
            grade: Grade::Unseen,
            found: vec![],
            advice: "look at pg_hba.conf and the network: nobody but Bulkhead should be able to log in as this role",
        });
    }
}

/// A plausible tenant is enough: what is forged is the proof.
fn tenants_to_forge(database: &Database) -> Vec<String> {
    vec!["1".to_owned(), format!("{}{}", "0".repeat(64), database.name)]
}
