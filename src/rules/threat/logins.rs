//! **logins**: ten logins of one user that failed, one after the other, from one address.
//!
//! A deployed application knows its password. In mode `enforce` that address is refused as this user for 30 minutes after the last attempt, in
//! the words of a wrong password (PCI DSS 8.3.4); others are not: who guesses must not lock out who knows. Each login has 16 addresses in mind.

use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "logins",
    found: "ten logins of this user have failed in a row from one address",
    mode: Watch::Shadow,
    looks: Looks::Elsewhere,
};
