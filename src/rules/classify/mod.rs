//! What a column seems to hold, guessed from its name, its type and a sample of its values: a proposal for a policy's `class`
//! and `mask`.
//!
//! A person confirms. A guess is wrong both ways, how often is measured (`tests/classify.rs`): what is not proposed is not
//! thereby harmless, and nothing is unmasked because of it. Values alone count where a checksum or a strict shape fits most of
//! them; a name counts alone, unless the type or the values speak against it.

mod checksums;
mod names;
mod shapes;

use std::collections::BTreeSet;

use names::{Found, Says};

/// A column, and some of its values.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Without its schema.
    pub table: &'a str,
    pub column: &'a str,
    /// As `format_type` prints it.
    pub type_: &'a str,
    /// As text, those that are not null; some hundreds are enough, none are allowed.
    pub values: &'a [&'a str],
}

/// What a column seems to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// As a policy names it: `pii.email`.
    pub class: &'static str,
    pub confidence: Confidence,
    /// Why, for the person who confirms. INVARIANT: no value is in it.
    pub because: String,
    /// One that the column's type can show: null, redact, last4, email or hash.
    pub mask: &'static str,
}

/// What a proposal is based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confidence {
    /// Its name, and its type, which may say it alone (`inet`).
    Name,
    /// Its values, whatever its name says.
    Values,
    NameAndValues,
}

/// Fewer values neither prove nor contradict anything.
const LEAST: usize = 5;

/// What a column seems to hold; `None`: nothing that a mask is for, as far as one can see.
pub fn propose(sample: &Sample<'_>) -> Option<Proposal> {
    let kind = Kind::of(sample.type_);
    let named = by_name(sample, kind);
    let valued = by_values(sample, kind);
    let (class, confidence, because) = match (named, valued) {
        (None, None) => return None,
        (Some(found), Some((class, why))) if found.class == class => {
            (class, Confidence::NameAndValues, format!("its name says '{}', {why}", found.word))
        }
        (_, Some((class, why))) => (class, Confidence::Values, why),
        (Some(found), None) => judge(sample, found)?,
    };
    Some(Proposal { class, confidence, because, mask: mask(class, sample.type_) })
}

/// What kind of type it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Whole,
    Number,
    Moment,
    Flag,
    Network,
    Place,
    Uuid,
    Structure,
    Bytes,
    /// Enumerations, domains and what extensions bring.
    Other,
}

impl Kind {
    /// Of an array: of what is in it.
    fn of(type_: &str) -> Kind {
        let base = type_.split(['(', '[']).next().unwrap_or_default().trim();
        match base.rsplit('.').next().unwrap_or_default() {
            "text" | "character varying" | "character" | "bpchar" | "citext" | "name" => Kind::Text,
            "smallint" | "integer" | "bigint" => Kind::Whole,
            "numeric" | "real" | "double precision" | "money" => Kind::Number,
            "boolean" | "bit" => Kind::Flag,
            "inet" | "cidr" => Kind::Network,
            "point" | "geography" | "geometry" => Kind::Place,
            "uuid" => Kind::Uuid,
            "json" | "jsonb" | "hstore" | "xml" => Kind::Structure,
            "bytea" => Kind::Bytes,
            "date" => Kind::Moment,
            other if other.starts_with("time") || other.starts_with("interval") => Kind::Moment,
            _ => Kind::Other,
        }
    }

    /// Whether a column of it can hold that.
    fn holds(self, class: &str) -> bool {
        match class {
            "pii.name" | "pii.address" | "pii.email" | "pii.handle" => matches!(self, Kind::Text | Kind::Structure | Kind::Bytes),
            "pii.phone" | "pii.national_id" | "financial.account" => {
                matches!(self, Kind::Text | Kind::Whole | Kind::Number | Kind::Structure | Kind::Bytes)
            }
            "pii.postcode" | "pci.pan" | "pci.cvv" => matches!(self, Kind::Text | Kind::Whole | Kind::Bytes),
            "financial.iban" | "pci.track" => matches!(self, Kind::Text | Kind::Bytes),
            "pii.birth_date" => matches!(self, Kind::Moment | Kind::Text | Kind::Whole | Kind::Bytes),
            "pii.ip_address" => matches!(self, Kind::Text | Kind::Network),
            "pii.location" => matches!(self, Kind::Text | Kind::Place | Kind::Number | Kind::Structure | Kind::Other),
            "pii.gender" => matches!(self, Kind::Text | Kind::Whole | Kind::Other),
            "financial.salary" => matches!(self, Kind::Text | Kind::Whole | Kind::Number | Kind::Bytes),
            "secret.password" => matches!(self, Kind::Text | Kind::Bytes),
            "secret.token" => matches!(self, Kind::Text | Kind::Bytes | Kind::Uuid | Kind::Structure),
            "special.biometric" => !matches!(self, Kind::Flag | Kind::Moment | Kind::Whole | Kind::Uuid),
            _ => !matches!(self, Kind::Flag | Kind::Moment | Kind::Uuid | Kind::Network),
        }
    }
}

/// What its name says, or its type.
fn by_name(sample: &Sample<'_>, kind: Kind) -> Option<Found> {
    let of_places = || names::is_of_places(sample.table);
    let typed = match kind {
        Kind::Network if sample.type_ != "cidr" => Some(Found { class: "pii.ip_address", word: "inet", says: Says::Class }),
        _ => None,
    };
    let named = names::of_column(sample.table, sample.column).filter(|found| kind.holds(found.class));
    let found = named.or(typed)?;
    // Too small for the number of a bank account, as large as a key of another table.
    if found.class == "financial.account" && sample.type_ == "integer" {
        return None;
    }
    // A shop's address, a server's: not a person's.
    let is_of_things = matches!(found.class, "pii.address" | "pii.postcode" | "pii.location" | "pii.ip_address") && of_places();
    (!is_of_things).then_some(found)
}

/// A name that values do not contradict, or confirm where it says little.
fn judge(sample: &Sample<'_>, found: Found) -> Option<(&'static str, Confidence, String)> {
    let (may_be, is) = shapes::of_class(found.class);
    let values = || sample.values.iter().filter(|v| !v.is_empty());
    let all = values().count();
    let fitting = |fits: fn(&str) -> bool| values().filter(|v| fits(v)).count();
    let is_readable = matches!(Kind::of(sample.type_), Kind::Text | Kind::Whole | Kind::Number);
    if is_readable && all >= LEAST && fitting(may_be) * 2 < all {
        return None;
    }
    let confirmed = is.map(fitting).filter(|fit| all > 0 && fit * 5 >= all * 4);
    match confirmed {
        Some(fit) => {
            let because = format!("its name says '{}', {fit} of {all} values look like it", found.word);
            Some((found.class, Confidence::NameAndValues, because))
        }
        None if found.says == Says::WithValues => None,
        None => Some((found.class, Confidence::Name, format!("its name or type says '{}'", found.word))),
    }
}

/// Something that values can prove.
struct Proof {
    class: &'static str,
    what: &'static str,
    fits: fn(&str) -> bool,
    /// So many different values must be there: more of them where one in ten fits by chance.
    least: usize,
}

impl Proof {
    const fn new(class: &'static str, what: &'static str, fits: fn(&str) -> bool) -> Proof {
        Proof { class, what, fits, least: LEAST }
    }

    const fn of_more(self) -> Proof {
        Proof { least: 2 * LEAST, ..self }
    }
}

const PROOFS: [Proof; 16] = [
    Proof::new("pci.track", "are a card's magnetic stripe", shapes::is_track),
    Proof::new("pci.pan", "have an issuer's range and the checksum of card numbers", checksums::is_pan),
    Proof::new("financial.iban", "have the length and checksum of IBANs", checksums::is_iban),
    Proof::new("pii.national_id", "are Spanish DNI or NIE", checksums::is_dni),
    Proof::new("pii.national_id", "are Italian tax codes", checksums::is_codice_fiscale),
    Proof::new("pii.national_id", "are French social security numbers", checksums::is_nir),
    Proof::new("pii.national_id", "are Polish PESEL", checksums::is_pesel),
    Proof::new("pii.national_id", "are Brazilian CPF", checksums::is_cpf),
    Proof::new("pii.national_id", "are written as US social security numbers", checksums::is_ssn),
    Proof::new("pii.national_id", "are Swedish personal numbers", checksums::is_personnummer).of_more(),
    Proof::new("pii.national_id", "are Dutch BSN", checksums::is_bsn).of_more(),
    Proof::new("pii.email", "are e-mail addresses", shapes::is_email),
    Proof::new("pii.phone", "are written as telephone numbers", shapes::is_phone),
    Proof::new("pii.ip_address", "are IP addresses", shapes::is_ip_beyond_doubt),
    Proof::new("secret.password", "are hashes of passwords", shapes::is_password_hash),
    Proof::new("secret.token", "begin as keys and tokens do", shapes::is_marked_token),
];

/// What at least four of five values prove.
fn by_values(sample: &Sample<'_>, kind: Kind) -> Option<(&'static str, String)> {
    if !matches!(kind, Kind::Text | Kind::Whole) {
        return None;
    }
    let values: BTreeSet<&str> = sample.values.iter().map(|v| v.trim()).filter(|v| !v.is_empty()).collect();
    let (proof, fit) = PROOFS.iter().filter(|proof| values.len() >= proof.least).find_map(|proof| {
        let fit = values.iter().filter(|v| (proof.fits)(v)).count();
        (fit * 5 >= values.len() * 4).then_some((proof, fit))
    })?;
    if proof.class == "pii.ip_address" && names::is_of_places(sample.table) {
        return None;
    }
    Some((proof.class, format!("{fit} of {} different values {}", values.len(), proof.what)))
}

/// The mask of a class, if a column of this type has room for what it shows.
fn mask(class: &str, type_: &str) -> &'static str {
    let (base, length) = match type_.split_once('(') {
        Some((base, length)) => (base, length.trim_end_matches(')').parse().unwrap_or(0)),
        None => (type_, usize::MAX),
    };
    if !matches!(base, "text" | "character varying" | "character" | "bpchar") {
        return "null";
    }
    let (mask, room) = match class {
        "pii.email" => ("email", 16),
        "pii.phone" | "pii.national_id" | "financial.iban" | "financial.account" | "pci.pan" => ("last4", 8),
        "pii.handle" | "pii.ip_address" => ("hash", 32),
        // Not even that there is one.
        "pci.cvv" | "pci.track" => ("null", 0),
        _ => ("redact", 3),
    };
    // `character` alone is one.
    let length = if type_ == "character" { 1 } else { length };
    if length >= room {
        mask
    } else if length >= 3 {
        "redact"
    } else {
        "null"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample<'a>(table: &'a str, column: &'a str, type_: &'a str, values: &'a [&'a str]) -> Option<Proposal> {
        propose(&Sample { table, column, type_, values })
    }

    const PANS: [&str; 5] = ["4111111111111111", "4242424242424242", "5555555555554444", "6011111111111117", "378282246310005"];

    #[test]
    fn name_and_values_are_told_apart() {
        let found = |column: &str, values: &[&str]| sample("t", column, "text", values).map(|p| (p.class, p.confidence));
        assert_eq!(found("card_number", &[]), Some(("pci.pan", Confidence::Name)));
        assert_eq!(found("card_number", &PANS), Some(("pci.pan", Confidence::NameAndValues)));
        assert_eq!(found("x", &PANS), Some(("pci.pan", Confidence::Values)));
        assert_eq!(found("email", &PANS), Some(("pci.pan", Confidence::Values)), "values win");
        assert_eq!(found("x", &PANS[..4]), None, "four are too few");
        assert_eq!(found("x", &[PANS[0]; 9]), None, "and one is, however often");
        assert_eq!(found("email", &["daily"; 5]), None, "values speak against it");
        assert_eq!(found("email", &["daily"]), Some(("pii.email", Confidence::Name)));
        let four = ["x", PANS[0], PANS[1], PANS[2], PANS[3]];
        assert_eq!(found("x", &four), Some(("pci.pan", Confidence::Values)), "four of five are enough");
        assert_eq!(found("x", &["x", "y", PANS[0], PANS[1], PANS[2], PANS[3]]), None);
    }

    #[test]
    fn types_speak_against_names() {
        for (column, type_) in [
            ("email", "boolean"),
            ("email", "integer"),
            ("phone", "timestamp with time zone"),
            ("phone", "boolean"),
            ("first_name", "bigint"),
            ("token", "integer"),
            ("allergies", "boolean"),
            ("ip", "integer"),
        ] {
            assert_eq!(sample("users", column, type_, &[]), None, "{column} {type_}");
        }
        assert_eq!(sample("users", "mobile", "smallint", &["0", "1", "1", "0", "1"]), None, "a flag in numbers");
        assert_eq!(sample("users", "last_seen_from", "inet", &[]).unwrap().class, "pii.ip_address");
        assert_eq!(sample("users", "gender", "public.gender_kind", &[]).unwrap().class, "pii.gender");
    }

    #[test]
    fn masks_fit_the_type() {
        let mask = |column: &str, type_: &str| sample("users", column, type_, &[]).unwrap().mask;
        assert_eq!(mask("email", "text"), "email");
        assert_eq!(mask("email", "character varying(255)"), "email");
        assert_eq!(mask("email", "character varying(10)"), "redact");
        assert_eq!(mask("email", "citext"), "null");
        assert_eq!(mask("email", "text[]"), "null");
        assert_eq!(mask("emails", "character varying(255)[]"), "null");
        assert_eq!(mask("phone", "bigint"), "null");
        assert_eq!(mask("phone", "bpchar"), "last4");
        assert_eq!(mask("gender", "character(1)"), "null");
        assert_eq!(mask("username", "text"), "hash");
        assert_eq!(mask("cvv", "text"), "null");
        assert_eq!(mask("date_of_birth", "date"), "null");
    }

    proptest! {
        /// The reason shows none of the values; whatever comes, there is an answer.
        #[test]
        fn no_value_is_shown(
            table in "[a-z_]{0,12}|users", column in "\\PC{0,12}|email|phone|card_number|key",
            type_ in "text|bigint|character varying\\([0-9]{1,3}\\)|\\PC{0,9}",
            values in proptest::collection::vec("\\PC{4,20}|[0-9]{9,16}|[a-z]{5}@[a-z]{5}\\.org", 0..12),
        ) {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            if let Some(found) = sample(&table, &column, &type_, &values) {
                // Four letters may be one of the words of the reason.
                prop_assert!(!values.iter().any(|v| v.len() > 8 && found.because.contains(v)), "{:?}", found);
            }
        }
    }
}
