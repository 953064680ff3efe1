//! What will be sent: a [`Plan`], made once for a template; a [`Bound`], made for each execution.

mod build;
pub mod cached;
mod classed;
mod commands;
mod computed;
mod copy_from;
mod current;
mod grouping;
mod guard;
mod lookup;
mod mask;
mod merge;
mod quiet;
mod rewrite;
mod row_key;
mod rows;
pub mod sentinel;
mod sequences;
mod touched;
mod upstream;
mod write;

pub use crate::event::Uncached;
pub use crate::sql::analyse::utility::{Declaration, Isolation};
pub use build::{Built, Check, build, text_of};
pub use cached::{Reads, Rows, TemplateUse, Touched, Whose, Writes};
pub use classed::{Arguments, ClassedValues};
use lookup::Lookup;
pub use quiet::table as quiet_table;
pub use row_key::{ChangedRow, RowKey, Values};
use rows::Repeated;
pub use rows::of_any_number;
pub use sequences::OwnSequences;
pub use upstream::{Upstream, name_of};

use std::sync::{Arc, OnceLock};

use bytes::{BufMut, BytesMut};

use crate::audit;
use crate::error::{SqlError, sqlstate};
use crate::finding::{Denial, Reason};
use crate::id::PolicyEpoch;
use crate::principal::{Principal, Tenant};
use crate::rules::Signs;
use crate::sql::form::of_prepared;
pub use crate::sql::template::{Literals, Segment, TenantType};

/// What a session does with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the text and relay what comes back.
    Forward,
    /// Send the text; it changes the transaction.
    Transaction(TransactionCommand),
    /// Send the text; once it succeeded, it is part of the session's settings.
    Set {
        name: Box<str>,
        values: Option<Vec<Box<str>>>,
        local: bool,
    },
    /// Send the text; once it succeeded, the setting is no longer part of the session's settings.
    /// `SELECT set_config(name, $n, local)`. INVARIANT: never run so, since nobody would know what is set to what: a Bind of it is one of
    /// the [`Action::Set`] that it is then.
    Configure {
        name: Box<str>,
        /// From 1.
        parameter: u16,
        local: bool,
    },
    Reset {
        name: Box<str>,
    },
    /// Nothing is sent: `SET [LOCAL] bulkhead.tenant = ..`, or `set_config` of it (which answers with a row).
    ChooseTenant {
        value: TenantValue,
        lasts: Lasts,
        form: TenantForm,
    },
    /// Nothing is sent: answered by the proxy.
    Emulate(Emulation),
    /// `PREPARE name (types) AS ..`: the client has a statement of that name, prepared as by a Parse message.
    Prepare(Prepare),
    /// `EXECUTE name (..)`: the plan's text is the arguments, `arguments` of them; what runs is the statement of that name.
    Execute {
        name: Box<str>,
        arguments: usize,
    },
    /// A query string without a statement: EmptyQueryResponse.
    Empty,
}

/// A statement that SQL prepares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    pub name: Box<str>,
    /// Declared types of its parameters.
    pub types: Box<[u32]>,
    /// Of the query.
    pub plan: Arc<Plan>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionCommand {
    Begin(Isolation),
    Commit { chain: bool },
    Rollback { chain: bool },
    Savepoint(Box<str>),
    Release(Box<str>),
    RollbackTo(Box<str>),
}

/// How long a chosen tenant lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasts {
    Session,
    /// Until the end of the transaction: SET LOCAL.
    Transaction,
    /// As the n-th parameter, from 1, says (`is_local` of `set_config`): a boolean.
    Parameter(u16),
}

/// Where the chosen tenant's value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantValue {
    /// `RESET bulkhead.tenant`, `SET .. TO DEFAULT`.
    Unset,
    Text(Box<str>),
    /// The n-th parameter, from 1, of the extended protocol.
    Parameter(u16),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantForm {
    /// Tag `SET` (or `RESET`), no rows.
    Set,
    /// `SELECT set_config(..)`: one row, one text column named `set_config`.
    SetConfig,
    /// `SHOW bulkhead.tenant`: one row, one text column named `bulkhead.tenant`.
    Show,
}

/// What only resets a session, answered by the proxy with the command tag that PostgreSQL would give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emulation {
    /// SET bulkhead.purpose and the like; `None`: RESET.
    Declare {
        what: Declaration,
        value: Option<Box<str>>,
    },
    /// RESET ALL
    ResetAll,
    /// DISCARD ALL; not inside a transaction (25001).
    DiscardAll,
    /// DISCARD PLANS | SEQUENCES | TEMP
    Discard(Box<str>),
    /// DEALLOCATE ALL / DEALLOCATE name
    DeallocateAll,
    Deallocate(Box<str>),
    /// CLOSE ALL outside a transaction
    CloseAll,
    /// UNLISTEN *
    Unlisten,
    /// SELECT pg_advisory_unlock_all(): one row, one void column of that name.
    AdvisoryUnlockAll,
}

/// A condition on values that must hold before the plan may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obligation {
    /// The n-th parameter, from 1, names a setting that tenants may read.
    ReadableSetting { parameter: u16 },
    /// The client has advanced the sequence (pg_class.oid) on this backend, in this transaction; `name` is for the error.
    OwnSequence { sequence: u32, name: Box<str> },
    /// Likewise, any sequence.
    OwnLastValue,
}

/// What a statement does to data, as far as the session must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    Read,
    Write,
    /// Leaves state on the backend that cannot be carried (an open cursor WITH HOLD, a temporary table, anything of an
    /// unrestricted user): the client stays on its backend.
    Pins,
    None,
}

/// How the answers of a plan fare in the result cache, and what the audit log calls it: no part of what it is.
#[derive(Debug, Default)]
pub struct Answers {
    used: OnceLock<Arc<TemplateUse>>,
    audited: OnceLock<Arc<audit::Template>>,
}

impl PartialEq for Answers {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Answers {}

/// A decision turned into text. INVARIANT (PERMIT): made from a `Permit` only.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    pub(crate) action: Action,
    pub(crate) effect: Effect,
    /// First word of the command, upper case, for metrics: `SELECT`.
    pub(crate) command: &'static str,
    pub(crate) segments: Vec<Segment>,
    /// Rows of VALUES that may be many.
    pub(crate) repeated: Option<Box<Repeated>>,
    /// How many parameters the client's text has.
    pub(crate) parameters: u16,
    /// Reads or writes rows of a tenant: cannot run before a tenant is chosen.
    pub(crate) needs_tenant: bool,
    /// The rows that come back are a check of the proxy's own, not the client's: RowDescription and DataRow are dropped, and
    /// Describe answers NoData.
    pub(crate) hides_rows: bool,
    /// COPY FROM STDIN: what becomes of the data.
    pub(crate) copy_in: Option<Arc<crate::sql::copy::Target>>,
    /// Parameters cannot stand in it.
    pub(crate) inlines_tenant: bool,
    pub(crate) obligations: Vec<Obligation>,
    /// Sequences (pg_class.oid) that it advances whenever it succeeds.
    pub(crate) advances: Vec<u32>,
    /// What is sent instead of the text of a simple query, once that has paid.
    pub(crate) lookup: Option<Box<Lookup>>,
    pub(crate) reads: Reads,
    pub(crate) writes: Writes,
    pub(crate) answers: Answers,
    /// What threat rules find in its form.
    pub(crate) signs: Signs,
    /// The form of what the client asks.
    pub(crate) form: Box<str>,
    /// What it is about, for the audit log: see [`touched`].
    pub(crate) touched: Box<[u8]>,
    /// Its record is waited for, whatever the audit log does elsewhere.
    pub(crate) waits_for_record: bool,
    /// Values that the audit log tells.
    pub(crate) classed: Box<[ClassedValues]>,
    pub(crate) epoch: PolicyEpoch,
}

impl Plan {
    /// One that sends nothing, reads nothing and writes nothing: where others begin.
    pub(crate) fn nothing(epoch: PolicyEpoch) -> Plan {
        Plan {
            action: Action::Forward,
            effect: Effect::None,
            command: "",
            segments: vec![],
            repeated: None,
            parameters: 0,
            needs_tenant: false,
            hides_rows: false,
            copy_in: None,
            inlines_tenant: false,
            obligations: vec![],
            advances: vec![],
            lookup: None,
            reads: Reads::Unknown(Uncached::Command),
            writes: Writes::Nothing,
            answers: Answers::default(),
            signs: Signs::default(),
            form: Box::default(),
            touched: Box::default(),
            waits_for_record: false,
            classed: Box::default(),
            epoch,
        }
    }

    /// Of what its answer is made.
    pub fn reads(&self) -> &Reads {
        &self.reads
    }

    /// Counts its answers. `note`: where it is the first.
    pub fn template(&self, note: impl Fn(&Arc<TemplateUse>)) -> Arc<TemplateUse> {
        let new = || {
            let used = Arc::new(TemplateUse::of(self.audited()));
            note(&used);
            used
        };
        self.answers.used.get_or_init(new).clone()
    }

    /// What threat rules find in its form.
    pub fn signs(&self) -> Signs {
        self.signs
    }

    /// The form of what the client asks; empty for what only changes the session.
    pub fn form(&self) -> &str {
        &self.form
    }

    /// Of a plan that has just been made. What is suspicious is judged each time that it is asked: it is not kept.
    pub(crate) fn note_signs(&mut self, signs: Signs, form: &str) {
        self.signs = signs;
        // What only changes the session is no application's own, and tells what settings are set to.
        let is_own = matches!(self.action, Action::Forward | Action::Prepare(_));
        // What a cursor gives was told when it was declared.
        let is_own = is_own && !matches!(self.command, "SHOW" | "FETCH" | "MOVE" | "CLOSE");
        self.form = if is_own { form.into() } else { Box::default() };
        if !signs.is_empty() {
            self.reads = Reads::Unknown(Uncached::Suspicious);
        }
        if let Action::Prepare(prepare) = &mut self.action
            && let Some(plan) = Arc::get_mut(&mut prepare.plan)
        {
            plan.note_signs(signs, of_prepared(form));
        }
    }

    /// How the audit log names it.
    pub fn audited(&self) -> Arc<audit::Template> {
        let new = || {
            let text =
                text_of(self, 0, &|i| format!("${}", u32::from(self.parameters) + u32::from(i) + 1), &|_| "TENANT".to_owned());
            // What was kept of the client's constants is nobody's to read, nor what a setting is set to.
            let text = if let Action::Set { name, .. } = &self.action { format!("SET {name}") } else { audit::redact(&text) };
            Arc::new(audit::Template::new(self.command, text, &self.form).about(&self.touched).awaited(self.waits_for_record))
        };
        self.answers.audited.get_or_init(new).clone()
    }

    /// Values that the audit log tells.
    pub fn classed(&self) -> &[ClassedValues] {
        &self.classed
    }

    /// What it may change. Of PREPARE and EXECUTE: what the statement that they name does is told by its own plan.
    pub fn writes(&self) -> &Writes {
        &self.writes
    }

    pub fn action(&self) -> &Action {
        &self.action
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        let text: usize = self.segments.iter().map(Segment::size).sum();
        let repeated = self.repeated.as_deref().map_or(0, Repeated::size);
        let inner = if let Action::Prepare(prepare) = &self.action { prepare.plan.size() } else { 0 };
        let lookup = self.lookup.as_deref().map_or(0, Lookup::size);
        size_of::<Plan>()
            + inner
            + text
            + repeated
            + lookup
            + self.form.len()
            + self.touched.len()
            + self.classed.iter().map(ClassedValues::size).sum::<usize>()
    }

    pub fn effect(&self) -> Effect {
        self.effect
    }

    pub fn command(&self) -> &'static str {
        self.command
    }

    pub fn epoch(&self) -> PolicyEpoch {
        self.epoch
    }

    /// Whether the rows that come back are not the client's.
    pub fn hides_rows(&self) -> bool {
        self.hides_rows
    }

    /// How many parameters the client's own text has; the tenant's, if any, is the one after them.
    pub fn parameters(&self) -> u16 {
        self.parameters
    }

    /// Whether the parameterised form has a parameter for the tenant, number `parameters() + 1`, declared as text (OID 25).
    pub fn has_tenant_parameter(&self) -> bool {
        !self.inlines_tenant && self.segments.iter().any(|s| matches!(s, Segment::Tenant(_)))
    }

    /// The type that the tenant's parameter is declared with: the columns' own, so that the predicate is as cheap as it can
    /// be and nothing runs before it that would not otherwise; text where there are several.
    pub fn tenant_parameter_type(&self) -> u32 {
        const TEXT: u32 = 25;
        let mut types = self.segments.iter().filter_map(|s| match s {
            Segment::Tenant(type_) => Some(*type_),
            Segment::Text(_) | Segment::Literal(_) => None,
        });
        match types.next() {
            Some(first) if types.all(|t| t == first) => first.oid(),
            Some(_) | None => TEXT,
        }
    }

    /// Whether the parameterised form has the tenant's value in its text (COPY and DECLARE take no parameters): it serves
    /// one tenant only.
    pub fn inlines_tenant(&self) -> bool {
        self.inlines_tenant
    }

    /// The text for a Parse message: literals in place, the tenant as a parameter, so that all tenants share it.
    /// `source` is the text that `literals` point into.
    /// `tenant`: for a plan that [inlines it](Self::inlines_tenant).
    pub fn write_parameterised(&self, source: &str, literals: &Literals, tenant: Option<&Tenant>, out: &mut BytesMut) {
        self.each_segment(literals.len(), |segment| match segment {
            Segment::Text(text) => out.put_slice(text.as_bytes()),
            Segment::Literal(i) => out.put_slice(literal(source, literals, *i).as_bytes()),
            Segment::Tenant(type_) if self.inlines_tenant => {
                if let Some(tenant) = tenant {
                    tenant::write_constant(*type_, tenant, out);
                }
            }
            Segment::Tenant(type_) => {
                out.put_slice(format!("${}::{}", self.parameters + 1, type_.sql()).as_bytes());
            }
        });
    }

    /// The text of a [`Lookup`]: each literal is the parameter, from 0, that `parameter` says, and the tenant that at `own`.
    fn write_lookup(&self, parameter: &dyn Fn(u16) -> Option<usize>, own: usize, out: &mut BytesMut) -> Option<()> {
        // Look-ups have no rows to repeat.
        for segment in &self.segments {
            match segment {
                Segment::Text(text) => out.put_slice(text.as_bytes()),
                Segment::Literal(i) => out.put_slice(format!("${}", parameter(*i)? + 1).as_bytes()),
                Segment::Tenant(type_) => out.put_slice(format!("${}::{}", own + 1, type_.sql()).as_bytes()),
            }
        }
        Some(())
    }

    /// The statement that runs it, where it is a look-up.
    pub fn lookup(&self) -> Option<&Upstream> {
        self.lookup.as_deref().map(Lookup::upstream)
    }

    /// Whether it is a look-up that has been asked for often enough to be prepared; it is asked for once more.
    pub fn is_frequent_lookup(&self) -> bool {
        self.lookup.as_deref().is_some_and(Lookup::is_frequent)
    }

    /// Whether it can run only once a tenant is chosen.
    pub fn needs_tenant(&self) -> bool {
        self.needs_tenant
    }

    /// Whether the tenant's value is one of every type that the plan puts it in.
    fn check_tenant(&self, tenant: &Tenant) -> Result<(), Denial> {
        if let Some(target) = &self.copy_in
            && !tenant::is_canonical(target.tenant_type, tenant)
        {
            return Err(not_of_type(target.tenant_type));
        }
        for segment in &self.segments {
            match segment {
                Segment::Tenant(type_) if !tenant::is_canonical(*type_, tenant) => {
                    return Err(not_of_type(*type_));
                }
                Segment::Tenant(_) | Segment::Text(_) | Segment::Literal(_) => {}
            }
        }
        Ok(())
    }

    /// No tenant, no data.
    pub fn no_tenant(&self) -> Denial {
        Denial::new(
            Reason::Tenant,
            SqlError::new(sqlstate::INSUFFICIENT_PRIVILEGE, "no tenant is chosen")
                .with_hint("choose one with SET bulkhead.tenant = '..'"),
        )
    }

    /// Fills the tenant slot from the principal, checks the epoch and discharges the value obligations.
    /// INVARIANT (PERMIT): the one maker of a [`Bound`].
    ///
    /// # Errors
    /// A tenant is needed and none is chosen; an obligation does not hold. `epoch` older than the plan's is the caller's to
    /// review again.
    pub fn bind<'a>(
        &'a self,
        source: &'a str,
        literals: &'a Literals,
        parameters: Parameters<'a>,
        principal: &'a Principal,
        own: &OwnSequences,
    ) -> Result<Bound<'a>, Denial> {
        let tenant = principal.tenant();
        if self.needs_tenant && tenant.is_none() {
            return Err(self.no_tenant());
        }
        if let Some(tenant) = tenant {
            self.check_tenant(tenant)?;
        }
        for obligation in &self.obligations {
            obligation::check(obligation, &parameters, own)?;
        }
        Ok(Bound { plan: self, source, literals, parameters, tenant })
    }
}

/// The values of a Bind message, or none.
#[derive(Clone, Copy, Debug)]
pub enum Parameters<'a> {
    /// Simple protocol.
    None,
    /// Extended protocol: value (`None` is NULL) and whether it is in binary format; the type as declared in Parse or found
    /// by Describe, 0 where it is not known.
    Bound(&'a [Parameter<'a>]),
}

#[derive(Clone, Copy, Debug)]
pub struct Parameter<'a> {
    pub value: Option<&'a [u8]>,
    pub binary: bool,
    pub type_oid: u32,
}

/// A plan with everything that one execution needs. What a backend takes for a tenant.
#[derive(Debug)]
pub struct Bound<'a> {
    plan: &'a Plan,
    source: &'a str,
    literals: &'a Literals,
    parameters: Parameters<'a>,
    tenant: Option<&'a Tenant>,
}

impl Bound<'_> {
    pub fn tenant(&self) -> Option<&Tenant> {
        self.tenant
    }

    /// Whether a literal may name the present time; what is written out in the plan does not.
    pub fn names_the_present(&self) -> bool {
        let mut indices = 0..self.literals.len() as u16;
        indices.any(|i| cached::names_the_present(literal(self.source, self.literals, i).as_bytes()))
    }

    /// What stands in it, where it does.
    pub fn values(&self) -> Values<'_> {
        Values { source: self.source, literals: self.literals, parameters: self.parameters }
    }

    pub fn plan(&self) -> &Plan {
        self.plan
    }

    /// Where the statement is a look-up, and its literals can be bound: appends the messages that run [`Plan::lookup`], Bind to
    /// Sync. `false`: nothing was written.
    pub fn write_lookup(&self, out: &mut BytesMut) -> bool {
        let tenant = self.tenant.filter(|_| self.plan.has_tenant_parameter());
        self.plan.lookup.as_ref().is_some_and(|lookup| lookup.write(self.source, self.literals, tenant, out))
    }

    /// The text for a Query message, tenant and literals in place.
    pub fn write_text(&self, out: &mut BytesMut) {
        self.plan.each_segment(self.literals.len(), |segment| match segment {
            Segment::Text(text) => out.put_slice(text.as_bytes()),
            Segment::Literal(i) => out.put_slice(literal(self.source, self.literals, *i).as_bytes()),
            Segment::Tenant(type_) => {
                if let Some(tenant) = self.tenant {
                    tenant::write_constant(*type_, tenant, out);
                }
            }
        });
    }

    /// What becomes of the data, where the statement is a COPY FROM STDIN.
    pub fn copy_in(&self) -> Option<CopyIn> {
        let (target, tenant) = (self.plan.copy_in.clone()?, self.tenant?.clone());
        Some(CopyIn { target, tenant })
    }

    /// `EXECUTE name (arguments, tenant)` of the plan's text, prepared upstream as `name` with the tenant as its last
    /// parameter. `arguments`: a checked list.
    pub fn write_execute(&self, name: &str, arguments: &[u8], out: &mut BytesMut) {
        out.put_slice(b"EXECUTE ");
        out.put_slice(name.as_bytes());
        let tenant = self.tenant.filter(|_| self.plan.has_tenant_parameter());
        if arguments.is_empty() && tenant.is_none() {
            return;
        }
        out.put_u8(b'(');
        out.put_slice(arguments);
        if let Some(tenant) = tenant {
            if !arguments.is_empty() {
                out.put_slice(b", ");
            }
            // Of the type that the parameter is declared with.
            tenant::write_quoted(tenant, out);
        }
        out.put_u8(b')');
    }

    /// The value of the tenant's parameter in text format, for Bind.
    pub fn tenant_parameter(&self) -> Option<&[u8]> {
        if self.plan.has_tenant_parameter() { self.tenant.map(|t| t.0.as_bytes()) } else { None }
    }
}

/// The data of a COPY that was permitted for a tenant. INVARIANT (PERMIT): made by a [`Bound`] only.
#[derive(Clone, Debug)]
pub struct CopyIn {
    target: Arc<crate::sql::copy::Target>,
    tenant: Tenant,
}

impl CopyIn {
    pub fn target(&self) -> &Arc<crate::sql::copy::Target> {
        &self.target
    }

    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }
}

fn not_of_type(type_: TenantType) -> Denial {
    let message = format!("the tenant's value is not a {}", type_.name());
    Denial::new(Reason::Tenant, SqlError::new(sqlstate::INVALID_AUTHORIZATION, message))
}

fn literal<'a>(source: &'a str, literals: &Literals, index: u16) -> &'a str {
    let range = &literals[usize::from(index)];
    &source[range.start as usize..range.end as usize]
}

/// A plan shared by all sessions that send its template.
pub type SharedPlan = Arc<Plan>;

mod obligation {
    //! Discharges value obligations.
    use super::*;

    pub fn check(obligation: &Obligation, parameters: &Parameters<'_>, own: &OwnSequences) -> Result<(), Denial> {
        match obligation {
            Obligation::ReadableSetting { parameter } => {
                let value = match parameters {
                    Parameters::None => None,
                    Parameters::Bound(all) => all.get(usize::from(*parameter).saturating_sub(1)),
                };
                // Text in both formats.
                let name = value.and_then(|v| v.value).and_then(|v| std::str::from_utf8(v).ok());
                match name {
                    Some(name) if crate::sql::analyse::utility::is_readable(name) => Ok(()),
                    Some(name) => Err(Denial::policy(format!("permission denied to examine \"{name}\""))),
                    None => Err(Denial::policy("permission denied to examine this parameter")),
                }
            }
            Obligation::OwnSequence { sequence, name: _ } if own.holds(*sequence) => Ok(()),
            Obligation::OwnSequence { sequence: _, name } => {
                Err(not_own(format!("currval of sequence \"{name}\" is not yet defined in this session")))
            }
            Obligation::OwnLastValue if !own.is_empty() => Ok(()),
            Obligation::OwnLastValue => Err(not_own("lastval is not yet defined in this session".to_owned())),
        }
    }

    /// 55000, as PostgreSQL says it to a new session: what the backend keeps may be another client's.
    fn not_own(message: String) -> Denial {
        Denial::new(Reason::Policy, SqlError::new(sqlstate::NOT_IN_PREREQUISITE_STATE, message)).hint(
            "it can be asked for in the transaction that has called nextval, or inserted a row whose default does; else use RETURNING",
        )
    }
}

pub mod tenant {
    //! The tenant's value as text of SQL.
    use super::*;

    /// Whether PostgreSQL would print the value as it is written here, so that one tenant has one name: `01` and ` 1` are
    /// no spellings of `1`.
    pub fn is_canonical(type_: TenantType, tenant: &Tenant) -> bool {
        let value = &*tenant.0;
        match type_ {
            TenantType::Int2 => is_canonical_integer(value) && value.parse::<i16>().is_ok(),
            TenantType::Int4 => is_canonical_integer(value) && value.parse::<i32>().is_ok(),
            TenantType::Int8 => is_canonical_integer(value) && value.parse::<i64>().is_ok(),
            TenantType::Text => !value.contains('\0'),
            TenantType::Uuid => is_canonical_uuid(value.as_bytes()),
        }
    }

    fn is_canonical_integer(value: &str) -> bool {
        let digits = value.strip_prefix('-').unwrap_or(value);
        value == "0" || matches!(digits.as_bytes().first(), Some(b'1'..=b'9'))
    }

    pub fn is_canonical_uuid(value: &[u8]) -> bool {
        value.len() == 36
            && value.iter().enumerate().all(|(i, b)| match i {
                8 | 13 | 18 | 23 => *b == b'-',
                0..8 | 9..13 | 14..18 | 19..23 | 24.. => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
            })
    }

    /// `'value'::type`. The value was checked against the column's type when it was loaded or chosen; quotes and
    /// backslashes cannot break out, since `standard_conforming_strings` is on: only `'` is doubled.
    pub fn constant(type_: TenantType, tenant: &Tenant) -> String {
        let mut out = BytesMut::new();
        write_constant(type_, tenant, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// As [`constant`], into a buffer.
    pub fn write_constant(type_: TenantType, tenant: &Tenant, out: &mut BytesMut) {
        write_quoted(tenant, out);
        out.put_slice(b"::");
        out.put_slice(type_.sql().as_bytes());
    }

    /// As [`constant`], of no type.
    pub fn write_quoted(tenant: &Tenant, out: &mut BytesMut) {
        out.put_u8(b'\'');
        for byte in tenant.0.bytes() {
            if byte == b'\'' {
                out.put_u8(b'\'');
            }
            out.put_u8(byte);
        }
        out.put_u8(b'\'');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_has_one_spelling() {
        let canonical = |type_, value: &str| tenant::is_canonical(type_, &Tenant(value.into()));
        for value in ["0", "1", "-1", "2147483647", "-2147483648"] {
            assert!(canonical(TenantType::Int4, value), "{value}");
        }
        for value in ["01", " 1", "1 ", "+1", "-0", "", "-", "2147483648", "1e0", "0x1", "1_0", "\u{661}"] {
            assert!(!canonical(TenantType::Int4, value), "{value}");
        }
        assert!(canonical(TenantType::Int8, "2147483648"));
        assert!(!canonical(TenantType::Int2, "32768"));
        assert!(canonical(TenantType::Uuid, "0f8fad5b-d9cb-469f-a165-70867728950e"));
        assert!(!canonical(TenantType::Uuid, "0F8FAD5B-D9CB-469F-A165-70867728950E"));
        assert!(!canonical(TenantType::Uuid, "{0f8fad5b-d9cb-469f-a165-70867728950e}"));
        assert!(canonical(TenantType::Text, "it's"));
    }

    /// As text with a cast the predicate would cost more than conditions of the client, which then ran before it.
    #[test]
    fn the_tenants_parameter_has_the_type_of_the_columns() {
        let plan = |types: &[TenantType]| Plan {
            segments: types.iter().map(|t| Segment::Tenant(*t)).collect(),
            ..Plan::nothing(PolicyEpoch(1))
        };
        assert_eq!(plan(&[TenantType::Int4, TenantType::Int4]).tenant_parameter_type(), 23);
        assert_eq!(plan(&[TenantType::Uuid]).tenant_parameter_type(), 2950);
        assert_eq!(plan(&[TenantType::Int4, TenantType::Text]).tenant_parameter_type(), 25, "one parameter serves both");
    }

    #[test]
    fn a_tenants_value_stays_inside_its_quotes() {
        assert_eq!(tenant::constant(TenantType::Text, &Tenant("a'b\\".into())), "'a''b\\'::pg_catalog.text");
    }
}
