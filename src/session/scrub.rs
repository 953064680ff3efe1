//! What an enforced session may see of a server's ErrorResponse or NoticeResponse. One table, one function.
//!
//! Positions point into the rewritten text; context and detail may quote rows that are not the tenant's.

use bytes::{BufMut, BytesMut};

use crate::plan::sentinel;

/// What happens to a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Always,
    Never,
    /// Dropped where the SQLSTATE says that the text may quote rows or tell of other sessions.
    UnlessQuotes,
    /// Dropped likewise, and where the row that it quotes is not one that the statement itself has written.
    UnlessQuotesOthers,
}

/// By field type, from the manual's "Error and Notice Message Fields".
fn keep(field: u8) -> Keep {
    match field {
        // Severity, code, message, hint.
        b'S' | b'V' | b'C' | b'M' | b'H' => Keep::Always,
        // File, line, routine.
        b'F' | b'L' | b'R' => Keep::Always,
        // Schema, table, column, data type, constraint: names only.
        b's' | b't' | b'c' | b'd' | b'n' => Keep::Always,
        // Position, internal position, internal query: they speak of a text that the client never wrote.
        b'P' | b'p' | b'q' => Keep::Never,
        // Detail.
        b'D' => Keep::UnlessQuotesOthers,
        // Where (context).
        b'W' => Keep::UnlessQuotes,
        // Types that a later protocol may add.
        _ => Keep::Never,
    }
}

/// What the client may see of its own rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnRows {
    Whole,
    /// Some columns are masked: what quotes rows or keys (integrity violations) would show them.
    Masked,
}

/// Whether detail and context may quote a row that is not the tenant's (23P01 shows the row that was there before) or tell of
/// other sessions' work (class 40: rollbacks, 55: locks). 23505 and its kin quote the values of the client's own row.
fn quotes_rows(sqlstate: &[u8], own: OwnRows) -> bool {
    (own == OwnRows::Masked && is_violation(sqlstate))
        || sqlstate.starts_with(b"40")
        || sqlstate.starts_with(b"55")
        || sqlstate == b"23P01"
}

/// Whether it is an integrity violation, whose detail quotes the row that was to be written.
fn is_violation(sqlstate: &[u8]) -> bool {
    sqlstate.starts_with(b"23") || sqlstate.starts_with(b"44")
}

/// Whether what failed was written by something that the statement set off: a foreign key's ON DELETE, a trigger. Such rows may be
/// anybody's. Lines of COPY have a context, too.
fn is_set_off(body: &[u8]) -> bool {
    fields(body).any(|(kind, value)| kind == b'W' && !value.starts_with(b"COPY "))
        && !crate::mutant!("session.details-of-cascades")
}

/// Whether it is `"7333.." is out of range for type double precision` of a numeric (a float8 holds 308 digits). An index that is
/// written to may compute with rows of anybody's (GiST over numeric ranges, BRIN minmax_multi over numeric), and this is what came
/// out; what a client wrote itself is seldom that long.
fn quotes_a_huge_number(message: &[u8]) -> bool {
    const END: &[u8] = b"\" is out of range for type double precision";
    let number = message.strip_prefix(b"\"").and_then(|m| m.strip_suffix(END));
    number.is_some_and(|n| n.len() > 300 && n.iter().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'.')))
        && !crate::mutant!("session.huge-numbers-are-quoted")
}

/// The fields of an ErrorResponse or NoticeResponse body. Ends early where the body is malformed.
pub fn fields(body: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = body;
    std::iter::from_fn(move || {
        let (&kind, tail) = rest.split_first()?;
        if kind == 0 {
            return None;
        }
        let end = tail.iter().position(|b| *b == 0)?;
        rest = &tail[end + 1..];
        Some((kind, &tail[..end]))
    })
}

/// The SQLSTATE of an ErrorResponse body; empty where it has none.
pub fn sqlstate(body: &[u8]) -> &[u8] {
    fields(body).find(|(kind, _)| *kind == b'C').map_or(b"", |(_, value)| value)
}

/// The message of an ErrorResponse body; empty where it has none.
pub fn message(body: &[u8]) -> &[u8] {
    fields(body).find(|(kind, _)| *kind == b'M').map_or(b"", |(_, value)| value)
}

/// Whether a notice is about the connection that happened to serve the client: that a collation's version differs is told
/// when a backend first uses it, so it would tell what others have run on it. The server's log has it.
pub fn is_the_backends_own(body: &[u8]) -> bool {
    const ROUTINES: [&[u8]; 2] = [b"pg_newlocale_from_collation", b"create_pg_locale"];
    fields(body).any(|(kind, value)| kind == b'R' && ROUTINES.contains(&value))
}

/// Whether the server has failed because a policy does not admit a row, which it does not know.
pub fn is_of_a_policy(body: &[u8]) -> bool {
    std::str::from_utf8(message(body)).is_ok_and(|message| sentinel::parse(message).is_some())
}

/// Writes the message (`tag`: `E` or `N`) that the client gets for the server's.
pub fn write(tag: u8, body: &[u8], own: OwnRows, out: &mut BytesMut) {
    if let Some(table) = std::str::from_utf8(message(body)).ok().and_then(sentinel::parse) {
        return write_violation(tag, table, out);
    }
    let quotes = quotes_rows(sqlstate(body), own);
    let quotes_others = quotes || is_violation(sqlstate(body)) && is_set_off(body);
    framed(tag, out, |out| {
        for (kind, value) in fields(body) {
            let kept = match keep(kind) {
                Keep::Always => true,
                Keep::Never => false,
                Keep::UnlessQuotes => !quotes,
                Keep::UnlessQuotesOthers => !quotes_others,
            };
            if kept && kind == b'M' && quotes_a_huge_number(value) {
                field(kind, b"a number is out of range for type double precision", out);
            } else if kept {
                field(kind, value, out);
            }
        }
    });
}

/// PostgreSQL's own words for a row that a policy does not admit.
fn write_violation(tag: u8, table: &str, out: &mut BytesMut) {
    framed(tag, out, |out| {
        field(b'S', b"ERROR", out);
        field(b'V', b"ERROR", out);
        field(b'C', b"42501", out);
        field(b'M', format!("new row violates row-level security policy for table \"{table}\"").as_bytes(), out);
    });
}

fn framed(tag: u8, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let at = out.len();
    out.put_u32(0);
    body(out);
    out.put_u8(0);
    // A scrubbed body is not longer than the server's, whose length fits.
    let length = u32::try_from(out.len() - at).unwrap_or(u32::MAX);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

fn field(kind: u8, value: &[u8], out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_slice(value);
    out.put_u8(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrubbed(fields_in: &[(u8, &str)]) -> Vec<(u8, String)> {
        scrubbed_for(OwnRows::Whole, fields_in)
    }

    fn scrubbed_for(own: OwnRows, fields_in: &[(u8, &str)]) -> Vec<(u8, String)> {
        let mut body = BytesMut::new();
        for (kind, value) in fields_in {
            field(*kind, value.as_bytes(), &mut body);
        }
        body.put_u8(0);
        let mut out = BytesMut::new();
        write(b'E', &body, own, &mut out);
        assert_eq!(out[0], b'E');
        assert_eq!(u32::from_be_bytes([out[1], out[2], out[3], out[4]]) as usize, out.len() - 1);
        fields(&out[5..]).map(|(k, v)| (k, String::from_utf8_lossy(v).into_owned())).collect()
    }

    #[test]
    fn positions_and_quoted_rows_are_dropped() {
        let got = scrubbed(&[(b'C', "23P01"), (b'M', "excl"), (b'D', "Key (a)=(x) conflicts with .."), (b'P', "17")]);
        assert_eq!(got, [(b'C', "23P01".into()), (b'M', "excl".into())]);
        let got = scrubbed(&[(b'C', "40P01"), (b'M', "deadlock"), (b'W', "while updating tuple (0,7)")]);
        assert_eq!(got, [(b'C', "40P01".into()), (b'M', "deadlock".into())]);
    }

    #[test]
    fn what_a_backend_says_of_itself_is_no_tenants() {
        let told = |routine: &str| {
            let mut body = BytesMut::new();
            field(b'C', b"01000", &mut body);
            field(b'R', routine.as_bytes(), &mut body);
            body.put_u8(0);
            is_the_backends_own(&body)
        };
        assert!(told("pg_newlocale_from_collation") && !told("exec_stmt_raise"));
    }

    #[test]
    fn what_quotes_own_rows_is_dropped_where_columns_are_masked() {
        for code in ["23502", "23503", "23505", "23514", "44000"] {
            let error = [(b'C', code), (b'M', "violates"), (b'D', "Failing row contains (1, 111110001)."), (b't', "accounts")];
            assert_eq!(scrubbed_for(OwnRows::Whole, &error).len(), 4, "{code}");
            let masked = scrubbed_for(OwnRows::Masked, &error);
            assert_eq!(masked.iter().map(|f| f.0).collect::<Vec<_>>(), b"CMt", "{code}");
        }
        assert_eq!(scrubbed_for(OwnRows::Masked, &[(b'C', "42883"), (b'D', "d")]).len(), 2);
    }

    #[test]
    fn a_row_that_a_cascade_would_have_written_is_not_quoted() {
        let error = |context| [(b'C', "23502"), (b'M', "null value"), (b'D', "Failing row contains (8, 2, x)."), (b'W', context)];
        let got = scrubbed(&error("SQL statement \"UPDATE ONLY child SET parent = NULL\""));
        assert_eq!(got.iter().map(|f| f.0).collect::<Vec<_>>(), b"CMW");
        assert_eq!(scrubbed(&error("COPY child, line 1")).len(), 4, "the client's own line");
    }

    #[test]
    fn a_number_that_an_index_has_computed_is_not_quoted() {
        let error = |number: &str| format!("\"{number}\" is out of range for type double precision");
        let told = |number: &str| scrubbed(&[(b'C', "22003"), (b'M', &error(number))])[1].1.clone();
        assert_eq!(told(&"73".repeat(155)), "a number is out of range for type double precision");
        assert_eq!(told(&format!("-{}.5", "73".repeat(155))), "a number is out of range for type double precision");
        assert_eq!(told("1e400"), error("1e400"));
    }

    #[test]
    fn detail_stays_where_it_quotes_nothing() {
        let got = scrubbed(&[(b'C', "42883"), (b'M', "no function"), (b'D', "d"), (b'H', "h")]);
        assert_eq!(got.len(), 4);
    }

    #[test]
    fn a_sentinel_becomes_a_policy_violation() {
        let message = format!("invalid input syntax for type integer: \"{}orders\"", sentinel::prefix());
        let got = scrubbed(&[(b'C', "22P02"), (b'M', &message)]);
        assert_eq!(got[2], (b'C', "42501".into()));
        assert_eq!(got[3].1, "new row violates row-level security policy for table \"orders\"");
    }
}
