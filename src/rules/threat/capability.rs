//! **capability**: something was asked for that only an attacker, or an administrator at the wrong door, wants of a tenant's login: files,
//! programs, other servers, large objects, roles, settings of the server.
//!
//! All of these are refused in any mode; this rule makes a refusal of them one that somebody hears of.

use crate::finding::Reason;
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "capability",
    found: "files, programs, other servers or the server's settings were asked for, and refused",
    mode: Watch::Shadow,
    looks: Looks::AtRefusal(looks),
};

/// Names of functions, or what they begin with.
const FUNCTIONS: [&str; 12] = [
    "pg_read_",
    "pg_ls_",
    "pg_stat_file",
    "lo_",
    "dblink",
    "pg_sleep",
    "query_to_xml",
    "database_to_xml",
    "pg_reload_conf",
    "pg_terminate_backend",
    "set_config",
    "pg_current_logfile",
];
/// As messages of refusals name them.
const STATEMENTS: [&str; 8] = [
    "COPY to or from a program",
    "COPY to or from a file",
    "ALTER SYSTEM",
    "SET ROLE",
    "SESSION AUTHORIZATION",
    "CREATE EXTENSION",
    "DO ",
    "CREATE FUNCTION",
];

fn looks(reason: Reason, _sqlstate: &str, message: &str) -> bool {
    if reason != Reason::Policy {
        return false;
    }
    let function = message.strip_prefix("permission denied for function ").map(|name| name.rsplit('.').next().unwrap_or(name));
    function.is_some_and(|name| FUNCTIONS.iter().any(|known| name.starts_with(known)))
        || STATEMENTS.iter().any(|statement| message.contains(statement))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_finds() {
        for message in ["permission denied for function pg_read_file", "permission denied for function pg_catalog.lo_export"] {
            assert!(looks(Reason::Policy, "42501", message), "{message}");
        }
        for message in ["permission denied for table other", "permission denied for function my_function"] {
            assert!(!looks(Reason::Policy, "42501", message), "{message}");
        }
        assert!(!looks(Reason::Invalid, "42601", "permission denied for function lo_export"));
    }
}
