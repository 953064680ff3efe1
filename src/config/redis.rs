//! `redis://[user:password@]host[:port][/db]`: where the result cache's second tier is.

use super::Redis;
use super::upstream::{decode, split_location};

/// Takes a URL apart.
///
/// # Errors
/// Says what is wrong without repeating the password.
pub fn parse(url: &str) -> Result<Redis, String> {
    if url.starts_with("rediss://") {
        // Answers are sealed before they leave; what is left to see is the password, and who asks how often.
        return Err(
            "rediss:// is not supported: reach Redis over a private network, or through a tunnel, with redis://".to_owned()
        );
    }
    let rest = url.strip_prefix("redis://").ok_or("not a URL that begins with redis://")?;
    if rest.contains(['?', '#']) {
        return Err("it has no parameters; a `?` in the password must be written %3F, a `#` %23".to_owned());
    }
    let (credentials, location) = rest.rsplit_once('@').unwrap_or(("", rest));
    let (location, database) = location.split_once('/').unwrap_or((location, ""));
    if credentials.contains('/') {
        return Err("a `/` in the password must be written %2F".to_owned());
    }
    let (user, password) = match credentials.split_once(':') {
        Some((user, password)) => (user, Some(decode(password)?)),
        None if credentials.is_empty() => ("", None),
        // Redis itself reads it as a user, others as a password: neither is guessed.
        None => return Err("before the `@` write USER:PASSWORD, or :PASSWORD for the default user".to_owned()),
    };
    let user = Some(decode(user)?).filter(|user| !user.is_empty());
    let (host, port) = split_location(location)?;
    let host = decode(host)?;
    if host.is_empty() || host.contains('\0') {
        return Err("it names no host: write redis://HOST:PORT".to_owned());
    }
    let port = match port {
        "" => 6379,
        text => text.parse().ok().filter(|p| *p != 0).ok_or("the port is not a number from 1 to 65535")?,
    };
    let database = match database {
        "" => 0,
        text => text.parse().map_err(|_| "the database, after the `/`, is not a number")?,
    };
    Ok(Redis { host, port, user, password, database })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let full = parse("redis://app:p%40ss%3A@[::1]:6380/3").unwrap();
        assert_eq!((full.host.as_str(), full.port, full.database), ("::1", 6380, 3));
        assert_eq!((full.user.as_deref(), full.password.as_deref()), (Some("app"), Some("p@ss:")));
        assert_eq!(format!("{full:?}"), "redis://***@::1:6380/3");
        let short = parse("redis://cache.internal").unwrap();
        assert_eq!((short.host.as_str(), short.port, short.database), ("cache.internal", 6379, 0));
        assert_eq!((short.user, short.password), (None, None));
        assert_eq!(parse("redis://:x@h:1/").unwrap().user, None);
    }

    #[test]
    fn refusals_name_the_fault_and_not_the_password() {
        for (url, part) in [
            ("rediss://a:SECRET@h", "not supported"),
            ("http://a:SECRET@h", "begins with redis://"),
            ("redis://SECRET@h", "USER:PASSWORD"),
            ("redis://a:SECRET@", "no host"),
            ("redis://a:SECRET@h:0", "port is not"),
            ("redis://a:SECRET@h:SECRET", "port is not"),
            ("redis://a:SECRET@h/SECRET", "not a number"),
            ("redis://a:SECRET/x@h", "%2F"),
            ("redis://a:SECRET?x@h", "%3F"),
            ("redis://a:SECRET%zz@h", "hexadecimal"),
            ("redis://a:SECRET@::1", "brackets"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(part), "{url}: {error}");
            assert!(!error.contains("SECRET"), "{error}");
        }
    }
}
