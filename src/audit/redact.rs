//! A statement's text without the values in it, for texts that nobody could read, or that nobody has to.

/// Names, words and operators stay; values, comments and what is not sure to be none of these go. Of a text whose quotes can be read in
/// two ways, all behind the first of them goes.
pub fn redact(text: &str) -> String {
    let whole = text.len();
    // With a backslash, where a string ends depends on how it begins, and on settings.
    // Longer ones are not recorded whole.
    let text = cut(text);
    let bytes = text.as_bytes();
    let readable = if text.contains('\\') && !crate::mutant!("audit.backslashes-are-plain") {
        bytes.iter().position(|b| *b == b'\'').unwrap_or(bytes.len())
    } else {
        bytes.len()
    };
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < readable {
        let (end, shown) = token(text, at);
        let shown = shown.unwrap_or(&text[at..end]);
        // One blank between words.
        if !(shown == " " && out.ends_with(' ')) {
            out.push_str(shown);
        }
        at = end;
    }
    out.truncate(out.trim_end().len());
    if readable < bytes.len() || bytes.len() < whole {
        out.push_str("...");
    }
    out
}

/// Where the token that begins here ends, and what is shown instead of it.
fn token(text: &str, at: usize) -> (usize, Option<&'static str>) {
    let rest = &text.as_bytes()[at..];
    let until = |what: &[u8], from: usize| {
        let found = rest.get(from..).and_then(|rest| memchr::memmem::find(rest, what));
        at + found.map_or(rest.len(), |found| from + found + what.len())
    };
    let run = |is: fn(u8) -> bool| at + rest.iter().position(|b| !is(*b)).unwrap_or(rest.len());
    match rest {
        [b'\'', ..] => (until(b"'", 1), Some("?")),
        // Identifiers; a value that is quoted so by mistake is an error, and shown.
        [b'"', ..] => (until(b"\"", 1), None),
        [b'-', b'-', ..] => {
            let end = memchr::memchr2(b'\n', b'\r', rest).map_or(rest.len(), |end| end + 1);
            (at + end, Some(" "))
        }
        // Nested ones end later: what is left of them is shown, as words.
        [b'/', b'*', ..] => (comment_end(rest) + at, Some(" ")),
        [b'$', ..] => match dollar_quote(rest) {
            Some(mark) => (until(mark, mark.len()), Some("?")),
            None if rest.get(1).is_some_and(u8::is_ascii_digit) => {
                let digits = rest[1..].iter().position(|b| !b.is_ascii_digit()).unwrap_or(rest.len() - 1);
                (at + 1 + digits, None)
            }
            None => (at + 1, None),
        },
        [b'0'..=b'9', ..] => (run(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_')), Some("?")),
        [b, ..] if b.is_ascii_whitespace() => (run(|b| b.is_ascii_whitespace()), Some(" ")),
        [b, ..] if is_word(*b) => (run(is_word), None),
        _ => (at + 1, None), // tidy: not a syntax kind
    }
}

/// The longest text that is recorded whole, in bytes.
pub(super) const LONGEST: usize = 8 << 10;

/// At most so much of it.
pub(super) fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST)]
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii()
}

/// `/* /* */ */`: how long it is.
fn comment_end(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1, // tidy: not a syntax kind
        }
        if depth == 0 {
            break;
        }
    }
    at
}

/// `$tag$`.
fn dollar_quote(rest: &[u8]) -> Option<&[u8]> {
    let end = rest.iter().skip(1).position(|b| !(is_word(*b) && *b != b'$'))? + 1;
    (rest[end] == b'$' && !rest[1].is_ascii_digit()).then_some(&rest[..=end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_go_and_names_stay() {
        for (text, expected) in [
            ("SELECT * FROM acc WHERE id = 7 AND note = 'it''s'", "SELECT * FROM acc WHERE id = ? AND note = ??"),
            ("select  1.5e10,\n x1 from \"My Table\"", "select ?, x1 from \"My Table\""),
            ("SELECT $1, $$secret$$, $a$se'cret$a$ , E'x'", "SELECT $1, ?, ? , E?"),
            ("SELECT 1 -- a\rx, $1$$secret$$", "SELECT ? x, $1?"),
            ("SELECT 1 -- secret\n, 2 /* se /* c */ ret */", "SELECT ? , ?"),
            ("SELECT E'a\\'secret' , 'secret'", "SELECT E..."),
            ("SELECT 'secret", "SELECT ?"),
            ("SELECT 0xSECRET", "SELECT ?"),
            ("", ""),
        ] {
            assert_eq!(redact(text), expected, "{text}");
        }
    }

    proptest! {
        /// Whatever stands around them, what is a value to PostgreSQL is not shown.
        #[test]
        fn no_string_is_shown(before in "[a-z ,()=]{0,12}", value in "[a-z]{1,9}", after in "[a-z ,()='\\\\$-]{0,12}") {
            let secret = format!("zz{value}9");
            for text in [
                format!("{before} '{secret}' {after}"),
                format!("{before} $${secret}$$ {after}"),
                format!("{before} 'x {after} {secret}"),
                format!("{before} /* {secret} */ {after}"),
            ] {
                // In the third, what follows may end the string.
                if text.matches('\'').count() != 1 || !after.contains('\'') {
                    prop_assert!(!redact(&text).contains(&secret) || after.contains('\''), "{}", text);
                }
            }
        }
    }
}
