//! What a policy file says, validated. Texts of SQL inside are kept as text here; `policy::epoch` binds them to a catalog.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::config::problem::Problem;
use crate::finding::{Action, Recording, Watch};

/// Everything that the policy files of one directory say.
#[derive(Clone, Debug, Default)]
pub struct PolicyModel {
    pub tables: Vec<TablePolicy>,
    pub temporaries: Vec<TemporaryPolicy>,
    pub allows: Vec<Allow>,
    pub threats: Vec<ThreatPolicy>,
    pub applications: Vec<ApplicationPolicy>,
    pub classes: Vec<ClassPolicy>,
    pub limits: Vec<LimitPolicy>,
    pub windows: Vec<WindowPolicy>,
    pub controls: Vec<ControlPolicy>,
    pub tests: Vec<PolicyTest>,
    pub sources: Vec<Arc<Source>>,
}

impl PolicyModel {
    /// What holds for a column by its class: the most exact one that applies to its database.
    pub fn class_of(&self, table: &TablePolicy, column: &ColumnPolicy) -> Option<&ClassPolicy> {
        let name = column.class.as_deref()?;
        let of_it =
            self.classes.iter().filter(|class| class.place.source.meets(&table.place.source) && is_within(name, &class.name));
        of_it.max_by_key(|class| class.name.len())
    }

    /// What applies to one database, by the name that clients use.
    pub fn of_database(&self, database: &str) -> PolicyModel {
        let applies = |place: &Place| place.source.applies_to(database);
        PolicyModel {
            tables: self.tables.iter().filter(|t| applies(&t.place)).cloned().collect(),
            temporaries: self.temporaries.iter().filter(|t| applies(&t.place)).cloned().collect(),
            allows: self.allows.iter().filter(|a| applies(&a.place)).cloned().collect(),
            threats: self.threats.iter().filter(|t| applies(&t.place)).cloned().collect(),
            applications: self.applications.iter().filter(|a| applies(&a.place)).cloned().collect(),
            classes: self.classes.iter().filter(|c| applies(&c.place)).cloned().collect(),
            limits: self.limits.iter().filter(|l| applies(&l.place)).cloned().collect(),
            windows: self.windows.iter().filter(|w| applies(&w.place)).cloned().collect(),
            controls: self.controls.iter().filter(|c| applies(&c.place)).cloned().collect(),
            tests: self.tests.iter().filter(|t| applies(&t.place)).cloned().collect(),
            sources: self.sources.iter().filter(|s| s.applies_to(database)).cloned().collect(),
        }
    }
}

/// Whether a column of the class `class` is within `of`: `pii.email` is within `pii`.
pub fn is_within(class: &str, of: &str) -> bool {
    class.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// One policy file, kept for messages that point into it.
#[derive(Debug)]
pub struct Source {
    pub path: PathBuf,
    pub text: String,
    /// `database = ".."` at the top of the file: it applies to that database only.
    pub database: Option<String>,
}

/// A place in a policy file.
#[derive(Clone, Debug)]
pub struct Place {
    pub source: Arc<Source>,
    /// Bytes of `source.text`.
    pub span: Range<usize>,
}

impl Source {
    /// Whether two files may say something of one database.
    pub fn meets(&self, other: &Source) -> bool {
        match (&self.database, &other.database) {
            (Some(a), Some(b)) => a == b,
            (None, _) | (_, None) => true,
        }
    }

    /// Whether the file says something about this database (by the name that clients use).
    pub fn applies_to(&self, database: &str) -> bool {
        self.database.as_deref().is_none_or(|d| d == database)
    }
}

impl Place {
    /// A problem that points here.
    pub fn problem(&self, message: impl Into<String>, label: impl Into<String>) -> Problem {
        let text: Arc<str> = self.source.text.as_str().into();
        Problem::new(message).at(&self.source.path.display().to_string(), &text, self.span.clone(), label)
    }
}

/// Where a table's rows stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Rows belong to tenants, told apart by this column.
    Tenant { column: String },
    /// Read-only for every tenant.
    Shared,
    /// A view, read through its definition, every table of which has an entry of its own.
    View,
    /// Not for tenants at all. Unlisted tables are denied too.
    Denied,
}

/// What holds for an action that no rule names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultRule {
    /// The whole tenant.
    Tenant,
    /// Nothing (`default = "deny"`).
    Deny,
}

/// `[[table]]`
#[derive(Clone, Debug)]
pub struct TablePolicy {
    pub schema: String,
    pub name: String,
    pub scope: Scope,
    pub default: DefaultRule,
    pub rules: Vec<Rule>,
    pub columns: Vec<ColumnPolicy>,
    /// Nobody has a reason to name it.
    pub canary: bool,
    /// Texts in rows that nobody has a reason to see.
    pub canary_rows: Vec<String>,
    /// How long answers made of its rows may be given; zero: never.
    pub cache_ttl: Option<Duration>,
    /// Statements about it wait for their records, whatever the audit log does elsewhere.
    pub waits_for_records: bool,
    /// Where the table's name stands.
    pub place: Place,
}

/// `[[temporary]]`: a temporary table that sessions may make.
#[derive(Clone, Debug)]
pub struct TemporaryPolicy {
    pub name: String,
    /// As in CREATE TABLE, between the brackets.
    pub columns: SqlText,
    /// Where its name stands.
    pub place: Place,
}

/// What a rule is about, as in CREATE POLICY .. FOR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RuleAction {
    Select,
    Insert,
    Update,
    Delete,
}

impl RuleAction {
    pub const ALL: [RuleAction; 4] = [RuleAction::Select, RuleAction::Insert, RuleAction::Update, RuleAction::Delete];

    pub fn as_str(self) -> &'static str {
        match self {
            RuleAction::Select => "select",
            RuleAction::Insert => "insert",
            RuleAction::Update => "update",
            RuleAction::Delete => "delete",
        }
    }
}

/// How a rule combines with others, as in CREATE POLICY .. AS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// ORed with the other permissive rules.
    Permissive,
    /// ANDed.
    Restrictive,
}

/// `[[table.rule]]`. The rules of a principal's roles and action are ORed, then ANDed with the tenant predicate.
#[derive(Clone, Debug)]
pub struct Rule {
    pub id: String,
    /// Empty: every role.
    pub roles: Vec<String>,
    pub actions: Vec<RuleAction>,
    pub mode: Mode,
    pub using: Option<SqlText>,
    /// Defaults to `using`.
    pub with_check: Option<SqlText>,
    /// A class of one of the columns says so.
    pub of_class: bool,
    pub place: Place,
}

/// A piece of SQL in a policy file: an expression over the table's own columns.
#[derive(Clone, Debug)]
pub struct SqlText {
    pub text: String,
    /// Span of the text itself (inside the quotes).
    pub place: Place,
}

impl SqlText {
    /// The place in the file of bytes `span` of the text; the whole text where escapes of TOML stand between the two.
    pub fn span_of(&self, span: Range<usize>) -> Range<usize> {
        let written = self.place.source.text.get(self.place.span.clone());
        if written != Some(self.text.as_str()) {
            return self.place.span.clone();
        }
        self.place.span.start + span.start..self.place.span.start + span.end
    }

    /// A problem that points at bytes `span` of the text.
    pub fn problem(&self, span: Range<usize>, message: impl Into<String>, label: impl Into<String>) -> Problem {
        Place { source: Arc::clone(&self.place.source), span: self.span_of(span) }.problem(message, label)
    }
}

/// `[[table.column]]`
#[derive(Clone, Debug)]
pub struct ColumnPolicy {
    pub name: String,
    pub class: Option<String>,
    /// It says itself what is shown (`mask = "none"` too): its class does not.
    pub says_mask: bool,
    pub mask: Option<MaskPolicy>,
    /// Where the column's name stands.
    pub place: Place,
}

/// `mask`, `unless_roles` and `mask_key` of `[[table.column]]`.
#[derive(Clone, Debug)]
pub struct MaskPolicy {
    pub mask: Mask,
    /// A principal that has one of these roles sees the column as it is.
    pub unless_roles: Vec<String>,
    /// While its session has said one of these purposes; empty: any, and none.
    pub purposes: Vec<String>,
    /// Nothing is written into the column, and nobody sees it.
    pub never_stored: bool,
    /// Its class says so: where it cannot serve the column's type, NULL is shown.
    pub of_class: bool,
    /// Of `hash`. INVARIANT: never printed.
    pub key: Option<MaskKey>,
    /// Where the mask's name stands.
    pub place: Place,
}

/// What is shown in the place of a column's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// NULL.
    Null,
    /// `***`
    Redact,
    /// `****6789`: the last four characters of a value of eight or more.
    Last4,
    /// `j***@example.com`
    Email,
    /// A keyed pseudonym: equal values of one tenant look equal.
    Hash,
}

impl Mask {
    pub fn as_str(self) -> &'static str {
        match self {
            Mask::Null => "null",
            Mask::Redact => "redact",
            Mask::Last4 => "last4",
            Mask::Email => "email",
            Mask::Hash => "hash",
        }
    }
}

/// The secret of a pseudonym.
#[derive(Clone, PartialEq, Eq)]
pub struct MaskKey(pub String);

impl std::fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// `[[allow]]`: widens what roles may do.
#[derive(Clone, Debug)]
pub struct Allow {
    /// Empty: every role.
    pub roles: Vec<String>,
    /// Functions by name, qualified or not.
    pub functions: Vec<String>,
    /// Settings of the application's own (`app.user_id`), in lower case.
    pub settings: Vec<String>,
    pub place: Place,
}

/// `[[threat]]`: what a threat rule does.
#[derive(Clone, Debug)]
pub struct ThreatPolicy {
    /// The rule's name; empty: every rule.
    pub rule: String,
    pub mode: Watch,
    /// With [`Watch::Enforce`].
    pub action: Action,
    /// Empty: every role.
    pub roles: Vec<String>,
    /// By the application_name of the startup message; empty: every application.
    pub applications: Vec<String>,
    /// Where the rule's name stands.
    pub place: Place,
}

/// `[[application]]`: what an application is known to say.
#[derive(Clone, Debug)]
pub struct ApplicationPolicy {
    /// By the application_name of the startup message; empty: every application.
    pub names: Vec<String>,
    /// Empty: every role.
    pub roles: Vec<String>,
    /// The forms of its statements ([`crate::sql::form`]).
    pub statements: Vec<String>,
    /// Its values are bound: a constant in a simple query is not its own.
    pub binds: bool,
    /// Until then, what is new passes, if it is no graft on what is known.
    pub learns_until: Option<SystemTime>,
    /// Where the entry stands.
    pub place: Place,
}

/// `[[class]]`: what holds for all columns of a kind; `pii` for those of `pii.email` too, unless that has an entry of its own.
#[derive(Clone, Debug)]
pub struct ClassPolicy {
    pub name: String,
    /// For people.
    pub says: Option<String>,
    /// What columns without a mask of their own show.
    pub mask: Option<MaskPolicy>,
    /// Rows are not there once the column, a date or timestamp, is so many days old.
    pub retention_days: Option<u64>,
    /// Rows are not there for these roles where the column, a boolean, is true.
    pub hides_rows_from: Vec<String>,
    /// How the audit log tells values that stand beside its columns.
    pub recorded: Option<Arc<Recording>>,
    /// Where the name stands.
    pub place: Place,
}

/// `[[limit]]`: how much is given to whom.
#[derive(Clone, Debug)]
pub struct LimitPolicy {
    /// Empty: every role.
    pub roles: Vec<String>,
    /// Of one statement.
    pub rows: Option<u64>,
    /// Of a login, in an hour.
    pub rows_per_hour: Option<u64>,
    pub place: Place,
}

/// `[[window]]`: when unrestricted users may change definitions.
#[derive(Clone, Debug)]
pub struct WindowPolicy {
    /// Empty: all of them.
    pub users: Vec<String>,
    /// Monday is 0.
    pub days: Vec<u64>,
    /// Minutes of the day, UTC; the end may be before the beginning: over midnight.
    pub minutes: Range<u64>,
    /// They must say why: `SET bulkhead.ticket = 'CHG-1'`.
    pub ticket: bool,
    pub place: Place,
}

/// `[[control]]`: what somebody asks of us, and what of it can be seen from here.
#[derive(Clone, Debug)]
pub struct ControlPolicy {
    pub framework: String,
    pub id: String,
    pub cites: String,
    pub title: String,
    pub says: String,
    /// A compliance rule.
    pub check: String,
    /// Of columns that it is about.
    pub classes: Vec<String>,
    pub weight: u32,
    pub critical: bool,
    /// How long something is kept.
    pub days: u64,
    pub place: Place,
}

/// `[[test]]`
#[derive(Clone, Debug)]
pub struct PolicyTest {
    pub tenant: Option<String>,
    pub roles: Vec<String>,
    pub sql: SqlText,
    pub expect: Expectation,
    pub place: Place,
}

/// What a `[[test]]` expects.
#[derive(Clone, Debug)]
pub enum Expectation {
    /// Each of `contains` is an expression that the rewritten statement must hold.
    Permit {
        contains: Vec<SqlText>,
    },
    Deny {
        sqlstate: Option<String>,
    },
}
