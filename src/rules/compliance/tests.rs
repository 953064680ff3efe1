//! The score, and what evidence is worth.

use super::*;

pub(super) fn control(check: &str, classes: &[&str]) -> Control {
    let classes = classes.iter().map(|class| (*class).to_owned()).collect();
    Control { framework: "x".to_owned(), id: check.to_owned(), check: check.to_owned(), classes, weight: 1, ..Control::default() }
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
    const PERIOD: u64 = 30 * 86_400;
    let facts = Facts { level: "strict".to_owned(), ..Facts::default() };
    let controls = [control("isolation", &[])];
    for (age, points) in
        [(0, 100), (PERIOD, 100), (PERIOD * 5 / 4, 75), (PERIOD * 3 / 2, 50), (PERIOD * 7 / 4, 50), (9 * PERIOD, 50)]
    {
        assert_eq!(score_of(&controls, &facts, &seen("statement", NOW - age)).points, points, "{age}");
    }
    let report = report("x", &controls, &facts, &Evidence::default(), NOW);
    assert_eq!(report.lines[0].state, State::Configured);
    assert!(report.lines[0].because.ends_with("no log was read that would show it"), "{}", report.lines[0].because);
}

#[test]
fn what_was_seen_at_work_long_ago_is_worth_no_less_than_what_never_was() {
    let facts = Facts { users: vec![User::default()], limits: vec![vec![]], ..Facts::default() };
    let mut evidence = seen("statement", NOW);
    let limited = Seen { count: 1, record: 3, at: NOW - 59 * 86_400 };
    evidence.seen.insert("limited".to_owned(), limited);
    let report = report("x", &[control("export-limit", &[])], &facts, &evidence, NOW);
    assert_eq!((report.lines[0].state, report.score().points), (State::Enforced, 100), "{:?}", report.lines[0]);
}

#[test]
fn a_log_that_is_not_what_it_was_shows_nothing() {
    let facts = Facts { level: "strict".to_owned(), ..Facts::default() };
    for (log, why) in [(Log::Bad("record 7".to_owned()), "not what it was"), (Log::Unknown, "no log was read")] {
        let evidence = Evidence { log, ..seen("statement", NOW) };
        let report = report("x", &[control("isolation", &[])], &facts, &evidence, NOW);
        let line = &report.lines[0];
        assert_eq!((line.state, &line.evidence), (State::Configured, &None));
        assert!(line.because.contains(why), "{}", line.because);
    }
}

#[test]
fn what_watches_and_tells_nothing_is_unknown() {
    let facts = Facts { audit: Some(Audit::default()), ..Facts::default() };
    for (age, state) in [(59, State::Detected), (60, State::Unknown)] {
        let evidence = seen("threat", NOW - age * 86_400);
        let report = report("x", &[control("threat-watch", &[])], &facts, &evidence, NOW);
        assert_eq!(report.lines[0].state, state, "{age}");
    }
}

#[test]
fn a_critical_control_that_is_unknown_caps_and_says_so_below_the_cap() {
    let line = |state, critical| Weighed { state, weight: 1, critical, fresh: 100 };
    let capped = Score::of([line(State::Unknown, true), line(State::Failing, false)].into_iter());
    assert_eq!((capped.points, capped.capped), (0, true));
    let free = Score::of([line(State::NotApplicable, true), line(State::Enforced, false)].into_iter());
    assert_eq!((free.points, free.capped, free.checkable), (100, false, 1));
}

#[test]
fn what_older_versions_have_recorded_can_be_read() {
    let old = r#"{"columns":[{"name":"public.t.c","class":"pii","is_masked":true}],"users":[{"name":"web"}],"tables":[{"name":"public.t"}],"audit":{}}"#;
    let facts: Facts = serde_json::from_str(old).expect("facts");
    assert_eq!((facts.columns.len(), facts.users.len(), facts.tables.len()), (1, 1, 1));
}

#[test]
fn a_condition_names_a_column_where_it_is_no_string() {
    let rule = |using: &str| Restriction { using: using.to_owned(), ..Restriction::default() };
    assert!(rule("region = 'EU'").names("region") && rule("\"Region\" = 'EU'").names("region"));
    assert!(!rule("note = 'region'").names("region") && !rule("region_id = 1").names("region"));
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
