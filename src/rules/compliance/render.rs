//! A report for people, on a terminal. As a page to print: [`super::page`].

use super::{Judged, Report, Score};
use crate::calendar::day;

/// What a score is, in one line.
pub fn summary(score: &Score) -> String {
    let Score { points, holding, checkable, out_of_scope, not_applicable, capped } = score;
    let capped = if *capped { "; a critical control fails or is unknown" } else { "" };
    let nothing = if *not_applicable > 0 { format!("; {not_applicable} have nothing to be about") } else { String::new() };
    format!(
        "checkable controls: {holding} of {checkable} hold, score {points} of 100{capped}; {out_of_scope} are out of a proxy's sight{nothing}"
    )
}

/// For a terminal.
pub fn text(report: &Report) -> String {
    let mut out = format!("{}, {}: {}\n", plain(&report.framework), day(report.as_of), summary(&report.score()));
    out += &plain(&of_what(report));
    out.push('\n');
    for line in &report.lines {
        let critical = if line.control.critical { ", critical" } else { "" };
        out += &format!(
            "{:<14} {} ({}{critical}) {}\n               {}{}\n",
            line.state.as_str(),
            plain(&line.control.id),
            plain(&line.control.cites),
            plain(&line.control.title),
            plain(&line.because),
            evidence(line).map(|evidence| format!("; {evidence}")).unwrap_or_default()
        );
    }
    out
}

/// What a report is about.
pub(super) fn of_what(report: &Report) -> String {
    let databases = if report.databases.is_empty() { "no database".to_owned() } else { report.databases.join(", ") };
    match (&report.origin, report.log) {
        (Some(origin), Some(size)) => format!("of {databases}; by the {size} signed records of the log {origin}"),
        (_, _) => format!("of {databases}; no log was read, or it is not what it was"),
    }
}

/// On one line, and in the order in which it is written.
fn plain(text: &str) -> String {
    let is_odd =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}');
    text.chars().map(|c| if is_odd(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
}

/// What shows it, in words.
pub(super) fn evidence(line: &Judged) -> Option<String> {
    let (event, seen) = line.evidence.as_ref()?;
    Some(format!("{} records of {event}, the last is {} ({})", seen.count, seen.record, day(seen.at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::{Control, Evidence, Facts, report};

    #[test]
    fn a_terminal_is_told_all_lines() {
        let control = |check: &str, critical| Control {
            framework: "x".to_owned(),
            id: format!("x-{check}"),
            cites: "Art. 1".to_owned(),
            title: check.to_owned(),
            check: check.to_owned(),
            weight: 2,
            critical,
            ..Control::default()
        };
        let controls = [control("isolation", true), control("second-lock", false), control("out-of-scope", false)];
        let text = text(&report("x", &controls, &Facts::default(), &Evidence::default(), 0));
        let first = "x, 1970-01-01: checkable controls: 0 of 2 hold, score 0 of 100; a critical control fails or is unknown; 1 are out of a proxy's sight";
        assert!(text.starts_with(first), "{text}");
        assert_eq!(plain("a\nb\u{202e}c"), "a\\u{a}b\\u{202e}c");
        for line in
            ["unknown        x-isolation (Art. 1, critical) isolation\n", "failing        x-second-lock (Art. 1) second-lock\n"]
        {
            assert!(text.contains(line), "{text}");
        }
    }
}
