//! `bulkhead check --reference`: what can stand in the files, and what can be measured, from the tables that the code works with.

use crate::config::document::Key;
use crate::config::settings::{SETTINGS, VARIABLES_NOT_BUILT};
use crate::config::{DATABASE_KEYS, ROOT_KEYS, USER_KEYS};
use crate::metrics::{Kind, METRICS};
use crate::policy::load::{
    ALLOW_KEYS, APPLICATION_KEYS, AS_KEYS, CLASS_KEYS, COLUMN_KEYS, CONTROL_KEYS, EXPECT_KEYS, FILE_KEYS, LIMIT_KEYS, RULE_KEYS,
    TABLE_KEYS, TEMPORARY_KEYS, TEST_KEYS, THREAT_KEYS, WINDOW_KEYS,
};
use crate::rules::{RULES, compliance};

/// The whole reference.
pub fn text() -> String {
    let mut out = String::from(
        "CONFIGURATION (proxy.toml)\n\
         Every setting also reads from the variable beside it; file < environment < --set SECTION.KEY=VALUE.\n\
         Relative paths start at the file's directory, those of variables and --set at the working directory.\n",
    );
    for root in ROOT_KEYS {
        if root.name == "database" || root.name == "user" {
            continue;
        }
        out.push_str(&format!("\n[{}]{}\n", root.name, ""));
        for setting in SETTINGS.iter().filter(|s| s.section == root.name) {
            let default = if setting.default.is_empty() { String::new() } else { format!(" Default {}.", setting.default) };
            let names = std::iter::once(setting.variable()).chain(setting.aliases.iter().map(ToString::to_string));
            entry(&mut out, setting.key, &format!("{}{default}", setting.doc));
            detail(&mut out, &format!("takes {}", setting.kind.expected()));
            detail(&mut out, &names.collect::<Vec<_>>().join(", "));
        }
    }
    keys(&mut out, "[[database]]", DATABASE_KEYS);
    keys(&mut out, "[[user]]", USER_KEYS);
    out.push_str("\nVariables of what is not built yet, refused unless they mean off:\n  ");
    out.push_str(&VARIABLES_NOT_BUILT.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", "));
    out.push_str("\n\nPOLICIES (every *.toml below [server] policies)\n");
    keys(&mut out, "a policy file", FILE_KEYS);
    keys(&mut out, "[[table]]", TABLE_KEYS);
    keys(&mut out, "[[table.rule]]", RULE_KEYS);
    keys(&mut out, "[[table.column]]", COLUMN_KEYS);
    keys(&mut out, "[[temporary]]", TEMPORARY_KEYS);
    keys(&mut out, "[[allow]]", ALLOW_KEYS);
    keys(&mut out, "[[threat]]", THREAT_KEYS);
    keys(&mut out, "[[application]]", APPLICATION_KEYS);
    keys(&mut out, "[[class]]", CLASS_KEYS);
    keys(&mut out, "[[limit]]", LIMIT_KEYS);
    keys(&mut out, "[[window]]", WINDOW_KEYS);
    keys(&mut out, "[[control]]", CONTROL_KEYS);
    keys(&mut out, "[[test]]", TEST_KEYS);
    keys(&mut out, "as of [[test]]", AS_KEYS);
    keys(&mut out, "expect of [[test]]", EXPECT_KEYS);
    out.push_str("\nTHREAT RULES (for [[threat]]; where no policy says otherwise)\n\n");
    for rule in RULES {
        entry(&mut out, rule.name, &format!("{}. Default {}.", rule.found, rule.mode.as_str()));
    }
    out.push_str("\nCOMPLIANCE CHECKS (for [[control]])\n\n");
    for rule in compliance::RULES {
        entry(&mut out, rule.name, &format!("{} ({}).", rule.says, rule.kind.as_str()));
    }
    out.push_str("\nMETRICS (GET /metrics on admin_listen)\n\n");
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels = if metric.labels.is_empty() { String::new() } else { format!("{{{}}}", metric.labels.join(", ")) };
        out.push_str(&format!("  {}{labels} ({kind})\n", metric.name));
        detail(&mut out, metric.help);
    }
    out
}

fn keys(out: &mut String, title: &str, keys: &[Key]) {
    out.push_str(&format!("\n{title}\n"));
    for key in keys {
        entry(out, key.name, key.doc);
        detail(out, &format!("such as {}", key.example));
    }
}

fn entry(out: &mut String, name: &str, doc: &str) {
    out.push_str(&format!("  {name:<17} {doc}\n"));
}

fn detail(out: &mut String, text: &str) {
    out.push_str(&format!("  {:<17} {text}\n", ""));
}
