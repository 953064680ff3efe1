//! A report in brief, one line for each control, as a record of the audit log holds it; and its score, from that alone.
//!
//! What a line says of its evidence (`event`, `record`, `at`) is what `bulkhead audit prove RECORD` shows to whoever has the
//! log's public key. Freshness is not taken from the lines: it follows from `at`, `days` and `as_of`.

use serde_json::{Map, Value, json};

use super::{Report, Score, State, Weighed, freshness};

/// A report in brief.
pub fn brief(report: &Report) -> Value {
    let lines = report.lines.iter().map(|line| {
        let mut brief = Map::new();
        brief.insert("id".to_owned(), json!(line.control.id));
        brief.insert("state".to_owned(), json!(line.state));
        brief.insert("because".to_owned(), json!(line.because));
        brief.insert("weight".to_owned(), json!(line.control.weight));
        if line.control.critical {
            brief.insert("critical".to_owned(), json!(true));
        }
        if let Some((event, seen)) = &line.evidence {
            brief.insert("event".to_owned(), json!(event));
            brief.insert("record".to_owned(), json!(seen.record));
            brief.insert("at".to_owned(), json!(seen.at));
            brief.insert("days".to_owned(), json!(line.period_days));
        }
        Value::Object(brief)
    });
    json!({
        "framework": report.framework,
        "as_of": report.as_of,
        "log": report.log,
        "score": report.score(),
        "states": lines.collect::<Vec<_>>(),
    })
}

/// The score of a report in brief, from its lines: what it says itself (`score`) is not looked at.
///
/// # Errors
/// It is none, or a line claims more than it names evidence for.
pub fn recompute(brief: &Value) -> Result<Score, String> {
    let as_of = brief["as_of"].as_u64().ok_or("there is no `as_of`")?;
    let lines = brief["states"].as_array().ok_or("there are no `states`")?;
    let weighed = lines.iter().map(|line| weighed(line, as_of)).collect::<Result<Vec<_>, _>>()?;
    Ok(Score::of(weighed.into_iter()))
}

fn weighed(line: &Value, as_of: u64) -> Result<Weighed, String> {
    let id = line["id"].as_str().unwrap_or("a line without `id`");
    let state: State = serde_json::from_value(line["state"].clone()).map_err(|_| format!("{id}: `state` is none"))?;
    let weight = line["weight"].as_u64().and_then(|weight| weight.try_into().ok()).ok_or(format!("{id}: `weight` is none"))?;
    let critical = line["critical"].as_bool().unwrap_or(false);
    let fresh = match (state, line["record"].as_u64(), line["at"].as_u64(), line["days"].as_u64()) {
        (State::Enforced | State::Detected, Some(_), Some(at), Some(days)) => {
            freshness(as_of.checked_sub(at).ok_or(format!("{id}: its evidence is younger than the report"))?, days)
        }
        (State::Enforced | State::Detected, _, _, _) => return Err(format!("{id}: it names no record that shows it")),
        (State::Configured | State::Failing | State::Unknown | State::NotApplicable | State::OutOfScope, _, _, _) => 100,
    };
    Ok(Weighed { state, weight, critical, fresh })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::compliance::{Control, Evidence, Facts, Judged, Log, Seen, report};

    const NOW: u64 = 1_800_000_000;

    fn sample() -> Report {
        let control = |check: &str, weight, critical| Control {
            framework: "x".to_owned(),
            id: check.to_owned(),
            check: check.to_owned(),
            weight,
            critical,
            ..Control::default()
        };
        let controls = [
            control("isolation", 5, true),
            control("export-limit", 3, false),
            control("transport", 2, false),
            control("separation", 4, false),
            control("out-of-scope", 1, false),
        ];
        let seen = Seen { count: 1, record: 7, at: NOW - 40 * 86_400 };
        let evidence = Evidence { seen: [("statement".to_owned(), seen)].into(), log: Log::Intact { size: 8, gaps: 0 } };
        let facts = Facts { level: "strict".to_owned(), ..Facts::default() };
        report("x", &controls, &facts, &evidence, NOW)
    }

    #[test]
    fn the_brief_has_the_same_score() {
        let report = sample();
        let again: Value = serde_json::from_str(&brief(&report).to_string()).expect("JSON");
        assert_eq!(recompute(&again), Ok(report.score()));
        // (5 + 3) * 66 % + 4 / 2, of 14.
        assert_eq!((report.score().points, report.score().holding, report.score().checkable), (52, 3, 4));
        assert_eq!(again["states"][0]["record"], 7);
    }

    #[test]
    fn what_it_says_of_itself_does_not_count() {
        let mut told = brief(&sample());
        told["score"]["points"] = json!(100);
        assert_eq!(recompute(&told).map(|score| score.points), Ok(52));
        let mut line = told.clone();
        line["states"][0]["state"] = json!("failing");
        assert_eq!(recompute(&line).map(|score| score.capped), Ok(true));
        for (key, value) in [("record", Value::Null), ("at", json!(NOW + 1)), ("state", json!("fine")), ("weight", json!(-1))] {
            let mut wrong = told.clone();
            wrong["states"][0][key] = value;
            assert!(recompute(&wrong).is_err_and(|why| why.starts_with("isolation: ")), "{key}");
        }
        assert!(recompute(&json!({})).is_err() && recompute(&json!({ "as_of": 1 })).is_err());
    }

    #[test]
    fn freshness_is_that_of_the_report() {
        let report = sample();
        let fresh: Vec<u64> = report.lines.iter().map(|line: &Judged| line.fresh).collect();
        assert_eq!(fresh[0], 66);
        assert_eq!(weighed(&brief(&report)["states"][0], NOW).map(|line| line.fresh), Ok(66));
    }
}
