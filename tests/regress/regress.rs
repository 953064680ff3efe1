//! Reads the statements of SQL files twice, as the proxy does with a new template, and prints how often both readings are the
//! same: `regress FILE...`. The catalog and the decision do not count here. `make regress` gives it PostgreSQL's own
//! regression SQL. Exit status: 0 the share is reached and nothing is read differently, 1 not, 2 could not run.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use bulkhead::finding::{Denial, Reason};
use bulkhead::sql::second::{self, SecondReading};
use bulkhead::sql::template::{self, Scratch};
use bulkhead::sql::{parse, script};

/// First words of the statements that count; `(` begins a SELECT.
const KINDS: [&str; 11] =
    ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "COPY", "VALUES", "TABLE", "DECLARE", "PREPARE"];

/// Of the statements that PostgreSQL's parser accepts, in thousandths.
const WANTED: usize = 995;

/// What came of one statement.
enum Outcome {
    Direct,
    NormalForm,
    /// Refused: which construct.
    Named(String),
    Differs(String),
}

#[derive(Default)]
struct Row {
    statements: usize,
    direct: usize,
    normal_form: usize,
    named: usize,
    differs: usize,
}

impl Row {
    fn count(&mut self, outcome: &Outcome) {
        self.statements += 1;
        *match outcome {
            Outcome::Direct => &mut self.direct,
            Outcome::NormalForm => &mut self.normal_form,
            Outcome::Named(_) => &mut self.named,
            Outcome::Differs(_) => &mut self.differs,
        } += 1;
    }

    fn print(&self, name: &str) {
        let share = 100.0 * (self.direct + self.normal_form) as f64 / self.statements.max(1) as f64;
        println!(
            "{name:<9}{:>11}{:>9}{:>13}{:>17}{:>9}{share:>9.2} %",
            self.statements, self.direct, self.normal_form, self.named, self.differs
        );
    }
}

/// Reasons, with how often and the first places.
#[derive(Default)]
struct Reasons(BTreeMap<String, Vec<String>>);

impl Reasons {
    fn print(&self, title: &str) {
        let mut reasons: Vec<_> = self.0.iter().collect();
        reasons.sort_by_key(|(_, places)| std::cmp::Reverse(places.len()));
        if !reasons.is_empty() {
            println!("\n{title}");
        }
        for (reason, places) in reasons {
            println!("{:>6}  {reason}", places.len());
            let shown = if std::env::var_os("ALL").is_some() { places.len() } else { 1 };
            places.iter().take(shown).for_each(|place| println!("        {place}"));
        }
    }
}

fn main() -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("usage: regress FILE...");
        return ExitCode::from(2);
    }
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let (mut named, mut differing) = (Reasons::default(), Reasons::default());
    let (mut seen, mut invalid) = (0, 0);
    for file in &files {
        let text = match std::fs::read(file) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                eprintln!("cannot read {file}: {error}");
                return ExitCode::from(2);
            }
        };
        let name = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
        for statement in script::statements(&text) {
            seen += 1;
            let Some(kind) = kind(&statement.sql) else { continue };
            let outcome = parse::on_large_stack(|| read(&statement.sql)).unwrap_or_else(|d| Some(Outcome::Named(words(&d))));
            let Some(outcome) = outcome else {
                invalid += 1;
                continue;
            };
            rows.entry(kind).or_default().count(&outcome);
            let line = statement.sql.split_whitespace().collect::<Vec<_>>().join(" ");
            let place = format!("{name}:{}: {}", statement.line, line.chars().take(150).collect::<String>());
            match outcome {
                Outcome::Direct | Outcome::NormalForm => {}
                Outcome::Named(reason) => named.0.entry(reason).or_default().push(place),
                Outcome::Differs(reason) => differing.0.entry(reason).or_default().push(place),
            }
        }
    }
    println!(
        "{} files, {seen} statements; of those that begin as below, {invalid} are no query to PostgreSQL's parser\n",
        files.len()
    );
    println!(
        "{:<9}{:>11}{:>9}{:>13}{:>17}{:>9}{:>11}",
        "kind", "statements", "direct", "normal form", "refused by name", "differs", "read twice"
    );
    let mut total = Row::default();
    for kind in KINDS {
        let Some(row) = rows.get(kind) else { continue };
        row.print(kind);
        total = Row {
            statements: total.statements + row.statements,
            direct: total.direct + row.direct,
            normal_form: total.normal_form + row.normal_form,
            named: total.named + row.named,
            differs: total.differs + row.differs,
        };
    }
    total.print("all");
    named.print("refused by name");
    differing.print("read differently, and refused for it");
    let is_reached = (total.direct + total.normal_form) * 1000 >= WANTED * total.statements;
    ExitCode::from(u8::from(!is_reached || total.statements == 0))
}

fn kind(sql: &str) -> Option<&'static str> {
    let word: String = sql.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_uppercase();
    let word = if sql.starts_with('(') { "SELECT" } else { &word };
    KINDS.into_iter().find(|kind| *kind == word)
}

/// `None`: PostgreSQL's parser does not accept it, or it is PREPARE TRANSACTION.
fn read(sql: &str) -> Option<Outcome> {
    parse::parse(sql).ok().filter(|tree| tree.stmts.len() == 1)?;
    let mut scratch = Scratch::default();
    if let Err(denial) = template::read(sql, &mut scratch) {
        return Some(Outcome::Named(words(&denial)));
    }
    let [statement] = scratch.statements() else { return Some(Outcome::Named("several statements".to_owned())) };
    let (text, tree) = match template::parse_statement(sql, &scratch, statement) {
        Ok((refined, tree)) => (refined.key, tree),
        Err(denial) => return Some(Outcome::Named(words(&denial))),
    };
    match second::read(&text, &tree) {
        Ok(SecondReading::Agrees) => Some(Outcome::Direct),
        Ok(SecondReading::AgreesOnNormalForm) => Some(Outcome::NormalForm),
        Ok(SecondReading::NotApplicable) => None,
        Err(denial) if denial.reason == Reason::Disagreement => Some(Outcome::Differs(words(&denial))),
        Err(denial) => Some(Outcome::Named(words(&denial))),
    }
}

fn words(denial: &Denial) -> String {
    let detail = denial.error.detail.as_ref().map(|d| format!(": {d}")).unwrap_or_default();
    format!("{}{detail}", denial.error.message)
}
