//! Errors as PostgreSQL clients see them: the fields of an ErrorResponse.
//! <https://www.postgresql.org/docs/current/protocol-error-fields.html>

use std::borrow::Cow;
use std::fmt;

/// A five-character SQLSTATE, from Appendix A of the PostgreSQL manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SqlState(pub &'static str);

/// Every SQLSTATE that Bulkhead itself raises.
pub mod sqlstate {
    use super::SqlState;
    /// Denied by policy, or a write outside the tenant.
    pub const INSUFFICIENT_PRIVILEGE: SqlState = SqlState("42501");
    /// The text cannot be parsed.
    pub const SYNTAX_ERROR: SqlState = SqlState("42601");
    /// Valid SQL that cannot be secured; the message names the construct.
    pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState("0A000");
    pub const UNDEFINED_TABLE: SqlState = SqlState("42P01");
    pub const UNDEFINED_COLUMN: SqlState = SqlState("42703");
    pub const WRONG_OBJECT_TYPE: SqlState = SqlState("42809");
    pub const NOT_IN_PREREQUISITE_STATE: SqlState = SqlState("55000");
    pub const UNDEFINED_FUNCTION: SqlState = SqlState("42883");
    pub const UNDEFINED_OBJECT: SqlState = SqlState("42704");
    pub const UNDEFINED_PARAMETER: SqlState = SqlState("42P02");
    pub const UNDEFINED_SCHEMA: SqlState = SqlState("3F000");
    pub const AMBIGUOUS_COLUMN: SqlState = SqlState("42702");
    pub const DUPLICATE_ALIAS: SqlState = SqlState("42712");
    pub const DUPLICATE_COLUMN: SqlState = SqlState("42701");
    pub const DUPLICATE_PREPARED_STATEMENT: SqlState = SqlState("42P05");
    pub const INVALID_PSTATEMENT_DEFINITION: SqlState = SqlState("42P14");
    pub const INVALID_COLUMN_REFERENCE: SqlState = SqlState("42P10");
    pub const DATATYPE_MISMATCH: SqlState = SqlState("42804");
    pub const INVALID_TABLE_DEFINITION: SqlState = SqlState("42P16");
    pub const INVALID_SQL_STATEMENT_NAME: SqlState = SqlState("26000");
    pub const INVALID_CURSOR_NAME: SqlState = SqlState("34000");
    pub const INVALID_PASSWORD: SqlState = SqlState("28P01");
    pub const INVALID_AUTHORIZATION: SqlState = SqlState("28000");
    pub const INVALID_CATALOG_NAME: SqlState = SqlState("3D000");
    pub const INVALID_PARAMETER_VALUE: SqlState = SqlState("22023");
    pub const IN_FAILED_TRANSACTION: SqlState = SqlState("25P02");
    pub const ACTIVE_TRANSACTION: SqlState = SqlState("25001");
    pub const TOO_MANY_CONNECTIONS: SqlState = SqlState("53300");
    pub const QUERY_CANCELED: SqlState = SqlState("57014");
    pub const LOCK_NOT_AVAILABLE: SqlState = SqlState("55P03");
    pub const IDLE_IN_TRANSACTION_SESSION_TIMEOUT: SqlState = SqlState("25P03");
    pub const ADMIN_SHUTDOWN: SqlState = SqlState("57P01");
    pub const CANNOT_CONNECT_NOW: SqlState = SqlState("57P03");
    pub const IDLE_SESSION_TIMEOUT: SqlState = SqlState("57P05");
    pub const CONNECTION_FAILURE: SqlState = SqlState("08006");
    /// There is a server, and it cannot be used.
    pub const CONNECTION_REJECTED: SqlState = SqlState("08004");
    pub const PROTOCOL_VIOLATION: SqlState = SqlState("08P01");
    pub const PROGRAM_LIMIT_EXCEEDED: SqlState = SqlState("54000");
    pub const TOO_MANY_COLUMNS: SqlState = SqlState("54011");
    pub const STATEMENT_TOO_COMPLEX: SqlState = SqlState("54001");
    pub const CHARACTER_NOT_IN_REPERTOIRE: SqlState = SqlState("22021");
    pub const BAD_COPY_FILE_FORMAT: SqlState = SqlState("22P04");
    pub const IO_ERROR: SqlState = SqlState("58030");
    pub const INTERNAL_ERROR: SqlState = SqlState("XX000");
}

/// Severity of an ErrorResponse. `Fatal` ends the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    Error,
    Fatal,
}

impl Severity {
    /// The text of fields `S` and `V`.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        }
    }
}

/// An error that is told to the client. Texts follow PostgreSQL's style guide: lower case, no full stop in `message`.
/// INVARIANT: never holds data of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlError {
    pub severity: Severity,
    pub sqlstate: SqlState,
    pub message: Cow<'static, str>,
    pub detail: Option<Cow<'static, str>>,
    pub hint: Option<Cow<'static, str>>,
    /// 1-based position in the client's own text, counted in characters (field `P`).
    pub position: Option<u32>,
}

impl SqlError {
    pub fn new(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        SqlError { severity: Severity::Error, sqlstate, message: message.into(), detail: None, hint: None, position: None }
    }

    pub fn fatal(sqlstate: SqlState, message: impl Into<Cow<'static, str>>) -> Self {
        SqlError { severity: Severity::Fatal, ..SqlError::new(sqlstate, message) }
    }

    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn at(mut self, position: Option<u32>) -> Self {
        self.position = position;
        self
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (SQLSTATE {})", self.severity.as_str(), self.message, self.sqlstate.0)
    }
}

impl std::error::Error for SqlError {}
