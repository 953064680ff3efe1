//! **capability**: something is asked for that only an attacker, or an administrator at the wrong door, wants of a tenant's login: files,
//! programs, other servers, large objects, roles, code, settings of the server.
//!
//! All of these are refused in any mode, unless a policy admits a function; this rule makes it something that somebody hears of.

use pg_query::protobuf::{VariableSetKind, VariableSetStmt};
use pg_query::{Node, NodeEnum};

use super::{any, function_name};
use crate::rules::{Looks, Rule, Watch};

pub static RULE: Rule = Rule {
    name: "capability",
    found: "files, programs, other servers, roles, code or the server's settings are asked for",
    mode: Watch::Shadow,
    looks: Looks::AtForm(looks),
};

/// Names of functions, or what they begin with.
const FUNCTIONS: [&str; 11] = [
    "pg_read_",
    "pg_ls_",
    "pg_stat_file",
    "lo_",
    "dblink",
    "query_to_xml",
    "database_to_xml",
    "pg_reload_conf",
    "pg_terminate_backend",
    "pg_cancel_backend",
    "pg_current_logfile",
];

fn looks(statement: &Node) -> bool {
    any(statement, &mut |node| match node {
        NodeEnum::FuncCall(call) => FUNCTIONS.iter().any(|known| function_name(call).starts_with(known)),
        NodeEnum::CopyStmt(copy) => copy.is_program || !copy.filename.is_empty(),
        NodeEnum::VariableSetStmt(set) => changes_the_role(set),
        NodeEnum::AlterSystemStmt(_)
        | NodeEnum::CreateExtensionStmt(_)
        | NodeEnum::CreateFunctionStmt(_)
        | NodeEnum::CreateForeignServerStmt(_)
        | NodeEnum::DoStmt(_)
        | NodeEnum::LoadStmt(_) => true,
        _ => false, // tidy: a list of what is found, not of what is let through
    })
}

fn changes_the_role(set: &VariableSetStmt) -> bool {
    set.kind() == VariableSetKind::VarSetValue && matches!(set.name.as_str(), "role" | "session_authorization")
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_it_finds() {
        super::super::tests::check(
            &super::RULE,
            &[
                "SELECT pg_read_file('x')",
                "SELECT * FROM a WHERE id = 1 AND pg_catalog.lo_import('/etc/passwd') > 0",
                "COPY a TO PROGRAM 'x'",
                "COPY (SELECT 1) TO PROGRAM 'x'",
                "COPY a FROM '/etc/passwd'",
                "ALTER SYSTEM SET log_statement = 'all'",
                "SET ROLE postgres",
                "SET SESSION AUTHORIZATION postgres",
                "CREATE EXTENSION dblink",
                "DO $$ BEGIN END $$",
                "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
                "LOAD 'x'",
            ],
            &["COPY a FROM STDIN", "COPY (SELECT 1) TO STDOUT", "SET search_path = a", "RESET ROLE", "SELECT lower('x')"],
        );
    }
}
