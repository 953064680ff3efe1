//! **canary**: a table that nobody has a reason to name (`canary = true` of a `[[table]]`) is named, in whatever form, also where it is refused.
//!
//! A table such as `admin_passwords`, empty or with rows that mean nothing, found by who looks into the catalog for what is worth
//! taking. There is no false alarm but by who has put it there.

use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "canary",
    found: "a statement names a table that nobody has a reason to name",
    mode: Watch::Shadow,
    looks: Looks::Elsewhere,
};
