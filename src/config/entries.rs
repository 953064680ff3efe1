//! `[[database]]` and `[[user]]`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::document::{Key, Located, Table, key};
use super::load::Environment;
use super::problem::{Problem, did_you_mean};
use super::{BreakGlass, Database, LockSecret, Secret, Upstream, User, UserAccess, upstream};
use crate::principal::{Tenant, TenantSet};

/// The keys of `[[database]]`.
pub const DATABASE_KEYS: &[Key] = &[
    key("name", "\"shop\"", "What clients name."),
    key(
        "upstream",
        "\"postgres://app:secret@127.0.0.1:5432/shop\"",
        "The server. sslmode is verify-full, verify-ca, require or disable; it may be left out for this machine only. Also env:NAME, file:PATH.",
    ),
    key("pool_size", "20", "The most connections to the server for this database. Default 20."),
    key(
        "tenant_pool_size",
        "4",
        "The most of them that one tenant has at once, or a login that has chosen none. What tenants run beside each other shares the server's cores: no more than it has keeps one from slowing all others. Default: all of less than five, four fifths of more.",
    ),
    key("min_pool_size", "2", "As many connections are kept open, whether they are needed or not. Default 0."),
    key("max_clients", "500", "The most clients of this database at once; one more is told 53300. Default: those of [limits]."),
    key(
        "lock_key",
        "\"file:lock.key\"",
        "For `harden` and level paranoid: the secret with which Bulkhead proves to PostgreSQL which tenant it speaks for. Default: derived from the upstream's password.",
    ),
    key(
        "follow",
        "\"postgres://follower:secret@127.0.0.1:5432/shop\"",
        "Result cache: where others write past this process, a role with REPLICATION, over which they are seen (wal_level = logical, CREATE PUBLICATION bulkhead FOR ALL TABLES). Default: nobody else writes.",
    ),
];

/// The keys of `[[user]]`.
pub const USER_KEYS: &[Key] = &[
    key("name", "\"acme\"", "What the client logs in as."),
    key("password", "\"env:ACME_PASSWORD\"", "The password itself, env:NAME or file:PATH; or scram."),
    key("scram", "\"SCRAM-SHA-256$4096:..\"", "The verifier as PostgreSQL stores it; or password. Also env:NAME, file:PATH."),
    key("roles", "[\"app\"]", "Bulkhead's own roles, which policies name."),
    key("purposes", "[\"billing\"]", "What it may say that it reads for (SET bulkhead.purpose), as policies name it."),
    key(
        "break_glass",
        "[\"dpo\"]",
        "Roles that it may take on for a while (SET bulkhead.break_glass = 'why'); recorded in the audit log, without which it may not.",
    ),
    key("break_glass_minutes", "30", "How long, 1 to 1440. Default: 30."),
    key("databases", "[\"shop\"]", "The databases that the user may name. Default: all."),
    key("max_clients", "50", "The most clients of this user at once; one more is told 53300. Default: those of [limits]."),
    key("tenant", "\"1\"", "The tenant it always acts for. Exactly one of tenant, tenants, unrestricted."),
    key("tenants", "[\"1\", \"2\"]", "A shared login: the tenants it may choose among, or \"*\"."),
    key("tenant_setting", "\"app.tenant\"", "With tenants: a setting of the application that is read as bulkhead.tenant."),
    key(
        "tenant_token_key",
        "\"file:token.key\"",
        "With tenants: only values signed with this key are taken (value.hex-hmac-sha256).",
    ),
    key("unrestricted", "true", "DDL and cross-tenant work: statements pass as they came."),
    key("upstream", "\"postgres://owner@127.0.0.1/shop\"", "With unrestricted: the server and role for this user."),
];

/// Where secrets are looked up.
pub(super) struct Secrets<'a> {
    pub environment: &'a Environment,
    /// Relative `file:` paths start here.
    pub base: &'a Path,
}

impl Secrets<'_> {
    /// The text behind `env:NAME` and `file:PATH`; any other text is itself.
    pub fn resolve(&self, text: &str) -> Result<String, String> {
        if let Some(name) = text.strip_prefix("env:") {
            return match self.environment.get(name) {
                Some("") => Err(format!("the variable {name} is empty")),
                Some(value) => Ok(value.to_owned()),
                None => Err(format!("the variable {name} is not set")),
            };
        }
        if let Some(path) = text.strip_prefix("file:") {
            let path = self.base.join(path);
            let content = std::fs::read_to_string(&path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
            // An editor's last line feed is not part of a secret.
            let content = content.strip_suffix('\n').unwrap_or(&content);
            let content = content.strip_suffix('\r').unwrap_or(content);
            return if content.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(content.to_owned()) };
        }
        Ok(text.to_owned())
    }

    /// A secret of a table, resolved; reports what is wrong.
    fn of(&self, table: &Table<'_>, key: &str) -> Option<Located<String>> {
        let text = table.required_text(key)?;
        match self.resolve(&text.value) {
            Ok(value) => Some(Located { value, span: text.span }),
            Err(what) => {
                table.report(Problem::new(format!("`{key}` of {} has no value", table.what)), text.span, what);
                None
            }
        }
    }

    fn upstream(&self, table: &Table<'_>, default_database: &str) -> Option<Upstream> {
        self.upstream_at(table, "upstream", default_database)
    }

    /// A `postgres://` URL.
    fn upstream_at(&self, table: &Table<'_>, key: &str, default_database: &str) -> Option<Upstream> {
        let url = self.of(table, key)?;
        match upstream::parse(&url.value, default_database) {
            Ok(mut upstream) => {
                upstream.ssl_root_cert = upstream.ssl_root_cert.map(|p: PathBuf| self.base.join(p));
                Some(upstream)
            }
            Err(what) => {
                table.report(Problem::new(format!("`{key}` of {} is not understood", table.what)), url.span, what);
                None
            }
        }
    }
}

/// Whoever can run SQL can try keys at leisure: one token tells whether a key is the right one.
const SHORTEST_LOCK_KEY: usize = 16;

pub(super) fn databases(root: &Table<'_>, secrets: &Secrets<'_>) -> Vec<Database> {
    let mut databases = Vec::new();
    let mut seen = BTreeSet::new();
    for table in root.tables("database", "[[database]]", DATABASE_KEYS) {
        let name = table.required_text("name");
        let default_database = name.as_ref().map_or("", |n| &n.value);
        let upstream = secrets.upstream(&table, default_database);
        let pool_size = table.integer("pool_size", 1..=10_000).and_then(|n| usize::try_from(n).ok()).unwrap_or(20);
        let min_pool_size = count(&table, "min_pool_size", 0).unwrap_or(0);
        let tenant_pool_size = count(&table, "tenant_pool_size", 1);
        for (key, part) in [("min_pool_size", min_pool_size), ("tenant_pool_size", tenant_pool_size.unwrap_or(0))] {
            if part > pool_size {
                let problem = Problem::new(format!("`{key}` is more than `pool_size`, which is {pool_size}"));
                table.report(problem, table.span_of(key), "more than there may be");
            }
        }
        let max_clients = count(&table, "max_clients", 1);
        let lock_key = table.has("lock_key").then(|| secrets.of(&table, "lock_key")).flatten().map(|key| {
            if key.value.trim().len() < SHORTEST_LOCK_KEY {
                let problem = Problem::new(format!("`lock_key` must have at least {SHORTEST_LOCK_KEY} characters"));
                table.report(
                    problem.help("openssl rand -hex 32 > lock.key; lock_key = \"file:lock.key\""),
                    key.span,
                    "too short",
                );
            }
            LockSecret(key.value)
        });
        let follow = table.has("follow").then(|| secrets.upstream_at(&table, "follow", default_database)).flatten();
        let Some(name) = name else { continue };
        if !seen.insert(name.value.clone()) {
            table.report(Problem::new(format!("two databases are named `{}`", name.value)), name.span, "the second one");
            continue;
        }
        if let Some(upstream) = upstream {
            databases.push(Database {
                name: name.value,
                upstream,
                pool_size,
                tenant_pool_size,
                min_pool_size,
                max_clients,
                lock_key,
                follow,
            });
        }
    }
    databases
}

fn count(table: &Table<'_>, key: &str, least: i64) -> Option<usize> {
    table.integer(key, least..=1_000_000).and_then(|n| usize::try_from(n).ok())
}

pub(super) fn users(root: &Table<'_>, secrets: &Secrets<'_>, databases: &[Database]) -> Vec<User> {
    let mut users = Vec::new();
    let mut seen = BTreeSet::new();
    for table in root.tables("user", "[[user]]", USER_KEYS) {
        let name = table.required_text("name");
        let secret = secret(&table, secrets);
        let roles = names(&table, "roles");
        let allowed = allowed_databases(&table, databases);
        let access = access(&table, secrets, databases);
        let Some(name) = name else { continue };
        if !seen.insert(name.value.clone()) {
            table.report(Problem::new(format!("two users are named `{}`", name.value)), name.span, "the second one");
            continue;
        }
        let max_clients = count(&table, "max_clients", 1);
        let purposes = names(&table, "purposes");
        let glass = BreakGlass {
            roles: names(&table, "break_glass"),
            minutes: table.integer("break_glass_minutes", 1..=1440).map_or(30, i64::unsigned_abs),
        };
        for key in ["purposes", "break_glass"].into_iter().filter(|key| table.has(key) && table.has("unrestricted")) {
            let problem = Problem::new(format!("`{key}` of a [[user]] that is unrestricted"));
            table.report(problem, table.span_of(key), "would have no effect");
        }
        if let (Some(secret), Some(access)) = (secret, access) {
            users.push(User { name: name.value, secret, roles, access, databases: allowed, max_clients, purposes, glass });
        }
    }
    users
}

fn secret(table: &Table<'_>, secrets: &Secrets<'_>) -> Option<Secret> {
    match (table.has("password"), table.has("scram")) {
        (true, false) => secrets.of(table, "password").map(|p| Secret::Password(p.value)),
        (false, true) => {
            let verifier = secrets.of(table, "scram")?;
            if let Err(what) = check_verifier(&verifier.value) {
                let problem = Problem::new("`scram` of [[user]] is no verifier")
                    .help("copy rolpassword of pg_authid: SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>");
                table.report(problem, verifier.span, what);
                return None;
            }
            Some(Secret::Scram(verifier.value))
        }
        (true, true) => {
            let problem = Problem::new("[[user]] has both `password` and `scram`").help("keep one of them");
            table.report(problem, table.span_of("scram"), "the second way in");
            None
        }
        (false, false) => {
            let problem = Problem::new("[[user]] has neither `password` nor `scram`")
                .help("password = \"env:NAME\" keeps it out of the file");
            table.report(problem, table.span.clone(), "no way to log in");
            None
        }
    }
}

/// The shape of RFC 5803 as PostgreSQL writes it.
fn check_verifier(text: &str) -> Result<(), &'static str> {
    let rest = text.strip_prefix("SCRAM-SHA-256$").ok_or("does not begin with SCRAM-SHA-256$")?;
    let (salted, keys) = rest.split_once('$').ok_or("has no second $")?;
    let (iterations, salt) = salted.split_once(':').ok_or("has no iterations:salt")?;
    if !iterations.parse::<u32>().is_ok_and(|n| (1..=10_000_000).contains(&n)) {
        return Err("iterations are not a number from 1 to 10000000");
    }
    if !STANDARD.decode(salt).is_ok_and(|s| !s.is_empty()) {
        return Err("the salt is not base64");
    }
    let (stored, server) = keys.split_once(':').ok_or("has no StoredKey:ServerKey")?;
    if [stored, server].iter().any(|key| !STANDARD.decode(key).is_ok_and(|k| k.len() == 32)) {
        return Err("a key is not 32 bytes in base64");
    }
    Ok(())
}

/// A list of distinct, non-empty names.
fn names(table: &Table<'_>, key: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for item in table.texts(key).unwrap_or_default() {
        if item.value.is_empty() {
            table.report(Problem::new(format!("`{key}` of {} holds an empty string", table.what)), item.span, "empty");
        } else if names.contains(&item.value) {
            let problem = Problem::new(format!("`{key}` of {} names `{}` twice", table.what, item.value));
            table.report(problem, item.span, "the second time");
        } else {
            names.insert(item.value);
        }
    }
    names
}

fn allowed_databases(table: &Table<'_>, databases: &[Database]) -> Vec<String> {
    let mut allowed = Vec::new();
    let items = table.texts("databases");
    // "All" is written by leaving the key out; an empty list would silently mean the opposite of what it says.
    if items.as_ref().is_some_and(Vec::is_empty) && table.has("databases") {
        let problem = Problem::new("`databases` of [[user]] is empty").help("leave the key out to allow all databases");
        table.report(problem, table.span_of("databases"), "no database at all");
    }
    for item in items.unwrap_or_default() {
        if databases.iter().any(|d| d.name == item.value) {
            allowed.push(item.value);
            continue;
        }
        let problem = Problem::new(format!("there is no [[database]] named `{}`", item.value));
        let problem = match did_you_mean(&item.value, databases.iter().map(|d| d.name.as_str())) {
            Some(near) => problem.help(format!("did you mean `{near}`?")),
            None => problem,
        };
        table.report(problem, item.span, "not configured");
    }
    allowed
}

fn access(table: &Table<'_>, secrets: &Secrets<'_>, databases: &[Database]) -> Option<UserAccess> {
    let unrestricted = table.flag("unrestricted");
    let ways = [table.has("tenant"), table.has("tenants"), unrestricted == Some(true)];
    match ways {
        [true, false, false] => {
            only_with(table, "tenants", &["tenant_setting", "tenant_token_key"]);
            only_with(table, "unrestricted = true", &["upstream"]);
            table.required_text("tenant").map(|t| UserAccess::Fixed(Tenant(t.value.into())))
        }
        [false, true, false] => {
            only_with(table, "unrestricted = true", &["upstream"]);
            shared(table, secrets)
        }
        [false, false, true] => {
            only_with(table, "tenants", &["tenant_setting", "tenant_token_key"]);
            unrestricted_access(table, secrets, databases)
        }
        [false, false, false] => {
            let problem = Problem::new("[[user]] has none of `tenant`, `tenants`, `unrestricted = true`")
                .help("a login without a tenant could see nothing");
            table.report(problem, table.span.clone(), "whose rows?");
            None
        }
        [_, _, _] => {
            let problem =
                Problem::new("[[user]] has more than one of `tenant`, `tenants`, `unrestricted = true`").help("keep one of them");
            let second = if ways[2] { "unrestricted" } else { "tenants" };
            table.report(problem, table.span_of(second), "contradicts another key");
            None
        }
    }
}

/// Reports keys that would be ignored without their companion.
fn only_with(table: &Table<'_>, companion: &str, keys: &[&str]) {
    for key in keys {
        if table.has(key) {
            let problem = Problem::new(format!("`{key}` of [[user]] only means something with `{companion}`"));
            table.report(problem, table.span_of(key), "would have no effect");
        }
    }
}

fn shared(table: &Table<'_>, secrets: &Secrets<'_>) -> Option<UserAccess> {
    let is_star = table.value("tenants").and_then(|v| v.get_ref().as_str());
    let tenants = match is_star {
        Some("*") => TenantSet::Any,
        Some(_) => {
            let problem = Problem::new("`tenants` of [[user]] must be a list of strings or \"*\"");
            table.report(problem, table.span_of("tenants"), "neither");
            return None;
        }
        None => {
            let set = names(table, "tenants");
            if set.is_empty() {
                table.report(Problem::new("`tenants` of [[user]] names none"), table.span_of("tenants"), "no tenant");
                return None;
            }
            TenantSet::Only(set.into_iter().map(|t| Tenant(t.into())).collect())
        }
    };
    let setting = table.has("tenant_setting").then(|| tenant_setting(table)).flatten();
    let token_key =
        if table.has("tenant_token_key") { Some(secrets.of(table, "tenant_token_key")?.value.into_bytes()) } else { None };
    Some(UserAccess::Shared { tenants, setting, token_key })
}

/// A custom setting has a dot, else PostgreSQL would not let the application set it.
fn tenant_setting(table: &Table<'_>) -> Option<String> {
    let setting = table.required_text("tenant_setting")?;
    let is_name = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
    };
    let well_formed = setting.value.contains('.') && setting.value.split('.').all(is_name);
    if !well_formed {
        let problem = Problem::new(format!("`{}` is not the name of a custom setting", setting.value))
            .help("it has two parts, such as app.tenant");
        table.report(problem, setting.span, "not a setting of an application");
        return None;
    }
    // PostgreSQL compares names of settings without case.
    Some(setting.value.to_ascii_lowercase())
}

fn unrestricted_access(table: &Table<'_>, secrets: &Secrets<'_>, databases: &[Database]) -> Option<UserAccess> {
    if !table.has("upstream") {
        return Some(UserAccess::Unrestricted { upstream: None });
    }
    let default_database = match databases {
        [only] => only.upstream.database.clone(),
        _ => String::new(),
    };
    let upstream = secrets.upstream(table, &default_database)?;
    if upstream.database.is_empty() {
        let problem = Problem::new("`upstream` of [[user]] names no database").help("there are several it could be");
        table.report(problem, table.span_of("upstream"), "which database?");
        return None;
    }
    Some(UserAccess::Unrestricted { upstream: Some(upstream) })
}
