//! A gate for the tests of sessions: it knows just enough SQL to make plans of every kind, and refuses only what says so.

use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared::Review;
use crate::error::sqlstate;
use crate::finding::Denial;
use crate::gate::{Approved, Context};
use crate::id::PolicyEpoch;
use crate::plan::{
    Action, Effect, Emulation, Isolation, Lasts, Literals, Plan, Prepare, Segment, TenantForm, TenantType, TenantValue,
    TransactionCommand, Writes,
};
use crate::policy::limits::{Change, RowLimit};
use crate::rules::Modes;
use crate::rules::learned::Learned;
use crate::rules::threat::canary_row::CanaryRows;
use crate::sql::copy::{Dialect, Header, Target, TenantField};

/// `forbidden` in a statement refuses it; `:tenant:` is a tenant slot; `:path:` becomes the search_path that it was reviewed
/// under; `pinning` pins. All else passes as it came.
#[derive(Debug, Default)]
pub struct Permissive {
    pub epoch: AtomicU64,
}

impl Review for Permissive {
    fn threat_modes(&self, _roles: &[Box<str>], _application: Option<&str>) -> Modes {
        Modes::of(std::iter::empty())
    }

    fn learned(&self, _roles: &[Box<str>], _application: Option<&str>) -> SmallVec<[Arc<Learned>; 1]> {
        SmallVec::new()
    }

    fn row_limit(&self, _roles: &[Box<str>]) -> RowLimit {
        RowLimit::default()
    }

    fn may_change(&self, _user: &str, _has_ticket: bool) -> Change {
        Change::Free
    }

    fn names_canary(&self, _text: &str) -> bool {
        false
    }

    fn only_reads(&self, _text: &str) -> bool {
        false
    }

    fn canary_rows(&self) -> Option<Arc<CanaryRows>> {
        None
    }

    fn review(&self, text: &str, context: &Context<'_>) -> Result<SmallVec<[Approved; 1]>, Denial> {
        let statements = text.split(';').map(str::trim).filter(|s| !s.is_empty());
        let place = |s: &str| {
            let start = (s.as_ptr() as usize - text.as_ptr() as usize) as u32;
            start..start + s.len() as u32
        };
        let one = |s: &str| Ok(Approved { source: place(s), ..self.one(s, context)? });
        let mut approved = statements.map(one).collect::<Result<SmallVec<_>, _>>()?;
        if approved.is_empty() {
            approved.push(self.one("empty_statement", context)?);
        }
        Ok(approved)
    }

    fn epoch(&self) -> PolicyEpoch {
        PolicyEpoch(self.epoch.load(Ordering::Relaxed))
    }

    fn type_name(&self, oid: u32) -> Option<String> {
        [(25, "text"), (23, "int4")].iter().find(|(o, _)| *o == oid).map(|(_, name)| format!("pg_catalog.{name}"))
    }

    fn masks_for(&self, _roles: &[Box<str>]) -> bool {
        false
    }

    fn settings_for(&self, _roles: &[Box<str>]) -> Vec<String> {
        vec![]
    }
}

impl Permissive {
    fn one(&self, text: &str, context: &Context<'_>) -> Result<Approved, Denial> {
        if text.contains("forbidden") {
            return Err(Denial::policy("permission denied for table forbidden"));
        }
        if text == "nonsense" {
            return Err(Denial::invalid(sqlstate::SYNTAX_ERROR, "syntax error at or near \"nonsense\""));
        }
        let words: Vec<String> = text.split_whitespace().map(str::to_ascii_lowercase).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        if let ["prepare", name, "as", ..] = words.as_slice() {
            let (_, query) = text.split_once(" as ").unwrap_or_default();
            let inner = self.one(query, context)?.plan;
            let types = vec![0; usize::from(inner.parameters)].into();
            let action = Action::Prepare(Prepare { name: (*name).into(), types, plan: inner });
            return Ok(self.approved("PREPARE", action, vec![]));
        }
        if words[0] == "execute" {
            let (name, list) = text["execute ".len()..].split_once('(').unwrap_or((&text["execute ".len()..], ""));
            let list = list.trim_end_matches(')');
            let arguments = list.split(',').filter(|a| !a.trim().is_empty()).count();
            let action = Action::Execute { name: name.into(), arguments };
            return Ok(self.approved("EXECUTE", action, vec![Segment::Text(list.into())]));
        }
        let text = text.replace(":path:", &context.search_path.join("|"));
        let mut segments = Vec::new();
        for (i, part) in text.split(":tenant:").enumerate() {
            if i > 0 {
                segments.push(Segment::Tenant(TenantType::Text));
            }
            segments.push(Segment::Text(part.into()));
        }
        let plan = Plan {
            action: action(&words, &text),
            effect: if text.contains("pinning") { Effect::Pins } else { Effect::Read },
            command: match words[0] {
                "reset" => "RESET",
                "select" => "SELECT",
                "insert" => "INSERT",
                _ => "SET",
            },
            needs_tenant: segments.len() > 1,
            segments,
            parameters: (1..=9).filter(|n| text.contains(&format!("${n}"))).max().unwrap_or(0),
            hides_rows: text.contains("hidden"),
            copy_in: copy_in(&words),
            writes: Writes::Everything,
            ..Plan::nothing(self.epoch())
        };
        Ok(Approved { plan: Arc::new(plan), literals: Literals::new(), source: 0..0 })
    }

    fn approved(&self, command: &'static str, action: Action, segments: Vec<Segment>) -> Approved {
        let plan = Plan { action, command, segments, writes: Writes::Everything, ..Plan::nothing(self.epoch()) };
        Approved { plan: Arc::new(plan), literals: Literals::new(), source: 0..0 }
    }
}

/// `copy t from stdin` into `t(a int, b text)`, or any other table into its one column `a int`: the last column is the tenant.
fn copy_in(words: &[&str]) -> Option<Arc<Target>> {
    let (columns, tenant_type): (&[&str], _) = match words {
        ["copy", "t", "from", "stdin"] => (&["a", "b"], TenantType::Text),
        ["copy", _, "from", "stdin"] => (&["a"], TenantType::Int4),
        _ => return None,
    };
    Some(Arc::new(Target {
        table: words[1].to_owned(),
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        tenant: TenantField::Supplied(columns.len() - 1),
        tenant_column: columns[columns.len() - 1].to_owned(),
        tenant_type,
        dialect: Dialect::Text { delimiter: b'\t', null: "\\N".to_owned(), header: Header::None },
    }))
}

fn value(word: &str) -> Box<str> {
    word.trim_matches(['\'', '"', ',']).into()
}

fn action(words: &[&str], text: &str) -> Action {
    let transaction = |command| Action::Transaction(command);
    match words {
        ["empty_statement"] => Action::Empty,
        ["begin" | "start", ..] => transaction(TransactionCommand::Begin(Isolation::Other)),
        ["commit" | "end", ..] => transaction(TransactionCommand::Commit { chain: false }),
        ["rollback", "to", name] | ["rollback", "to", "savepoint", name] => {
            transaction(TransactionCommand::RollbackTo((*name).into()))
        }
        ["rollback" | "abort", ..] => transaction(TransactionCommand::Rollback { chain: false }),
        ["savepoint", name] => transaction(TransactionCommand::Savepoint((*name).into())),
        ["release", .., name] => transaction(TransactionCommand::Release((*name).into())),
        ["set", "local", "bulkhead.tenant", _, v] => choose(v, true, TenantForm::Set),
        ["set", "bulkhead.tenant" | "\"bulkhead\".\"tenant\"", _, v] => choose(v, false, TenantForm::Set),
        ["reset", "bulkhead.tenant"] => {
            Action::ChooseTenant { value: TenantValue::Unset, lasts: Lasts::Session, form: TenantForm::Set }
        }
        ["show", "bulkhead.tenant"] => {
            Action::ChooseTenant { value: TenantValue::Unset, lasts: Lasts::Session, form: TenantForm::Show }
        }
        ["select", "set_config('bulkhead.tenant',", "$1,", local] => Action::ChooseTenant {
            value: TenantValue::Parameter(1),
            lasts: if local.starts_with("true") { Lasts::Transaction } else { Lasts::Session },
            form: TenantForm::SetConfig,
        },
        ["set", "transaction", ..] => Action::Forward,
        ["set", "local", name, _, values @ ..] => set(name, values, text, true),
        ["set", name, _, values @ ..] => set(name, values, text, false),
        ["reset", "all"] => Action::Emulate(Emulation::ResetAll),
        ["reset", name] => Action::Reset { name: (*name).into() },
        ["discard", "all"] => Action::Emulate(Emulation::DiscardAll),
        ["discard", what] => Action::Emulate(Emulation::Discard((*what).into())),
        ["deallocate", "all"] => Action::Emulate(Emulation::DeallocateAll),
        ["deallocate", name] => Action::Emulate(Emulation::Deallocate((*name).into())),
        ["close", "all"] => Action::Emulate(Emulation::CloseAll),
        ["unlisten", "*"] => Action::Emulate(Emulation::Unlisten),
        ["select", "pg_advisory_unlock_all()"] => Action::Emulate(Emulation::AdvisoryUnlockAll),
        _ => Action::Forward,
    }
}

fn choose(word: &str, local: bool, form: TenantForm) -> Action {
    let lasts = if local { Lasts::Transaction } else { Lasts::Session };
    Action::ChooseTenant { value: TenantValue::Text(value(word)), lasts, form }
}

/// Values keep their case, which `words` have lost.
fn set(name: &str, values: &[&str], text: &str, local: bool) -> Action {
    let original: Vec<&str> = text.split_whitespace().collect();
    let name = value(name);
    let values = original[original.len() - values.len()..].iter().map(|w| value(w)).collect();
    Action::Set { name, values: Some(values), local }
}
