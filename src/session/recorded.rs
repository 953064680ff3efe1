//! What the audit log says of a tenant's statements: their intents, before they leave, and what is refused.

use std::sync::Arc;
use std::time::SystemTime;

use smallvec::SmallVec;

use super::enforced::{End, Session, Step};
use super::expect::Expected;
use super::statements::Statement;
use crate::audit::{self, Reach, Refused};
use crate::error::{SqlError, sqlstate};
use crate::event::{Event, Uncached};
use crate::finding::{Action, Denial, Reason, Watch};
use crate::gate::threats::{Said, refused_by_rule};
use crate::gate::{Approved, Protocol};
use crate::id::PolicyEpoch;
use crate::plan::{Arguments, Effect, Parameters, Plan, Values};
use crate::policy::limits::RowLimit;
use crate::rules::learned::Learned;
use crate::rules::threat::canary_row::{CanaryRows, Tail};
use crate::rules::{self, Modes, Signs};

/// A longer text (bytes) that is refused is not read again to see what threat rules find in it.
const LONGEST_READ: usize = 16 << 10;

impl Session<'_> {
    /// What is about to be refused.
    pub fn note_refused(&mut self, text: &str) {
        // Longer ones are read in no time only where they are known.
        let mut signs = Signs::default();
        if text.len() <= LONGEST_READ {
            signs = rules::signs_of(text);
            if self.database.gate.names_canary(text) {
                signs = signs.and(Signs::of_rule(&rules::threat::canary::RULE));
            }
        }
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

    /// Of a statement that the rewriter lets through: what threat rules find in its form, and beside what its application is known to say.
    fn signs_of(&mut self, plan: &Plan, flow: Protocol) -> Signs {
        self.note_learned();
        if self.learned.lists.is_empty() || plan.form().is_empty() {
            return plan.signs();
        }
        let said = Said { audited: &plan.audited(), is_simple: flow == Protocol::Simple, parameters: plan.parameters() };
        plan.signs().and(Signs::of_statement(&said.beside(&self.learned.lists, SystemTime::now())))
    }

    /// Its roles have changed.
    pub fn forget_learned(&mut self) {
        self.learned = KnownStatements::default();
    }

    /// What is known of the application, in the present epoch.
    fn note_learned(&mut self) {
        let epoch = self.database.gate.epoch();
        if self.learned.epoch != Some(epoch) {
            let lists = self.database.gate.learned(&self.principal.roles, self.application.as_deref());
            let limit = self.database.gate.row_limit(&self.principal.roles);
            let is_watched = self.trail.is_on() && self.watch_of(&rules::threat::behaviour::RULE).0 != Watch::Off;
            self.learned = KnownStatements {
                epoch: Some(epoch),
                lists,
                limit,
                is_watched,
                canary_rows: self.canary_rows(),
                tail: Tail::default(),
                given: self.learned.given,
                parts: self.learned.parts,
            };
        }
    }

    /// Whether an answer that is kept may be given without another look at the statement.
    pub fn is_familiar(&mut self, audited: &audit::Template, flow: Protocol) -> bool {
        if self.login.lately.is_shut(seconds) || self.login.lately.is_slow(seconds) {
            return false;
        }
        self.note_learned();
        // Rows are counted as they come from the server.
        if !self.learned.limit.is_none() {
            return false;
        }
        let lists = &self.learned.lists;
        lists.is_empty()
            || lists.iter().any(|list| list.knows(audited.form))
                && !Said { audited, is_simple: flow == Protocol::Simple, parameters: 0 }.is_unbound(lists)
            || crate::mutant!("watch.what-is-kept-is-familiar")
    }

    /// What threat rules have found in a statement that the rewriter lets through.
    ///
    /// # Errors
    /// A policy says that it is refused.
    fn judge(&mut self, plan: &Plan, signs: Signs) -> Result<(), Denial> {
        let modes = self.threat_modes();
        let mut refused = None;
        for (number, rule) in signs.rules() {
            match modes.of_rule(number) {
                Watch::Off => {}
                Watch::Shadow => self.tell_threat(rule.name, Watch::Shadow, plan),
                Watch::Enforce if !modes.action_of(number).refuses() => {
                    self.tell_threat(rule.name, Watch::Enforce, plan);
                    self.act_on(rule.name, modes.action_of(number));
                }
                Watch::Enforce => refused = refused.max(Some(Severity::of(modes.action_of(number)))),
            }
        }
        match refused {
            None => Ok(()),
            Some(severity) => {
                // What the client asked, where that has a form: it is what somebody may want to permit.
                let asked = if plan.form().is_empty() { plan.audited().text.to_string() } else { plan.form().to_owned() };
                self.refused = Some((asked, signs));
                self.act(severity);
                Err(refused_by_rule())
            }
        }
    }

    /// What a rule does here.
    pub fn watch_of(&self, rule: &rules::Rule) -> (Watch, Action) {
        let modes = self.threat_modes();
        rules::named(rule.name).map_or((Watch::Off, Action::Deny), |number| (modes.of_rule(number), modes.action_of(number)))
    }

    /// Whether it is watched for what is unusual.
    pub fn is_watched(&self) -> bool {
        self.learned.is_watched
    }

    /// Of what is not refused, or cannot be any more.
    pub fn act_on(&mut self, rule: &'static str, action: Action) {
        match action {
            Action::Tag => self.trail.tag(rule),
            Action::Throttle => self.login.lately.slow_down(seconds()),
            Action::Deny | Action::EndSession | Action::Quarantine => self.act(Severity::of(action)),
        }
    }

    /// What is done besides refusing.
    fn act(&mut self, severity: Severity) {
        match severity {
            Severity::Deny => {}
            Severity::EndSession => self.is_ending = true,
            Severity::Quarantine => {
                self.login.lately.shut(seconds());
                self.trail.note("quarantine", |record| record.number("minutes", 15));
                tracing::warn!(user = &*self.principal.user, "a login is in quarantine for 15 minutes: a threat rule says so");
            }
        }
    }

    fn tell_threat(&mut self, rule: &'static str, mode: Watch, plan: &Plan) {
        self.shared.events.emit(Event::ThreatFound { rule, mode });
        let tenant = self.principal.tenant().map(|tenant| tenant.0.clone());
        self.trail.note("threat", |record| {
            let record = record.maybe("tenant", tenant.as_deref()).text("rule", rule).text("mode", mode.as_str());
            record.text("template", plan.audited().id())
        });
    }

    /// A threat rule ends the session, once the client has been told what it asked.
    pub fn check_ending(&self) -> Step {
        if !self.is_ending || !self.queue.is_empty() || crate::mutant!("watch.who-is-to-end-goes-on") {
            return Ok(());
        }
        let message = "terminating connection: it is not permitted to go on";
        Err(End::Fatal(SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, message)))
    }

    /// The client has broken the protocol, and its session ends.
    pub fn note_broken_protocol(&mut self) {
        for name in self.tell_signs(Signs::of_rule(&rules::threat::broken_protocol::RULE)) {
            self.trail.note("threat", |record| record.text("rule", name).text("mode", "shadow"));
        }
    }

    fn canary_rows(&self) -> Option<Arc<CanaryRows>> {
        let is_on = self.watch_of(&rules::threat::canary_row::RULE).0 != Watch::Off;
        if is_on { self.database.gate.canary_rows() } else { None }
    }

    /// A row that nobody has a reason to see is about to be passed on. An answer that has it is not kept.
    ///
    /// # Errors
    /// It is not passed on, and the session ends.
    pub fn note_canary_row(&mut self) -> Step {
        let rule = &rules::threat::canary_row::RULE;
        let (mode, action) = self.watch_of(rule);
        self.abandon(Uncached::Suspicious);
        self.shared.events.emit(Event::ThreatFound { rule: rule.name, mode });
        let tenant = self.principal.tenant().map(|tenant| tenant.0.clone());
        let template = self.queue.front().and_then(Expected::template);
        self.trail.note("threat", |record| {
            let record = record.maybe("tenant", tenant.as_deref()).text("rule", rule.name).text("mode", mode.as_str());
            record.maybe("template", template.as_ref().map(|template| template.id()))
        });
        if mode != Watch::Enforce || crate::mutant!("watch.canary-rows-are-given") {
            return Ok(());
        }
        self.act_on(rule.name, action);
        if !action.refuses() {
            return Ok(());
        }
        let message = "terminating connection: it is not permitted to go on";
        let refused = Refused {
            tenant: tenant.as_deref(),
            reason: Reason::Threat.as_str(),
            sqlstate: sqlstate::ADMIN_SHUTDOWN.0,
            message,
            rules: &[rule.name],
            text: template.as_ref().map(|template| &*template.text),
        };
        let id = self.trail.refuse(&refused);
        let error = SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, message);
        let detail = id.map(|id| format!("Audit log: bulkhead why {id}").into());
        Err(End::Fatal(SqlError { detail, ..error }))
    }

    /// Whether the login's statements are slow.
    pub fn is_slow(&self) -> bool {
        self.login.lately.is_slow(seconds)
    }

    /// What a query string's statements are together.
    ///
    /// # Errors
    /// A policy says that it is refused.
    pub fn judge_together(&mut self, approved: &[Approved]) -> Result<(), Denial> {
        // What only changes the session has no form.
        let mut own = approved.iter().filter(|one| !one.plan.form().is_empty());
        let (Some(_), Some(second)) = (own.next(), own.next()) else { return Ok(()) };
        let rule = &rules::threat::stacked_statements::RULE;
        if self.watch_of(rule).0 == Watch::Off { Ok(()) } else { self.judge(&second.plan, Signs::of_rule(rule)) }
    }

    /// A field that tells the values of one execution, where a policy wants that. `values`: as they are sent.
    ///
    /// # Errors
    /// They cannot be told.
    pub fn told(&self, plan: &Plan, values: &Values<'_>) -> Result<Vec<u8>, Denial> {
        self.told_with(plan, values, &Arguments::default())
    }

    /// The same of an EXECUTE of `statement`; its text, as the client has sent it.
    ///
    /// # Errors
    /// See there.
    pub fn told_of_execute(&self, statement: &Statement, execute: &str) -> Result<Vec<u8>, Denial> {
        if statement.plan.classed().is_empty() || !self.trail.is_on() {
            return Ok(vec![]);
        }
        let parameters = Parameters::None;
        let values = Values { source: &statement.source, literals: &statement.literals, parameters };
        self.told_with(&statement.plan, &values, &Arguments::of(execute))
    }

    fn told_with(&self, plan: &Plan, values: &Values<'_>, arguments: &Arguments) -> Result<Vec<u8>, Denial> {
        if plan.classed().is_empty() || !self.trail.is_on() {
            return Ok(vec![]);
        }
        let mut told = vec![];
        plan.classed().iter().for_each(|one| one.each(values, arguments, &mut |value| told.push(value)));
        let tenant = self.principal.tenant().map(|tenant| &*tenant.0);
        self.trail.tell(tenant, told.into_iter()).map_err(|_| untold())
    }

    /// A statement is about to be sent: its intent is recorded where it has one. What comes back goes with it. `told`: see
    /// [`told`](Self::told).
    ///
    /// # Errors
    /// It cannot be recorded, or a threat rule refuses it, and must not be sent.
    pub fn open(&mut self, plan: &Plan, flow: Protocol, told: Vec<u8>) -> Result<audit::Open, Denial> {
        if self.login.lately.is_shut(seconds) {
            self.refused = Some((plan.audited().text.to_string(), Signs::default()));
            return Err(refused_by_rule());
        }
        let signs = self.signs_of(plan, flow);
        // A transaction may be ended.
        if plan.effect() != Effect::None {
            self.check_hour()?;
        }
        if !signs.is_empty() {
            self.judge(plan, signs)?;
        }
        let tenant = self.principal.tenant().map(|tenant| &*tenant.0);
        let reach = match plan.effect() {
            Effect::Write => Reach::Writes,
            Effect::Read | Effect::Pins | Effect::None => Reach::Reads,
        };
        self.trail.open(|| plan.audited(), tenant, reach, told).map_err(|_| unrecorded())
    }

    /// # Errors
    /// 54000: the login has had all the rows that it may have in this hour.
    fn check_hour(&self) -> Result<(), Denial> {
        match self.learned.limit.rows_per_hour {
            Some(most) if self.login.lately.note_rows(seconds(), 0) >= most && !crate::mutant!("watch.hours-are-endless") => {
                Err(Denial::new(Reason::Limit, over_limit("in an hour")))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// How many rows more may be passed on now.
    pub fn rows_left(&self) -> u64 {
        let RowLimit { rows, rows_per_hour } = self.learned.limit;
        let of_hour = rows_per_hour.map(|most| most.saturating_sub(self.login.lately.note_rows(seconds(), 0)));
        let of_statement = rows.map(|most| most.saturating_sub(self.learned.given + self.learned.parts));
        of_hour.unwrap_or(u64::MAX).min(of_statement.unwrap_or(u64::MAX))
    }

    pub fn is_limited(&self) -> bool {
        !self.learned.limit.is_none()
    }

    /// So many rows were passed on.
    pub fn note_rows(&mut self, rows: u64) {
        self.learned.given += rows;
        self.login.lately.note_rows(seconds(), rows);
    }

    /// A statement has ended. `tag`: its command tag.
    pub fn forget_rows(&mut self, tag: &[u8]) {
        if tag.starts_with(b"FETCH") {
            self.keep_rows();
        }
        self.learned.tail.clear();
        self.learned.given = 0;
    }

    /// A part was given: the rest may come later.
    pub fn keep_rows(&mut self) {
        if !crate::mutant!("watch.parts-are-forgotten") {
            self.learned.parts += self.learned.given;
        }
        self.learned.tail.clear();
        self.learned.given = 0;
    }

    /// A transaction has ended, and all that it had open.
    pub fn forget_parts(&mut self) {
        if !self.pinned {
            self.learned.parts = 0;
        }
    }

    /// More rows than may be given have come: the session ends.
    pub fn end_over_limit(&mut self) -> End {
        let rows = self.learned.given + self.learned.parts;
        self.trail.note("limited", |record| record.number("rows", rows));
        let what = if self.learned.limit.rows.is_some_and(|most| rows >= most) { "in one statement" } else { "in an hour" };
        End::Fatal(SqlError { severity: crate::error::Severity::Fatal, ..over_limit(what) })
    }

    /// Both of [`open`](Self::open) and [`recorded`](Self::recorded).
    ///
    /// # Errors
    /// See there.
    pub async fn open_recorded(&mut self, plan: &Plan, flow: Protocol, told: Vec<u8>) -> Result<audit::Open, Denial> {
        let mut open = self.open(plan, flow, told)?;
        match self.recorded().await {
            Ok(()) => Ok(open),
            Err(denial) => {
                open.discard();
                Err(denial)
            }
        }
    }

    /// What the client has not read yet cannot be told.
    pub(super) fn end_unrecorded(&mut self) {
        tracing::warn!("a session ends: its answers cannot be recorded in the audit log");
        self.client.outbox.clear();
        // Who has only logged in may be told why: no answer is cut short by that.
        if self.statements == 0 {
            self.trail.owe_nothing();
            self.say_goodbye(&unrecorded().error);
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

/// What is known of a session's application.
#[derive(Debug, Default)]
pub struct KnownStatements {
    /// As of; `None`: nobody has looked yet.
    epoch: Option<PolicyEpoch>,
    /// None: nothing was learned of it.
    lists: SmallVec<[Arc<Learned>; 1]>,
    /// How many rows it may have.
    limit: RowLimit,
    /// Whether it is watched for what is unusual.
    is_watched: bool,
    /// What its answers must not have, and the end of what was looked at.
    pub(super) canary_rows: Option<Arc<CanaryRows>>,
    pub(super) tail: Tail,
    /// Rows of the statement under way that were passed on.
    given: u64,
    /// Those that cursors, and portals that were asked for a part, have given in this transaction.
    parts: u64,
}

/// What is done about a refused statement, from the least on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Severity {
    Deny,
    EndSession,
    Quarantine,
}

impl Severity {
    fn of(action: Action) -> Severity {
        match action {
            Action::Deny | Action::Tag | Action::Throttle => Severity::Deny,
            Action::EndSession => Severity::EndSession,
            Action::Quarantine => Severity::Quarantine,
        }
    }
}

/// 54000
fn over_limit(when: &str) -> SqlError {
    let error = SqlError::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, format!("more rows than these roles may have {when}"));
    error.with_hint("a policy ([[limit]]) says how many")
}

/// 58030: nothing is done that is not recorded.
pub(super) fn unrecorded() -> Denial {
    let error = SqlError::new(sqlstate::IO_ERROR, "the audit log cannot be written");
    Denial::new(Reason::Limit, error.with_hint("nothing was done; try again when the operator has made room for the log"))
}

/// 58030: a policy wants values told, and there is no key for them.
fn untold() -> Denial {
    let error = SqlError::new(sqlstate::IO_ERROR, "values of this statement cannot be told in the audit log");
    Denial::new(
        Reason::Limit,
        error.with_hint(
            "nothing was done; the operator finds in the proxy's log why its keys ([audit] value_keys) cannot be used",
        ),
    )
}

/// Of a clock that does not go back.
pub(super) fn seconds() -> u64 {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    // From the second minute on, so that none has been the one before.
    START.elapsed().as_secs() + 120
}
