//! **stacked-statements**: several statements that read or write in one message: `..; DELETE FROM a`.
//!
//! Drivers that bind send one at a time, and an injection that can end a statement begins another. But scripts, migrations and `psql -c 'a; b'`
//! send several: it is off unless a policy says otherwise, for the applications that never do. Where an application's statements were learned,
//! each of a message is looked at by itself, and the message is refused whole.

use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "stacked-statements",
    found: "several statements that read or write came in one message",
    mode: Watch::Off,
    looks: Looks::Elsewhere,
};
