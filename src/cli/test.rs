//! `bulkhead test`: the `[[test]]`s of the policies.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::explain::{context, principal};
use super::shape::Shape;
use super::{Common, Outcome, catalog, complain, complain_of, say};
use crate::catalog::Catalog;
use crate::config::{Config, Problem, Problems};
use crate::gate::{Explanation, Gate};
use crate::policy::model::{Expectation, PolicyModel, PolicyTest, SqlText};

/// Run the tests that stand in the policies
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bulkhead test
  bulkhead test --catalog catalog.json      (without a server: bulkhead check --dump-catalog catalog.json)

A test is a table [[test]] in a policy file:
  [[test]]
  as = { tenant = \"1\", roles = [\"support\"] }
  sql = \"SELECT id FROM accounts WHERE id = $1\"
  expect = { decision = \"permit\", contains = [\"region = 'EU'\"] }

Exit status: 0 all passed, 1 one failed, 2 could not run.")]
pub struct Args {
    /// Take the schema from this file instead of the server
    #[arg(long, value_name = "FILE")]
    catalog: Option<PathBuf>,
    /// Only tests of files for this [[database]]; files that name none are tested against it
    #[arg(long, value_name = "D")]
    database: Option<String>,
    /// Print a JSON list, one object for each test
    #[arg(long)]
    json: bool,
}

/// How one test ended.
struct Verdict {
    place: String,
    sql: String,
    failure: Option<Problem>,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let (config, policies) = match common.load_all() {
        Ok(loaded) => loaded,
        Err(outcome) => return outcome,
    };
    match run_all(&config, &policies, args) {
        Ok(verdicts) => report(&verdicts, args.json),
        Err(error) => {
            complain(&error);
            Outcome::CouldNotRun
        }
    }
}

fn run_all(config: &Config, policies: &PolicyModel, args: &Args) -> Result<Vec<Verdict>, Problems> {
    let mut by_database: BTreeMap<String, Vec<&PolicyTest>> = BTreeMap::new();
    for test in &policies.tests {
        let database = database_of(config, test, args)?;
        if args.database.as_ref().is_none_or(|d| *d == database) {
            by_database.entry(database).or_default().push(test);
        }
    }
    let mut verdicts = Vec::new();
    for (database, tests) in by_database {
        let gate = gate(config, policies, &database, args.catalog.as_deref())?;
        verdicts.extend(tests.into_iter().map(|test| judge(test, &explain(&gate, &database, test))));
    }
    Ok(verdicts)
}

/// The database that a test is about: its file's, else the one of the command line, else the only one.
fn database_of(config: &Config, test: &PolicyTest, args: &Args) -> Result<String, Problems> {
    if let Some(database) = &test.place.source.database {
        return Ok(database.clone());
    }
    let chosen = catalog::choose(config, args.database.as_deref()).map_err(Problem::new)?;
    Ok(chosen.map_or_else(String::new, |d| d.name.clone()))
}

fn gate(config: &Config, policies: &PolicyModel, database: &str, file: Option<&Path>) -> Result<Gate, Problems> {
    let configured = config.databases.iter().find(|d| d.name == database);
    let snapshot = catalog::obtain(file, configured).map_err(Problem::new)?;
    Gate::new(config.level, Arc::new(Catalog::new(snapshot)), &policies.of_database(database)).map_err(Problems)
}

fn explain(gate: &Gate, database: &str, test: &PolicyTest) -> Vec<Explanation> {
    let principal = principal(database, test.tenant.as_deref(), &test.roles);
    gate.explain(&test.sql.text, &context(&test.sql.text, &principal, &[Box::from("public")]), None)
}

fn judge(test: &PolicyTest, explanations: &[Explanation]) -> Verdict {
    let source = &test.place.source;
    let line = source.text.get(..test.place.span.start).map_or(0, |before| before.matches('\n').count()) + 1;
    let denial = explanations.iter().find_map(|e| e.outcome.as_ref().err());
    let whole = 0..test.sql.text.len();
    let fail = |message: &str, label: String| Some(test.sql.problem(whole.clone(), message, label));
    let failure = match (&test.expect, denial) {
        (Expectation::Permit { contains }, None) => {
            let sent: Vec<&str> = explanations.iter().filter_map(|e| e.outcome.as_deref().ok()).collect();
            contains.iter().find_map(|expression| missing(expression, &sent))
        }
        (Expectation::Permit { contains: _ }, Some(denial)) => {
            fail("a statement that should be permitted is refused", denial.error.to_string())
        }
        (Expectation::Deny { sqlstate }, Some(denial)) => match sqlstate {
            Some(code) if code != denial.error.sqlstate.0 => {
                fail(&format!("a statement is refused with another code than {code}"), denial.error.to_string())
            }
            Some(_) | None => None,
        },
        (Expectation::Deny { sqlstate: _ }, None) => {
            fail("a statement that should be refused is permitted", "permitted".to_owned())
        }
    };
    Verdict { place: format!("{}:{line}", source.path.display()), sql: test.sql.text.clone(), failure }
}

/// The failure, where none of the statements that would be sent holds the expression.
fn missing(expression: &SqlText, sent: &[&str]) -> Option<Problem> {
    let whole = 0..expression.text.len();
    let wanted = match Shape::of_expression(&expression.text) {
        Ok(shape) => shape,
        Err(error) => return Some(expression.problem(whole, "this is not an expression", error)),
    };
    let found = sent.iter().any(|sql| Shape::of_statements(sql).is_ok_and(|statement| statement.contains(&wanted)));
    if found {
        return None;
    }
    let problem = expression.problem(whole, "the final SQL does not hold this expression", "not found");
    Some(problem.help(format!("the final SQL is\n{}", sent.join(";\n"))))
}

fn report(verdicts: &[Verdict], json: bool) -> Outcome {
    let failed = verdicts.iter().filter(|v| v.failure.is_some()).count();
    if json {
        let list: Vec<_> = verdicts
            .iter()
            .map(|v| {
                let failure = v.failure.as_ref();
                serde_json::json!({
                    "place": v.place,
                    "sql": v.sql,
                    "passed": failure.is_none(),
                    "message": failure.map(Problem::message),
                    "report": failure.map(|f| f.render(false)),
                })
            })
            .collect();
        say(&format!("{:#}\n", serde_json::Value::Array(list)));
    } else {
        for v in verdicts {
            let word = if v.failure.is_none() { "ok    " } else { "FAILED" };
            say(&format!("{word} {}  {}\n", v.place, v.sql.split_whitespace().collect::<Vec<_>>().join(" ")));
        }
        say(&format!("{} passed, {failed} failed\n", verdicts.len() - failed));
        let failures: Vec<Problem> = verdicts.iter().filter_map(|v| v.failure.clone()).collect();
        if !failures.is_empty() {
            complain(&Problems(failures));
        }
    }
    if verdicts.is_empty() && !json {
        complain_of("the policies hold no [[test]]");
    }
    if failed == 0 { Outcome::Fine } else { Outcome::FoundSomethingWrong }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Denial;
    use crate::policy::load;

    /// The message of a test that expects `expect` where review says `outcome`; `None`: it passes.
    fn failure(expect: &str, outcome: Result<&str, Denial>) -> Option<String> {
        let text = format!("[[test]]\nsql = \"SELECT 1\"\nexpect = {expect}\n");
        let model = load::read(vec![("p.toml".into(), text)], &[]).unwrap();
        let explanation = Explanation {
            sql: "SELECT 1".to_owned(),
            outcome: outcome.map(str::to_owned),
            lacks_tenant: None,
            relations: Vec::new(),
            remarks: Vec::new(),
            cacheable: Ok(()),
        };
        judge(&model.tests[0], &[explanation]).failure.map(|f| f.render(false))
    }

    #[test]
    fn a_test_passes_only_when_all_it_expects_is_so() {
        let denied = || Err(Denial::policy("permission denied for table t"));
        let sql = "SELECT 1 FROM t a WHERE a.region OPERATOR(pg_catalog.=) 'EU'::text";
        assert_eq!(failure("{ decision = 'permit' }", Ok(sql)), None);
        assert_eq!(failure("{ decision = 'permit', contains = [\"region = 'EU'\"] }", Ok(sql)), None);
        assert_eq!(failure("{ decision = 'deny' }", denied()), None);
        assert_eq!(failure("{ decision = 'deny', sqlstate = '42501' }", denied()), None);

        let missing = failure("{ decision = 'permit', contains = [\"region = 'EU'\", \"x = 1\"] }", Ok(sql)).unwrap();
        assert!(missing.contains("does not hold") && missing.contains(sql), "{missing}");
        assert!(failure("{ decision = 'permit' }", denied()).unwrap().contains("permission denied for table t"));
        assert!(failure("{ decision = 'deny' }", Ok(sql)).unwrap().contains("should be refused"));
        assert!(failure("{ decision = 'deny', sqlstate = '0A000' }", denied()).unwrap().contains("another code than 0A000"));
    }
}
