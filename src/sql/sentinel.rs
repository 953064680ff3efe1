//! Stand-ins for literals in a template's key, and for the tenant in a rewritten tree. A stand-in has the kind of what it
//! stands for, so that the grammar and the types stay the same, and survives any printer (plain letters, plain digits).

use pg_query::NodeEnum;
use pg_query::protobuf::{AConst, Node, String as PgString, TypeCast, TypeName, a_const};

use super::template::TenantType;

/// How many literals a statement can have taken out; with more, none is.
pub const MAX_LITERALS: usize = 65_536;

/// int4 stand-ins are this plus the index. Not a round number, and not a timestamp of these years: few texts collide.
const INT4_BASE: u64 = 2_107_300_000;
/// int8 stand-ins are this plus the index.
const INT8_BASE: u64 = 5_107_300_000_000_000_000;
/// Numeric stand-ins are this, then the index in digits, then `.5`: more than an int8 holds.
const NUMERIC_HEAD: &str = "71073000000000000";
const NUMERIC_DIGITS: usize = 5;
const NUMERIC_TAIL: &str = ".5";
const STRING_PREFIX: &str = "qz";
const STRING_LETTERS: usize = 4;
/// What the tenant slot's string begins with.
const SLOT_PREFIX: &str = "qzslot";

/// What kind of stand-in a literal gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    String,
    Int4,
    Int8,
    Numeric,
}

/// The kind of an unsigned number as PostgreSQL's scanner takes it (digits, at most one dot, an exponent).
/// `None`: its type depends on the sign before it (`-2147483648` is an int4, `2147483648` an int8), so it stays in the text.
pub fn number_kind(token: &str) -> Option<Kind> {
    if token.bytes().any(|b| !b.is_ascii_digit()) {
        return Some(Kind::Numeric);
    }
    let digits = token.trim_start_matches('0');
    if digits.len() > 19 {
        return Some(Kind::Numeric);
    }
    // 19 digits fit.
    let value = digits.bytes().fold(0u64, |v, b| v * 10 + u64::from(b - b'0'));
    const INT4_MAX: u64 = i32::MAX as u64;
    const INT8_MAX: u64 = i64::MAX as u64;
    if value <= INT4_MAX {
        Some(Kind::Int4)
    } else if value == INT4_MAX + 1 || value == INT8_MAX + 1 {
        None
    } else if value <= INT8_MAX {
        Some(Kind::Int8)
    } else {
        Some(Kind::Numeric)
    }
}

/// Appends the stand-in for literal `index`, quotes included.
pub fn write(kind: Kind, index: u16, out: &mut String) {
    match kind {
        Kind::String => write_string(index, out),
        Kind::Int4 => write_digits::<10>(INT4_BASE + u64::from(index), out),
        Kind::Int8 => write_digits::<19>(INT8_BASE + u64::from(index), out),
        Kind::Numeric => {
            out.push_str(NUMERIC_HEAD);
            write_digits::<NUMERIC_DIGITS>(u64::from(index), out);
            out.push_str(NUMERIC_TAIL);
        }
    }
}

fn write_string(index: u16, out: &mut String) {
    let mut token = *b"'qzaaaa'";
    let mut rest = index;
    for letter in token[1 + STRING_PREFIX.len()..][..STRING_LETTERS].iter_mut().rev() {
        *letter += (rest % 26) as u8;
        rest /= 26;
    }
    push_ascii(&token, out);
}

/// Exactly `N` digits.
fn write_digits<const N: usize>(mut value: u64, out: &mut String) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (value % 10) as u8;
        value /= 10;
    }
    push_ascii(&digits, out);
}

fn push_ascii(bytes: &[u8], out: &mut String) {
    // ASCII is UTF-8.
    out.push_str(std::str::from_utf8(bytes).unwrap_or_default());
}

/// Which literal the contents of a string constant stand for.
pub fn index_of_string(contents: &str) -> Option<u16> {
    let letters = contents.strip_prefix(STRING_PREFIX)?.as_bytes();
    if letters.len() != STRING_LETTERS {
        return None;
    }
    let mut index = 0u32;
    for letter in letters {
        if !letter.is_ascii_lowercase() {
            return None;
        }
        index = index * 26 + u32::from(letter - b'a');
    }
    u16::try_from(index).ok()
}

/// Which literal an unsigned number stands for. A sign is the caller's.
pub fn index_of_number(token: &str) -> Option<u16> {
    let index = |digits: &str, base: u64| u16::try_from(digits.parse::<u64>().ok()?.checked_sub(base)?).ok();
    if !token.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    match token.len() {
        10 => index(token, INT4_BASE),
        19 => index(token, INT8_BASE),
        24 => {
            let digits = token.strip_prefix(NUMERIC_HEAD)?.strip_suffix(NUMERIC_TAIL)?;
            index(digits, 0).filter(|_| digits.len() == NUMERIC_DIGITS)
        }
        _ => None,
    }
}

/// Which literal an integer constant of a tree stands for, negated or not.
pub fn index_of_integer(value: i32) -> Option<u16> {
    let index = u64::from(value.unsigned_abs()).checked_sub(INT4_BASE)?;
    u16::try_from(index).ok()
}

/// Which literal a constant of a tree stands for. A negative number stands for the literal with its sign changed.
pub fn index_of_const(constant: &AConst) -> Option<(u16, Sign)> {
    match constant.val.as_ref()? {
        a_const::Val::Ival(i) => Some((index_of_integer(i.ival)?, if i.ival < 0 { Sign::Minus } else { Sign::Plus })),
        a_const::Val::Fval(f) => match f.fval.strip_prefix('-') {
            Some(digits) => Some((index_of_number(digits)?, Sign::Minus)),
            None => Some((index_of_number(&f.fval)?, Sign::Plus)),
        },
        a_const::Val::Sval(s) => Some((index_of_string(&s.sval)?, Sign::Plus)),
        a_const::Val::Boolval(_) | a_const::Val::Bsval(_) => None,
    }
}

/// The sign that the parser folded into a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    Plus,
    Minus,
}

/// `'...'` without a backslash, a continuation or a prefix.
pub fn is_plain_string(token: &str) -> bool {
    let Some(inside) = token.strip_prefix('\'').and_then(|t| t.strip_suffix('\'')) else { return false };
    let mut bytes = inside.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => return false,
            b'\'' if bytes.next() != Some(b'\'') => return false,
            _ => {}
        }
    }
    true
}

/// Whether a name or a string's contents could be taken for a stand-in of a literal.
pub fn looks_like_one(contents: &str) -> bool {
    contents.len() >= 2 && contents.as_bytes()[0] | 0x20 == b'q' && {
        let lower = contents.to_ascii_lowercase();
        index_of_string(&lower).is_some() || lower.starts_with(SLOT_PREFIX)
    }
}

/// Whether a string's contents or a name could be taken for the tenant slot.
pub fn looks_like_slot(contents: &str) -> bool {
    contents.len() >= SLOT_PREFIX.len() && contents.is_char_boundary(SLOT_PREFIX.len()) && {
        contents[..SLOT_PREFIX.len()].eq_ignore_ascii_case(SLOT_PREFIX)
    }
}

/// The contents of the tenant slot's string for a type.
pub fn slot_name(type_: TenantType) -> &'static str {
    match type_ {
        TenantType::Int2 => "qzslotint2",
        TenantType::Int4 => "qzslotint4",
        TenantType::Int8 => "qzslotint8",
        TenantType::Text => "qzslottext",
        TenantType::Uuid => "qzslotuuid",
    }
}

/// What the deparser prints after the slot's string: `'qzslotint4'::int` is a keyword of the grammar and means
/// pg_catalog.int4 whatever the search_path.
pub fn slot_cast(type_: TenantType) -> &'static str {
    match type_ {
        TenantType::Int2 => "::smallint",
        TenantType::Int4 => "::int",
        TenantType::Int8 => "::bigint",
        TenantType::Text => "::pg_catalog.text",
        TenantType::Uuid => "::pg_catalog.uuid",
    }
}

/// The type of a slot's string.
pub fn slot_of_string(contents: &str) -> Option<TenantType> {
    TenantType::ALL.into_iter().find(|t| slot_name(*t) == contents)
}

/// The tenant slot as a node: `'qzslotint4'::pg_catalog.int4`.
pub fn slot_node(type_: TenantType) -> Node {
    let name = |s: &str| Node { node: Some(NodeEnum::String(PgString { sval: s.to_owned() })) };
    let constant =
        AConst { isnull: false, location: -1, val: Some(a_const::Val::Sval(PgString { sval: slot_name(type_).to_owned() })) };
    let type_name =
        TypeName { names: vec![name("pg_catalog"), name(type_.name())], typemod: -1, location: -1, ..TypeName::default() };
    Node {
        node: Some(NodeEnum::TypeCast(Box::new(TypeCast {
            arg: Some(Box::new(Node { node: Some(NodeEnum::AConst(constant)) })),
            type_name: Some(type_name),
            location: -1,
        }))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stand_in_is_recognised_as_its_own_index_only() {
        for index in [0u16, 1, 25, 26, 675, 676, 9999, 65_535] {
            for kind in [Kind::Int4, Kind::Int8, Kind::Numeric] {
                let mut text = String::new();
                write(kind, index, &mut text);
                assert_eq!(index_of_number(&text), Some(index), "{text}");
                let expected = if kind == Kind::Numeric { Kind::Numeric } else { kind };
                assert_eq!(number_kind(&text), Some(expected));
            }
            let mut text = String::new();
            write(Kind::String, index, &mut text);
            assert_eq!(index_of_string(text.trim_matches('\'')), Some(index));
        }
        for other in ["2107299999", "2107365536", "1", "", "7107300000000000000000", "7107300000000000000000.6"] {
            assert_eq!(index_of_number(other), None, "{other}");
        }
        for other in ["qz", "qzaaa", "qzaaaaa", "qzAAAA", "xzaaaa", "qzzzzz"] {
            assert_eq!(index_of_string(other), None, "{other}");
        }
    }

    #[test]
    fn numbers_whose_type_depends_on_their_sign_stay() {
        assert_eq!(number_kind("2147483647"), Some(Kind::Int4));
        assert_eq!(number_kind("2147483648"), None);
        assert_eq!(number_kind("02147483648"), None);
        assert_eq!(number_kind("9223372036854775807"), Some(Kind::Int8));
        assert_eq!(number_kind("9223372036854775808"), None);
        assert_eq!(number_kind("9223372036854775809"), Some(Kind::Numeric));
        assert_eq!(number_kind("1e3"), Some(Kind::Numeric));
        assert_eq!(number_kind("1."), Some(Kind::Numeric));
    }
}
