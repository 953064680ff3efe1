//! What will be sent: a [`Plan`], made once for a template; a [`Bound`], made for each execution.

mod build;
mod quiet;
mod rewrite;
pub mod sentinel;
mod write;

pub use build::{Check, Built, build, text_of};

use std::sync::Arc;

use bytes::{BufMut, BytesMut};

use crate::audit::Receipt;
use crate::error::{SqlError, sqlstate};
use crate::finding::{Denial, Reason};
use crate::id::PolicyEpoch;
use crate::principal::{Principal, Tenant};
pub use crate::sql::template::{Literals, Segment, TenantType};

/// What a session does with a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the text and relay what comes back.
    Forward,
    /// Send the text; it changes the transaction.
    Transaction(TransactionCommand),
    /// Send the text; once it succeeded, it is part of the session's settings.
    Set { name: Box<str>, values: Option<Vec<Box<str>>>, local: bool },
    /// Send the text; once it succeeded, the setting is no longer part of the session's settings.
    Reset { name: Box<str> },
    /// Nothing is sent: `SET [LOCAL] bulkhead.tenant = ..`, or `set_config` of it (which answers with a row).
    ChooseTenant { value: TenantValue, lasts: Lasts, form: TenantForm },
    /// Nothing is sent: answered by the proxy.
    Emulate(Emulation),
    /// A query string without a statement: EmptyQueryResponse.
    Empty,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransactionCommand {
    Begin,
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

/// A decision turned into text. INVARIANT (PERMIT): made from a `Permit` only.
#[derive(Debug)]
pub struct Plan {
    pub(crate) action: Action,
    pub(crate) effect: Effect,
    /// First word of the command, upper case, for metrics: `SELECT`.
    pub(crate) command: &'static str,
    pub(crate) segments: Vec<Segment>,
    /// How many parameters the client's text has.
    pub(crate) parameters: u16,
    /// Reads or writes rows of a tenant: cannot run before a tenant is chosen.
    pub(crate) needs_tenant: bool,
    /// The rows that come back are a check of the proxy's own, not the client's: RowDescription and DataRow are dropped, and
    /// Describe answers NoData.
    pub(crate) hides_rows: bool,
    /// Parameters cannot stand in it.
    pub(crate) inlines_tenant: bool,
    pub(crate) obligations: Vec<Obligation>,
    pub(crate) epoch: PolicyEpoch,
}

impl Plan {
    pub fn action(&self) -> &Action {
        &self.action
    }

    /// The pieces of the text to send.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        let text: usize = self
            .segments
            .iter()
            .map(|s| match s {
                Segment::Text(t) => t.len(),
                Segment::Literal(_) | Segment::Tenant(_) => 0,
            })
            .sum();
        size_of::<Plan>() + text + self.segments.len() * size_of::<Segment>()
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

    /// Whether the parameterised form has the tenant's value in its text (COPY and DECLARE take no parameters): it serves
    /// one tenant only.
    pub fn inlines_tenant(&self) -> bool {
        self.inlines_tenant
    }

    /// The text for a Parse message: literals in place, the tenant as a parameter, so that all tenants share it.
    /// `source` is the text that `literals` point into.
    /// `tenant`: for a plan that [inlines it](Self::inlines_tenant).
    pub fn write_parameterised(&self, source: &str, literals: &Literals, tenant: Option<&Tenant>, out: &mut BytesMut) {
        for segment in &self.segments {
            match segment {
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
            }
        }
    }

    /// Whether it can run only once a tenant is chosen.
    pub fn needs_tenant(&self) -> bool {
        self.needs_tenant
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
        receipt: Receipt,
    ) -> Result<Bound<'a>, Denial> {
        let tenant = principal.tenant();
        if self.needs_tenant && tenant.is_none() {
            return Err(self.no_tenant());
        }
        for obligation in &self.obligations {
            obligation::check(obligation, &parameters)?;
        }
        Ok(Bound { plan: self, source, literals, tenant, receipt })
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
    tenant: Option<&'a Tenant>,
    receipt: Receipt,
}

impl Bound<'_> {
    pub fn plan(&self) -> &Plan {
        self.plan
    }

    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// The text for a Query message, tenant and literals in place.
    pub fn write_text(&self, out: &mut BytesMut) {
        for segment in &self.plan.segments {
            match segment {
                Segment::Text(text) => out.put_slice(text.as_bytes()),
                Segment::Literal(i) => out.put_slice(literal(self.source, self.literals, *i).as_bytes()),
                Segment::Tenant(type_) => {
                    if let Some(tenant) = self.tenant {
                        tenant::write_constant(*type_, tenant, out);
                    }
                }
            }
        }
    }

    /// The value of the tenant's parameter in text format, for Bind.
    pub fn tenant_parameter(&self) -> Option<&[u8]> {
        if self.plan.has_tenant_parameter() { self.tenant.map(|t| t.0.as_bytes()) } else { None }
    }
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

    pub fn check(obligation: &Obligation, parameters: &Parameters<'_>) -> Result<(), Denial> {
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
        }
    }
}

pub mod tenant {
    //! The tenant's value as text of SQL.
    use super::*;

    /// `'value'::type`. The value was checked against the column's type when it was loaded or chosen; quotes and
    /// backslashes cannot break out, since `standard_conforming_strings` is on: only `'` is doubled.
    pub fn constant(type_: TenantType, tenant: &Tenant) -> String {
        let mut out = BytesMut::new();
        write_constant(type_, tenant, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// As [`constant`], into a buffer.
    pub fn write_constant(type_: TenantType, tenant: &Tenant, out: &mut BytesMut) {
        out.put_u8(b'\'');
        for byte in tenant.0.bytes() {
            if byte == b'\'' {
                out.put_u8(b'\'');
            }
            out.put_u8(byte);
        }
        out.put_slice(b"'::");
        out.put_slice(type_.sql().as_bytes());
    }
}
