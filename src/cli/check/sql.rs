//! `bulkhead check --sql FILE...`: what would become of the statements of files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::{Args, database_of, snapshot};
use crate::catalog::Catalog;
use crate::cli::explain::{context, principal};
use crate::cli::{Common, Outcome, catalog, complain, complain_of, say};
use crate::config::{Config, Problems, UserAccess};
use crate::error::sqlstate;
use crate::finding::Denial;
use crate::gate::{Approved, Gate};
use crate::principal::{Principal, TenantSet};
use crate::sql::{parse, script};

/// What became of one statement.
enum Verdict {
    Permitted,
    Refused(Denial),
    /// PostgreSQL would not parse it either.
    NotSql(Denial),
}

struct Judged {
    file: String,
    line: usize,
    /// On one line.
    sql: String,
    command: String,
    has_variables: bool,
    verdict: Verdict,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    match judge_all(common, args) {
        Ok(judged) => {
            say(&if args.json { as_json(&judged) } else { as_text(&judged) });
            let is_fine = judged.iter().all(|j| matches!(j.verdict, Verdict::Permitted));
            if is_fine { Outcome::Fine } else { Outcome::FoundSomethingWrong }
        }
        Err(outcome) => outcome,
    }
}

fn judge_all(common: &Common, args: &Args) -> Result<Vec<Judged>, Outcome> {
    let could_not = |error: String| {
        complain_of(error);
        Outcome::CouldNotRun
    };
    let texts = args.sql.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>().map_err(could_not)?;
    let (config, policies) = common.load_all()?;
    let snapshot = match snapshot(&config, args).map_err(could_not)? {
        Some(snapshot) => snapshot,
        None => catalog::obtain(None, config.databases.first()).map_err(could_not)?,
    };
    let name = database_of(&config, args, &snapshot);
    let gate = Gate::new(config.level, Arc::new(Catalog::new(snapshot)), &policies.of_database(&name)).map_err(|problems| {
        complain(&Problems(problems));
        Outcome::CouldNotRun
    })?;
    let principal = someone(&config, args, &name);
    let mut judged = Vec::new();
    for (path, text) in args.sql.iter().zip(&texts) {
        judged.extend(script::statements(text).into_iter().map(|statement| judge(&gate, &principal, path, statement)));
    }
    Ok(judged)
}

fn read(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    String::from_utf8(bytes).map_err(|_| format!("{} is not UTF-8", path.display()))
}

/// Who would send them: --tenant and --role, else the first user that belongs to tenants.
fn someone(config: &Config, args: &Args, database: &str) -> Principal {
    let of_access = |access: &UserAccess| match access {
        UserAccess::Fixed(tenant) => Some(tenant.0.to_string()),
        UserAccess::Shared { tenants: TenantSet::Only(tenants), setting: _, token_key: _ } => {
            tenants.iter().next().map(|t| t.0.to_string())
        }
        UserAccess::Shared { tenants: TenantSet::Any, setting: _, token_key: _ } => Some("1".to_owned()),
        UserAccess::Unrestricted { upstream: _ } => None,
    };
    let user = config.users.iter().find_map(|u| of_access(&u.access).map(|tenant| (tenant, u)));
    let roles = match (args.roles.is_empty(), &user) {
        (true, Some((_, user))) => user.roles.iter().cloned().collect(),
        (true, None) | (false, _) => args.roles.clone(),
    };
    let tenant = args.tenant.clone().or(user.map(|(tenant, _)| tenant)).unwrap_or_else(|| "1".to_owned());
    principal(database, Some(&tenant), &roles)
}

fn judge(gate: &Gate, principal: &Principal, path: &Path, statement: script::Statement) -> Judged {
    let script::Statement { line, sql, has_variables } = statement;
    let search_path = [Box::from("public")];
    let context = context(&sql, principal, &search_path);
    // Threat rules that refuse, where no application is named.
    let judge = |approved: &Approved| gate.judge(approved, &context, None).denial.map_or(Ok(()), Err);
    let outcome = gate.review(&sql, &context).and_then(|all| all.iter().try_for_each(judge));
    let verdict = match outcome {
        Ok(_) => Verdict::Permitted,
        Err(denial) if denial.error.sqlstate == sqlstate::SYNTAX_ERROR && !is_sql(&sql) => Verdict::NotSql(denial),
        Err(denial) => Verdict::Refused(denial),
    };
    Judged {
        file: path.display().to_string(),
        line,
        command: command(&sql),
        sql: sql.split_whitespace().collect::<Vec<_>>().join(" "),
        has_variables,
        verdict,
    }
}

fn is_sql(sql: &str) -> bool {
    parse::on_large_stack(|| parse::parse(sql).is_ok()).unwrap_or(false)
}

/// `SELECT`, `CREATE TABLE`: the first word, and the second where the first says little.
fn command(sql: &str) -> String {
    let mut words = sql.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|w| !w.is_empty());
    let first = words.next().unwrap_or_default().to_ascii_uppercase();
    match (first.as_str(), words.next()) {
        ("CREATE" | "ALTER" | "DROP" | "COMMENT", Some(second)) => format!("{first} {}", second.to_ascii_uppercase()),
        (_, _) => first,
    }
}

#[derive(Default)]
struct Counts {
    permitted: usize,
    refused: usize,
    not_sql: usize,
}

impl Counts {
    fn of<'a>(judged: impl IntoIterator<Item = &'a Judged>) -> Counts {
        let mut counts = Counts::default();
        for j in judged {
            match j.verdict {
                Verdict::Permitted => counts.permitted += 1,
                Verdict::Refused(_) => counts.refused += 1,
                Verdict::NotSql(_) => counts.not_sql += 1,
            }
        }
        counts
    }

    fn all(&self) -> usize {
        self.permitted + self.refused + self.not_sql
    }

    fn line(&self, name: &str) -> String {
        format!("{name:<22}{:>11}{:>11}{:>9}{:>9}\n", self.all(), self.permitted, self.refused, self.not_sql)
    }
}

/// Statements with the same denial, but for the names in it.
struct Group<'a> {
    first: &'a Denial,
    members: Vec<&'a Judged>,
}

fn groups<'a>(judged: &'a [Judged], pick: impl Fn(&'a Verdict) -> Option<&'a Denial>) -> Vec<Group<'a>> {
    let mut groups: BTreeMap<(&str, String), Group<'a>> = BTreeMap::new();
    for j in judged {
        let Some(denial) = pick(&j.verdict) else { continue };
        let key = (denial.error.sqlstate.0, without_names(&denial.error.message));
        groups.entry(key).or_insert(Group { first: denial, members: Vec::new() }).members.push(j);
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    groups.sort_by_key(|g| std::cmp::Reverse(g.members.len()));
    groups
}

/// `column ".." does not exist`
fn without_names(message: &str) -> String {
    message.split('"').enumerate().map(|(i, part)| if i % 2 == 0 { part } else { ".." }).collect::<Vec<_>>().join("\"")
}

fn refused(verdict: &Verdict) -> Option<&Denial> {
    if let Verdict::Refused(denial) = verdict { Some(denial) } else { None }
}

fn not_sql(verdict: &Verdict) -> Option<&Denial> {
    if let Verdict::NotSql(denial) = verdict { Some(denial) } else { None }
}

fn as_text(judged: &[Judged]) -> String {
    let mut out = format!("{:<22}{:>11}{:>11}{:>9}{:>9}\n", "command", "statements", "permitted", "refused", "not SQL");
    let mut commands: BTreeMap<&str, Vec<&Judged>> = BTreeMap::new();
    for j in judged {
        commands.entry(&j.command).or_default().push(j);
    }
    for (command, members) in commands {
        out.push_str(&Counts::of(members).line(command));
    }
    let counts = Counts::of(judged);
    out.push_str(&counts.line("all"));
    list(&mut out, "refused", &groups(judged, refused));
    list(&mut out, "not SQL: PostgreSQL would not parse it either", &groups(judged, not_sql));
    match judged.iter().filter(|j| j.has_variables).count() {
        0 => {}
        n => out.push_str(&format!("\n{n} with psql variables: judged with the variables' names in place of their values\n")),
    }
    if counts.permitted == counts.all() {
        out.push_str("\neverything is permitted\n");
    }
    out
}

/// How many, why, and the first of them.
fn list(out: &mut String, title: &str, groups: &[Group<'_>]) {
    if groups.is_empty() {
        return;
    }
    out.push_str(&format!("\n{title}\n"));
    for group in groups {
        let error = &group.first.error;
        out.push_str(&format!("{:>7}  {}  {}\n", group.members.len(), error.sqlstate.0, error.message));
        for (label, text) in [("detail", &error.detail), ("hint", &error.hint)] {
            text.iter().for_each(|t| out.push_str(&format!("                {label}: {t}\n")));
        }
        let example = group.members.first().map(|j| format!("{}:{}: {}", j.file, j.line, shortened(&j.sql)));
        example.iter().for_each(|e| out.push_str(&format!("                {e}\n")));
    }
}

fn shortened(sql: &str) -> String {
    match sql.char_indices().nth(100) {
        Some((at, _)) => format!("{} ..", &sql[..at]),
        None => sql.to_owned(),
    }
}

fn as_json(judged: &[Judged]) -> String {
    let counts = Counts::of(judged);
    let statements: Vec<_> = judged
        .iter()
        .map(|j| {
            let denial = refused(&j.verdict).or(not_sql(&j.verdict));
            serde_json::json!({
                "file": j.file,
                "line": j.line,
                "sql": j.sql,
                "psql_variables": j.has_variables,
                "decision": match j.verdict {
                    Verdict::Permitted => "permit",
                    Verdict::Refused(_) => "deny",
                    Verdict::NotSql(_) => "not_sql",
                },
                "reason": denial.map(|d| d.reason.as_str()),
                "sqlstate": denial.map(|d| d.error.sqlstate.0),
                "message": denial.map(|d| &d.error.message),
            })
        })
        .collect();
    let reasons: Vec<_> = groups(judged, refused)
        .iter()
        .map(|g| {
            serde_json::json!({
                "count": g.members.len(),
                "reason": g.first.reason.as_str(),
                "sqlstate": g.first.error.sqlstate.0,
                "message": g.first.error.message,
                "example": g.members.first().map(|j| format!("{}:{}", j.file, j.line)),
            })
        })
        .collect();
    let report = serde_json::json!({
        "statements": counts.all(),
        "permitted": counts.permitted,
        "refused": counts.refused,
        "not_sql": counts.not_sql,
        "reasons": reasons,
        "each": statements,
    });
    format!("{report:#}\n")
}
