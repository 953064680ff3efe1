//! **out-of-scope**: what a proxy cannot see
//!
//! Training, contracts, rooms, backups, what happens before a statement and after an answer.

use crate::rules::compliance::{Control, Evidence, Facts, Finding, Kind, Rule};

pub static RULE: Rule =
    Rule { name: "out-of-scope", kind: Kind::OutOfScope, says: "what a proxy cannot see", evidence: &[], period_days: 0, look };

fn look(_: &Control, _: &Facts, _: &Evidence) -> Finding {
    Finding::NotApplicable("a proxy cannot see it".to_owned())
}
