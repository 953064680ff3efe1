//! Names of policy files, as SQL writes them.

/// `schema."Odd Name"` as PostgreSQL reads it: ASCII is folded to lower case outside quotes.
pub(super) fn split_identifiers(text: &str) -> Result<Vec<String>, &'static str> {
    let mut parts = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        let mut part = String::new();
        if chars.next_if_eq(&'"').is_some() {
            loop {
                match chars.next() {
                    Some('"') if chars.next_if_eq(&'"').is_some() => part.push('"'),
                    Some('"') => break,
                    Some(c) => part.push(c),
                    None => return Err("a double quote is not closed"),
                }
            }
        } else {
            while let Some(c) = chars.next_if(|c| *c != '.') {
                let fits = c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
                if !(fits || (!part.is_empty() && (c.is_ascii_digit() || c == '$'))) {
                    return Err("a name with such characters is written in double quotes: '\"odd name\"'");
                }
                part.push(c.to_ascii_lowercase());
            }
        }
        if part.is_empty() {
            return Err("a name is missing");
        }
        if part.len() > 63 {
            return Err("longer than the 63 bytes that PostgreSQL keeps");
        }
        if part.contains('\0') {
            return Err("holds a NUL");
        }
        parts.push(part);
        match chars.next() {
            None => return Ok(parts),
            Some('.') => {}
            Some(_) => return Err("only a dot may follow a quoted name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_postgresql_reads_them() {
        assert_eq!(split_identifiers("Public.ACC_1").unwrap(), ["public", "acc_1"]);
        assert_eq!(split_identifiers("\"A\"\"b\".c").unwrap(), ["A\"b", "c"]);
        for bad in ["", "a.", ".a", "a b", "1a", "\"a", "\"a\"b", "a-b", "\"\""] {
            assert!(split_identifiers(bad).is_err(), "{bad}");
        }
    }
}
