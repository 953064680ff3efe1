//! **broken-protocol**: a session that was logged in sends what no driver sends: unknown messages, lengths that cannot be, parameters that
//! do not fit their statement.
//!
//! The session ends in any case. Drivers do not break the protocol; whoever looks for a hole in the proxy does.

use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule =
    Rule { name: "broken-protocol", found: "a session has broken the protocol", mode: Watch::Shadow, looks: Looks::Elsewhere };
