//! Compliance rules: what of a framework's controls can be seen from here, and whether it holds.
//!
//! Controls stand in policy files (`[[control]]`), which cite where they come from; each names a check, which is one file here, whose doc
//! comment is its manual. A check looks at [`Facts`]: configuration, policies, and what the audit log tells. What is not known counts as
//! failing, and what a proxy cannot see is listed as that. Nothing here says that somebody complies: a person does.

pub mod checks;
#[cfg(test)]
mod packs;
pub mod page;
pub mod recompute;
pub mod render;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What checks look at, as of one moment. Written into the audit log when policies come into force, so that who has only the log has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Facts {
    /// Columns that have a class.
    pub columns: Vec<Column>,
    pub tables: Vec<Table>,
    /// Columns that look personal and have no class; `None`: nobody has looked (no catalog).
    pub unclassified: Option<Vec<String>>,
    pub users: Vec<User>,
    /// Whose rows are limited, an entry for each `[[limit]]`: roles; none in it: every role.
    pub limits: Vec<Vec<String>>,
    /// Which unrestricted users may change definitions only at times, or for a ticket, likewise. A window that is always open, and for
    /// no ticket, is not among them.
    pub windows: Vec<Vec<String>>,
    /// `[isolation] level`
    pub level: String,
    pub client_tls: ClientTls,
    /// Databases whose server is neither verified nor on this machine.
    pub unverified_servers: Vec<String>,
    /// Seconds.
    pub client_idle_timeout: Option<u64>,
    /// Threat rules that do nothing, for everybody.
    pub threats_off: Vec<String>,
    /// Threat rules that refuse, whoever asks.
    pub threats_enforced: Vec<String>,
    /// Lists of what an application says.
    pub learned: usize,
    pub audit: Option<Audit>,
}

/// A column that has a class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Column {
    /// `schema.table.column`
    pub name: String,
    pub class: String,
    pub is_masked: bool,
    /// Roles that the mask spares. None: nobody's, or, with `purposes`, everybody's who says one.
    pub unless_roles: Vec<String>,
    /// It spares only who has said one of these. None: always.
    pub purposes: Vec<String>,
    pub never_stored: bool,
    /// Roles, and `purpose:..`, for which the rows that it marks are not there.
    pub hides_rows_from: Vec<String>,
    pub retention_days: Option<u64>,
}

impl Column {
    /// Whether a login sees the value whatever it has said.
    pub fn is_always_seen_by(&self, user: &User) -> bool {
        let is_spared = self.unless_roles.iter().any(|role| user.roles.contains(role));
        !self.never_stored && (!self.is_masked || is_spared && self.purposes.is_empty())
    }

    /// Whether there are rows that a login does not see, with a role of its own or a purpose that it may say.
    pub fn hides_rows_of(&self, user: &User) -> bool {
        self.hides_rows_from.iter().any(|from| match from.strip_prefix("purpose:") {
            Some(purpose) => user.purposes.iter().any(|mine| mine == purpose),
            None => user.roles.contains(from),
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Table {
    /// `schema.table`
    pub name: String,
    /// tenant, shared, view, denied
    pub scope: String,
    /// Its row rules that are restrictive and a policy file's own.
    pub restrictions: Vec<Restriction>,
}

/// A restrictive row rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Restriction {
    /// Whose rows; none: everybody's.
    pub roles: Vec<String>,
    /// Which rows, in SQL.
    pub using: String,
}

impl Restriction {
    /// Whether it is for a login.
    pub fn is_for(&self, user: &User) -> bool {
        self.roles.is_empty() || self.roles.iter().any(|role| user.roles.contains(role))
    }

    /// Whether its condition names a column, outside of strings.
    pub fn names(&self, column: &str) -> bool {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let code = self.using.split('\'').step_by(2);
        code.flat_map(|part| part.split(|c| !is_part(c))).any(|word| word.eq_ignore_ascii_case(column))
    }
}

/// A login.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct User {
    pub name: String,
    pub access: Access,
    pub roles: Vec<String>,
    /// It may say these.
    pub purposes: Vec<String>,
    pub breaks_glass: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Of one tenant.
    #[default]
    Fixed,
    Shared,
    /// Shared, and only signed tenants are taken.
    Signed,
    Unrestricted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientTls {
    #[default]
    Off,
    Offered,
    Required,
}

impl Facts {
    /// Logins that act for tenants.
    pub fn tenants(&self) -> impl Iterator<Item = &User> {
        self.users.iter().filter(|user| user.access != Access::Unrestricted)
    }
}

/// `[audit]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Audit {
    /// Statements that cannot be recorded are refused, or the proxy ends.
    pub refuses: bool,
    /// `None`: nothing is ever dropped.
    pub retention_days: Option<u64>,
}

/// What the audit log tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What was seen of each kind of event.
    pub seen: BTreeMap<String, Seen>,
    pub log: Log,
}

/// How the log itself is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// There is none, or nobody has looked.
    #[default]
    Unknown,
    Intact {
        size: u64,
        /// Records of a time in which the log could not be written.
        gaps: u64,
    },
    Bad(String),
}

/// The last of its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub count: u64,
    /// Of the last one in the log: what `bulkhead audit prove` takes.
    pub record: u64,
    /// Seconds since 1970.
    pub at: u64,
}

/// What a framework asks, as a policy file has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    pub framework: String,
    pub id: String,
    pub cites: String,
    pub title: String,
    pub says: String,
    pub check: String,
    pub classes: Vec<String>,
    pub weight: u32,
    pub critical: bool,
    /// With `audit-retention`.
    pub days: u64,
}

/// How far a check reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What violates it is refused, masked or hidden.
    Enforced,
    /// What violates it is told.
    Detected,
    /// The configuration says so.
    Configuration,
    /// It cannot be seen from here.
    OutOfScope,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Enforced => "enforced",
            Kind::Detected => "detected",
            Kind::Configuration => "checked in configuration",
            Kind::OutOfScope => "out of scope",
        }
    }
}

/// A check.
#[derive(Debug)]
pub struct Rule {
    /// As controls name it.
    pub name: &'static str,
    pub kind: Kind,
    /// What it looks at, in one sentence.
    pub says: &'static str,
    /// Events of the audit log that show it at work: the first of them that is fresh is named, or the last one that was seen.
    pub evidence: &'static [&'static str],
    /// For so many days a record is fresh: by how often there is a new one, where all is well.
    pub period_days: u64,
    pub look: fn(&Control, &Facts, &Evidence) -> Finding,
}

/// Every check.
pub static RULES: &[&Rule] = checks::ALL;

/// The check of that name.
pub fn named(name: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| rule.name == name)
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Holds(String),
    Fails(String),
    Unknown(String),
    /// There is nothing that it could be about.
    NotApplicable(String),
}

/// How a control is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Enforced,
    Detected,
    /// The configuration says so: no more can be checked, or nothing was seen of it yet.
    Configured,
    Failing,
    Unknown,
    NotApplicable,
    OutOfScope,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Enforced => "enforced",
            State::Detected => "detected",
            State::Configured => "configured",
            State::Failing => "failing",
            State::Unknown => "unknown",
            State::NotApplicable => "not applicable",
            State::OutOfScope => "out of scope",
        }
    }

    /// In percent.
    fn credit(self) -> u64 {
        match self {
            State::Enforced => 100,
            State::Detected | State::Configured => 50,
            State::Failing | State::Unknown | State::NotApplicable | State::OutOfScope => 0,
        }
    }

    fn counts(self) -> bool {
        match self {
            State::Enforced | State::Detected | State::Configured | State::Failing | State::Unknown => true,
            State::NotApplicable | State::OutOfScope => false,
        }
    }
}

/// One line of a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judged {
    pub control: Control,
    pub state: State,
    pub because: String,
    /// The kind of event that shows it, and its last record.
    pub evidence: Option<(String, Seen)>,
    /// For so many days its evidence is fresh; after twice as many it is worth nothing. 0: it needs none.
    pub period_days: u64,
    /// Of the evidence, in percent: 0 to 100.
    pub fresh: u64,
}

/// What is found about the controls of one framework.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub framework: String,
    /// Seconds since 1970.
    pub as_of: u64,
    /// What was known of the log: its size, where it is what it was.
    pub log: Option<u64>,
    /// Which log that was.
    #[serde(default)]
    pub origin: Option<String>,
    /// What it is about.
    #[serde(default)]
    pub databases: Vec<String>,
    pub lines: Vec<Judged>,
}

/// What a report comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Score {
    /// 0 to 100.
    pub points: u64,
    /// Controls that hold, of those that can be checked.
    pub holding: usize,
    pub checkable: usize,
    pub out_of_scope: usize,
    pub not_applicable: usize,
    /// A critical control fails or is unknown: no more than [`CAP`].
    pub capped: bool,
}

/// The most points where a critical control fails.
pub const CAP: u64 = 59;

/// Looks at all controls of a framework.
pub fn report(framework: &str, controls: &[Control], facts: &Facts, evidence: &Evidence, as_of: u64) -> Report {
    let of_it = controls.iter().filter(|control| control.framework == framework);
    let lines = of_it.map(|control| judge(control, facts, evidence, as_of)).collect();
    let log = match &evidence.log {
        Log::Intact { size, gaps: _ } => Some(*size),
        Log::Unknown | Log::Bad(_) => None,
    };
    Report { framework: framework.to_owned(), as_of, log, origin: None, databases: vec![], lines }
}

fn judge(control: &Control, facts: &Facts, evidence: &Evidence, as_of: u64) -> Judged {
    let judged = |state, because, evidence, fresh| {
        let period_days = named(&control.check).map_or(0, |rule| rule.period_days);
        Judged { control: control.clone(), state, because, evidence, period_days, fresh }
    };
    let Some(rule) = named(&control.check) else {
        return judged(State::Unknown, format!("there is no check `{}`", control.check), None, 0);
    };
    if rule.kind == Kind::OutOfScope {
        return judged(State::OutOfScope, "a proxy cannot see it".to_owned(), None, 0);
    }
    let seen = shown(rule, evidence, as_of);
    let fresh = seen.as_ref().map_or(0, |(_, seen)| freshness(as_of.saturating_sub(seen.at), rule.period_days));
    match (rule.look)(control, facts, evidence) {
        Finding::Fails(why) => judged(State::Failing, why, None, 0),
        Finding::Unknown(why) => judged(State::Unknown, why, None, 0),
        Finding::NotApplicable(why) => judged(State::NotApplicable, why, None, 0),
        Finding::Holds(why) => match rule.kind {
            Kind::Configuration | Kind::OutOfScope => judged(State::Configured, why, seen, 100),
            Kind::Enforced if fresh >= 50 => judged(State::Enforced, why, seen, fresh),
            // So old that what the configuration says is worth as much.
            Kind::Enforced => judged(State::Configured, format!("{why}; {}", missing(rule, evidence)), seen, 100),
            Kind::Detected if fresh > 0 => judged(State::Detected, why, seen, fresh),
            // What watches and has told nothing may as well not watch.
            Kind::Detected => judged(State::Unknown, format!("{why}; {}", missing(rule, evidence)), seen, 0),
        },
    }
}

/// What shows a check at work. Of a log that is not what it was, nothing does.
fn shown(rule: &Rule, evidence: &Evidence, as_of: u64) -> Option<(String, Seen)> {
    if !matches!(evidence.log, Log::Intact { .. }) {
        return None;
    }
    let seen = || rule.evidence.iter().filter_map(|event| Some((*event, *evidence.seen.get(*event)?)));
    let fresh = seen().find(|(_, seen)| freshness(as_of.saturating_sub(seen.at), rule.period_days) == 100);
    fresh.or_else(|| seen().max_by_key(|(_, seen)| seen.at)).map(|(event, seen)| (event.to_owned(), seen))
}

fn missing(rule: &Rule, evidence: &Evidence) -> String {
    let days = rule.period_days;
    match &evidence.log {
        Log::Unknown => "no log was read that would show it".to_owned(),
        Log::Bad(_) => "the log is not what it was, and shows nothing".to_owned(),
        Log::Intact { .. } if rule.kind == Kind::Enforced => {
            format!("no record of the last {} days shows it at work", days + days.div_ceil(2))
        }
        Log::Intact { .. } => format!("no record of the last {} days shows it at work", 2 * days),
    }
}

/// In percent, of evidence of so many seconds.
fn freshness(age: u64, period_days: u64) -> u64 {
    let period = period_days * 86_400;
    if age <= period { 100 } else { 100 * (2 * period).saturating_sub(age) / period.max(1) }
}

impl State {
    /// The worst of several databases' is what holds.
    fn badness(self) -> u8 {
        match self {
            State::OutOfScope => 0,
            State::NotApplicable => 1,
            State::Enforced => 2,
            State::Detected => 3,
            State::Configured => 4,
            State::Unknown => 5,
            State::Failing => 6,
        }
    }
}

impl Report {
    /// Of several databases: each control is as it is where it is worst. `None`: there is no database.
    pub fn of_all(reports: Vec<(String, Report)>) -> Option<Report> {
        let several = reports.len() > 1;
        let mut reports = reports.into_iter();
        let named = |name: &str, report: &mut Report| {
            report.databases.push(name.to_owned());
            for line in report.lines.iter_mut().filter(|line| several && line.state != State::OutOfScope) {
                line.because = format!("{name}: {}", line.because);
            }
        };
        let (name, mut all) = reports.next()?;
        named(&name, &mut all);
        for (name, mut report) in reports {
            named(&name, &mut report);
            all.databases.append(&mut report.databases);
            for (line, other) in all.lines.iter_mut().zip(report.lines) {
                if other.state.badness() > line.state.badness() {
                    *line = other;
                }
            }
        }
        Some(all)
    }

    /// Weights, credit and freshness, from the lines alone: whoever has the report can compute it again.
    pub fn score(&self) -> Score {
        Score::of(self.lines.iter().map(|line| Weighed {
            state: line.state,
            weight: line.control.weight,
            critical: line.control.critical,
            fresh: line.fresh,
        }))
    }
}

/// What of a line counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighed {
    pub state: State,
    pub weight: u32,
    pub critical: bool,
    /// In percent.
    pub fresh: u64,
}

impl Score {
    /// The sum of weights times credit times freshness, of the sum of weights; at most [`CAP`] where a critical control fails or is unknown.
    pub fn of(lines: impl Iterator<Item = Weighed>) -> Score {
        let mut score = Score { points: 0, holding: 0, checkable: 0, out_of_scope: 0, not_applicable: 0, capped: false };
        let (mut total, mut earned) = (0, 0);
        for line in lines {
            match line.state {
                State::OutOfScope => score.out_of_scope += 1,
                State::NotApplicable => score.not_applicable += 1,
                State::Failing | State::Unknown => score.capped |= line.critical,
                State::Enforced | State::Detected | State::Configured => score.holding += 1,
            }
            if line.state.counts() {
                score.checkable += 1;
                total += u64::from(line.weight);
                earned += u64::from(line.weight) * line.state.credit() * line.fresh.min(100);
            }
        }
        // Never rounded up.
        score.points = if total == 0 { 0 } else { earned / (total * 100) };
        if score.capped {
            score.points = score.points.min(CAP);
        }
        score
    }
}

/// Whether a column of the class `class` is one of those that a control is about: `pii.email` is within `pii`.
pub fn is_about(control: &Control, class: &str) -> bool {
    control.classes.iter().any(|of| class.strip_prefix(of.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}
