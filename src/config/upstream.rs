//! `postgres://user:password@host:port/database?sslmode=..`, as libpq reads it:
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>

use std::path::PathBuf;

use super::problem::did_you_mean;
use super::{SslMode, Upstream};

const PARAMETERS: [&str; 7] = ["sslmode", "sslrootcert", "host", "port", "user", "password", "dbname"];

/// Takes a URL apart. The database defaults to `default_database`.
///
/// # Errors
/// Says what is wrong without repeating the password.
pub fn parse(url: &str, default_database: &str) -> Result<Upstream, String> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or("not a URL that begins with postgres:// or postgresql://")?;
    if rest.contains('#') {
        return Err("a `#` must be written %23".to_owned());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if database.contains('/') {
        return Err("a `/` in the database's name (or before it) must be written %2F".to_owned());
    }
    let (credentials, location) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(decode(password)?)),
        None => (credentials, None),
    };
    let (host, port) = split_location(location)?;
    let mut parts = Parts {
        host: decode(host)?,
        port: port.to_owned(),
        user: decode(user)?,
        password,
        database: decode(database)?,
        ..Parts::default()
    };
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("a parameter after the `?` has no value")?;
        parts.set(name, decode(value)?)?;
    }
    parts.finish(default_database)
}

/// What a URL said, before defaults.
#[derive(Default)]
struct Parts {
    host: String,
    port: String,
    user: String,
    password: Option<String>,
    database: String,
    ssl_mode: Option<String>,
    ssl_root_cert: Option<PathBuf>,
}

impl Parts {
    fn set(&mut self, name: &str, value: String) -> Result<(), String> {
        match name {
            "sslmode" => self.ssl_mode = Some(value),
            "sslrootcert" => self.ssl_root_cert = Some(PathBuf::from(value)),
            "host" => self.host = value,
            "port" => self.port = value,
            "user" => self.user = value,
            "password" => self.password = Some(value),
            "dbname" => self.database = value,
            // Not repeated as a whole: after an unescaped `?` in a password this would be a piece of it.
            unknown => {
                return Err(match did_you_mean(unknown, PARAMETERS) {
                    Some(near) => format!("unknown parameter, did you mean `{near}`?"),
                    None => format!("unknown parameter; known are {}", PARAMETERS.join(", ")),
                });
            }
        }
        Ok(())
    }

    fn finish(self, default_database: &str) -> Result<Upstream, String> {
        if self.user.is_empty() {
            return Err("it names no user: write postgres://USER:PASSWORD@HOST/DATABASE".to_owned());
        }
        if self.host.is_empty() {
            return Err("it names no host (for a unix socket write ?host=/directory)".to_owned());
        }
        if self.host.contains(',') {
            return Err("it names several hosts; one is supported".to_owned());
        }
        let port = match self.port.as_str() {
            "" => 5432,
            text => text.parse().ok().filter(|p| *p != 0).ok_or("the port is not a number from 1 to 65535")?,
        };
        let database = if self.database.is_empty() { default_database.to_owned() } else { self.database };
        for (what, value) in [("host", &self.host), ("user", &self.user), ("database", &database)] {
            if value.contains('\0') {
                return Err(format!("the {what} holds a NUL"));
            }
        }
        let ssl_mode = ssl_mode(self.ssl_mode.as_deref(), &self.host)?;
        if self.ssl_root_cert.is_some() && !matches!(ssl_mode, SslMode::VerifyCa | SslMode::VerifyFull) {
            return Err("sslrootcert is only looked at with sslmode=verify-ca or verify-full".to_owned());
        }
        Ok(Upstream {
            host: self.host,
            port,
            user: self.user,
            password: self.password,
            database,
            ssl_mode,
            ssl_root_cert: self.ssl_root_cert,
        })
    }
}

/// The modes that fall back to plain text are refused, and so is silence about a host that is not this machine.
fn ssl_mode(text: Option<&str>, host: &str) -> Result<SslMode, String> {
    match text {
        Some("disable") => Ok(SslMode::Disable),
        Some("require") => Ok(SslMode::Require),
        Some("verify-ca") => Ok(SslMode::VerifyCa),
        Some("verify-full") => Ok(SslMode::VerifyFull),
        Some(mode @ ("allow" | "prefer")) => {
            Err(format!("sslmode={mode} can fall back to plain text; write verify-full, verify-ca, require or disable"))
        }
        Some(mode) => Err(format!("sslmode={mode} is not known; write verify-full, verify-ca, require or disable")),
        None if is_local(host) => Ok(SslMode::Disable),
        None => Err(format!("it has no sslmode, and `{host}` is not this machine: write ?sslmode=verify-full (or disable)")),
    }
}

fn is_local(host: &str) -> bool {
    host.starts_with('/') || host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// `host`, `host:port`, `[::1]:port`.
pub(super) fn split_location(location: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = location.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("`[` without `]` in the host")?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if after.is_empty() => Ok((host, "")),
            None => Err("only :PORT may follow the `]` of a host".to_owned()),
        };
    }
    match location.split_once(':') {
        Some((_, port)) if port.contains(':') => Err("an IPv6 host is written in brackets: [::1]".to_owned()),
        Some((host, port)) => Ok((host, port)),
        None => Ok((location, "")),
    }
}

pub(super) fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let digit = |i: usize| tail.get(i).and_then(|b| (*b as char).to_digit(16)).and_then(|d| u8::try_from(d).ok());
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err("a `%` must be followed by two hexadecimal digits (a percent sign is %25)".to_owned());
        };
        bytes.push(high << 4 | low);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "percent-encoded bytes are not UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_url() {
        let u = parse("postgresql://app:p%40ss%3A@[::1]:5433/my%20shop?sslmode=verify-full&sslrootcert=/ca.pem", "x").unwrap();
        assert_eq!((u.host.as_str(), u.port, u.user.as_str()), ("::1", 5433, "app"));
        assert_eq!((u.password.as_deref(), u.database.as_str()), (Some("p@ss:"), "my shop"));
        assert_eq!((u.ssl_mode, u.ssl_root_cert), (SslMode::VerifyFull, Some(PathBuf::from("/ca.pem"))));
    }

    #[test]
    fn defaults_and_unix_sockets() {
        let u = parse("postgres://app@127.0.0.1", "shop").unwrap();
        assert_eq!((u.port, u.database.as_str(), u.password, u.ssl_mode), (5432, "shop", None, SslMode::Disable));
        for url in ["postgres://app@%2Fvar%2Frun:5433/shop", "postgres://app@/shop?host=/var/run&port=5433"] {
            let u = parse(url, "x").unwrap();
            assert_eq!((u.host.as_str(), u.port, u.database.as_str()), ("/var/run", 5433, "shop"), "{url}");
        }
    }

    #[test]
    fn refusals_name_the_fault_and_not_the_password() {
        for (url, part) in [
            ("mysql://a:SECRET@h/d", "begins with postgres://"),
            ("postgres://a:SECRET@127.0.0.1/d?sslmode=prefer", "fall back"),
            ("postgres://a:SECRET@127.0.0.1/d?sslmod=require", "did you mean `sslmode`"),
            ("postgres://a:SECRET@db.example.com/d", "no sslmode"),
            ("postgres://a:SECRET@127.0.0.1:0/d", "port is not"),
            ("postgres://:SECRET@127.0.0.1/d", "no user"),
            ("postgres://a:SECRET@/d", "no host"),
            ("postgres://a:SECRET%zz@127.0.0.1/d", "hexadecimal"),
            ("postgres://a:SECRET@::1/d", "brackets"),
            ("postgres://a:SECRET@127.0.0.1/d/e", "%2F"),
            ("postgres://a:SECRET@127.0.0.1/d?sslrootcert=x", "only looked at"),
        ] {
            let error = parse(url, "d").unwrap_err();
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}
