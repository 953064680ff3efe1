//! Reads policy files into a [`PolicyModel`]; all problems of all files are told at once, in the TOML and in the SQL inside it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

mod application;
mod compliance;
mod names;

use super::expression;
use names::split_identifiers;

use super::model::{
    Allow, ColumnPolicy, DefaultRule, Expectation, Mask, MaskKey, MaskPolicy, Mode, Place, PolicyModel, PolicyTest, Rule,
    RuleAction, Scope, Source, SqlText, TablePolicy, TemporaryPolicy, ThreatPolicy,
};
use crate::config::document::{Document, Key, Located, Table, key};
use crate::config::problem::{Problem, Problems, did_you_mean};
use crate::finding::{Action, Watch, is_canary_text};
pub use application::APPLICATION_KEYS;
pub use compliance::{CLASS_KEYS, CONTROL_KEYS, LIMIT_KEYS, WINDOW_KEYS};

/// One fault of a policy, wherever it is found.
pub type PolicyProblem = Problem;

/// Keys of a policy file, by table: the reference is printed from them.
pub const FILE_KEYS: &[Key] = &[
    key("database", "\"shop\"", "The file applies to this [[database]] only. Default: to all."),
    key("table", "[[table]]", "A table and who sees which rows. Tables that no file lists are denied."),
    key("temporary", "[[temporary]]", "A temporary table that sessions may make: CREATE TEMPORARY TABLE, also AS a query."),
    key("allow", "[[allow]]", "Widens what roles may do."),
    key("threat", "[[threat]]", "What a threat rule does, for whom."),
    key("class", "[[class]]", "What holds for all columns of a kind."),
    key("limit", "[[limit]]", "How many rows are given to whom."),
    key("window", "[[window]]", "When unrestricted users may change definitions."),
    key("control", "[[control]]", "What a framework asks, for `bulkhead compliance report`."),
    key("application", "[[application]]", "What an application is known to say; `bulkhead learn` writes it."),
    key("test", "[[test]]", "A statement and what must become of it; run by `bulkhead test`."),
];
pub const TABLE_KEYS: &[Key] = &[
    key(
        "name",
        "\"public.accounts\"",
        "schema.table as in SQL: folded to lower case unless in double quotes. Default schema: public.",
    ),
    key(
        "scope",
        "\"tenant\"",
        "tenant, shared (read-only for tenants), view (read through its definition, whose tables have entries of their own) or denied.",
    ),
    key("tenant_column", "\"tenant_id\"", "With scope tenant: the column that says whose row it is."),
    key("default", "\"deny\"", "For actions that no rule names: tenant (the whole tenant, the default) or deny (nothing)."),
    key(
        "canary_rows",
        "[\"cn-5b1f0e6d2a7c\"]",
        "Texts that stand in rows which nobody has a reason to see: whoever gets one is told of (threat rule canary-row). At least 12 of A-Z a-z 0-9 - _ . @ each.",
    ),
    key("canary", "true", "Nobody has a reason to name it: whoever does is told of (threat rule canary). Default: false."),
    key(
        "cache_seconds",
        "30",
        "How long the result cache may give answers made of its rows; 0: never. Default: until something writes.",
    ),
    key(
        "durability",
        "\"sync\"",
        "Statements about it, by name or through a view, are sent when their record in the audit log is on the disk, as all are with that durability of [audit]. Default: as there.",
    ),
    key("rule", "[[table.rule]]", "A row rule."),
    key("column", "[[table.column]]", "What is said about a column."),
];
pub const RULE_KEYS: &[Key] = &[
    key("id", "\"support-sees-eu\"", "Names the rule in explanations."),
    key("roles", "[\"support\"]", "Whom it is for. Default: every role."),
    key("actions", "[\"select\"]", "select, insert, update, delete. Default: all four."),
    key("mode", "\"permissive\"", "permissive rules are ORed (the default), restrictive ones ANDed."),
    key("using", "\"region = 'EU'\"", "Which rows: SQL over the table's own columns."),
    key("with_check", "\"region = 'EU'\"", "Which rows may be written. Default: using."),
];
pub const COLUMN_KEYS: &[Key] = &[
    key("name", "\"ssn\"", "The column."),
    key("class", "\"pii.national_id\"", "What kind of data it holds."),
    key("mask", "\"last4\"", "What tenants see instead: none (the value, the default), null, redact, last4, email or hash."),
    key("unless_roles", "[\"dpo\"]", "Roles that see the value. Default: none."),
    key(
        "purposes",
        "[\"billing\"]",
        "And see it only while they have said one of these (SET bulkhead.purpose). Default: always.",
    ),
    key("mask_key", "\"file:mask.key\"", "With mask = \"hash\": the secret of the pseudonyms, env:NAME or file:PATH."),
];
pub const TEMPORARY_KEYS: &[Key] = &[
    key("name", "\"report_rows\"", "Its name, which no relation or type of the database may have."),
    key(
        "columns",
        "\"id bigint PRIMARY KEY, total numeric(12,2)\"",
        "As in CREATE TABLE: types of PostgreSQL's own; NOT NULL, PRIMARY KEY and UNIQUE of one column.",
    ),
];
pub const ALLOW_KEYS: &[Key] = &[
    key("roles", "[\"app\"]", "Who. Default: every role."),
    key("functions", "[\"pg_sleep\"]", "Functions, qualified or not."),
    key("settings", "[\"app.user_id\"]", "Settings of the application's own, to read and to set."),
    key("statements", "[\"listen\"]", "Statements by their command word."),
];
pub const THREAT_KEYS: &[Key] = &[
    key("rule", "\"tautology\"", "A threat rule by its name, or * for all of them."),
    key("mode", "\"enforce\"", "off, shadow (what it finds is recorded and counted) or enforce (it is refused)."),
    key(
        "action",
        "\"deny\"",
        "With enforce: deny (the default), tag (it runs, and all records of the session say so from then on), throttle (it runs, and the login is slow for a minute), end-session, or quarantine (the login is \
         refused everything for 15 minutes).",
    ),
    key("roles", "[\"app\"]", "Whose statements. Default: every role's."),
    key("applications", "[\"shop-web\"]", "By the application_name that they connect with. Default: every application's."),
];
pub const TEST_KEYS: &[Key] = &[
    key("as", "{ tenant = \"1\", roles = [\"support\"] }", "Who asks."),
    key("sql", "\"SELECT id FROM accounts\"", "The statement."),
    key("expect", "{ decision = \"permit\", contains = [\"region = 'EU'\"] }", "What must become of it."),
];
pub const AS_KEYS: &[Key] =
    &[key("tenant", "\"1\"", "The tenant. Default: none chosen."), key("roles", "[\"support\"]", "The roles.")];
pub const EXPECT_KEYS: &[Key] = &[
    key("decision", "\"permit\"", "permit or deny."),
    key("contains", "[\"region = 'EU'\"]", "With permit: expressions that the final statement must hold."),
    key("sqlstate", "\"42501\"", "With deny: the code that the client gets."),
];

const MASKS: [&str; 6] = ["none", "null", "redact", "last4", "email", "hash"];
/// Shorter secrets could be found by trying.
const MIN_MASK_KEY: usize = 16;
const STATEMENTS: [&str; 9] = ["listen", "notify", "unlisten", "call", "do", "lock", "truncate", "copy", "explain"];

/// Reads every `*.toml` below `directory`. `databases` are the names that a file's `database` may have; empty: any.
///
/// # Errors
/// Everything that is wrong, in all files.
pub fn load(directory: &Path, databases: &[String]) -> Result<PolicyModel, Problems> {
    let mut paths = Vec::new();
    let mut problems = Vec::new();
    collect(directory, 0, &mut paths, &mut problems);
    paths.sort();
    let mut texts = Vec::new();
    for path in paths {
        match std::fs::read_to_string(&path) {
            Ok(text) => texts.push((path, text)),
            Err(e) => problems.push(Problem::new(format!("cannot read {}: {e}", path.display()))),
        }
    }
    match read(texts, databases) {
        Ok(model) => Problems(problems).or(model),
        Err(more) => {
            problems.extend(more.0);
            Err(Problems(problems))
        }
    }
}

/// Names that begin with a dot are passed over: editors keep copies there, and so does Kubernetes of mounted maps.
fn collect(directory: &Path, depth: usize, paths: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    let failed = |e: &dyn std::fmt::Display| Problem::new(format!("cannot read the policies in {}: {e}", directory.display()));
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) => {
            problems.push(failed(&e).help("[server] policies names the directory; every *.toml below it is read"));
            return;
        }
    };
    if depth > 16 {
        problems.push(failed(&"more than 16 directories deep (a loop of links?)"));
        return;
    }
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(e) => {
                problems.push(failed(&e));
                continue;
            }
        };
        if path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b".")) {
            continue;
        }
        if path.is_dir() {
            collect(&path, depth + 1, paths, problems);
        } else if path.extension().is_some_and(|e| e == "toml") {
            paths.push(path);
        }
    }
}

/// Reads policy files whose texts are at hand.
///
/// # Errors
/// Everything that is wrong, in all files.
pub fn read(texts: Vec<(PathBuf, String)>, databases: &[String]) -> Result<PolicyModel, Problems> {
    let mut model = PolicyModel::default();
    let mut problems = Vec::new();
    for (path, text) in texts {
        let document = Document::new(path.display().to_string(), text.as_str());
        if let Some(tree) = document.parse() {
            let span = tree.span();
            let root = document.table(tree.get_ref(), span, "the file", FILE_KEYS);
            let database = file_database(&root, databases);
            let file = File { source: Arc::new(Source { path, text, database }), document: &document };
            file.read(&root, &mut model);
        }
        problems.extend(document.into_problems());
    }
    compliance::apply_classes(&mut model);
    Problems(problems).or(model)
}

fn file_database(root: &Table<'_>, databases: &[String]) -> Option<String> {
    let name = root.has("database").then(|| root.required_text("database")).flatten()?;
    if !databases.is_empty() && !databases.contains(&name.value) {
        let problem = Problem::new(format!("there is no [[database]] named `{}`", name.value));
        let near = did_you_mean(&name.value, databases.iter().map(String::as_str));
        let problem = problem.help(match near {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("configured are: {}", databases.join(", ")),
        });
        root.report(problem, name.span, "not configured");
    }
    Some(name.value)
}

/// One file while it is read.
struct File<'a> {
    source: Arc<Source>,
    document: &'a Document,
}

impl File<'_> {
    fn read(&self, root: &Table<'_>, model: &mut PolicyModel) {
        for table in root.tables("table", "[[table]]", TABLE_KEYS) {
            let Some(policy) = self.table(&table) else { continue };
            match model.tables.iter().find(|t| is_same(t, &policy)) {
                None => model.tables.push(policy),
                Some(first) => {
                    let problem = Problem::new(format!("two policies for {}.{}", policy.schema, policy.name))
                        .help(format!("the first one is in {}", first.place.source.path.display()));
                    self.document.report(problem, policy.place.span, "the second one");
                }
            }
        }
        for entry in root.tables("temporary", "[[temporary]]", TEMPORARY_KEYS) {
            let Some(temporary) = self.temporary(&entry) else { continue };
            if model.temporaries.iter().any(|t| t.name == temporary.name && t.place.source.meets(&temporary.place.source)) {
                let problem = Problem::new(format!("two entries for the temporary table {}", temporary.name));
                self.document.report(problem, temporary.place.span, "the second one");
                continue;
            }
            model.temporaries.push(temporary);
        }
        model.allows.extend(root.tables("allow", "[[allow]]", ALLOW_KEYS).iter().map(|t| self.allow(t)));
        model.threats.extend(root.tables("threat", "[[threat]]", THREAT_KEYS).iter().filter_map(|t| self.threat(t)));
        self.compliance(root, model);
        let applications = root.tables("application", "[[application]]", APPLICATION_KEYS);
        model.applications.extend(applications.iter().map(|t| self.application(t)));
        model.tests.extend(root.tables("test", "[[test]]", TEST_KEYS).iter().filter_map(|t| self.test(t)));
        model.sources.push(Arc::clone(&self.source));
    }

    fn place(&self, span: Range<usize>) -> Place {
        Place { source: Arc::clone(&self.source), span }
    }

    fn table(&self, table: &Table<'_>) -> Option<TablePolicy> {
        let name = table.required_text("name");
        let names = name.as_ref().and_then(|n| self.identifiers(n, "schema.table", 2));
        let scope = self.scope(table);
        let default = match self.word(table, "default", &["tenant", "deny"]) {
            Some("deny") => DefaultRule::Deny,
            Some(_) | None => DefaultRule::Tenant,
        };
        let rules = self.rules(table, scope.as_ref());
        let columns = self.columns(table, scope.as_ref());
        let cache_ttl = table.integer("cache_seconds", 0..=i64::from(i32::MAX)).map(|n| Duration::from_secs(n.unsigned_abs()));
        let (name, mut names, scope) = (name?, names?, scope?);
        let relation = names.pop()?;
        let schema = names.pop().unwrap_or_else(|| "public".to_owned());
        Some(TablePolicy {
            schema,
            name: relation,
            scope,
            default,
            rules,
            columns,
            canary: table.flag("canary").unwrap_or(false),
            canary_rows: self.canary_rows(table),
            cache_ttl,
            waits_for_records: self.word(table, "durability", &["sync"]).is_some(),
            place: self.place(inner(self.document, name.span)),
        })
    }

    fn canary_rows(&self, table: &Table<'_>) -> Vec<String> {
        let texts = table.texts("canary_rows").unwrap_or_default();
        let is_good = |text: &Located<String>| {
            let good = is_canary_text(&text.value);
            if !good {
                let problem = Problem::new(format!("`{}` cannot be looked for in answers", text.value));
                table.report(problem, text.span.clone(), "at least 12 of A-Z a-z 0-9 - _ . @");
            }
            good
        };
        texts.into_iter().filter(is_good).map(|text| text.value).collect()
    }

    fn temporary(&self, entry: &Table<'_>) -> Option<TemporaryPolicy> {
        let (name, columns) = (entry.required_text("name"), entry.required_text("columns"));
        let names = name.as_ref().and_then(|n| self.identifiers(n, "a table without a schema", 1));
        let (name, columns) = (name?, columns?);
        Some(TemporaryPolicy {
            name: names?.pop()?,
            columns: self.sql_text(columns),
            place: self.place(inner(self.document, name.span)),
        })
    }

    fn scope(&self, table: &Table<'_>) -> Option<Scope> {
        let scope = match table.required_text("scope") {
            Some(_) => self.word(table, "scope", &["tenant", "shared", "view", "denied"]),
            None => None,
        };
        if scope == Some("tenant") {
            let column = table.required_text("tenant_column")?;
            let column = self.identifiers(&column, "a column", 1)?.pop()?;
            return Some(Scope::Tenant { column });
        }
        if scope.is_some() && table.has("tenant_column") {
            let problem = Problem::new("`tenant_column` only means something with scope = \"tenant\"");
            table.report(problem, table.span_of("tenant_column"), "would have no effect");
        }
        match scope? {
            "shared" => Some(Scope::Shared),
            "view" => Some(Scope::View),
            _denied => Some(Scope::Denied),
        }
    }

    fn rules(&self, table: &Table<'_>, scope: Option<&Scope>) -> Vec<Rule> {
        let mut rules: Vec<Rule> = Vec::new();
        for entry in table.tables("rule", "[[table.rule]]", RULE_KEYS) {
            if scope == Some(&Scope::View) {
                let problem = Problem::new("rules of a view").help("put them on the tables that it reads");
                table.report(problem, table.span_of("rule"), "would have no effect");
                continue;
            }
            if scope == Some(&Scope::Denied) {
                let problem = Problem::new("a rule of a table that is denied");
                entry.report(problem, entry.span.clone(), "would have no effect");
            }
            let Some(rule) = self.rule(&entry, scope) else { continue };
            if rules.iter().any(|r| r.id == rule.id) {
                let problem = Problem::new(format!("two rules of one table are named `{}`", rule.id));
                entry.report(problem, entry.span_of("id"), "the second one");
                continue;
            }
            rules.push(rule);
        }
        rules
    }

    fn rule(&self, entry: &Table<'_>, scope: Option<&Scope>) -> Option<Rule> {
        let id = entry.required_text("id");
        let actions = self.actions(entry, scope);
        let mode = match self.word(entry, "mode", &["permissive", "restrictive"]) {
            Some("restrictive") => Mode::Restrictive,
            Some(_) | None => Mode::Permissive,
        };
        let using = self.expression(entry, "using");
        let with_check = self.expression(entry, "with_check");
        if !entry.has("using") && !entry.has("with_check") {
            let problem = Problem::new("[[table.rule]] has neither `using` nor `with_check`")
                .help("for the whole tenant: using = \"true\"");
            entry.report(problem, entry.span.clone(), "which rows?");
            return None;
        }
        let writes = actions.iter().any(|a| matches!(a, RuleAction::Insert | RuleAction::Update));
        if entry.has("with_check") && !writes && !actions.is_empty() {
            let problem = Problem::new("`with_check` only means something for insert and update");
            entry.report(problem, entry.span_of("with_check"), "would have no effect");
        }
        let roles = self.roles(entry);
        Some(Rule {
            id: id?.value,
            roles,
            actions,
            mode,
            using,
            with_check,
            of_class: false,
            place: self.place(entry.span.clone()),
        })
    }

    fn actions(&self, entry: &Table<'_>, scope: Option<&Scope>) -> Vec<RuleAction> {
        let Some(words) = entry.texts("actions") else {
            return if scope == Some(&Scope::Shared) { vec![RuleAction::Select] } else { RuleAction::ALL.to_vec() };
        };
        if words.is_empty() {
            let problem = Problem::new("`actions` of [[table.rule]] is empty").help("leave the key out for all actions");
            entry.report(problem, entry.span_of("actions"), "no action");
        }
        let mut actions = Vec::new();
        for word in words {
            match RuleAction::ALL.into_iter().find(|a| a.as_str() == word.value) {
                Some(action) if scope == Some(&Scope::Shared) && action != RuleAction::Select => {
                    let problem = Problem::new("a shared table is read-only for tenants").help("rules can only be for select");
                    entry.report(problem, word.span, "cannot be allowed");
                }
                Some(action) if actions.contains(&action) => {
                    entry.report(Problem::new(format!("`{}` is named twice", word.value)), word.span, "the second time");
                }
                Some(action) => actions.push(action),
                None => self.report_word(entry, "action", &word, &RuleAction::ALL.map(RuleAction::as_str)),
            }
        }
        actions
    }

    fn columns(&self, table: &Table<'_>, scope: Option<&Scope>) -> Vec<ColumnPolicy> {
        let mut columns: Vec<ColumnPolicy> = Vec::new();
        for entry in table.tables("column", "[[table.column]]", COLUMN_KEYS) {
            let mask = self.mask(&entry);
            let class = entry.text("class").map(|c| c.value);
            let Some(name) = entry.required_text("name") else { continue };
            let Some(column) = self.identifiers(&name, "a column", 1).and_then(|mut n| n.pop()) else { continue };
            if columns.iter().any(|c| c.name == column) {
                entry.report(Problem::new(format!("two entries for the column `{column}`")), name.span, "the second one");
                continue;
            }
            match scope {
                Some(Scope::Tenant { column: tenant }) if mask.is_some() && *tenant == column => {
                    let problem = Problem::new("the tenant column cannot be masked").help("tenants know which tenant they are");
                    entry.report(problem, entry.span_of("mask"), "on the tenant column");
                }
                Some(Scope::Denied) if mask.is_some() => {
                    let problem = Problem::new("a mask of a table that is denied");
                    entry.report(problem, entry.span_of("mask"), "would have no effect");
                }
                Some(Scope::View) if mask.is_some() => {
                    let problem = Problem::new("a mask of a view").help("put it on the column of the table that the view reads");
                    entry.report(problem, entry.span_of("mask"), "would have no effect");
                }
                Some(Scope::Tenant { column: _ } | Scope::Shared | Scope::View | Scope::Denied) | None => {}
            }
            let says_mask = entry.has("mask");
            columns.push(ColumnPolicy {
                name: column,
                class,
                says_mask,
                mask,
                place: self.place(inner(self.document, name.span)),
            });
        }
        columns
    }

    fn mask(&self, entry: &Table<'_>) -> Option<MaskPolicy> {
        let unless_roles = self.roles_of(entry, "unless_roles");
        let mask = match self.word(entry, "mask", &MASKS) {
            Some("null") => Some(Mask::Null),
            Some("redact") => Some(Mask::Redact),
            Some("last4") => Some(Mask::Last4),
            Some("email") => Some(Mask::Email),
            Some("hash") => Some(Mask::Hash),
            Some(_none) => None,
            None => None,
        };
        if mask.is_none() && entry.has("unless_roles") {
            let problem = Problem::new("`unless_roles` only means something with a mask");
            entry.report(problem, entry.span_of("unless_roles"), "would have no effect");
        }
        if mask != Some(Mask::Hash) && entry.has("mask_key") {
            let problem = Problem::new("`mask_key` only means something with mask = \"hash\"");
            entry.report(problem, entry.span_of("mask_key"), "would have no effect");
        }
        let mask = mask?;
        let key = if mask == Mask::Hash { Some(self.mask_key(entry)?) } else { None };
        let purposes = self.roles_of(entry, "purposes");
        Some(MaskPolicy {
            mask,
            unless_roles,
            purposes,
            never_stored: false,
            of_class: false,
            key,
            place: self.place(inner(self.document, entry.span_of("mask"))),
        })
    }

    /// The secret itself does not stand in a policy file, which is shown around.
    fn mask_key(&self, entry: &Table<'_>) -> Option<MaskKey> {
        if !entry.has("mask_key") {
            let problem = Problem::new("mask = \"hash\" needs a `mask_key`").help(
                "without a secret, whoever can guess a value can compute its pseudonym: mask_key = \"env:NAME\" or \"file:PATH\"",
            );
            entry.report(problem, entry.span_of("mask"), "with which key?");
            return None;
        }
        let text = entry.required_text("mask_key")?;
        let found = if let Some(name) = text.value.strip_prefix("env:") {
            std::env::var(name).map_err(|_| format!("the environment has no variable {name}"))
        } else if let Some(path) = text.value.strip_prefix("file:") {
            let directory = self.source.path.parent().unwrap_or(Path::new("."));
            let path = directory.join(path);
            std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))
        } else {
            Err("the secret does not stand in a policy file: use env:NAME or file:PATH".to_owned())
        };
        let found = found.map(|f| f.trim_end().to_owned()).and_then(|f| {
            if f.len() < MIN_MASK_KEY { Err(format!("the key is shorter than {MIN_MASK_KEY} bytes")) } else { Ok(f) }
        });
        match found {
            Ok(found) => Some(MaskKey(found)),
            Err(why) => {
                entry.report(Problem::new("`mask_key` cannot be used"), entry.span_of("mask"), why);
                None
            }
        }
    }

    fn threat(&self, entry: &Table<'_>) -> Option<ThreatPolicy> {
        let rule = entry.required_text("rule");
        let mode = entry.required_text("mode").and_then(|_| self.word(entry, "mode", &Watch::WORDS));
        let action = self.word(entry, "action", &Action::WORDS).and_then(Action::of_word);
        if action.is_some() && mode.is_some_and(|mode| mode != Watch::Enforce.as_str()) {
            let problem = Problem::new("`action` only means something with mode = \"enforce\"");
            entry.report(problem, entry.span_of("action"), "would have no effect");
        }
        let list = |key| entry.texts(key).unwrap_or_default().into_iter().map(|text| text.value).collect();
        let (rule, mode) = (rule?, Watch::of_word(mode?)?);
        let place = self.place(rule.span);
        let rule = if rule.value == "*" { String::new() } else { rule.value };
        let action = action.unwrap_or_default();
        Some(ThreatPolicy { rule, mode, action, roles: list("roles"), applications: list("applications"), place })
    }

    fn allow(&self, entry: &Table<'_>) -> Allow {
        let mut functions = Vec::new();
        for function in entry.texts("functions").unwrap_or_default() {
            functions.extend(self.identifiers(&function, "a function", 2).map(|parts| parts.join(".")));
        }
        for word in entry.texts("statements").unwrap_or_default() {
            let lower = word.value.to_ascii_lowercase();
            if STATEMENTS.contains(&lower.as_str()) {
                let problem = Problem::new(format!("admitting the statement `{lower}` is not built yet"));
                entry.report(problem, word.span.clone(), "known, but not built yet");
            } else {
                self.report_word(entry, "statement", &word, &STATEMENTS);
            }
        }
        let mut settings = Vec::new();
        for setting in entry.texts("settings").unwrap_or_default() {
            let lower = setting.value.to_ascii_lowercase();
            let is_custom = lower.split_once('.').is_some_and(|(prefix, _)| !prefix.is_empty() && prefix != "bulkhead");
            if is_custom {
                settings.push(lower);
            } else {
                let problem = Problem::new(format!("`{}` is no setting of an application's own", setting.value));
                entry.report(problem, setting.span.clone(), "expected a name with a dot, such as app.user_id");
            }
        }
        if !entry.has("functions") && !entry.has("statements") && !entry.has("settings") {
            let problem = Problem::new("[[allow]] has neither `functions` nor `settings` nor `statements`");
            entry.report(problem, entry.span.clone(), "allows nothing");
        }
        Allow { roles: self.roles(entry), functions, settings, place: self.place(entry.span.clone()) }
    }

    fn test(&self, entry: &Table<'_>) -> Option<PolicyTest> {
        let sql = entry.required_text("sql").map(|sql| self.sql_text(sql));
        let (mut tenant, mut roles) = (None, Vec::new());
        if let Some(who) = entry.table("as", "`as` of [[test]]", AS_KEYS) {
            tenant = who.has("tenant").then(|| who.required_text("tenant")).flatten().map(|t| t.value);
            roles = self.roles(&who);
        }
        if !entry.has("expect") {
            let problem = Problem::new("[[test]] has no `expect`").help("expect = { decision = \"permit\" }");
            entry.report(problem, entry.span.clone(), "what must become of it?");
        }
        let expect = self.expectation(&entry.table("expect", "`expect` of [[test]]", EXPECT_KEYS)?);
        Some(PolicyTest { tenant, roles, sql: sql?, expect: expect?, place: self.place(entry.span.clone()) })
    }

    fn expectation(&self, entry: &Table<'_>) -> Option<Expectation> {
        entry.required_text("decision")?;
        let decision = self.word(entry, "decision", &["permit", "deny"])?;
        let stray = if decision == "permit" { "sqlstate" } else { "contains" };
        if entry.has(stray) {
            let problem = Problem::new(format!("`{stray}` means nothing with decision = \"{decision}\""));
            entry.report(problem, entry.span_of(stray), "would have no effect");
        }
        if decision == "permit" {
            let mut contains = Vec::new();
            for text in entry.texts("contains").unwrap_or_default() {
                let sql = self.sql_text(text);
                self.report_fault("contains", &sql, expression::check_syntax(&sql.text));
                contains.push(sql);
            }
            return Some(Expectation::Permit { contains });
        }
        let sqlstate = entry.text("sqlstate");
        if let Some(code) = &sqlstate
            && !(code.value.len() == 5 && code.value.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()))
        {
            let problem =
                Problem::new(format!("`{}` is not a SQLSTATE", code.value)).help("five digits or capital letters: 42501");
            entry.report(problem, code.span.clone(), "not a code");
        }
        Some(Expectation::Deny { sqlstate: sqlstate.map(|c| c.value) })
    }

    fn roles(&self, entry: &Table<'_>) -> Vec<String> {
        self.roles_of(entry, "roles")
    }

    /// An empty list would read as "nobody" but mean "everybody", so it is refused.
    fn roles_of(&self, entry: &Table<'_>, key: &str) -> Vec<String> {
        let Some(items) = entry.texts(key) else { return Vec::new() };
        if items.is_empty() && entry.what != "`as` of [[test]]" {
            let problem = Problem::new(format!("`{key}` of {} is empty", entry.what)).help("leave the key out for every role");
            entry.report(problem, entry.span_of(key), "nobody?");
        }
        let mut roles = Vec::new();
        for item in items {
            if item.value.is_empty() {
                entry.report(Problem::new("the empty string is not a role"), item.span, "empty");
            } else if !roles.contains(&item.value) {
                roles.push(item.value);
            }
        }
        roles
    }

    /// One of `words`, or `None` after reporting what it is instead.
    fn word(&self, entry: &Table<'_>, key: &str, words: &[&'static str]) -> Option<&'static str> {
        let text = entry.text(key)?;
        let word = words.iter().find(|w| **w == text.value).copied();
        if word.is_none() {
            self.report_word(entry, key, &text, words);
        }
        word
    }

    fn report_word(&self, entry: &Table<'_>, what: &str, word: &Located<String>, words: &[&str]) {
        let problem = Problem::new(format!("unknown {what} `{}` in {}", word.value, entry.what));
        let problem = problem.help(match did_you_mean(&word.value, words.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it is one of: {}", words.join(", ")),
        });
        entry.report(problem, word.span.clone(), "not known");
    }

    fn expression(&self, entry: &Table<'_>, key: &str) -> Option<SqlText> {
        let sql = self.sql_text(entry.text(key)?);
        self.report_fault(key, &sql, expression::check_rule(&sql.text));
        Some(sql)
    }

    fn report_fault(&self, key: &str, sql: &SqlText, outcome: Result<(), expression::Fault>) {
        if let Err(fault) = outcome {
            let problem = Problem::new(format!("the SQL of `{key}` cannot be used"));
            self.document.report(problem, sql.span_of(fault.span), fault.message);
        }
    }

    fn sql_text(&self, text: Located<String>) -> SqlText {
        SqlText { text: text.value, place: self.place(inner(self.document, text.span)) }
    }

    /// Names as SQL writes them, joined by dots: at most `most`. Reports what is wrong.
    fn identifiers(&self, text: &Located<String>, what: &str, most: usize) -> Option<Vec<String>> {
        match split_identifiers(&text.value) {
            Ok(parts) if parts.len() <= most => Some(parts),
            Ok(_) => {
                let problem = Problem::new(format!("`{}` is not {what}", text.value))
                    .help("a name with a dot in it is written in double quotes: '\"odd.name\"'");
                self.document.report(problem, inner(self.document, text.span.clone()), "too many dots");
                None
            }
            Err(fault) => {
                let problem = Problem::new(format!("`{}` is not {what}", text.value));
                self.document.report(problem, inner(self.document, text.span.clone()), fault);
                None
            }
        }
    }
}

/// Policies for different databases do not meet.
fn is_same(a: &TablePolicy, b: &TablePolicy) -> bool {
    a.place.source.meets(&b.place.source) && a.schema == b.schema && a.name == b.name
}

/// The text of a TOML string between its quotes.
fn inner(document: &Document, span: Range<usize>) -> Range<usize> {
    let text = document.text().get(span.clone()).unwrap_or_default();
    let quotes = if text.starts_with("\"\"\"") || text.starts_with("'''") { 3 } else { 1 };
    if text.len() < 2 * quotes || !text.starts_with(['"', '\'']) {
        return span;
    }
    let mut start = span.start + quotes;
    if quotes == 3 {
        // TOML drops a line feed right after the opening quotes.
        let content = &text[3..];
        start += if content.starts_with("\r\n") { 2 } else { usize::from(content.starts_with('\n')) };
    }
    start..(span.end - quotes).max(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(text: &str) -> Result<PolicyModel, String> {
        read(vec![(PathBuf::from("p.toml"), text.to_owned())], &["shop".to_owned()]).map_err(|p| p.render(false))
    }

    #[test]
    fn the_contract_s_example_is_read() {
        let model = model(
            r#"
database = "shop"
[[table]]
name = "Accounts"
scope = "tenant"
tenant_column = "tenant_id"
[[table.rule]]
id = "support-sees-eu"
roles = ["support"]
actions = ["select"]
using = "region = 'EU'"
[[table.column]]
name = "ssn"
class = "pii.national_id"
mask = "none"
[[table]]
name = '"Odd Schema"."a.b"'
scope = "shared"
[[allow]]
roles = ["app"]
functions = ["pg_catalog.pg_sleep"]
[[test]]
as = { tenant = "1", roles = ["support"] }
sql = "SELECT id FROM accounts WHERE id = $1"
expect = { decision = "permit", contains = ["region = 'EU'"] }
[[test]]
as = { tenant = "1" }
sql = "SELECT 1 FROM secrets"
expect = { decision = "deny", sqlstate = "42501" }
"#,
        )
        .unwrap();
        let [accounts, odd] = model.tables.as_slice() else { panic!() };
        assert_eq!((accounts.schema.as_str(), accounts.name.as_str()), ("public", "accounts"));
        assert_eq!(accounts.scope, Scope::Tenant { column: "tenant_id".to_owned() });
        let using = accounts.rules[0].using.as_ref().unwrap();
        assert_eq!(&using.place.source.text[using.place.span.clone()], "region = 'EU'");
        assert_eq!((odd.schema.as_str(), odd.name.as_str()), ("Odd Schema", "a.b"));
        assert_eq!((model.tests.len(), model.allows.len(), model.sources.len()), (2, 1, 1));
    }

    #[test]
    fn the_same_table_in_two_databases_is_no_duplicate() {
        let table = "[[table]]\nname = \"t\"\nscope = \"denied\"\n";
        let file = |name: &str, database: &str| (PathBuf::from(name), format!("database = \"{database}\"\n{table}"));
        assert!(read(vec![file("a", "x"), file("b", "y")], &[]).is_ok());
        assert!(read(vec![file("a", "x"), file("b", "x")], &[]).is_err());
        assert!(read(vec![file("a", "x"), (PathBuf::from("b"), table.to_owned())], &[]).is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_gives_a_model_or_problems_that_can_be_shown(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "[[table]]\n", "[[table.rule]]\n", "[[table.column]]\n", "[[test]]\n", "name = ", "scope = ", "using = ", "id = ",
                    "expect = ", "\"t\"", "\"tenant\"", "'''a = \"é\" AND ('''", "\"\"\"\n x = \\\"y\\\" ==\n\"\"\"", "[\"select\"]",
                    "{ decision = \"deny\" }", "\n", "é", "\"", "7", "\"é ==\"", "\"'é\"",
                ]),
                0..24,
            )
        ) {
            if let Err(shown) = model(&parts.concat()) {
                proptest::prop_assert!(!shown.is_empty());
            }
        }
    }
}
