//! The way from file, environment and flags to a [`Config`]: everything is looked at, then all problems are told at once.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::document::{Document, Key, key, kind_of};
use super::entries::{self, Secrets};
use super::problem::{Problem, Problems, did_you_mean};
use super::redis;
use super::settings::{
    self, ALWAYS_ON, AUDIT, AuditDraft, CACHE_BYTES, Draft, PARANOID, QUERY_CACHE, SETTINGS, Setting, VARIABLES_NOT_BUILT, switch,
};
use super::{Audit, Config, Level, Limits, Log, Server};

/// Variables of the environment, as they were when the process started.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The process's own. Variables that are not UTF-8 are left out.
    pub fn of_process() -> Self {
        Environment(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Environment(pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// The tables of the file.
pub const ROOT_KEYS: &[Key] = &[
    key("server", "[server]", "Listening, TLS, policies."),
    key("isolation", "[isolation]", "How strict."),
    key("limits", "[limits]", "Caps and deadlines."),
    key("log", "[log]", "Log output on standard error."),
    key("metrics", "[metrics]", "Metrics."),
    key("cache", "[cache]", "Result cache."),
    key("audit", "[audit]", "Audit log: what was asked, by whom, what was decided, what came of it."),
    key("database", "[[database]]", "A database that clients can name."),
    key("user", "[[user]]", "A login."),
];

/// Reads a configuration. `flags` are `section.key` and value, the strongest source.
///
/// # Errors
/// Everything that is wrong, with places.
pub fn load(path: &Path, environment: &Environment, flags: &[(String, String)]) -> Result<Config, Problems> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Problem::new(format!("cannot read the configuration {}: {e}", path.display()))
            .help("--config F names another file; `bulkhead check --reference` shows what can stand in it")
    })?;
    let base = path.parent().unwrap_or(Path::new("")).to_owned();
    let mut draft = Draft {
        config: blank(),
        tls_certificate: None,
        tls_key: None,
        tls_required: false,
        redis: None,
        audit: AuditDraft::default(),
    };
    let mut problems = apply_defaults(&mut draft, &base);

    let document = Document::new(path.display().to_string(), text);
    document.quote_as(without_secrets(document.text()));
    if let Some(tree) = document.parse() {
        let span = tree.span();
        let root = document.table(tree.get_ref(), span, "the file", ROOT_KEYS);
        apply_file(&mut draft, &document, tree.get_ref(), &base);
        let secrets = Secrets { environment, base: &base };
        draft.config.databases = entries::databases(&root, &secrets);
        draft.config.users = entries::users(&root, &secrets, &draft.config.databases);
    }
    problems.extend(document.into_problems());
    problems.extend(apply_environment(&mut draft, environment));
    problems.extend(apply_flags(&mut draft, flags));
    match settings::tls(&draft) {
        Ok(tls) => draft.config.server.tls = tls,
        Err(what) => problems.push(Problem::new(what)),
    }
    problems.extend(apply_redis(&mut draft, environment));
    problems.extend(apply_audit(&mut draft, environment));
    Problems(problems).or(draft.config)
}

impl Config {
    /// What `serve` needs besides a valid file.
    ///
    /// # Errors
    /// A problem for each list that is empty.
    pub fn ready_to_serve(&self) -> Result<(), Problems> {
        let mut problems = Vec::new();
        if self.databases.is_empty() {
            problems.push(
                Problem::new("there is no [[database]]")
                    .help("[[database]]\nname = \"shop\"\nupstream = \"postgres://app:secret@127.0.0.1:5432/shop\""),
            );
        }
        if self.users.is_empty() {
            problems.push(
                Problem::new("there is no [[user]]: nobody could log in")
                    .help("[[user]]\nname = \"acme\"\npassword = \"env:ACME_PASSWORD\"\ntenant = \"1\""),
            );
        }
        Problems(problems).or(())
    }
}

/// Overwritten by the defaults of [`SETTINGS`].
fn blank() -> Config {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Config {
        server: Server { listen: anywhere, admin_listen: None, policies: PathBuf::new(), tls: None },
        level: Level::Strict,
        databases: Vec::new(),
        users: Vec::new(),
        limits: Limits::default(),
        log: Log::default(),
        metrics: true,
        cache: None,
        cache_ttl: None,
        cache_within: std::time::Duration::from_secs(1),
        redis: None,
        audit: None,
    }
}

/// Now that all sources have been read.
fn apply_audit(draft: &mut Draft, environment: &Environment) -> Option<Problem> {
    let written = std::mem::take(&mut draft.audit);
    let wanted = match environment.get(AUDIT).map(|value| (value, switch(value))) {
        None => None,
        Some((_, Some(wanted))) => Some(wanted),
        Some((value, None)) => return Some(variable_problem(AUDIT, value, "expected true or false".to_owned())),
    };
    let path = match (written.path, wanted) {
        (_, Some(false)) | (None, None) => return None,
        (Some(path), None | Some(true)) => path,
        (None, Some(true)) => PathBuf::from("audit"),
    };
    let key = written.key.as_ref().map(|key| Secrets { environment, base: &key.base }.resolve(&key.text)).transpose();
    match key {
        Ok(key) => {
            let AuditDraft { path: _, key: _, is_sync, interval, on_failure, retention, value_keys } = written;
            let value_keys = value_keys.unwrap_or_else(|| path.join("value-keys"));
            draft.config.audit = Some(Audit { path, key, is_sync, interval, on_failure, retention, value_keys });
            None
        }
        Err(what) => Some(Problem::new(format!("[audit] key cannot be used: {what}"))),
    }
}

/// Now that all sources have been read.
fn apply_redis(draft: &mut Draft, environment: &Environment) -> Option<Problem> {
    let written = draft.redis.as_ref()?;
    if draft.config.cache.is_none() {
        let problem =
            Problem::new("[cache] redis is set, but [cache] memory_mb is not: Redis is the second tier of a cache in memory");
        return Some(problem.help("memory_mb = 256, beside it, or redis = \"off\""));
    }
    let secrets = Secrets { environment, base: &written.base };
    match secrets.resolve(&written.text).and_then(|url| redis::parse(&url)) {
        Ok(redis) => {
            draft.config.redis = Some(redis);
            None
        }
        Err(what) => Some(Problem::new(format!("[cache] redis cannot be used: {what}"))),
    }
}

fn apply_defaults(draft: &mut Draft, base: &Path) -> Vec<Problem> {
    let defaults = SETTINGS.iter().filter(|s| !s.default.is_empty());
    defaults
        .filter_map(|s| s.apply(draft, s.default, base).err().map(|e| Problem::new(format!("default of {}: {e}", s.variable()))))
        .collect()
}

fn apply_file(draft: &mut Draft, document: &Document, tree: &DeTable<'_>, base: &Path) {
    for (section, value) in tree {
        let section_name: &str = section.get_ref();
        let of_section: Vec<&Setting> = SETTINGS.iter().filter(|s| s.section == section_name).collect();
        // A list, or a section that has been reported as a whole.
        if of_section.is_empty() {
            continue;
        }
        let Some(table) = value.get_ref().as_table() else {
            let problem = Problem::new(format!("`{section_name}` must be a table, written [{section_name}]"));
            document.report(problem, value.span(), format!("this is {}", kind_of(value.get_ref())));
            continue;
        };
        for (name, value) in table {
            match of_section.iter().find(|s| s.key == name.get_ref()) {
                Some(setting) => apply_value(draft, document, setting, value, base),
                None => report_unknown(document, name, section_name, &of_section),
            }
        }
    }
}

fn report_unknown(document: &Document, name: &Spanned<std::borrow::Cow<'_, str>>, section: &str, known: &[&Setting]) {
    let problem = Problem::new(format!("unknown key `{}` in [{section}]", name.get_ref()));
    let elsewhere = SETTINGS.iter().find(|s| s.key == name.get_ref());
    let help = match (did_you_mean(name.get_ref(), known.iter().map(|s| s.key)), elsewhere) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, Some(setting)) => format!("`{}` belongs in [{}]", setting.key, setting.section),
        (None, None) => format!("[{section}] may have: {}", known.iter().map(|s| s.key).collect::<Vec<_>>().join(", ")),
    };
    document.report(problem.help(help), name.span(), "not known");
}

fn apply_value(draft: &mut Draft, document: &Document, setting: &Setting, value: &Spanned<DeValue<'_>>, base: &Path) {
    let name = format!("[{}] {}", setting.section, setting.key);
    let outcome = match setting.kind.text_of(value.get_ref()) {
        Some(text) => setting.apply(draft, &text, base),
        None => Err(format!("expected {}, found {}", setting.kind.expected(), kind_of(value.get_ref()))),
    };
    if let Err(what) = outcome {
        document.report(Problem::new(format!("{name} cannot be used")), value.span(), what);
    }
}

fn apply_environment(draft: &mut Draft, environment: &Environment) -> Vec<Problem> {
    let mut problems = Vec::new();
    for setting in SETTINGS {
        let names = std::iter::once(setting.variable()).chain(setting.aliases.iter().map(ToString::to_string));
        // The longer name says exactly what is meant, so it wins over an alias.
        let Some((name, value)) = names.filter_map(|n| environment.get(&n).map(|v| (n.clone(), v))).next() else { continue };
        if let Err(what) = setting.apply(draft, value, Path::new("")) {
            problems.push(variable_problem(&name, value, what));
        }
    }
    if let Some(value) = environment.get(PARANOID) {
        match switch(value) {
            Some(true) => draft.config.level = Level::Paranoid,
            Some(false) => {}
            None => problems.push(variable_problem(PARANOID, value, "expected true or false".to_owned())),
        }
    }
    if let Some(value) = environment.get(QUERY_CACHE) {
        match switch(value) {
            Some(true) => draft.config.cache = draft.config.cache.or(Some(CACHE_BYTES)),
            Some(false) => draft.config.cache = None,
            None => problems.push(variable_problem(QUERY_CACHE, value, "expected true or false".to_owned())),
        }
    }
    for (name, feature) in VARIABLES_NOT_BUILT {
        if let Some(value) = environment.get(name).filter(|v| !v.is_empty() && switch(v) != Some(false)) {
            problems.push(variable_problem(name, value, format!("not built yet: {feature}")));
        }
    }
    if let Some(value) = environment.get(ALWAYS_ON).filter(|v| switch(v) != Some(true)) {
        problems.push(variable_problem(ALWAYS_ON, value, "it is always on".to_owned()));
    }
    problems.extend(unknown_variables(environment));
    problems
}

/// A misspelt variable would silently leave a default in force.
fn unknown_variables(environment: &Environment) -> Vec<Problem> {
    let known: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    let is_ours = |name: &str| {
        name.strip_prefix("BULKHEAD_")
            .and_then(|rest| rest.split_once('_'))
            .is_some_and(|(section, _)| SETTINGS.iter().any(|s| s.section.eq_ignore_ascii_case(section)))
    };
    // Kubernetes sets these for a service that happens to be called bulkhead-server, bulkhead-log, ...
    let is_service_link = |name: &str| name.contains("_SERVICE_") || name.contains("_PORT_") || name.ends_with("_PORT");
    let mut problems = Vec::new();
    for (name, value) in &environment.0 {
        if !is_ours(name) || is_service_link(name) || known.contains(name) {
            continue;
        }
        let problem = variable_problem(name, value, "not a setting".to_owned());
        problems.push(match did_you_mean(name, known.iter().map(String::as_str)) {
            Some(near) => problem.help(format!("did you mean {near}?")),
            None => problem.help("`bulkhead check --reference` lists them"),
        });
    }
    problems
}

fn variable_problem(name: &str, value: &str, label: String) -> Problem {
    let line = format!("{name}={value}");
    let span = name.len() + 1..line.len();
    Problem::new(format!("the variable {name} cannot be used")).at("environment", &line.into(), span, label)
}

fn apply_flags(draft: &mut Draft, flags: &[(String, String)]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, value) in flags {
        let setting = SETTINGS.iter().find(|s| name.split_once('.') == Some((s.section, s.key)));
        let line: std::sync::Arc<str> = format!("--set {name}={value}").into();
        let at_value = "--set ".len() + name.len() + 1..line.len();
        match setting.map(|s| s.apply(draft, value, Path::new(""))) {
            Some(Ok(())) => {}
            Some(Err(what)) => {
                problems.push(Problem::new(format!("{name} cannot be used")).at("command line", &line, at_value, what));
            }
            None => {
                let known: Vec<String> = SETTINGS.iter().map(|s| format!("{}.{}", s.section, s.key)).collect();
                let problem = Problem::new(format!("unknown setting `{name}`")).at(
                    "command line",
                    &line,
                    "--set ".len().."--set ".len() + name.len(),
                    "not known",
                );
                problems.push(match did_you_mean(name, known.iter().map(String::as_str)) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem.help(format!("settings: {}", known.join(", "))),
                });
            }
        }
    }
    problems
}

/// The text as messages may quote it, line by line, so that it works for a file that is no TOML too. Whatever follows a key
/// that is not known to be harmless is blanked (a misspelt `passwrod` holds a password), and passwords of URLs are.
fn without_secrets(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside_long_string = false;
    for line in text.split_inclusive('\n') {
        let quotes = line.matches("\"\"\"").count() + line.matches("'''").count();
        let secret = first_secret(line);
        match secret {
            _ if inside_long_string => out.push_str(&stars(line)),
            Some(value) => {
                out.push_str(&line[..value]);
                out.push_str(&stars(&line[value..]));
            }
            None => out.push_str(&blank_urls(line)),
        }
        if quotes % 2 == 1 {
            inside_long_string = !inside_long_string && secret.is_some();
        }
    }
    out
}

/// Where the value of the line's first key that could be a secret begins. References (`env:`, `file:`) are none.
fn first_secret(line: &str) -> Option<usize> {
    let is_reference = |value: &str| {
        let value = value.trim_start_matches([' ', '"', '\'']);
        (value.starts_with("env:") || value.starts_with("file:")) && !value.contains('=')
    };
    line.match_indices('=').find_map(|(at, _)| {
        let name = line[..at].trim_end().rsplit(|c: char| !(c.is_alphanumeric() || c == '_')).next().unwrap_or_default();
        // `sslmode=` of a URL is no key.
        let in_url = line[..at].contains("://");
        let harmless = SETTINGS.iter().any(|s| s.key == name) || HARMLESS_KEYS.contains(&name) || in_url;
        (!harmless && !is_reference(&line[at + 1..])).then_some(at + 1)
    })
}

/// Keys of `[[database]]` and `[[user]]` whose values may be shown; of `upstream` all but the password.
const HARMLESS_KEYS: [&str; 9] =
    ["name", "upstream", "pool_size", "roles", "databases", "tenant", "tenants", "tenant_setting", "unrestricted"];

/// Blanks the passwords of URLs: from the `:` of the credentials to the last `@`.
fn blank_urls(line: &str) -> String {
    let mut out = line.to_owned();
    let Some(scheme) = line.find("://") else { return out };
    let Some(at) = line.rfind('@').filter(|at| *at > scheme) else { return out };
    if let Some(colon) = line[scheme + 3..at].find(':') {
        let from = scheme + 3 + colon + 1;
        out.replace_range(from..at, &stars(&line[from..at]));
    }
    out
}

/// As many bytes, but nothing to read; quotes and line ends stay.
fn stars(text: &str) -> String {
    text.bytes().map(|b| if matches!(b, b'\n' | b'\r' | b'"' | b'\'' | b' ') { b as char } else { '*' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OnFailure;

    fn read(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy.toml");
        std::fs::write(&path, text).unwrap();
        let flags: Vec<_> = flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(&path, &variables.iter().copied().collect(), &flags).map_err(|p| p.render(false))
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let config = read("", &[], &[]).unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:6432");
        assert_eq!(config.server.admin_listen.unwrap().to_string(), "127.0.0.1:9632");
        assert!(config.server.policies.ends_with("policies"));
        assert_eq!(config.level, Level::Strict);
        assert_eq!((config.limits.clone(), config.log.clone()), (Limits::default(), Log::default()));
        assert!(config.ready_to_serve().is_err());
    }

    #[test]
    fn flags_beat_the_environment_and_that_beats_the_file() {
        let file =
            "[server]\nlisten = \"127.0.0.1:1\"\nadmin_listen = \"127.0.0.1:2\"\n[limits]\nmax_clients = 3\n[log]\nlevel='warn'";
        let variables = [
            ("BULKHEAD_SERVER_LISTEN", "127.0.0.1:11"),
            ("BULKHEAD_SERVER_ADMIN_LISTEN", "off"),
            ("LOG_LEVEL", "DEBUG"),
            ("TENANT_ISOLATION_LEVEL", "Strict"),
        ];
        let config = read(file, &variables, &[("server.listen", "127.0.0.1:21")]).unwrap();
        assert_eq!(config.server.listen.port(), 21);
        assert_eq!(config.server.admin_listen, None);
        assert_eq!((config.limits.max_clients, config.log.level.as_str()), (3, "debug"));
        assert_eq!(config.level, Level::Strict);
    }

    #[test]
    fn paranoia_can_be_asked_for_in_two_ways() {
        assert_eq!(read("[isolation]\nlevel = 'paranoid'", &[], &[]).unwrap().level, Level::Paranoid);
        assert_eq!(read("", &[("SECURITY_PARANOID_MODE", "true")], &[]).unwrap().level, Level::Paranoid);
        assert_eq!(read("", &[("SECURITY_PARANOID_MODE", "false")], &[]).unwrap().level, Level::Strict);
        assert!(read("", &[("SECURITY_PARANOID_MODE", "perhaps")], &[]).unwrap_err().contains("SECURITY_PARANOID_MODE"));
    }

    #[test]
    fn a_cache_can_be_asked_for_in_three_ways() {
        let cache = |file: &str, variables: &[(&str, &str)]| read(file, variables, &[]).unwrap().cache;
        assert_eq!(cache("", &[]), None);
        assert_eq!(cache("[cache]\nmemory_mb = 3", &[]), Some(3 << 20));
        assert_eq!(cache("[cache]\nmemory_mb = 3", &[("CACHE_SIZE_MB", "5")]), Some(5 << 20));
        assert_eq!(cache("[cache]\nmemory_mb = 3", &[("CACHE_SIZE_MB", "off")]), None);
        assert_eq!(cache("", &[("QUERY_CACHE_ENABLED", "true")]), Some(CACHE_BYTES));
        assert_eq!(cache("[cache]\nmemory_mb = 3", &[("QUERY_CACHE_ENABLED", "true")]), Some(3 << 20));
        assert_eq!(cache("[cache]\nmemory_mb = 3", &[("QUERY_CACHE_ENABLED", "false")]), None);
        assert!(read("", &[("QUERY_CACHE_ENABLED", "perhaps")], &[]).unwrap_err().contains("QUERY_CACHE_ENABLED"));
    }

    #[test]
    fn a_second_tier_needs_a_first_and_keeps_its_password() {
        let with = |file: &str, variables: &[(&str, &str)]| read(file, variables, &[]);
        let url = "redis://app:HUSH@127.0.0.1:6380/2";
        let file = format!("[cache]\nmemory_mb = 3\nredis = '{url}'");
        let redis = with(&file, &[]).unwrap().redis.unwrap();
        assert_eq!((redis.port, redis.database, redis.password.as_deref()), (6380, 2, Some("HUSH")));
        assert_eq!(with(&file, &[("BULKHEAD_CACHE_REDIS", "off")]).unwrap().redis, None);
        assert_eq!(with("[cache]\nmemory_mb = 3", &[("BULKHEAD_CACHE_REDIS", url)]).unwrap().redis, Some(redis.clone()));
        assert_eq!(with("[cache]\nmemory_mb = 3\nredis = 'env:URL'", &[("URL", url)]).unwrap().redis, Some(redis));
        for (file, variables, part) in [
            (format!("[cache]\nredis = '{url}'"), vec![], "memory_mb is not"),
            (String::new(), vec![("BULKHEAD_CACHE_REDIS", url)], "memory_mb is not"),
            ("[cache]\nmemory_mb = 3\nredis = 'env:URL'".to_owned(), vec![], "URL is not set"),
            (
                "[cache]\nmemory_mb = 3\nredis = 'env:URL'".to_owned(),
                vec![("URL", "rediss://a:HUSH@h")],
                "rediss:// is not supported",
            ),
            ("[cache]\nmemory_mb = 3\nredis = 'redis://a:HUSH@h:x'".to_owned(), vec![], "port is not"),
            ("[cache]\nmemory_mb = 3".to_owned(), vec![("BULKHEAD_CACHE_REDIS", "redis:a:HUSH@h")], "begins with redis://"),
            (format!("[cache]\nmemory_mb = 'x'\nredis = '{url}'"), vec![], "memory_mb"),
        ] {
            let error = with(&file, &variables).unwrap_err();
            assert!(error.contains(part), "{file}: {error}");
            assert!(!error.contains("HUSH"), "{error}");
        }
    }

    #[test]
    fn an_audit_log_can_be_asked_for_in_two_ways() {
        let audit = |file: &str, variables: &[(&str, &str)]| read(file, variables, &[]).unwrap().audit;
        assert!(audit("", &[]).is_none());
        let log = audit("[audit]\npath = 'log'", &[]).unwrap();
        assert!(log.path.ends_with("log") && !log.is_sync && log.retention.is_none());
        assert_eq!(log.on_failure, OnFailure::FailOperation);
        assert!(audit("[audit]\npath = 'log'", &[("COMPLIANCE_AUDIT_ENABLED", "false")]).is_none());
        let log = audit(
            "[audit]\ndurability = 'sync'\non_failure = 'shutdown'",
            &[("COMPLIANCE_AUDIT_ENABLED", "true"), ("AUDIT_RETENTION_DAYS", "7")],
        );
        let log = log.unwrap();
        assert_eq!((log.path.to_str(), log.is_sync, log.on_failure), (Some("audit"), true, OnFailure::Shutdown));
        assert_eq!(log.retention, Some(std::time::Duration::from_secs(7 * 86_400)));
        assert!(read("[audit]\npath = 'x'\nkey = 'env:NOWHERE'", &[], &[]).unwrap_err().contains("NOWHERE"));
        assert!(read("[audit]\npath = 'x'\non_failure = 'shrug'", &[], &[]).unwrap_err().contains("fail_operation"));
    }

    #[test]
    fn variables_of_what_is_not_built_are_refused_unless_they_mean_off() {
        for (name, _) in VARIABLES_NOT_BUILT {
            assert!(read("", &[(name, "false")], &[]).is_ok(), "{name}");
            let error = read("", &[(name, "7")], &[]).unwrap_err();
            assert!(error.contains(name) && error.contains("not built yet"), "{error}");
        }
        assert!(read("", &[("BULKHEAD_SERVER_LISTNE", "127.0.0.1:1")], &[]).unwrap_err().contains("BULKHEAD_SERVER_LISTEN?"));
        assert!(read("", &[("BULKHEAD_SERVER_SERVICE_HOST", "10.0.0.1"), ("BULKHEAD_ADMIN_PASSWORD", "x")], &[]).is_ok());
    }

    #[test]
    fn secrets_come_from_the_environment_and_files_and_are_never_quoted() {
        let good = "[[database]]\nname='shop'\nupstream='env:UP'\n[[user]]\nname='a'\npassword='env:PW'\ntenant='1'";
        let config = read(good, &[("UP", "postgres://a:b@127.0.0.1/shop"), ("PW", "x")], &[]).unwrap();
        assert_eq!(config.databases[0].upstream.password.as_deref(), Some("b"));
        assert!(read(good, &[("UP", "postgres://a:b@127.0.0.1/shop")], &[]).unwrap_err().contains("PW is not set"));
        for bad in [
            "user = [{ name='a', password='HUSH', tenant=1 }]",
            "[[user]]\nname='a'\npassword=3\npasswrod='HUSH'",
            "[[user]]\nname='a'\npassword='''\nHUSH\n'''\nscram='x'",
            "[[user]]\nname='a'\npassword='HUSH'\nscram='SCRAM-SHA-256$HUSH'\ntenant='1'",
            "[[user]]\nname='a'\npassword=\"HUSH",
            "[[database]]\nname='a'\nupstream='postgres://a:HUSH@db.example.com/x'",
            "[[database]]\nname='a'\nupstream='postgres://a:HUSH@127.0.0.1/x",
            "[[user]]\nname='a'\nscram='SCRAM-SHA-256$HUSH'\ntenant='1'",
        ] {
            let error = read(bad, &[], &[]).unwrap_err();
            assert!(!error.contains("HUSH"), "{error}");
        }
    }
}
