//! The one table of settings: the file's keys, the names of environment variables, defaults, documentation and the way
//! into [`Config`] all come from [`SETTINGS`].

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::{Config, Level, LogFormat, OnFailure, ServerTls};

/// One setting.
#[derive(Clone, Copy)]
pub struct Setting {
    /// The file's table.
    pub section: &'static str,
    pub key: &'static str,
    /// As it would be written in a variable of the environment; empty: none.
    pub default: &'static str,
    pub doc: &'static str,
    /// Other names of the variable.
    pub aliases: &'static [&'static str],
    pub kind: Kind,
}

/// What a value must look like, and where it goes.
#[derive(Clone, Copy)]
pub enum Kind {
    Address(fn(&mut Draft, SocketAddr)),
    /// An address or `off`.
    OptionalAddress(fn(&mut Draft, Option<SocketAddr>)),
    /// Relative paths start at the file that names them; those of variables and flags at the working directory.
    Path(fn(&mut Draft, PathBuf)),
    /// A whole number, at least 1.
    Count(fn(&mut Draft, usize)),
    /// Such a number or `off`.
    OptionalCount(fn(&mut Draft, Option<usize>)),
    /// A number of bytes, also as `64MiB`.
    Bytes(fn(&mut Draft, usize)),
    /// `500ms`, `30s`, `5m`, `1h`.
    Duration(fn(&mut Draft, Duration)),
    /// Such a time or `off`.
    OptionalDuration(fn(&mut Draft, Option<Duration>)),
    Switch(fn(&mut Draft, bool)),
    /// One of these words; the function gets one of them, in lower case.
    Word(&'static [&'static str], fn(&mut Draft, &str) -> Result<(), String>),
    /// A text that may be `env:NAME` or `file:PATH`, or `off`. Looked at once all sources are read, since messages quote what is looked
    /// at here.
    Secret(&'static str, fn(&mut Draft, Option<Unresolved>)),
}

/// A secret as it is written.
#[derive(Clone)]
pub struct Unresolved {
    pub text: String,
    /// Where a relative path starts.
    pub base: PathBuf,
}

impl std::fmt::Debug for Unresolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A configuration while it is read.
#[derive(Clone, Debug)]
pub struct Draft {
    pub config: Config,
    pub tls_certificate: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_required: bool,
    pub redis: Option<Unresolved>,
    pub audit: AuditDraft,
}

/// [`Audit`](super::Audit) while it is read. Overwritten by the defaults of [`SETTINGS`].
#[derive(Clone, Debug, Default)]
pub struct AuditDraft {
    pub path: Option<PathBuf>,
    pub key: Option<Unresolved>,
    pub is_sync: bool,
    pub interval: Duration,
    pub on_failure: OnFailure,
    pub retention: Option<Duration>,
    pub value_keys: Option<PathBuf>,
}

/// Every setting of every table but the lists `[[database]]` and `[[user]]`.
pub const SETTINGS: &[Setting] = &[
    Setting {
        section: "server",
        key: "listen",
        default: "127.0.0.1:6432",
        doc: "Where clients connect.",
        aliases: &[],
        kind: Kind::Address(|d, v| d.config.server.listen = v),
    },
    Setting {
        section: "server",
        key: "admin_listen",
        default: "127.0.0.1:9632",
        doc: "Where /health and /metrics are served, or `off`. Has no authentication: keep it private.",
        aliases: &[],
        kind: Kind::OptionalAddress(|d, v| d.config.server.admin_listen = v),
    },
    Setting {
        section: "server",
        key: "policies",
        default: "policies",
        doc: "Directory of policy files: every *.toml below it.",
        aliases: &[],
        kind: Kind::Path(|d, v| d.config.server.policies = v),
    },
    Setting {
        section: "server",
        key: "tls_certificate",
        default: "",
        doc: "PEM file with the certificate for clients, leaf first; needs tls_key. Read again on SIGHUP.",
        aliases: &[],
        kind: Kind::Path(|d, v| d.tls_certificate = Some(v)),
    },
    Setting {
        section: "server",
        key: "tls_key",
        default: "",
        doc: "PEM file with the private key of tls_certificate.",
        aliases: &[],
        kind: Kind::Path(|d, v| d.tls_key = Some(v)),
    },
    Setting {
        section: "server",
        key: "tls_required",
        default: "false",
        doc: "Refuse clients that do not ask for TLS; needs tls_certificate.",
        aliases: &[],
        kind: Kind::Switch(|d, v| d.tls_required = v),
    },
    Setting {
        section: "isolation",
        key: "level",
        default: "strict",
        doc: "strict; paranoid: strict, and row security of `bulkhead harden` is required underneath; or standard: strict, but EXPLAIN estimates and owner-rights views are let through.",
        aliases: &["TENANT_ISOLATION_LEVEL"],
        kind: Kind::Word(&["strict", "standard", "paranoid"], set_level),
    },
    Setting {
        section: "limits",
        key: "max_clients",
        default: "10000",
        doc: "Clients at once; one more is told 53300.",
        aliases: &[],
        kind: Kind::Count(|d, v| d.config.limits.max_clients = v),
    },
    Setting {
        section: "limits",
        key: "startup_timeout",
        default: "15s",
        doc: "From accept to authenticated.",
        aliases: &[],
        kind: Kind::Duration(|d, v| d.config.limits.startup_timeout = v),
    },
    Setting {
        section: "limits",
        key: "pool_wait",
        default: "30s",
        doc: "How long a client waits for a server connection before it is told 53300.",
        aliases: &[],
        kind: Kind::Duration(|d, v| d.config.limits.pool_wait = v),
    },
    Setting {
        section: "limits",
        key: "max_message",
        default: "256MiB",
        doc: "Largest message of a client.",
        aliases: &[],
        kind: Kind::Bytes(|d, v| d.config.limits.max_message = v),
    },
    Setting {
        section: "limits",
        key: "max_statement",
        default: "4MiB",
        doc: "Largest text of a statement; a larger one is told 54000.",
        aliases: &[],
        kind: Kind::Bytes(|d, v| d.config.limits.max_statement = v),
    },
    Setting {
        section: "limits",
        key: "drain_timeout",
        default: "30s",
        doc: "How long a drain on SIGTERM waits for transactions to end.",
        aliases: &[],
        kind: Kind::Duration(|d, v| d.config.limits.drain_timeout = v),
    },
    Setting {
        section: "limits",
        key: "statement_timeout",
        default: "off",
        doc: "How long what a tenant sends, up to its answer's end, may take before it is cancelled (57014), whatever the client sets.",
        aliases: &[],
        kind: Kind::OptionalDuration(|d, v| d.config.limits.statement_timeout = v),
    },
    Setting {
        section: "limits",
        key: "idle_in_transaction_timeout",
        default: "off",
        doc: "How long a tenant's client may do nothing inside a transaction before it is cut off (25P03).",
        aliases: &[],
        kind: Kind::OptionalDuration(|d, v| d.config.limits.idle_in_transaction_timeout = v),
    },
    Setting {
        section: "limits",
        key: "client_idle_timeout",
        default: "off",
        doc: "How long a tenant's client may do nothing outside of a transaction before it is cut off (57P05).",
        aliases: &[],
        kind: Kind::OptionalDuration(|d, v| d.config.limits.client_idle_timeout = v),
    },
    Setting {
        section: "limits",
        key: "server_idle_timeout",
        default: "10m",
        doc: "Server connections that nobody has needed for so long are closed, down to min_pool_size.",
        aliases: &[],
        kind: Kind::Duration(|d, v| d.config.limits.server_idle_timeout = v),
    },
    Setting {
        section: "limits",
        key: "server_lifetime",
        default: "1h",
        doc: "Older server connections are closed when they come back.",
        aliases: &[],
        kind: Kind::Duration(|d, v| d.config.limits.server_lifetime = v),
    },
    Setting {
        section: "log",
        key: "level",
        default: "info",
        doc: "error, warn, info, debug or trace. Literals of statements are in none of them.",
        aliases: &["LOG_LEVEL"],
        kind: Kind::Word(&["error", "warn", "info", "debug", "trace"], |d, v| {
            d.config.log.level = v.to_owned();
            Ok(())
        }),
    },
    Setting {
        section: "log",
        key: "format",
        default: "text",
        doc: "text, or json: one object a line.",
        aliases: &[],
        kind: Kind::Word(&["text", "json"], |d, v| {
            d.config.log.format = if v == "json" { LogFormat::Json } else { LogFormat::Text };
            Ok(())
        }),
    },
    Setting {
        section: "metrics",
        key: "enabled",
        default: "true",
        doc: "Serve /metrics on admin_listen.",
        aliases: &["METRICS_COLLECTION_ENABLED"],
        kind: Kind::Switch(|d, v| d.config.metrics = v),
    },
    Setting {
        section: "cache",
        key: "memory_mb",
        default: "off",
        doc: "Memory for answers that are kept, in MiB; off: there is no result cache. Writes that do not go through this process are not seen.",
        aliases: &["CACHE_SIZE_MB"],
        kind: Kind::OptionalCount(|d, v| d.config.cache = v.map(|mib| mib.min(1 << 20) << 20)),
    },
    Setting {
        section: "cache",
        key: "ttl_seconds",
        default: "off",
        doc: "How long an answer may be given, where nothing writes before; off: for as long as it is true.",
        aliases: &["CACHE_TTL_SECONDS"],
        kind: Kind::OptionalCount(|d, v| d.config.cache_ttl = v.map(|seconds| Duration::from_secs(seconds as u64))),
    },
    Setting {
        section: "cache",
        key: "within",
        default: "1s",
        doc: "How much older an answer may be than a write past this process, where a [[database]] has `follow`; while that is not sure, none is given.",
        aliases: &[],
        kind: Kind::Duration(|d, v| d.config.cache_within = v),
    },
    Setting {
        section: "cache",
        key: "redis",
        default: "",
        doc: "A second tier of the result cache, in a Redis nearby, for answers that memory_mb has no room for; off: none. What is put there is sealed. May be env:NAME or file:PATH.",
        aliases: &[],
        kind: Kind::Secret("redis://USER:PASSWORD@HOST:PORT/DB", |d, v| d.redis = v),
    },
    Setting {
        section: "audit",
        key: "path",
        default: "",
        doc: "Directory of the audit log, of this process alone; none: there is no log. COMPLIANCE_AUDIT_ENABLED=true: `audit`.",
        aliases: &[],
        kind: Kind::Path(|d, v| d.audit.path = Some(v)),
    },
    Setting {
        section: "audit",
        key: "key",
        default: "",
        doc: "PKCS #8 key in PEM (Ed25519, or RSA of 2048 to 4096 bits) that signs the log's checkpoints; off: one is made and kept beside the log. file:PATH or env:NAME.",
        aliases: &[],
        kind: Kind::Secret("file:PATH, env:NAME", |d, v| d.audit.key = v),
    },
    Setting {
        section: "audit",
        key: "durability",
        default: "interval",
        doc: "sync: writes wait until their intent is on the disk, answers until what they answer is; interval: records are on the disk `interval` later at most, so much is lost with the machine.",
        aliases: &[],
        kind: Kind::Word(&["interval", "sync"], |d, v| {
            d.audit.is_sync = v == "sync";
            Ok(())
        }),
    },
    Setting {
        section: "audit",
        key: "interval",
        default: "50ms",
        doc: "See durability.",
        aliases: &[],
        kind: Kind::Duration(|d, v| d.audit.interval = v),
    },
    Setting {
        section: "audit",
        key: "on_failure",
        default: "fail_operation",
        doc: "What becomes of statements while the log cannot be written: they are refused (58030), they run and a gap is recorded, or the proxy ends.",
        aliases: &[],
        kind: Kind::Word(&["fail_operation", "continue", "shutdown"], |d, v| {
            d.audit.on_failure = match v {
                "continue" => OnFailure::Continue,
                "shutdown" => OnFailure::Shutdown,
                _ => OnFailure::FailOperation,
            };
            Ok(())
        }),
    },
    Setting {
        section: "audit",
        key: "retention_days",
        default: "off",
        doc: "How long records are kept, by whole segments; off: for ever.",
        aliases: &["AUDIT_RETENTION_DAYS"],
        kind: Kind::OptionalCount(|d, v| d.audit.retention = v.map(|days| Duration::from_secs(days as u64 * 86_400))),
    },
    Setting {
        section: "audit",
        key: "value_keys",
        default: "",
        doc: "Directory of the keys of values that policies want told ([[class]] recorded): whoever has them can read or compare those values, and what is erased is a key. Default: value-keys in the log's own; elsewhere, copies of the log come without them.",
        aliases: &[],
        kind: Kind::Path(|d, v| d.audit.value_keys = Some(v)),
    },
];

/// Variables that users know, of what is not built yet. A value that means "off" changes nothing and is taken.
pub const VARIABLES_NOT_BUILT: &[(&str, &str)] = &[
    ("MFA_ENFORCEMENT", "a second factor"),
    ("ENCRYPTION_KEY_VERSION", "field encryption"),
    ("GDPR_STRICT_MODE", "compliance rules"),
    ("ALERTING_ENABLED", "alerts"),
];

/// A variable that users know: `level = "paranoid"`, whatever the level is set to elsewhere.
pub const PARANOID: &str = "SECURITY_PARANOID_MODE";

/// A variable that users know: an audit log in the directory `audit`, where nothing else says which; or none.
pub const AUDIT: &str = "COMPLIANCE_AUDIT_ENABLED";

/// A variable that users know: a result cache of [`CACHE_BYTES`], where nothing else says how large it is; or none.
pub const QUERY_CACHE: &str = "QUERY_CACHE_ENABLED";
pub const CACHE_BYTES: usize = 256 << 20;

/// A variable that users know and that has nothing to switch: what it asks for is always so.
pub const ALWAYS_ON: &str = "PERFORMANCE_OPTIMIZATION";

fn set_level(draft: &mut Draft, word: &str) -> Result<(), String> {
    draft.config.level = match word {
        "standard" => Level::Standard,
        "paranoid" => Level::Paranoid,
        _ => Level::Strict,
    };
    Ok(())
}

impl Setting {
    /// `BULKHEAD_<SECTION>_<KEY>`
    pub fn variable(&self) -> String {
        format!("BULKHEAD_{}_{}", self.section, self.key).to_uppercase()
    }

    /// Puts a value, written as in a variable, where it belongs. Relative paths start at `base`.
    ///
    /// # Errors
    /// Says what the value should look like.
    pub fn apply(&self, draft: &mut Draft, text: &str, base: &Path) -> Result<(), String> {
        let expected = || format!("expected {}", self.kind.expected());
        match self.kind {
            Kind::Address(set) => set(draft, text.parse().map_err(|_| expected())?),
            Kind::OptionalAddress(set) if text == "off" => set(draft, None),
            Kind::OptionalAddress(set) => set(draft, Some(text.parse().map_err(|_| expected())?)),
            Kind::Path(_) if text.is_empty() => return Err(expected()),
            Kind::Path(set) => set(draft, base.join(text)),
            Kind::Count(set) => set(draft, text.parse().ok().filter(|n| *n > 0).ok_or_else(expected)?),
            Kind::OptionalCount(set) if switch(text) == Some(false) => set(draft, None),
            Kind::OptionalCount(set) => set(draft, Some(text.parse().ok().filter(|n| *n > 0).ok_or_else(expected)?)),
            Kind::Bytes(set) => set(draft, bytes(text).ok_or_else(expected)?),
            Kind::Duration(set) => set(draft, duration(text).ok_or_else(expected)?),
            Kind::OptionalDuration(set) if text == "off" => set(draft, None),
            Kind::OptionalDuration(set) => set(draft, Some(duration(text).ok_or_else(expected)?)),
            Kind::Switch(set) => set(draft, switch(text).ok_or_else(expected)?),
            Kind::Word(words, set) => {
                let word = text.to_ascii_lowercase();
                if !words.contains(&word.as_str()) {
                    return Err(expected());
                }
                set(draft, &word)?;
            }
            Kind::Secret(_, set) if text.is_empty() || switch(text) == Some(false) => set(draft, None),
            Kind::Secret(_, set) => set(draft, Some(Unresolved { text: text.to_owned(), base: base.to_owned() })),
        }
        Ok(())
    }
}

impl Kind {
    /// What a value looks like, for messages and the reference.
    pub fn expected(&self) -> String {
        match self {
            Kind::Address(_) => "an address and a port, such as 127.0.0.1:6432".to_owned(),
            Kind::OptionalAddress(_) => "an address and a port, such as 127.0.0.1:9632, or off".to_owned(),
            Kind::Path(_) => "a path".to_owned(),
            Kind::Count(_) => "a whole number from 1".to_owned(),
            Kind::OptionalCount(_) => "a whole number from 1, or off".to_owned(),
            Kind::Bytes(_) => "a size from 1KiB to 1GiB, such as 64MiB, or a number of bytes".to_owned(),
            Kind::Duration(_) => "a time with its unit, such as 500ms, 30s, 5m or 1h".to_owned(),
            Kind::OptionalDuration(_) => "a time with its unit, such as 500ms, 30s, 5m or 1h, or off".to_owned(),
            Kind::Switch(_) => "true or false".to_owned(),
            Kind::Word(words, _) => words.join(", "),
            Kind::Secret(what, _) => format!("{what}, or off"),
        }
    }

    /// A TOML value as the text of a variable; `None` where the type is not what this setting takes.
    pub fn text_of(&self, value: &DeValue<'_>) -> Option<String> {
        match (self, value) {
            (Kind::Count(_) | Kind::OptionalCount(_) | Kind::Bytes(_), DeValue::Integer(n)) => {
                i64::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n.to_string())
            }
            (Kind::Switch(_), DeValue::Boolean(b)) => Some(b.to_string()),
            (Kind::Count(_) | Kind::Switch(_), _) => None,
            (_, DeValue::String(text)) => Some(text.to_string()),
            _ => None,
        }
    }
}

/// What a variable that switches something says.
pub fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Some(true),
        "false" | "off" | "no" | "0" => Some(false),
        _ => None,
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text.get(..digits)?.parse().ok()?;
    let milliseconds = match text.get(digits..)?.trim() {
        "ms" => number,
        "s" => number.checked_mul(1_000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    // A timer of zero would end everything at once; one of more than a day is a slip.
    (1..=86_400_000).contains(&milliseconds).then(|| Duration::from_millis(milliseconds))
}

fn bytes(text: &str) -> Option<usize> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: usize = text.get(..digits)?.parse().ok()?;
    let shift = match text.get(digits..)?.trim() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    let size = number.checked_mul(1 << shift)?;
    // PostgreSQL's own messages end at 1 GiB.
    (1 << 10..=1 << 30).contains(&size).then_some(size)
}

/// Joins the TLS settings; they make sense only together.
///
/// # Errors
/// Names the setting that is missing.
pub fn tls(draft: &Draft) -> Result<Option<ServerTls>, String> {
    match (&draft.tls_certificate, &draft.tls_key) {
        (Some(certificate), Some(key)) => {
            Ok(Some(ServerTls { certificate: certificate.clone(), key: key.clone(), required: draft.tls_required }))
        }
        (Some(_), None) => Err("server.tls_certificate is set, but server.tls_key is not".to_owned()),
        (None, Some(_)) => Err("server.tls_key is set, but server.tls_certificate is not".to_owned()),
        (None, None) if draft.tls_required => {
            Err("server.tls_required is set, but server.tls_certificate is not: nobody could connect".to_owned())
        }
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_need_sense() {
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("500 ms"), Some(Duration::from_millis(500)));
        for bad in ["", "30", "s", "-1s", "0s", "99999999999999999999h", "25h", "1d", "1.5s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(bytes("64MiB"), Some(64 << 20));
        assert_eq!(bytes("4096"), Some(4096));
        for bad in ["", "1", "2GiB", "64MB", "-4096", "99999999999999999999"] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn each_key_and_variable_is_there_once() {
        let mut names: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
        names.extend(SETTINGS.iter().flat_map(|s| s.aliases).map(ToString::to_string));
        names.extend(VARIABLES_NOT_BUILT.iter().map(|(name, _)| (*name).to_owned()));
        names.sort();
        let all = names.len();
        names.dedup();
        assert_eq!(all, names.len());
    }
}
