//! The sentinel: how a row check that fails upstream tells the proxy so.
//!
//! A rewritten write raises an error whose message holds [`prefix`], then the table's name, then a double quote. The
//! prefix is random for each process, so that no tenant's data or text can forge it.

use std::sync::OnceLock;

use rand::Rng;

/// The marker that stands right before the table's name. Lower-case hexadecimal digits and underscores only: safe inside
/// every kind of SQL token.
pub fn prefix() -> &'static str {
    static PREFIX: OnceLock<String> = OnceLock::new();
    PREFIX.get_or_init(|| format!("bulkhead_{:032x}_", rand::rng().random::<u128>()))
}

/// The contents of a string constant that no type but text takes, for a check on that table.
pub fn text(table: &str) -> String {
    format!("{}{table}\"", prefix())
}

/// The table that an error message accuses, if the message is a sentinel: what follows the prefix up to a quote character.
pub fn parse(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once(prefix())?;
    let end = rest.find(['"', '\''])?;
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_table_after_the_prefix() {
        let message = format!("invalid input syntax for type integer: \"{}accounts\"", prefix());
        assert_eq!(parse(&message), Some("accounts"));
        assert_eq!(parse("invalid input syntax for type integer: \"accounts\""), None);
        assert_eq!(parse(&format!("{}unterminated", prefix())), None);
    }
}
