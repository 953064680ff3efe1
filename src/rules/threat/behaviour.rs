//! **behaviour**: a login does for a tenant what it does not usually do in this hour of the day: more rows, more statements, new ones.
//!
//! What is usual is learned for seven days first ([`crate::rules::behaviour`]), and only with an audit log, which is where it is told and what it is
//! kept beside.
//! It finds a dump in the night and another program at work; a small read that looks like the application's own it does not. In mode
//! `enforce` the session ends, or what `action` says.

use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "behaviour",
    found: "this login does for this tenant what it does not usually do in this hour of the day",
    mode: Watch::Shadow,
    looks: Looks::Elsewhere,
};
