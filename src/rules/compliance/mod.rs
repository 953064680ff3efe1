//! Compliance rules: what of a framework's controls can be seen from here, and whether it holds.
//!
//! Controls stand in policy files (`[[control]]`), which cite where they come from; each names a check, which is one file here, whose doc
//! comment is its manual. A check looks at [`Facts`]: configuration, policies, and what the audit log tells. What is not known counts as
//! failing, and what a proxy cannot see is listed as that. Nothing here says that somebody complies: a person does.

pub mod checks;
pub mod render;

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
    /// Which unrestricted users may change definitions only at times, or for a ticket, likewise.
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
pub struct Column {
    /// `schema.table.column`
    pub name: String,
    pub class: String,
    pub is_masked: bool,
    /// Somebody sees its value only while a purpose is said.
    pub has_purposes: bool,
    pub never_stored: bool,
    pub hides_rows: bool,
    pub retention_days: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// `schema.table`
    pub name: String,
    /// tenant, shared, view, denied
    pub scope: String,
    /// It has a row rule that is restrictive and a policy file's own.
    pub is_restricted: bool,
}

/// A login.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    pub name: String,
    pub access: Access,
    pub roles: Vec<String>,
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

/// `[audit]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Events of the audit log that show it at work: the first of them that was seen is named.
    pub evidence: &'static [&'static str],
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
    /// A critical control fails: no more than [`CAP`].
    pub capped: bool,
}

/// The most points where a critical control fails.
pub const CAP: u64 = 59;

/// Evidence of so many seconds is fresh; twice as old, it is worth nothing.
pub const PERIOD: u64 = 30 * 86_400;

/// Looks at all controls of a framework.
pub fn report(framework: &str, controls: &[Control], facts: &Facts, evidence: &Evidence, as_of: u64) -> Report {
    let of_it = controls.iter().filter(|control| control.framework == framework);
    let lines = of_it.map(|control| judge(control, facts, evidence, as_of)).collect();
    let log = match &evidence.log {
        Log::Intact { size, gaps: _ } => Some(*size),
        Log::Unknown | Log::Bad(_) => None,
    };
    Report { framework: framework.to_owned(), as_of, log, lines }
}

fn judge(control: &Control, facts: &Facts, evidence: &Evidence, as_of: u64) -> Judged {
    let judged = |state, because, evidence, fresh| Judged { control: control.clone(), state, because, evidence, fresh };
    let Some(rule) = named(&control.check) else {
        return judged(State::Unknown, format!("there is no check `{}`", control.check), None, 0);
    };
    if rule.kind == Kind::OutOfScope {
        return judged(State::OutOfScope, "a proxy cannot see it".to_owned(), None, 0);
    }
    let seen = rule.evidence.iter().find_map(|event| Some(((*event).to_owned(), *evidence.seen.get(*event)?)));
    let fresh = seen.as_ref().map_or(0, |(_, seen)| freshness(as_of.saturating_sub(seen.at)));
    match (rule.look)(control, facts, evidence) {
        Finding::Fails(why) => judged(State::Failing, why, seen, fresh),
        Finding::Unknown(why) => judged(State::Unknown, why, None, 0),
        Finding::NotApplicable(why) => judged(State::NotApplicable, why, None, 0),
        Finding::Holds(why) => match rule.kind {
            Kind::Configuration | Kind::OutOfScope => judged(State::Configured, why, seen, 100),
            Kind::Enforced | Kind::Detected if fresh == 0 => {
                let why = format!("{why}; nothing was seen of it in {} days", 2 * PERIOD / 86_400);
                judged(State::Configured, why, seen, 100)
            }
            Kind::Enforced => judged(State::Enforced, why, seen, fresh),
            Kind::Detected => judged(State::Detected, why, seen, fresh),
        },
    }
}

/// In percent.
fn freshness(age: u64) -> u64 {
    if age <= PERIOD { 100 } else { 100 * (2 * PERIOD).saturating_sub(age) / PERIOD }
}

impl Report {
    /// Weights, credit and freshness, from the lines alone: whoever has the report can compute it again.
    pub fn score(&self) -> Score {
        let counting = || self.lines.iter().filter(|line| line.state.counts());
        let total: u64 = counting().map(|line| u64::from(line.control.weight)).sum();
        let earned: u64 = counting().map(|line| u64::from(line.control.weight) * line.state.credit() * line.fresh).sum();
        let points = if total == 0 { 0 } else { earned / (total * 100) };
        let fails = |line: &Judged| line.control.critical && matches!(line.state, State::Failing | State::Unknown);
        let capped = counting().any(fails) && points > CAP;
        let of = |state| self.lines.iter().filter(|line| line.state == state).count();
        Score {
            points: if capped { CAP } else { points },
            holding: counting().filter(|line| !matches!(line.state, State::Failing | State::Unknown)).count(),
            checkable: counting().count(),
            out_of_scope: of(State::OutOfScope),
            not_applicable: of(State::NotApplicable),
            capped,
        }
    }
}

/// Whether a column of the class `class` is one of those that a control is about: `pii.email` is within `pii`.
pub fn is_about(control: &Control, class: &str) -> bool {
    control.classes.iter().any(|of| class.strip_prefix(of.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn control(check: &str, classes: &[&str]) -> Control {
        let classes = classes.iter().map(|class| (*class).to_owned()).collect();
        Control {
            framework: "x".to_owned(),
            id: check.to_owned(),
            check: check.to_owned(),
            classes,
            weight: 1,
            ..Control::default()
        }
    }

    fn seen(event: &str, at: u64) -> Evidence {
        Evidence { seen: [(event.to_owned(), Seen { count: 1, record: 7, at })].into(), log: Log::Intact { size: 8, gaps: 0 } }
    }

    const NOW: u64 = 1_800_000_000;

    fn score_of(controls: &[Control], facts: &Facts, evidence: &Evidence) -> Score {
        report("x", controls, facts, evidence, NOW).score()
    }

    #[test]
    fn what_is_not_known_counts_as_failing() {
        let facts = Facts { level: "strict".to_owned(), ..Facts::default() };
        let [isolation, classified] = ["isolation", "classified"].map(|check| control(check, &[]));
        let alone = score_of(std::slice::from_ref(&isolation), &facts, &seen("statement", NOW));
        assert_eq!((alone.points, alone.holding, alone.checkable), (100, 1, 1));
        let both = score_of(&[isolation, classified], &facts, &seen("statement", NOW));
        assert_eq!((both.points, both.holding, both.checkable), (50, 1, 2), "nobody has looked at the catalog");
    }

    #[test]
    fn a_critical_control_that_fails_caps_the_score() {
        let facts = Facts { level: "strict".to_owned(), ..Facts::default() };
        let mut controls: Vec<Control> = (0..9).map(|_| control("isolation", &[])).collect();
        controls.push(control("audit-complete", &[]));
        let evidence = seen("statement", NOW);
        assert_eq!(score_of(&controls, &facts, &evidence).points, 90);
        controls[9].critical = true;
        let score = score_of(&controls, &facts, &evidence);
        assert_eq!((score.points, score.capped), (59, true));
    }

    #[test]
    fn old_evidence_is_worth_less_and_none_is_configuration() {
        let facts = Facts { level: "strict".to_owned(), ..Facts::default() };
        let controls = [control("isolation", &[])];
        for (age, points) in [(0, 100), (PERIOD, 100), (PERIOD * 3 / 2, 50), (2 * PERIOD, 50), (9 * PERIOD, 50)] {
            assert_eq!(score_of(&controls, &facts, &seen("statement", NOW - age)).points, points, "{age}");
        }
        let report = report("x", &controls, &facts, &Evidence::default(), NOW);
        assert_eq!(report.lines[0].state, State::Configured);
        assert!(report.lines[0].because.ends_with("nothing was seen of it in 60 days"), "{}", report.lines[0].because);
    }

    #[test]
    fn what_cannot_be_seen_is_listed_and_does_not_count() {
        let facts = Facts { level: "strict".to_owned(), ..Facts::default() };
        let controls = [control("isolation", &[]), control("out-of-scope", &[]), control("retention", &["time"])];
        let facts = Facts { columns: vec![Column { class: "pii".to_owned(), ..Column::default() }], ..facts };
        let score = score_of(&controls, &facts, &seen("statement", NOW));
        assert_eq!((score.points, score.checkable, score.out_of_scope, score.not_applicable), (100, 1, 1, 1));
    }

    #[test]
    fn a_report_can_be_computed_again_from_its_json() {
        let controls = [control("isolation", &[]), control("transport", &[])];
        let report = report("x", &controls, &Facts::default(), &seen("statement", NOW), NOW);
        let again: Report = serde_json::from_str(&serde_json::to_string(&report).expect("JSON")).expect("a report");
        assert_eq!((again.score(), &again), (report.score(), &report));
    }

    #[test]
    fn names_are_of_one_check_each() {
        let mut names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
    }
}
