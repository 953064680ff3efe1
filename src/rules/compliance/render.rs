//! A report for people: on a terminal, and as a page to print.

use super::{Judged, Report, Score, State, named};
use crate::calendar::day;

/// What a score is, in one line.
pub fn summary(score: &Score) -> String {
    let Score { points, holding, checkable, out_of_scope, not_applicable, capped } = score;
    let capped = if *capped { "; a critical control fails" } else { "" };
    let nothing = if *not_applicable > 0 { format!("; {not_applicable} have nothing to be about") } else { String::new() };
    format!(
        "checkable controls: {holding} of {checkable} hold, score {points} of 100{capped}; {out_of_scope} are out of a proxy's sight{nothing}"
    )
}

/// For a terminal.
pub fn text(report: &Report) -> String {
    let mut out = format!("{}, {}: {}\n", report.framework, day(report.as_of), summary(&report.score()));
    for line in &report.lines {
        let critical = if line.control.critical { ", critical" } else { "" };
        out += &format!(
            "{:<14} {} ({}{critical}) {}\n               {}{}\n",
            line.state.as_str(),
            line.control.id,
            line.control.cites,
            line.control.title,
            line.because,
            evidence(line).map(|evidence| format!("; {evidence}")).unwrap_or_default()
        );
    }
    out
}

fn evidence(line: &Judged) -> Option<String> {
    let (event, seen) = line.evidence.as_ref()?;
    Some(format!("{} records of {event}, the last is {} ({})", seen.count, seen.record, day(seen.at)))
}

/// One page, without scripts and without anything from elsewhere.
pub fn html(report: &Report) -> String {
    let score = report.score();
    let name = escaped(&report.framework.to_uppercase());
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}: controls, {}</title>\n<style>{STYLE}</style></head>\n<body>\n",
        day(report.as_of)
    );
    out += &format!("<header><p class=\"who\">Bulkhead</p><h1>{name}: controls that a database proxy can check</h1>\n");
    out += &format!("<p class=\"when\">As of {}.</p></header>\n", day(report.as_of));
    out += &format!(
        "<section class=\"score\"><div class=\"points\"><b>{}</b><span>of 100</span></div><div><p><b>{} of {}</b> checkable controls hold. \
         {} controls of the framework are out of a proxy's sight and in no part of the score{}.</p><p>{}</p></div></section>\n",
        score.points,
        score.holding,
        score.checkable,
        score.out_of_scope,
        if score.not_applicable > 0 {
            format!("; {} have nothing to be about here", score.not_applicable)
        } else {
            String::new()
        },
        if score.capped {
            "A critical control fails: the score is at most 59."
        } else {
            "This says what was configured and seen, not that anybody complies with the framework."
        }
    );
    out += &table("Controls", report, |state| !matches!(state, State::OutOfScope | State::NotApplicable));
    out += &table("Nothing to be about here", report, |state| state == State::NotApplicable);
    out += &table("Out of a proxy's sight", report, |state| state == State::OutOfScope);
    let log = match report.log {
        Some(size) => format!("The audit log was read: {size} records, which agree with its checkpoints."),
        None => "The audit log was not read, or is not what it was.".to_owned(),
    };
    out += &format!(
        "<section class=\"how\"><h2>How to check this</h2><p>{log} The log verifies with its public key alone: <code>bulkhead audit verify \
         --public-key KEY</code>. A record that is named here is proved by <code>bulkhead audit prove NUMBER</code>. The score is computed again \
         from the log and the policy files by <code>bulkhead compliance report --framework {} --log DIRECTORY --policies DIRECTORY</code>, and \
         from the figures of this report in JSON (<code>--json</code>): enforced counts 1, detected and configured one half, failing and unknown \
         nothing, each times its weight and the freshness of its evidence (1 up to 30 days, nothing from 60 on).</p></section>\n</body></html>\n",
        escaped(&report.framework)
    );
    out
}

fn table(title: &str, report: &Report, of: impl Fn(State) -> bool) -> String {
    let lines: Vec<&Judged> = report.lines.iter().filter(|line| of(line.state)).collect();
    if lines.is_empty() {
        return String::new();
    }
    let mut out = format!(
        "<section><h2>{}</h2><table><thead><tr><th scope=\"col\">Control</th><th scope=\"col\">What it asks</th><th scope=\"col\">State</th></tr></thead><tbody>\n",
        escaped(title)
    );
    for line in lines {
        out += &row(line);
    }
    out += "</tbody></table></section>\n";
    out
}

fn row(line: &Judged) -> String {
    let control = &line.control;
    let critical = if control.critical { " <span class=\"critical\">critical</span>" } else { "" };
    let how = named(&control.check).map_or("", |rule| rule.kind.as_str());
    let proof = evidence(line).map(|evidence| format!("<p class=\"proof\">{}</p>", escaped(&evidence))).unwrap_or_default();
    format!(
        "<tr><th scope=\"row\"><p class=\"cites\">{}</p><p class=\"id\">{}{critical}, weight {}</p></th>\
         <td><p class=\"title\">{}</p><p>{}</p></td>\
         <td><p class=\"state {}\"><span aria-hidden=\"true\">{}</span> {}</p><p>{}</p>{proof}<p class=\"id\">{how}</p></td></tr>\n",
        escaped(&control.cites),
        escaped(&control.id),
        control.weight,
        escaped(&control.title),
        escaped(&control.says),
        line.state.as_str().replace(' ', "-"),
        mark(line.state),
        line.state.as_str(),
        escaped(&line.because),
    )
}

/// Its shape tells it where colours do not.
fn mark(state: State) -> &'static str {
    match state {
        State::Enforced => "\u{25cf}",
        State::Detected => "\u{25d0}",
        State::Configured => "\u{25cb}",
        State::Failing => "\u{2715}",
        State::Unknown => "?",
        State::NotApplicable | State::OutOfScope => "\u{2013}",
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            other => out.push(other),
        }
    }
    out
}

const STYLE: &str = "
@page { size: A4; margin: 16mm }
body { font: 10pt/1.45 system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; color: #1a1d21; max-width: 190mm; margin: 2rem auto; padding: 0 1rem }
p { margin: 0 0 .25em } h1 { font-size: 17pt; margin: 0 } h2 { font-size: 12pt; margin: 1.8em 0 .5em } code { font: 9pt ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere }
.who { letter-spacing: .12em; text-transform: uppercase; font-size: 8pt; color: #5b6470 } .when { color: #5b6470 }
.score { display: flex; gap: 1.5em; align-items: center; border: 1px solid #c9ced6; border-radius: 4px; padding: .9em 1.2em; margin-top: 1.2em }
.points { text-align: center } .points b { display: block; font-size: 30pt; line-height: 1 } .points span { white-space: nowrap; color: #5b6470; font-size: 8.5pt }
table { border-collapse: collapse; width: 100%; table-layout: fixed } thead th { text-align: left; font-size: 8.5pt; color: #5b6470; border-bottom: 1.5px solid #1a1d21; padding: 0 .8em .3em 0 }
thead th:nth-child(1) { width: 26% } thead th:nth-child(2) { width: 37% }
tbody th, td { text-align: left; vertical-align: top; font-weight: normal; border-bottom: 1px solid #dde1e6; padding: .6em .8em .6em 0; overflow-wrap: anywhere }
tr { break-inside: avoid } thead { display: table-header-group } .cites, .title { font-weight: 600 } .id, .proof { color: #5b6470; font-size: 8.5pt }
.critical { color: #8a1c1c; font-weight: 600 } .state { font-weight: 600 } .state.enforced { color: #14632f } .state.detected, .state.configured { color: #7a5200 }
.state.failing, .state.unknown { color: #8a1c1c } .how { color: #3d444d; font-size: 9pt; break-inside: avoid }
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::{Control, Evidence, Facts, report};

    #[test]
    fn names_cannot_become_markup() {
        let evil = "<script>alert('&\"x\"')</script>".to_owned();
        let control = Control {
            framework: evil.clone(),
            id: evil.clone(),
            cites: evil.clone(),
            title: evil.clone(),
            says: evil.clone(),
            check: evil.clone(),
            ..Control::default()
        };
        let page = html(&report(&evil, &[control], &Facts::default(), &Evidence::default(), 0));
        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;&amp;&quot;x&quot;&#39;)&lt;/script&gt;"));
        assert!(!page.contains("http"), "nothing from elsewhere");
    }
}
