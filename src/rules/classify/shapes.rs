//! What values look like: strictly, where values alone are to tell what they are, and loosely, where a name says what they should
//! be.

use std::net::IpAddr;

use super::checksums::is_pan;

fn all_are(text: &str, is: impl Fn(u8) -> bool) -> bool {
    text.bytes().all(is)
}

fn digits(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_digit).count()
}

fn letters(text: &str) -> usize {
    text.chars().filter(|c| c.is_alphabetic()).count()
}

pub(super) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let of_domain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let Some((host, top)) = domain.rsplit_once('.') else { return false };
    (1..=64).contains(&local.len())
        && all_are(local, |b| b.is_ascii_alphanumeric() || b > 127 || b".!#$%&'*+/=?^_`{|}~-".contains(&b))
        && host.split('.').all(|label| !label.is_empty() && all_are(label, of_domain))
        && top.len() >= 2
        && top.starts_with(|c: char| c.is_ascii_alphabetic())
        && all_are(top, of_domain)
}

/// Written so that it can be nothing else: `+49 30 ..`, `(555) 555-0100`.
pub(super) fn is_phone(text: &str) -> bool {
    let numbered = |text: &str| all_are(text, |b| b.is_ascii_digit() || b" -.()/".contains(&b));
    match text.as_bytes() {
        [b'+', b'1'..=b'9', ..] => numbered(&text[1..]) && (8..=15).contains(&digits(text)),
        [b'(', _, _, _, b')', ..] => numbered(text) && digits(text) == 10,
        _ => false,
    }
}

fn may_be_phone(text: &str) -> bool {
    (5..=20).contains(&digits(text)) && letters(text) <= 4 && !text.contains('@')
}

pub(super) fn is_ip(text: &str) -> bool {
    let text = text.strip_suffix("/32").or_else(|| text.strip_suffix("/128")).unwrap_or(text);
    text.parse::<IpAddr>().is_ok()
}

/// Not a version with four parts: those are small.
pub(super) fn is_ip_beyond_doubt(text: &str) -> bool {
    let is_high = |part: &str| part.parse::<u8>().is_ok_and(|n| n >= 30);
    is_ip(text)
        && (text.contains(':')
            || text.split(['.', '/']).next().is_some_and(is_high)
            || text.split('.').filter(|p| is_high(p)).count() > 1)
}

/// As `crypt`, Django, PHP, LDAP and PostgreSQL keep passwords.
pub(super) fn is_password_hash(text: &str) -> bool {
    const BEGINNINGS: [&str; 16] = [
        "$2a$",
        "$2b$",
        "$2x$",
        "$2y$",
        "$argon2",
        "$scrypt$",
        "$pbkdf2",
        "$1$",
        "$5$",
        "$6$",
        "$y$",
        "$P$",
        "pbkdf2_sha",
        "bcrypt",
        "{SSHA",
        "SCRAM-SHA-256$",
    ];
    text.len() >= 30 && BEGINNINGS.iter().any(|b| text.starts_with(b)) && !text.contains(' ')
}

/// Keys that their makers have marked as such, and JWT.
pub(super) fn is_marked_token(text: &str) -> bool {
    const MARKED: [(&str, usize); 17] = [
        ("AKIA", 20),
        ("ASIA", 20),
        ("ghp_", 40),
        ("gho_", 40),
        ("ghs_", 40),
        ("github_pat_", 40),
        ("glpat-", 20),
        ("xoxb-", 20),
        ("xoxp-", 20),
        ("sk_live_", 20),
        ("sk_test_", 20),
        ("rk_live_", 20),
        ("whsec_", 20),
        ("AIza", 39),
        ("SG.", 40),
        ("npm_", 40),
        ("-----BEGIN ", 60),
    ];
    let encoded = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    let is_jwt = || {
        let mut parts = text.split('.');
        text.starts_with("eyJ") && parts.clone().count() == 3 && parts.all(|p| all_are(p, encoded))
    };
    MARKED.iter().any(|(mark, length)| text.starts_with(mark) && text.len() >= *length)
        && (text.starts_with("-----") && text.contains("PRIVATE KEY") || all_are(text, |b| encoded(b) || b == b'.'))
        || is_jwt()
}

/// Letters and digits as chance mixes them; not a UUID, which is an id more often than a secret, not words, not a number.
fn is_random(text: &str) -> bool {
    let kind = |b: u8| if b.is_ascii_digit() { 0 } else { 1 + u8::from(b.is_ascii_uppercase()) };
    let bytes = text.as_bytes();
    let changes = bytes.windows(2).filter(|w| kind(w[0]) != kind(w[1])).count();
    let is_uuid = bytes.len() == 36 && text.matches('-').count() == 4;
    bytes.len() >= 16
        && all_are(text, |b| b.is_ascii_alphanumeric() || b"-_+/=".contains(&b))
        && !is_uuid
        && digits(text) > 0
        && letters(text) >= 3
        && changes * 5 >= bytes.len()
}

/// Magnetic stripe: `%B4111111111111111^..` or `;4111111111111111=..`.
pub(super) fn is_track(text: &str) -> bool {
    let number = match text.as_bytes() {
        [b'%', b'B', ..] => text[2..].split_once('^'),
        [b';', ..] => text[1..].split_once('='),
        _ => text.split_once('=').filter(|(_, rest)| digits(rest) >= 7),
    };
    number.is_some_and(|(number, _)| is_pan(number))
}

/// A day as PostgreSQL, Germans or Americans write it, or a year.
fn is_day(text: &str) -> bool {
    let day = text.split([' ', 'T']).next().unwrap_or_default();
    let parts: Vec<&str> = day.split(['-', '.', '/']).collect();
    let is_number = |part: &&str| (1..=4).contains(&part.len()) && all_are(part, |b| b.is_ascii_digit());
    parts.iter().all(is_number) && matches!((parts.len(), day.len()), (3, 8..=10) | (1, 1..=4))
}

type Fits = fn(&str) -> bool;

/// What the values of a class look like: whether this may be one at all, and whether it is one, if values can tell that.
pub(super) fn of_class(class: &str) -> (Fits, Option<Fits>) {
    match class {
        "pii.name" => (|t| letters(t) >= 2 && letters(t) > 2 * digits(t) && !t.contains(['@', '/', '_']), None),
        "pii.handle" => (|t| letters(t) >= 1 && !t.contains(' '), None),
        "pii.email" => (|t| t.contains('@'), Some(is_email)),
        "pii.phone" => (may_be_phone, Some(|t| is_phone(t) || may_be_phone(t) && (t.starts_with('0') || digits(t) == 10))),
        "pii.postcode" => (|t| t.len() <= 12 && digits(t) >= 1, Some(|t| t.len() <= 10 && digits(t) >= 3 && letters(t) <= 4)),
        "pii.birth_date" => (is_day, Some(|t| is_day(t) && t.len() >= 8)),
        "pii.national_id" => (|t| digits(t) >= 4 && !t.contains('@'), None),
        "pii.ip_address" => (is_ip, Some(is_ip)),
        "pii.location" => (|t| digits(t) >= 1, None),
        "pii.gender" => (|t| t.len() <= 24 && digits(t) <= 1, None),
        "financial.iban" => (|t| letters(t) >= 2 && digits(t) >= 8, Some(super::checksums::is_iban)),
        "financial.account" => (|t| digits(t) >= 4, None),
        "financial.salary" => (|t| digits(t) >= 1 && letters(t) <= 4, None),
        "pci.pan" => (is_pan, Some(is_pan)),
        "pci.cvv" => (|t| matches!(t.len(), 3 | 4) && digits(t) == t.len(), None),
        "pci.track" => (|t| digits(t) >= 13, Some(is_track)),
        "secret.password" => (|t| t.len() >= 4 && !t.contains(' '), Some(|t| is_password_hash(t) || is_random(t))),
        "secret.token" => (|t| t.len() >= 6 && !t.contains(' '), Some(|t| is_marked_token(t) || is_random(t))),
        _ => (|_| true, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(is: fn(&str) -> bool, yes: &[&str], no: &[&str]) {
        yes.iter().for_each(|text| assert!(is(text), "{text}"));
        no.iter().for_each(|text| assert!(!is(text), "{text}"));
    }

    #[test]
    fn strict_shapes() {
        check(
            is_email,
            &["a@example.com", "a.b+c@mail.example.co.uk", "o'x@example.xn--p1ai"],
            &["a@b", "@example.com", "a b@example.com", "<a@example.com>", "git@example.com:x/y.git"],
        );
        check(
            is_phone,
            &["+49 30 1234567", "+15550100100", "(555) 555-0100"],
            &["5550100", "+1.5", "(c) 2020-2021", "+ab", "1234567890123"],
        );
        check(is_ip, &["192.0.2.7", "2001:db8::1", "192.0.2.7/32"], &["1.2.3", "300.1.1.1", "12:30:00", "192.0.2.0/24"]);
        check(is_ip_beyond_doubt, &["192.0.2.7", "10.20.30.40", "::1"], &["1.2.3.4", "10.15.7.1", "15.6.0.31"]);
        check(
            is_track,
            &[";4111111111111111=29121010000000000000?", "%B4111111111111111^DOE/JANE^2912101"],
            &["4111111111111111", ";4111111111111112=29121010"],
        );
    }

    #[test]
    fn secrets() {
        let jwt = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        check(
            is_marked_token,
            &[jwt, "AKIAIOSFODNN7EXAMPLE"],
            &["eyJ", "AKIAXX", "SG.", "a.b.c", "-----BEGIN CERTIFICATE-----aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"],
        );
        check(
            is_password_hash,
            &["$2b$12$WApznUPhDubN0oeveSXHp.Rk0rMEMfGEoOm3V8.XSAwLbJmLdSaHu"],
            &["$2b$", "bcrypt is a way to hash a password, it is said"],
        );
        check(
            is_random,
            &["9944b09199c62bcf9418ad846dd0e4bb", "wJalrXUtnFEMI/K7MDENG/bPxRfiCY1EXAMPLEKEY"],
            &[
                "order-shipped-to-customer",
                "4111111111111111",
                "123e4567-e89b-12d3-a456-426614174000",
                "invoice_2021_05_template",
            ],
        );
    }
}
