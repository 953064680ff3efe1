//! What the proxy answers itself: choosing a tenant, and what only resets a session.

use bytes::BytesMut;

use super::enforced::{Session, in_failed_transaction};
use super::expect::{Outcome, Sent, Shown};
use super::simple::not_in_transaction;
use super::statements::LocalValues;
use super::tenant;
use crate::error::{SqlError, sqlstate};
use crate::finding::Reason;
use crate::gate::Protocol;
use crate::plan::{Action, Emulation, Lasts, Plan, TenantForm, TenantValue};
use crate::principal::Tenant;
use crate::wire::backend::{self as reply, Field, TransactionStatus};

/// `void`, as PostgreSQL describes it.
fn void(name: &str) -> Field<'_> {
    Field { type_oid: 2278, type_size: 4, ..Field::text(name) }
}

/// The one column of a statement that the proxy answers with a row.
pub(super) fn column(action: &Action) -> Option<Field<'static>> {
    match action {
        Action::ChooseTenant { form: TenantForm::SetConfig, .. } => Some(Field::text("set_config")),
        Action::ChooseTenant { form: TenantForm::Show, .. } => Some(Field::text(tenant::SETTING)),
        Action::Emulate(Emulation::AdvisoryUnlockAll) => Some(void("pg_advisory_unlock_all")),
        Action::ChooseTenant { form: TenantForm::Set, .. }
        | Action::Emulate(_)
        | Action::Forward
        | Action::Transaction(_)
        | Action::Set { .. }
        | Action::Configure { .. }
        | Action::Reset { .. }
        | Action::Prepare(_)
        | Action::Execute { .. }
        | Action::Empty => None,
    }
}

impl Session<'_> {
    /// Runs what the proxy answers itself and writes the answer. `values`: what is bound, where parameters name the
    /// tenant. In the simple protocol a row's description goes before it.
    ///
    /// # Errors
    /// What the client is told; nothing has changed.
    pub fn run_own(&mut self, plan: &Plan, values: &LocalValues, protocol: Protocol, out: &mut BytesMut) -> Result<(), SqlError> {
        if self.status == TransactionStatus::Failed {
            return Err(in_failed_transaction());
        }
        let mut row = None;
        let tag: String = match plan.action() {
            Action::ChooseTenant { value: wanted, lasts, form } => {
                let wanted = match wanted {
                    TenantValue::Unset => None,
                    TenantValue::Text(text) => Some(&**text),
                    TenantValue::Parameter(_) => values.tenant.as_deref(),
                };
                let local = match lasts {
                    Lasts::Session => false,
                    Lasts::Transaction => true,
                    Lasts::Parameter(_) => values.local,
                };
                row = self.choose_tenant(wanted, local, form, protocol, out)?;
                if *form != TenantForm::Show {
                    // As it is known now: what was sent may be a token.
                    let tenant = self.principal.tenant().map(|tenant| &*tenant.0);
                    self.trail.note("tenant", |record| record.maybe("tenant", tenant));
                }
                match form {
                    TenantForm::Set => plan.command().to_owned(),
                    TenantForm::SetConfig => "SELECT 1".to_owned(),
                    TenantForm::Show => "SHOW".to_owned(),
                }
            }
            Action::Emulate(emulation) => {
                if *emulation == Emulation::AdvisoryUnlockAll {
                    row = Some(String::new());
                }
                self.emulate(emulation)?
            }
            Action::Empty => {
                reply::put_empty_query(out);
                return Ok(());
            }
            Action::Forward
            | Action::Transaction(_)
            | Action::Set { .. }
            | Action::Configure { .. }
            | Action::Reset { .. }
            | Action::Prepare(_)
            | Action::Execute { .. } => {
                return Err(SqlError::new(sqlstate::INTERNAL_ERROR, "statement is not the proxy's to answer"));
            }
        };
        if let (Some(row), Some(field)) = (row, column(plan.action())) {
            if protocol == Protocol::Simple {
                reply::put_row_description(out, &[field]);
            }
            reply::put_data_row(out, &[Some(row.as_bytes())]);
        }
        reply::put_command_complete(out, &tag);
        Ok(())
    }

    /// The rules of DESIGN section 9: outside a transaction or first after BEGIN, once a transaction.
    fn choose_tenant(
        &mut self,
        wanted: Option<&str>,
        local: bool,
        form: &TenantForm,
        protocol: Protocol,
        out: &mut BytesMut,
    ) -> Result<Option<String>, SqlError> {
        if *form == TenantForm::Show {
            return Ok(Some(self.principal.tenant().map_or_else(String::new, |t| t.0.to_string())));
        }
        let in_block = self.status == TransactionStatus::InTransaction;
        let first = if in_block { self.began_at == Some(self.statements) } else { !self.batch.sent };
        if !first || self.choice.is_used() {
            let message = format!("{} can be set outside a transaction, or once as its first command", tenant::SETTING);
            return Err(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message));
        }
        // What an application may write where it has no tenant to set.
        let tenant = match wanted.filter(|value| !value.is_empty()) {
            Some(value) => Some(tenant::admit(&self.principal.access, self.login.token_key(), value)?),
            None => None,
        };
        let shown = Some(wanted.unwrap_or_default().to_owned()).filter(|_| *form == TenantForm::SetConfig);
        if local && !in_block && protocol == Protocol::Simple {
            if *form == TenantForm::Set {
                reply::put_notice(out, "WARNING", "25P01", "SET LOCAL can only be used in transaction blocks");
            }
            return Ok(shown);
        }
        if self.pinned && self.pinned_for != tenant {
            let message = "the tenant cannot be changed in a session that has held a cursor open or made a temporary table";
            return Err(SqlError::new(sqlstate::FEATURE_NOT_SUPPORTED, message));
        }
        self.set_tenant(tenant, local);
        Ok(shown)
    }

    pub fn set_tenant(&mut self, tenant: Option<Tenant>, local: bool) {
        if self.principal.tenant() != tenant.as_ref() {
            // What was bound for the one must not run for the other.
            self.names.drop_portals();
        }
        self.choice.choose(&mut self.principal.access, tenant, local);
        self.forget_sequences();
    }

    /// What was left on the backend ends with it.
    fn unpin(&mut self) {
        if std::mem::take(&mut self.pinned)
            && let Some(lease) = self.lease.take()
        {
            self.registration.slot().clear();
            drop(lease);
        }
    }

    /// Returns the command tag.
    fn emulate(&mut self, emulation: &Emulation) -> Result<String, SqlError> {
        let in_block = self.status == TransactionStatus::InTransaction || self.batch.sent;
        match emulation {
            Emulation::ResetAll | Emulation::CloseAll if in_block => {
                let message = "this command inside a transaction is supported in a query string of its own only";
                Err(SqlError::new(sqlstate::FEATURE_NOT_SUPPORTED, message))
            }
            Emulation::Declare { what, value } => {
                self.declare(*what, value.as_deref())?;
                Ok(if value.is_some() { "SET" } else { "RESET" }.to_owned())
            }
            Emulation::ResetAll => {
                self.declare_nothing()?;
                self.settings.reset_all();
                self.set_tenant(None, false);
                Ok("RESET".to_owned())
            }
            Emulation::DiscardAll if in_block => Err(not_in_transaction("DISCARD ALL")),
            Emulation::DiscardAll => {
                self.unpin();
                self.declare_nothing()?;
                self.settings.reset_all();
                self.set_tenant(None, false);
                self.names.deallocate_all();
                self.names.drop_portals();
                Ok("DISCARD ALL".to_owned())
            }
            Emulation::Discard(what) => {
                self.forget_sequences();
                Ok(format!("DISCARD {}", what.to_ascii_uppercase()))
            }
            Emulation::DeallocateAll => {
                self.names.deallocate_all();
                Ok("DEALLOCATE ALL".to_owned())
            }
            Emulation::Deallocate(name) if self.names.remove(name) => Ok("DEALLOCATE".to_owned()),
            Emulation::Deallocate(name) => Err(no_statement(name)),
            Emulation::CloseAll => Ok("CLOSE CURSOR ALL".to_owned()),
            Emulation::Unlisten => Ok("UNLISTEN".to_owned()),
            Emulation::AdvisoryUnlockAll => Ok("SELECT 1".to_owned()),
        }
    }
}

/// What the server is sent, in a string with other statements, for what the proxy answers itself where it stands alone: the server keeps
/// its place in the order. `None`: it must stand alone.
pub(super) fn in_a_list(emulation: &Emulation) -> Option<(&'static str, Sent)> {
    let nothing = |tag: &'static str, outcome: Outcome| {
        Some(("SELECT", Sent { hides_rows: true, shown: Shown::Instead(tag), ..Sent::own(outcome) }))
    };
    match emulation {
        Emulation::ResetAll | Emulation::DiscardAll | Emulation::Declare { .. } => None,
        Emulation::Discard(what) => match &**what {
            "PLANS" => nothing("DISCARD PLANS", Outcome::Nothing),
            _ => nothing("DISCARD SEQUENCES", Outcome::Nothing),
        },
        Emulation::DeallocateAll => nothing("DEALLOCATE ALL", Outcome::Deallocated(None)),
        Emulation::Deallocate(name) => nothing("DEALLOCATE", Outcome::Deallocated(Some(name.clone()))),
        Emulation::CloseAll => Some(("CLOSE ALL", Sent::own(Outcome::Nothing))),
        Emulation::Unlisten => nothing("UNLISTEN", Outcome::Nothing),
        // Nobody's: no tenant can take one.
        Emulation::AdvisoryUnlockAll => Some(("SELECT pg_catalog.pg_advisory_unlock_all()", Sent::own(Outcome::Nothing))),
    }
}

/// What a refusal of the proxy's own counts as.
pub(super) fn reason_of(error: &SqlError) -> Reason {
    if error.sqlstate == sqlstate::INVALID_AUTHORIZATION { Reason::Tenant } else { Reason::Invalid }
}

/// 26000, as PostgreSQL says it.
pub(super) fn no_statement(name: &str) -> SqlError {
    let message = if name.is_empty() {
        "unnamed prepared statement does not exist".to_owned()
    } else {
        format!("prepared statement \"{name}\" does not exist")
    };
    SqlError::new(sqlstate::INVALID_SQL_STATEMENT_NAME, message)
}
