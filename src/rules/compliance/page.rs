//! A report as one page to print: without scripts, and without anything from elsewhere.

use std::fmt::Write;

use super::{CAP, Judged, Report, Score, State, named};
use crate::calendar::day;

/// The page.
pub fn html(report: &Report) -> String {
    let score = report.score();
    let (name, law) = framework(&report.framework);
    let name = escaped(&name);
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><meta name=\"viewport\" \
        content=\"width=device-width\">\
         <title>{name}: what a database proxy can check, {}</title>\n<style>{}</style></head>\n<body>\n",
        day(report.as_of),
        include_str!("page.css")
    );
    page += &head(report, &name, law);
    page += &summary(report, score);
    page += &controls(report);
    page += &list(report, State::NotApplicable, "Nothing here that it could be about", "not in the score");
    page += &list(report, State::OutOfScope, "Out of a proxy&#39;s sight", "not in the score: look elsewhere");
    page += &how(report, score);
    page += "</body>\n</html>\n";
    page
}

/// What a framework is called, and its text. Frameworks of one's own are called what they are called.
fn framework(id: &str) -> (String, &'static str) {
    let (name, law) = match id {
        "gdpr" => ("GDPR", "Regulation (EU) 2016/679"),
        "ccpa" => ("CCPA", "Cal. Civ. Code 1798.100 ff., as amended by the CPRA"),
        "hipaa" => ("HIPAA", "45 CFR part 164"),
        "pci-dss" => ("PCI DSS", "version 4.0.1"),
        "sox" => ("SOX", "section 404; it lists no technical controls itself"),
        other => return (other.to_uppercase(), ""),
    };
    (name.to_owned(), law)
}

fn head(report: &Report, name: &str, law: &str) -> String {
    let log = match report.log {
        Some(size) => {
            let origin = report.origin.as_deref().unwrap_or("of unknown origin");
            let size = thousands(size);
            format!("The audit log was read ({}): {size} records that its signed checkpoints cover.", escaped(origin))
        }
        None => "<strong>The audit log was not read, or is not what it was: nothing in it counts.</strong>".to_owned(),
    };
    let databases = escaped(&if report.databases.is_empty() { "no database".to_owned() } else { report.databases.join(", ") });
    let law = if law.is_empty() { String::new() } else { format!(" <span class=\"law\">{}</span>", escaped(law)) };
    format!(
        "<header><p class=\"who\">Bulkhead &middot; compliance report</p><h1>{name}{law}</h1>\n<p>What a database proxy can \
        check of it, of {databases}, as of \
         <time datetime=\"{0}\">{0}</time>. {log}</p></header>\n",
        day(report.as_of)
    )
}

fn summary(report: &Report, score: Score) -> String {
    let Score { points, holding, checkable, out_of_scope, not_applicable, capped } = score;
    let mut out = format!(
        "<section class=\"summary\" aria-label=\"Score\"><p class=\"points\"><b>{points}</b> of 100</p><div>\
         <p class=\"line\">Checkable controls: <b>{holding} of {checkable}</b>, score <b>{points}</b>; <b>{out_of_scope}</b> \
         controls of the framework \
         are out of a proxy&#39;s sight.</p><ul class=\"tally\">"
    );
    for state in [State::Enforced, State::Detected, State::Configured, State::Failing, State::Unknown] {
        let count = report.lines.iter().filter(|line| line.state == state).count();
        let _ = write!(out, "<li>{} {count}</li>", badge(state));
    }
    let _ = write!(out, "<li>{} {not_applicable}</li></ul>", badge(State::NotApplicable));
    let culprits = report.lines.iter().filter(|line| line.control.critical && is_wrong(line));
    let culprits: Vec<String> = culprits.map(|line| format!("<code>{}</code>", escaped(&line.control.id))).collect();
    if capped {
        let _ = write!(
            out,
            "<p class=\"alert\"><b>A critical control fails or is unknown:</b> {}. The score is at most {CAP}, whatever else \
            holds.</p>",
            culprits.join(", ")
        );
    }
    out += "<p class=\"note\">This says what was configured and what the log shows. It does not say that anybody complies, \
    which a person judges, \
            with all that is out of sight.</p></div></section>\n";
    out
}

fn is_wrong(line: &Judged) -> bool {
    matches!(line.state, State::Failing | State::Unknown)
}

fn controls(report: &Report) -> String {
    let mut out = "<section><h2>Controls in the score</h2>\n<table><thead><tr><th scope=\"col\">State</th><th \
    scope=\"col\">Control</th>\
                   <th scope=\"col\">What was found, and the record that shows it</th><th scope=\"col\" \
                   class=\"number\">Earned</th></tr></thead>\n<tbody>\n"
        .to_owned();
    for line in report.lines.iter().filter(|line| line.state.counts()) {
        out += &row(line);
    }
    let counting = || report.lines.iter().filter(|line| line.state.counts());
    let total: u32 = counting().map(|line| line.control.weight).sum();
    let earned: u64 = counting().map(earned).sum();
    let _ = write!(
        out,
        "</tbody>\n<tfoot><tr><td></td><td></td><th scope=\"row\">All</th><td class=\"number\">{} of \
        {total}</td></tr></tfoot></table></section>\n",
        hundredths(earned)
    );
    out
}

fn row(line: &Judged) -> String {
    let control = &line.control;
    let critical = if control.critical { " <span class=\"critical\">critical</span>" } else { "" };
    let rule = named(&control.check);
    let reach = rule.map(|rule| format!(" ({})", rule.kind.as_str())).unwrap_or_default();
    let wrong = if is_wrong(line) { " class=\"wrong\"" } else { "" };
    format!(
        "<tr{wrong}><td>{}</td><th scope=\"row\"><p><span class=\"cites\">{}</span> {}{critical}</p><p class=\"says\">{}</p></th>\
         <td><p>{}</p>{}<p class=\"id\"><code>{}</code>, check <code>{}</code>{reach}</p></td>\
         <td class=\"number\">{} of {}</td></tr>\n",
        badge(line.state),
        escaped(&control.cites),
        escaped(&control.title),
        escaped(&control.says),
        escaped(&line.because),
        proof(line),
        escaped(&control.id),
        escaped(&control.check),
        hundredths(earned(line)),
        control.weight,
    )
}

/// The record that shows it.
fn proof(line: &Judged) -> String {
    let Some((event, seen)) = &line.evidence else { return String::new() };
    format!(
        "<p class=\"proof\">Record <b>{}</b> ({}), <span class=\"date\">{}</span>, of {}</p>",
        seen.record,
        escaped(event),
        day(seen.at),
        thousands(seen.count),
    )
}

/// As it is read: 1,204,331. Numbers of records stay as commands take them.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// In hundredths of hundredths of a point: weight, times credit, times freshness.
fn earned(line: &Judged) -> u64 {
    u64::from(line.control.weight) * line.state.credit() * line.fresh.min(100)
}

fn hundredths(earned: u64) -> String {
    format!("{}.{:02}", earned / 10_000, earned % 10_000 / 100)
}

/// A word, and a shape for who sees no colours.
fn badge(state: State) -> String {
    let shape = match state {
        State::Enforced => "\u{25cf}",
        State::Detected => "\u{25d0}",
        State::Configured => "\u{25cb}",
        State::Failing => "\u{2715}",
        State::Unknown => "?",
        State::NotApplicable | State::OutOfScope => "\u{2013}",
    };
    let word = state.as_str();
    format!(
        "<span class=\"state {}\"><span class=\"shape\" aria-hidden=\"true\">{shape}</span>{word}</span>",
        word.replace(' ', "-")
    )
}

fn list(report: &Report, state: State, title: &str, what: &str) -> String {
    let lines: Vec<&Judged> = report.lines.iter().filter(|line| line.state == state).collect();
    if lines.is_empty() {
        return String::new();
    }
    let mut out = format!("<section><h2>{title} <small>{}, {what}</small></h2>\n<dl>\n", lines.len());
    for line in lines {
        let control = &line.control;
        let why = if state == State::NotApplicable { &line.because } else { &control.says };
        let _ = writeln!(
            out,
            "<div><dt><span class=\"cites\">{}</span> {}</dt><dd>{}</dd></div>",
            escaped(&control.cites),
            escaped(&control.title),
            escaped(why)
        );
    }
    out += "</dl></section>\n";
    out
}

fn how(report: &Report, score: Score) -> String {
    let name = escaped(&report.framework);
    format!(
        "<section class=\"how\"><h2>How to check this</h2>\n<ol>\n\
         <li><b>The score.</b> Each control earns its weight, times 1 where it is enforced, \u{00bd} where it is detected or \
         only configured, 0 where it \
         fails or is unknown; times the freshness of its evidence: 1 within the period of its check, then falling evenly to 0 \
         at twice that. What was \
         earned, of all weights, rounded down: {}. A critical control that fails or is unknown holds it at {CAP} or less.</li>\n\
         <li><b>Again, from the log.</b> <code>bulkhead compliance report --framework {name} --log DIRECTORY --policies \
         DIRECTORY</code> needs neither \
         the proxy nor its configuration. With <code>--json</code> it prints what each line is made of.</li>\n\
         <li><b>The log.</b> <code>bulkhead audit verify --public-key KEY --checkpoint COPY</code> tells whether it is what it \
         was; take the key and an \
         older checkpoint from elsewhere than from beside the log.</li>\n\
         <li><b>One record.</b> <code>bulkhead audit prove NUMBER &gt; proof.json</code> for the last record of its kind, whose \
         number a line names, then, without the log, \
         <code>bulkhead audit check proof.json --public-key KEY</code>.</li>\n</ol>\n\
         <p class=\"note\">Enforced: what violates it is refused, masked or hidden, and the log shows it at work. Detected: \
         what violates it is told. \
         Configured: the configuration says so; more cannot be checked, or nothing in the log shows it yet.</p>\n\
         <table class=\"signed\" role=\"presentation\"><tr><td>Reviewed \
         by</td><td></td><td>Date</td><td></td></tr></table></section>\n",
        score.points,
    )
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
            // What turns the order of what follows around.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out += "\u{fffd}",
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::{Column, Control, Evidence, Facts, Log, Seen, report};

    const EVIL: &str = "<script>alert('&\"x\"')</script>";

    #[test]
    fn names_cannot_become_markup() {
        let control = |check: &str| Control {
            framework: EVIL.to_owned(),
            id: EVIL.to_owned(),
            cites: EVIL.to_owned(),
            title: EVIL.to_owned(),
            says: EVIL.to_owned(),
            check: check.to_owned(),
            classes: vec![EVIL.to_owned()],
            weight: 1,
            critical: true,
            days: 1,
        };
        let column = Column { name: EVIL.to_owned(), class: EVIL.to_owned(), ..Column::default() };
        let facts = Facts { columns: vec![column], unclassified: Some(vec![EVIL.to_owned()]), ..Facts::default() };
        let controls = ["purpose", "classified", "retention", "out-of-scope", "isolation", EVIL].map(control);
        let evidence = Evidence { log: Log::Bad(EVIL.to_owned()), ..Evidence::default() };
        let page = html(&report(EVIL, &controls, &facts, &evidence, 0));
        assert!(!page.contains("<script") && !page.contains("<SCRIPT") && !page.contains("alert('"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;&amp;&quot;x&quot;&#39;)&lt;/script&gt;"));
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = html(&report("gdpr", &[], &Facts::default(), &Evidence::default(), 0));
        assert!(["http", "src=", "url(", "@import", "<link", "<script"].iter().all(|what| !page.contains(what)), "{page}");
        assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>\n"));
        assert!(page.contains("@page") && page.contains("size: A4"));
    }

    #[test]
    fn what_is_earned_adds_up_to_the_score() {
        let control = |check: &str, critical| Control {
            framework: "own".to_owned(),
            id: format!("own-{check}"),
            check: check.to_owned(),
            weight: 3,
            critical,
            ..Control::default()
        };
        let controls = [control("isolation", false), control("separation", false), control("second-lock", true)];
        let seen = Seen { count: 2, record: 41, at: 100 };
        let evidence = Evidence { seen: [("statement".to_owned(), seen)].into(), log: Log::Intact { size: 42, gaps: 0 } };
        let facts = Facts { level: "strict".to_owned(), ..Facts::default() };
        let page = html(&report("own", &controls, &facts, &evidence, 100));
        for piece in [
            "<h1>OWN</h1>",
            "<td class=\"number\">3.00 of 3</td>",
            "<td class=\"number\">1.50 of 3</td>",
            "<td class=\"number\">4.50 of 9</td>",
            "Checkable controls: <b>2 of 3</b>, score <b>50</b>",
            "Record <b>41</b>",
            "<code>own-second-lock</code>. The score is at most 59",
            "42 records",
        ] {
            assert!(page.contains(piece), "{piece} is not in {page}");
        }
    }
}
