//! What the audit log says of a tenant's statements: their intents, before they leave, and what is refused.

use super::enforced::Session;
use crate::audit::{self, Reach, Refused};
use crate::error::{SqlError, sqlstate};
use crate::finding::{Denial, Reason};
use crate::plan::{Effect, Plan};

impl Session<'_> {
    /// What is about to be refused.
    pub fn note_refused(&mut self, text: &str) {
        if self.trail.is_on() {
            self.refused = Some(audit::redact(text));
        }
    }

    /// A refusal is recorded, and who asks for its reason is told where to look.
    pub fn record_refusal(&mut self, denial: &mut Denial) {
        let text = self.refused.take();
        let refused = Refused {
            tenant: self.principal.tenant().map(|tenant| &*tenant.0),
            reason: denial.reason.as_str(),
            sqlstate: denial.error.sqlstate.0,
            message: &denial.error.message,
            text: text.as_deref(),
        };
        let id = if crate::mutant!("audit.refusals-are-not-recorded") { None } else { self.trail.refuse(&refused) };
        // Nothing was done, and nothing else is told with it: that may be said unrecorded.
        if denial.error.sqlstate == sqlstate::IO_ERROR && self.client.outbox.is_empty() {
            self.trail.owe_nothing();
        }
        if let Some(id) = id {
            denial.error.detail.get_or_insert_with(|| format!("Audit log: bulkhead why {id}").into());
        }
    }

    /// A statement is about to be sent: its intent is recorded where it has one. What comes back goes with it.
    ///
    /// # Errors
    /// It cannot be recorded, and must not be sent.
    pub fn open(&mut self, plan: &Plan) -> Result<audit::Open, Denial> {
        let tenant = self.principal.tenant().map(|tenant| &*tenant.0);
        let reach = match plan.effect() {
            Effect::Write => Reach::Writes,
            Effect::Read | Effect::Pins | Effect::None => Reach::Reads,
        };
        self.trail.open(|| plan.audited(), tenant, reach).map_err(|_| unrecorded())
    }

    /// Both of [`open`](Self::open) and [`recorded`](Self::recorded).
    ///
    /// # Errors
    /// See there.
    pub async fn open_recorded(&mut self, plan: &Plan) -> Result<audit::Open, Denial> {
        let mut open = self.open(plan)?;
        match self.recorded().await {
            Ok(()) => Ok(open),
            Err(denial) => {
                open.discard();
                Err(denial)
            }
        }
    }

    /// Waits until the intents of what is about to be sent are as safe as they must be.
    ///
    /// # Errors
    /// They cannot be recorded.
    pub async fn recorded(&mut self) -> Result<(), Denial> {
        if self.trail.is_safe() { Ok(()) } else { self.trail.safe().await.map_err(|_| unrecorded()) }
    }
}

/// 58030: nothing is done that is not recorded.
pub(super) fn unrecorded() -> Denial {
    let error = SqlError::new(sqlstate::IO_ERROR, "the audit log cannot be written");
    Denial::new(Reason::Limit, error.with_hint("nothing was done; try again when the operator has made room for the log"))
}
