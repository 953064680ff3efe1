//! Statements without rows: transactions, settings, and what only resets a session. Everything else is refused by name.

use pg_query::protobuf::{
    self as pg, DiscardMode, ObjectType, TransactionStmt, TransactionStmtKind, VariableSetKind, VariableSetStmt, a_const,
};
use pg_query::{Node, NodeEnum};

use super::super::tree::{names, node, target, text_constant};
use super::Analyser;
use crate::error::sqlstate;
use crate::finding::Denial;

/// A statement without rows that may run, or be answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Utility {
    /// Printed as it was parsed.
    Transaction {
        kind: TransactionKind,
        node: Node,
    },
    /// `values`: `None` for DEFAULT.
    Set {
        name: String,
        values: Option<Vec<String>>,
        local: bool,
        node: Node,
    },
    /// `SELECT set_config(name, $n, local)`: which SET it is, its Bind says.
    Configure {
        name: String,
        parameter: u16,
        local: bool,
        node: Node,
    },
    Reset {
        name: String,
        node: Node,
    },
    Show {
        name: String,
        node: Node,
    },
    ShowTenant,
    /// `SELECT set_config('bulkhead.tenant', value, local)`
    ConfigureTenant {
        value: ConfigValue,
        local: ConfigLocal,
    },
    /// `SELECT pg_advisory_unlock_all()`
    AdvisoryUnlockAll,
    /// SET [LOCAL] bulkhead.tenant; `None`: DEFAULT or RESET.
    ChooseTenant {
        value: Option<String>,
        local: bool,
    },
    /// SET bulkhead.purpose, bulkhead.break_glass; `None`: DEFAULT or RESET.
    Declare {
        what: Declaration,
        value: Option<String>,
    },
    ResetAll,
    DiscardAll,
    Discard(&'static str),
    DeallocateAll,
    Deallocate(String),
    CloseAll,
    /// FETCH and MOVE: of a cursor that was declared through review.
    Fetch {
        node: Node,
    },
    /// When the transaction's constraints are checked: names of the schema's, and no more than COMMIT would tell.
    SetConstraints {
        node: Node,
    },
    Close {
        name: String,
        node: Node,
    },
    Unlisten,
    /// CREATE and DROP of a temporary table that a policy file declares, DISCARD TEMP; `pins`: it is made, and stays on its backend.
    Temporary {
        node: Node,
        /// First word of the command.
        command: &'static str,
        pins: bool,
    },
}

/// A value given to `set_config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigValue {
    Text(String),
    /// `$n`
    Parameter(u16),
}

/// `is_local` of `set_config`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigLocal {
    Is(bool),
    /// `$n`
    Parameter(u16),
}

/// The isolation level of a transaction block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// What `default_transaction_isolation` says.
    Default,
    ReadCommitted,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionKind {
    Begin(Isolation),
    Commit { chain: bool },
    Rollback { chain: bool },
    Savepoint(String),
    Release(String),
    RollbackTo(String),
}

/// The setting that chooses the tenant.
pub const TENANT_SETTING: &str = "bulkhead.tenant";

/// What a session says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declaration {
    /// What it reads for.
    Purpose,
    /// That it needs more than it may, and why.
    BreakGlass,
}

impl Declaration {
    /// The setting that says it.
    pub fn setting(self) -> &'static str {
        match self {
            Declaration::Purpose => "bulkhead.purpose",
            Declaration::BreakGlass => "bulkhead.break_glass",
        }
    }

    fn of_setting(name: &str) -> Option<Declaration> {
        [Declaration::Purpose, Declaration::BreakGlass].into_iter().find(|what| what.setting() == name)
    }
}

/// SET of what a session says of itself, as far as it is that.
fn declare(name: &str, statement: &VariableSetStmt, analyser: &mut Analyser<'_>) -> Option<Result<Utility, Denial>> {
    let what = Declaration::of_setting(name)?;
    if statement.is_local {
        return Some(Err(Denial::unsupported(format!("SET LOCAL {name} is not known: SET holds until it is RESET"))));
    }
    Some(match VariableSetKind::try_from(statement.kind) {
        Ok(VariableSetKind::VarSetValue) => values(&statement.args, analyser).and_then(|values| match values.as_slice() {
            [one] => Ok(Utility::Declare { what, value: Some(one.clone()) }),
            [] | [_, _, ..] => Err(Denial::invalid(sqlstate::INVALID_PARAMETER_VALUE, format!("SET {name} takes one value"))),
        }),
        Ok(VariableSetKind::VarSetDefault | VariableSetKind::VarReset) => Ok(Utility::Declare { what, value: None }),
        Ok(
            VariableSetKind::VarResetAll
            | VariableSetKind::VarSetMulti
            | VariableSetKind::VarSetCurrent
            | VariableSetKind::Undefined,
        )
        | Err(_) => Err(Denial::unsupported("this SET is not known")),
    })
}

/// Settings that a tenant may read and set: they shape how values are read and written, or limit the client itself.
const SETTABLE: [&str; 37] = [
    "application_name",
    "backslash_quote",
    "bytea_output",
    "check_function_bodies",
    "client_encoding",
    "client_min_messages",
    "cursor_tuple_fraction",
    "datestyle",
    "deadlock_timeout",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "enable_seqscan",
    "enable_indexscan",
    "enable_bitmapscan",
    "enable_hashjoin",
    "enable_mergejoin",
    "enable_nestloop",
    "escape_string_warning",
    "extra_float_digits",
    "geqo",
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "intervalstyle",
    "jit",
    "lock_timeout",
    "max_parallel_workers_per_gather",
    "random_page_cost",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
    "transaction_deferrable",
    "transaction_isolation",
    "transaction_read_only",
    "work_mem",
    "xmloption",
];

/// Settings that a tenant may read besides.
const READABLE: [&str; 23] = [
    "block_size",
    "default_table_access_method",
    "default_tablespace",
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "lc_collate",
    "lc_ctype",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "max_connections",
    "max_identifier_length",
    "max_index_keys",
    "max_prepared_transactions",
    "password_encryption",
    "server_encoding",
    "server_version",
    "server_version_num",
    "session_authorization",
    "ssl",
    "vacuum_cost_delay",
];

/// Whether a tenant may read a setting.
pub fn is_readable(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SETTABLE.contains(&name.as_str()) || READABLE.contains(&name.as_str())
}

/// A SELECT of exactly one call that is answered without the server: `set_config` of the tenant, `pg_advisory_unlock_all`.
/// Literals of such a call belong to the template's key.
pub(super) fn single_call(select: &pg::SelectStmt, analyser: &mut Analyser<'_>) -> Option<Utility> {
    let plain = pg::SelectStmt { target_list: vec![], limit_option: 0, op: 0, ..select.clone() } == pg::SelectStmt::default();
    let [only] = select.target_list.as_slice() else { return None };
    let Some(NodeEnum::ResTarget(target)) = &only.node else { return None };
    let Some(NodeEnum::FuncCall(call)) = target.val.as_deref().and_then(|v| v.node.as_ref()) else { return None };
    let name = match call.funcname.as_slice() {
        [name] => super::super::tree::as_string(name),
        [schema, name] if super::super::tree::as_string(schema) == Some("pg_catalog") => super::super::tree::as_string(name),
        [] | [_, _, ..] => None,
    }?;
    let simple = plain
        && target.name.is_empty()
        && !call.agg_star
        && !call.agg_distinct
        && call.over.is_none()
        && call.agg_filter.is_none();
    match (name, call.args.as_slice()) {
        ("pg_advisory_unlock_all", []) if simple => Some(Utility::AdvisoryUnlockAll),
        ("set_config", [setting, value, local]) if simple => {
            analyser.pin_constants(setting);
            analyser.pin_constants(value);
            let setting = constant_text(setting)?;
            if !analyser.context.is_tenant_setting(&setting) {
                return configure(&setting, value, local, analyser);
            }
            let value = match &value.node {
                Some(NodeEnum::ParamRef(p)) => ConfigValue::Parameter(analyser.note_parameter(p)?),
                Some(_) | None => ConfigValue::Text(constant_text(value)?),
            };
            let local = match &local.node {
                Some(NodeEnum::AConst(pg::AConst { isnull: false, location: _, val: Some(a_const::Val::Boolval(b)) })) => {
                    ConfigLocal::Is(b.boolval)
                }
                Some(NodeEnum::ParamRef(p)) => ConfigLocal::Parameter(analyser.note_parameter(p)?),
                Some(_) | None => return None,
            };
            Some(Utility::ConfigureTenant { value, local })
        }
        (_, _) => None, // tidy: not a syntax kind
    }
}

/// `SELECT set_config('TimeZone', 'UTC', false)` is SET with an answer, as Django and pg_dump write it. `None`: it is a function like
/// others.
fn configure(name: &str, value: &Node, local: &Node, analyser: &mut Analyser<'_>) -> Option<Utility> {
    let lower = name.to_ascii_lowercase();
    check_settable(&lower, analyser).ok()?;
    let Some(NodeEnum::AConst(pg::AConst { isnull: false, location: _, val: Some(a_const::Val::Boolval(is_local)) })) =
        &local.node
    else {
        return None;
    };
    let call = pg::FuncCall {
        funcname: names(&["pg_catalog", "set_config"]),
        args: vec![text_constant(&lower), value.clone(), local.clone()],
        funcformat: pg::CoercionForm::CoerceExplicitCall as i32,
        ..Default::default()
    };
    let select = pg::SelectStmt {
        target_list: vec![target("set_config", node(NodeEnum::FuncCall(Box::new(call))))],
        limit_option: pg::LimitOption::Default as i32,
        op: pg::SetOperation::SetopNone as i32,
        ..Default::default()
    };
    let (node, local) = (node(NodeEnum::SelectStmt(Box::new(select))), is_local.boolval);
    if let Some(NodeEnum::ParamRef(p)) = &value.node {
        // What a policy admits may be set for the transaction by any statement, and is nobody's to carry.
        let is_carried = !local || SETTABLE.contains(&lower.as_str());
        let parameter = is_carried.then(|| analyser.note_parameter(p)).flatten()?;
        return Some(Utility::Configure { name: lower, parameter, local, node });
    }
    let text = constant_text(value)?;
    let is_list = matches!(lower.as_str(), "search_path" | "temp_tablespaces");
    let values = if is_list { plain_names(&text)? } else { vec![text] };
    check_value(&lower, &values).ok()?;
    Some(Utility::Set { name: lower, values: Some(values), local, node })
}

/// The elements of a list of identifiers that need no quotes; `None`: some do.
fn plain_names(text: &str) -> Option<Vec<String>> {
    let is_plain = |name: &str| {
        name == "\"$user\""
            || name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty() || text.contains(',')).collect();
    names.iter().all(|name| is_plain(name)).then(|| names.iter().map(|name| name.trim_matches('"').to_owned()).collect())
}

pub(super) fn constant_text(node: &Node) -> Option<String> {
    match &node.node {
        Some(NodeEnum::AConst(pg::AConst { isnull: false, location: _, val: Some(a_const::Val::Sval(s)) })) => {
            Some(s.sval.clone())
        }
        Some(_) | None => None,
    }
}

pub(super) fn transaction(statement: &TransactionStmt) -> Result<Utility, Denial> {
    let TransactionStmt { kind, options, savepoint_name, gid: _, chain, location: _ } = statement;
    let name = savepoint_name.clone();
    let kind = match TransactionStmtKind::try_from(*kind) {
        Ok(TransactionStmtKind::TransStmtBegin | TransactionStmtKind::TransStmtStart) => {
            TransactionKind::Begin(isolation(options))
        }
        Ok(TransactionStmtKind::TransStmtCommit) => TransactionKind::Commit { chain: *chain },
        Ok(TransactionStmtKind::TransStmtRollback) => TransactionKind::Rollback { chain: *chain },
        Ok(TransactionStmtKind::TransStmtSavepoint) => TransactionKind::Savepoint(name),
        Ok(TransactionStmtKind::TransStmtRelease) => TransactionKind::Release(name),
        Ok(TransactionStmtKind::TransStmtRollbackTo) => TransactionKind::RollbackTo(name),
        Ok(
            TransactionStmtKind::TransStmtPrepare
            | TransactionStmtKind::TransStmtCommitPrepared
            | TransactionStmtKind::TransStmtRollbackPrepared,
        ) => return Err(Denial::policy("two-phase commit is not permitted")),
        Ok(TransactionStmtKind::Undefined) | Err(_) => return Err(Denial::unsupported("this transaction command is not known")),
    };
    let node = Node { node: Some(NodeEnum::TransactionStmt(statement.clone())) };
    Ok(Utility::Transaction { kind, node })
}

/// What the options of BEGIN say.
fn isolation(options: &[Node]) -> Isolation {
    let mut found = Isolation::Default;
    for option in options {
        let Some(NodeEnum::DefElem(option)) = &option.node else { return Isolation::Other };
        let value = option.arg.as_deref().and_then(|a| a.node.as_ref());
        found = match (option.defname.as_str(), value) {
            ("transaction_read_only" | "transaction_deferrable", _) => found,
            ("transaction_isolation", Some(NodeEnum::AConst(pg::AConst { val: Some(a_const::Val::Sval(s)), .. })))
                if s.sval == "read committed" =>
            {
                Isolation::ReadCommitted
            }
            (_, _) => return Isolation::Other,
        };
    }
    found
}

pub(super) fn set(statement: &VariableSetStmt, analyser: &mut Analyser<'_>) -> Result<Utility, Denial> {
    let VariableSetStmt { kind, name, args, jumble_args: _, is_local, location: _ } = statement;
    let node = Node { node: Some(NodeEnum::VariableSetStmt(statement.clone())) };
    let lower = name.to_ascii_lowercase();
    if let Some(declared) = declare(&lower, statement, analyser) {
        return declared;
    }
    match VariableSetKind::try_from(*kind) {
        Ok(VariableSetKind::VarSetValue) => {
            let values = values(args, analyser)?;
            if analyser.context.is_tenant_setting(&lower) {
                return match values.as_slice() {
                    [one] => Ok(Utility::ChooseTenant { value: Some(one.clone()), local: *is_local }),
                    [] | [_, _, ..] => {
                        Err(Denial::invalid(sqlstate::INVALID_PARAMETER_VALUE, "SET bulkhead.tenant takes one value"))
                    }
                };
            }
            check_settable(&lower, analyser)?;
            check_value(&lower, &values)?;
            Ok(Utility::Set { name: lower, values: Some(values), local: *is_local, node })
        }
        Ok(VariableSetKind::VarSetDefault) if analyser.context.is_tenant_setting(&lower) => {
            Ok(Utility::ChooseTenant { value: None, local: *is_local })
        }
        Ok(VariableSetKind::VarReset) if analyser.context.is_tenant_setting(&lower) => {
            Ok(Utility::ChooseTenant { value: None, local: false })
        }
        Ok(VariableSetKind::VarSetDefault) => {
            check_settable(&lower, analyser)?;
            Ok(Utility::Set { name: lower, values: None, local: *is_local, node })
        }
        Ok(VariableSetKind::VarReset) => {
            check_settable(&lower, analyser)?;
            Ok(Utility::Reset { name: lower, node })
        }
        Ok(VariableSetKind::VarResetAll) => Ok(Utility::ResetAll),
        Ok(VariableSetKind::VarSetMulti) => multi(&lower, statement, node),
        Ok(VariableSetKind::VarSetCurrent) => Err(Denial::unsupported("SET .. FROM CURRENT cannot be secured")),
        Ok(VariableSetKind::Undefined) | Err(_) => Err(Denial::unsupported("this SET is not known")),
    }
}

/// SET TRANSACTION, SET SESSION CHARACTERISTICS AS TRANSACTION.
fn multi(name: &str, statement: &VariableSetStmt, node: Node) -> Result<Utility, Denial> {
    match name {
        "transaction" => {
            // As SET LOCAL: ends with the transaction, leaves nothing behind.
            let _ = statement;
            Ok(Utility::Set { name: name.to_owned(), values: None, local: true, node })
        }
        // The session's defaults under another name; as settings they are carried from backend to backend.
        "session characteristics" => characteristics(statement),
        _ => Err(Denial::unsupported("SET TRANSACTION SNAPSHOT cannot be secured")), // tidy: not a syntax kind
    }
}

/// SET SESSION CHARACTERISTICS AS TRANSACTION, which sets `default_transaction_..` (ExecSetVariableStmt).
fn characteristics(statement: &VariableSetStmt) -> Result<Utility, Denial> {
    let [mode] = statement.args.as_slice() else {
        return Err(
            Denial::unsupported("SET SESSION CHARACTERISTICS with several modes").hint("give each mode in a command of its own")
        );
    };
    let Some(NodeEnum::DefElem(mode)) = &mode.node else {
        return Err(Denial::unsupported("this SET SESSION CHARACTERISTICS cannot be secured"));
    };
    let constant = match mode.arg.as_deref().and_then(|a| a.node.as_ref()) {
        Some(NodeEnum::AConst(pg::AConst { isnull: false, location: _, val: Some(value) })) => value,
        Some(_) | None => return Err(Denial::unsupported("this SET SESSION CHARACTERISTICS cannot be secured")),
    };
    let (name, value) = match (mode.defname.as_str(), constant) {
        ("transaction_isolation", a_const::Val::Sval(level)) => ("default_transaction_isolation", level.sval.clone()),
        ("transaction_read_only", a_const::Val::Ival(on)) => ("default_transaction_read_only", on_off(on.ival)),
        ("transaction_deferrable", a_const::Val::Ival(on)) => ("default_transaction_deferrable", on_off(on.ival)),
        (_, _) => return Err(Denial::unsupported("this SET SESSION CHARACTERISTICS is not known")), // tidy: not a syntax kind
    };
    let constant = super::super::tree::text_constant(&value);
    let set = VariableSetStmt {
        kind: VariableSetKind::VarSetValue as i32,
        name: name.to_owned(),
        args: vec![constant],
        is_local: false,
        ..Default::default()
    };
    let node = Node { node: Some(NodeEnum::VariableSetStmt(set)) };
    Ok(Utility::Set { name: name.to_owned(), values: Some(vec![value]), local: false, node })
}

fn on_off(value: i32) -> String {
    if value == 0 { "off".to_owned() } else { "on".to_owned() }
}

fn check_settable(name: &str, analyser: &Analyser<'_>) -> Result<(), Denial> {
    if SETTABLE.contains(&name) || analyser.context.is_admitted(name) {
        return Ok(());
    }
    let denial = Denial::policy(format!("permission denied to set parameter \"{name}\""));
    Err(if name.contains('.') { denial.hint("a policy file can admit it: [[allow]] settings = [..]") } else { denial })
}

/// Settings that may be named but not changed, since reading SQL depends on them.
fn check_value(name: &str, values: &[String]) -> Result<(), Denial> {
    let fixed = |allowed: &[&str]| {
        if values.len() == 1 && allowed.contains(&values[0].to_ascii_lowercase().as_str()) {
            return Ok(());
        }
        Err(Denial::policy(format!("parameter \"{name}\" cannot be changed"))
            .hint("Bulkhead reads every statement as UTF-8 with standard strings"))
    };
    if name == "client_encoding" {
        return fixed(&["utf8", "utf-8", "unicode"]);
    }
    if name == "client_min_messages" {
        // Debug messages and the server's log lines tell of the statement that was sent, and of rows.
        return fixed(&["notice", "warning", "error"]);
    }
    if name == "standard_conforming_strings" {
        return fixed(&["on", "true", "1", "yes"]);
    }
    match CEILINGS.iter().find(|(of, _, _)| *of == name) {
        Some((_, ceiling, shown)) => check_ceiling(name, values, *ceiling, shown),
        None => Ok(()),
    }
}

/// What a tenant may ask of the server that all share, at most: work_mem in kB, and processes.
const CEILINGS: [(&str, f64, &str); 2] = [("work_mem", 262_144.0, "256MB"), ("max_parallel_workers_per_gather", 4.0, "4")];

fn check_ceiling(name: &str, values: &[String], ceiling: f64, shown: &str) -> Result<(), Denial> {
    let denied = |what: String| Denial::invalid(sqlstate::INVALID_PARAMETER_VALUE, what);
    let [value] = values else { return Err(denied(format!("SET {name} takes only one argument"))) };
    let text = value.trim();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[number.len()..].trim() {
        "" | "kB" => 1.0,
        "B" => 1.0 / 1024.0,
        "MB" => 1024.0,
        "GB" => 1_048_576.0,
        "TB" => 1_073_741_824.0,
        _ => return Err(denied(format!("invalid value for parameter \"{name}\": \"{value}\""))),
    };
    // Forms of numbers that only the server knows are refused: what cannot be compared is not permitted.
    let number: f64 =
        number.trim().parse().map_err(|_| denied(format!("invalid value for parameter \"{name}\": \"{value}\"")))?;
    if number * unit <= ceiling {
        return Ok(());
    }
    Err(Denial::policy(format!("parameter \"{name}\" cannot be more than {shown}")))
}

fn values(args: &[Node], analyser: &mut Analyser<'_>) -> Result<Vec<String>, Denial> {
    let mut values = vec![];
    for arg in args {
        analyser.pin_constants(arg);
        let value = match &arg.node {
            Some(NodeEnum::AConst(c)) => match &c.val {
                Some(a_const::Val::Sval(pg::String { sval })) => Some(sval.clone()),
                Some(a_const::Val::Ival(pg::Integer { ival })) => Some(ival.to_string()),
                Some(a_const::Val::Fval(pg::Float { fval })) => Some(fval.clone()),
                Some(a_const::Val::Boolval(pg::Boolean { boolval })) => Some(boolval.to_string()),
                Some(a_const::Val::Bsval(_)) | None => None,
            },
            Some(_) | None => None,
        };
        values.push(value.ok_or_else(|| Denial::unsupported("this SET value cannot be secured"))?);
    }
    Ok(values)
}

pub(super) fn show(statement: &pg::VariableShowStmt, analyser: &Analyser<'_>) -> Result<Utility, Denial> {
    let name = statement.name.to_ascii_lowercase();
    if analyser.context.is_tenant_setting(&name) {
        return Ok(Utility::ShowTenant);
    }
    // `SHOW TIME ZONE` and the like come under the setting's own name.
    let alias = match name.as_str() {
        "transaction isolation level" => "transaction_isolation",
        other => other,
    };
    if !is_readable(alias) && !analyser.context.is_admitted(alias) {
        return Err(Denial::policy(format!("permission denied to examine \"{name}\"")));
    }
    Ok(Utility::Show { name, node: Node { node: Some(NodeEnum::VariableShowStmt(statement.clone())) } })
}

pub(super) fn discard(statement: &pg::DiscardStmt) -> Result<Utility, Denial> {
    match DiscardMode::try_from(statement.target) {
        Ok(DiscardMode::DiscardAll) => Ok(Utility::DiscardAll),
        Ok(DiscardMode::DiscardPlans) => Ok(Utility::Discard("PLANS")),
        Ok(DiscardMode::DiscardSequences) => Ok(Utility::Discard("SEQUENCES")),
        Ok(DiscardMode::DiscardTemp) => {
            let node = Node { node: Some(NodeEnum::DiscardStmt(*statement)) };
            Ok(Utility::Temporary { node, command: "DISCARD", pins: false })
        }
        Ok(DiscardMode::Undefined) | Err(_) => Err(Denial::unsupported("this DISCARD is not known")),
    }
}

pub(super) fn deallocate(statement: &pg::DeallocateStmt) -> Utility {
    let pg::DeallocateStmt { name, isall, location: _ } = statement;
    if *isall || name.is_empty() { Utility::DeallocateAll } else { Utility::Deallocate(name.clone()) }
}

pub(super) fn unlisten(statement: &pg::UnlistenStmt) -> Result<Utility, Denial> {
    // `UNLISTEN *` has no name.
    if statement.conditionname.is_empty() {
        return Ok(Utility::Unlisten);
    }
    Err(Denial::policy("UNLISTEN of a channel is not permitted"))
}

pub(super) fn close(statement: &pg::ClosePortalStmt) -> Result<Utility, Denial> {
    if statement.portalname.is_empty() {
        return Ok(Utility::CloseAll);
    }
    let node = Node { node: Some(NodeEnum::ClosePortalStmt(statement.clone())) };
    Ok(Utility::Close { name: statement.portalname.clone(), node })
}

/// Statements whose node is not named as SQL names them.
const NAMES: [(&str, &str); 21] = [
    ("AlterEnum", "ALTER TYPE"),
    ("AlterObjectSchema", "ALTER .. SET SCHEMA"),
    ("AlterOwner", "ALTER .. OWNER"),
    ("AlterSeq", "ALTER SEQUENCE"),
    ("CheckPoint", "CHECKPOINT"),
    ("CompositeType", "CREATE TYPE"),
    ("Create", "CREATE TABLE"),
    ("CreateEnum", "CREATE TYPE"),
    ("CreateFdw", "CREATE FOREIGN DATA WRAPPER"),
    ("CreatePLang", "CREATE LANGUAGE"),
    ("CreateRange", "CREATE TYPE"),
    ("CreateSeq", "CREATE SEQUENCE"),
    ("CreateStats", "CREATE STATISTICS"),
    ("CreateTrig", "CREATE TRIGGER"),
    ("Createdb", "CREATE DATABASE"),
    ("Define", "CREATE"),
    ("Dropdb", "DROP DATABASE"),
    ("Index", "CREATE INDEX"),
    ("RefreshMatView", "REFRESH MATERIALIZED VIEW"),
    ("Rule", "CREATE RULE"),
    ("View", "CREATE VIEW"),
];

/// First words of what changes definitions, or tends tables.
const DEFINING: [&str; 14] = [
    "ALTER", "ANALYZE", "CLUSTER", "COMMENT", "CREATE", "DROP", "GRANT", "IMPORT", "REASSIGN", "REFRESH", "REINDEX", "REVOKE",
    "TRUNCATE", "VACUUM",
];

/// Names the refused kind of statement.
pub(super) fn refused(kind: &NodeEnum) -> Denial {
    let name = name_of(kind);
    let denial = Denial::policy(format!("{name} is not permitted"));
    let word = name.split(' ').next().unwrap_or_default();
    if DEFINING.contains(&word) {
        denial.hint("it is for a login with unrestricted = true, which passes statements as they came")
    } else {
        denial
    }
}

fn name_of(kind: &NodeEnum) -> String {
    let of_object = |word: &str, object: i32| {
        let object = ObjectType::try_from(object).unwrap_or(ObjectType::Undefined).as_str_name();
        let object = object.trim_start_matches("OBJECT_").replace('_', " ");
        format!("{word} {}", if object == "MATVIEW" { "MATERIALIZED VIEW" } else { &object })
    };
    let either = |first: bool, one: &str, other: &str| if first { one.to_owned() } else { other.to_owned() };
    if let NodeEnum::DropStmt(s) = kind {
        return of_object("DROP", s.remove_type);
    } else if let NodeEnum::AlterTableStmt(s) = kind {
        return of_object("ALTER", s.objtype);
    } else if let NodeEnum::RenameStmt(s) = kind {
        return of_object("ALTER", s.rename_type) + " .. RENAME";
    } else if let NodeEnum::VacuumStmt(s) = kind {
        return either(s.is_vacuumcmd, "VACUUM", "ANALYZE");
    } else if let NodeEnum::GrantStmt(s) = kind {
        return either(s.is_grant, "GRANT", "REVOKE");
    } else if let NodeEnum::GrantRoleStmt(s) = kind {
        return either(s.is_grant, "GRANT", "REVOKE");
    } else if let NodeEnum::CreateTableAsStmt(s) = kind {
        let table = if s.is_select_into { "SELECT INTO" } else { "CREATE TABLE AS" };
        return either(s.objtype == ObjectType::ObjectMatview as i32, "CREATE MATERIALIZED VIEW", table);
    }
    let debug = format!("{kind:?}");
    let name = debug.split(['(', ' ', '{']).next().unwrap_or_default().trim_end_matches("Stmt");
    if let Some((_, known)) = NAMES.iter().find(|(node, _)| *node == name) {
        return (*known).to_owned();
    }
    // CreateForeignTable -> CREATE FOREIGN TABLE
    let mut words = String::new();
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            words.push(' ');
        }
        words.push(c.to_ascii_uppercase());
    }
    words
}
