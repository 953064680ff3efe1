//! What the audit log says of a tenant's statements: their intents, before they leave, and what is refused.

use super::enforced::Session;
use smallvec::SmallVec;

use crate::audit::{self, Reach, Refused};
use crate::error::{SqlError, sqlstate};
use crate::event::Event;
use crate::finding::{Denial, Reason, Watch};
use crate::plan::{Effect, Plan};
use crate::rules::{self, Modes, Signs};

/// A longer text (bytes) that is refused is not read again to see what threat rules find in it.
const LONGEST_READ: usize = 16 << 10;

impl Session<'_> {
    /// What is about to be refused.
    pub fn note_refused(&mut self, text: &str) {
        // Longer ones are read in no time only where they are known.
        let signs = if text.len() <= LONGEST_READ { rules::signs_of(text) } else { Signs::default() };
        let text = if self.trail.is_on() { audit::redact(text) } else { String::new() };
        self.refused = Some((text, signs));
    }

    /// A refusal is recorded, and who asks for its reason is told where to look.
    pub fn record_refusal(&mut self, denial: &mut Denial) {
        let (text, signs) = self.refused.take().unwrap_or_default();
        let (reason, sqlstate) = (denial.reason, denial.error.sqlstate.0);
        let signs = signs.and(self.note_failure(sqlstate));
        let names = self.tell_signs(signs);
        let refused = Refused {
            tenant: self.principal.tenant().map(|tenant| &*tenant.0),
            reason: reason.as_str(),
            sqlstate,
            message: &denial.error.message,
            rules: &names,
            text: Some(text.as_str()).filter(|text| !text.is_empty()),
        };
        let id = if crate::mutant!("audit.refusals-are-not-recorded") { None } else { self.trail.refuse(&refused) };
        // Nothing was done, and nothing else is told with it: that may be said unrecorded.
        if denial.error.sqlstate == sqlstate::IO_ERROR && self.client.outbox.is_empty() {
            self.trail.owe_nothing();
        }
        // What PostgreSQL would refuse as well is said in its own words, and no others.
        if let Some(id) = id.filter(|_| reason != Reason::Invalid) {
            denial.error.detail.get_or_insert_with(|| format!("Audit log: bulkhead why {id}").into());
        }
    }

    /// A statement has failed, or is refused: what that says of the login.
    pub fn note_failure(&mut self, sqlstate: &str) -> Signs {
        let lately = &self.login.lately;
        lately.note_failure(seconds(), self.statements.saturating_sub(self.counted), sqlstate == sqlstate::SYNTAX_ERROR.0);
        self.counted = self.statements;
        Signs::of_failures(lately)
    }

    /// What threat rules have found in what is refused already, or has failed: those that a policy has not switched off.
    fn tell_signs(&self, signs: Signs) -> SmallVec<[&'static str; 2]> {
        let mut names = SmallVec::new();
        if signs.is_empty() {
            return names;
        }
        let modes = self.threat_modes();
        for (number, rule) in signs.rules() {
            let mode = modes.of_rule(number);
            if mode != Watch::Off {
                self.shared.events.emit(Event::ThreatFound { rule: rule.name, mode });
                names.push(rule.name);
            }
        }
        names
    }

    /// A statement has failed on the server: what that says of the login is recorded.
    pub fn record_signs_of_failure(&mut self, sqlstate: &str) {
        let signs = self.note_failure(sqlstate);
        for name in self.tell_signs(signs) {
            self.trail.note("threat", |record| record.text("rule", name).text("mode", "shadow").text("sqlstate", sqlstate));
        }
    }

    fn threat_modes(&self) -> Modes {
        self.database.gate.threat_modes(&self.principal.roles, self.application.as_deref())
    }

    /// What threat rules have found in a statement that the rewriter lets through.
    ///
    /// # Errors
    /// A policy says that it is refused.
    fn judge(&mut self, plan: &Plan) -> Result<(), Denial> {
        let modes = self.threat_modes();
        let mut enforced = None;
        for (number, rule) in plan.signs().rules() {
            match modes.of_rule(number) {
                Watch::Off => {}
                Watch::Shadow => {
                    self.shared.events.emit(Event::ThreatFound { rule: rule.name, mode: Watch::Shadow });
                    let tenant = self.principal.tenant().map(|tenant| tenant.0.clone());
                    self.trail.note("threat", |record| {
                        record
                            .maybe("tenant", tenant.as_deref())
                            .text("rule", rule.name)
                            .text("mode", "shadow")
                            .text("template", plan.audited().id())
                    });
                }
                Watch::Enforce => enforced = Some(rule.name),
            }
        }
        match enforced {
            None => Ok(()),
            Some(_) => {
                self.refused = Some((plan.audited().text.to_string(), plan.signs()));
                // Which rule it was is for the log: whoever probes learns nothing from it.
                Err(Denial::new(
                    Reason::Threat,
                    SqlError::new(sqlstate::INSUFFICIENT_PRIVILEGE, "permission denied for this statement"),
                ))
            }
        }
    }

    /// A statement is about to be sent: its intent is recorded where it has one. What comes back goes with it.
    ///
    /// # Errors
    /// It cannot be recorded, or a threat rule refuses it, and must not be sent.
    pub fn open(&mut self, plan: &Plan) -> Result<audit::Open, Denial> {
        if !plan.signs().is_empty() {
            self.judge(plan)?;
        }
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

/// Of a clock that does not go back.
fn seconds() -> u64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    // From the second minute on, so that none has been the one before.
    START.elapsed().as_secs() + 120
}
