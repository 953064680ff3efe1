//! What sessions of a login usually do: baselines by tenant ([`crate::rules::behaviour`]), fed with each statement that has ended.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::enforced::Session;
use crate::event::Event;
use crate::finding::{Action, Watch};
use crate::principal::Tenant;
use crate::rules::behaviour::kept::{self, Bytes};
use crate::rules::behaviour::{Baseline, Common, Ended, Unusual};
use crate::rules::threat::behaviour::RULE;
use crate::sql::form::FormId;

/// Of all logins together: 13 KiB each.
const MOST_BASELINES: usize = 4096;

static BASELINES: AtomicUsize = AtomicUsize::new(0);

/// What is usual of a login. Empty until something is recorded of it.
#[derive(Debug, Default)]
pub struct Usual(OnceLock<Box<OfTenants>>);

#[derive(Debug, Default)]
struct OfTenants {
    common: Common,
    by_tenant: Mutex<HashMap<Tenant, Arc<Mutex<Baseline>>>>,
}

impl Drop for OfTenants {
    fn drop(&mut self) {
        let known = self.by_tenant.get_mut().unwrap_or_else(PoisonError::into_inner);
        BASELINES.fetch_sub(known.len(), Ordering::Relaxed);
    }
}

impl Usual {
    /// Of a tenant. `None`: there are too many already.
    fn of(&self, tenant: &Tenant) -> Option<Arc<Mutex<Baseline>>> {
        let all = self.0.get_or_init(Box::default);
        let mut known = all.by_tenant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(baseline) = known.get(tenant) {
            return Some(baseline.clone());
        }
        if BASELINES.fetch_add(1, Ordering::Relaxed) >= MOST_BASELINES {
            BASELINES.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let hash =
            tenant.0.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let baseline = Arc::new(Mutex::new(Baseline::new(hash)));
        known.insert(tenant.clone(), baseline.clone());
        Some(baseline)
    }

    /// What it knows, for [`restore`](Self::restore): nothing, if it knows nothing.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Some(all) = self.0.get() else { return };
        all.common.write(out);
        let known = all.by_tenant.lock().unwrap_or_else(PoisonError::into_inner).clone();
        out.extend_from_slice(&(known.len() as u32).to_le_bytes());
        for (tenant, baseline) in known {
            kept::put_text(&tenant.0, out);
            baseline.lock().unwrap_or_else(PoisonError::into_inner).write(out);
        }
    }

    /// Goes on with what was [written](Self::write); `None`: it was not.
    pub fn restore(bytes: &mut Bytes<'_>) -> Option<Usual> {
        let common = Common::read(bytes)?;
        let mut by_tenant = HashMap::new();
        for _ in 0..bytes.u32()? {
            let tenant = Tenant(bytes.text()?.into());
            by_tenant.insert(tenant, Arc::new(Mutex::new(Baseline::read(bytes)?)));
        }
        // Whole, and each once: now they are counted, as far as there is room.
        by_tenant.retain(|_, _| {
            let has_room = BASELINES.fetch_add(1, Ordering::Relaxed) < MOST_BASELINES;
            if !has_room {
                BASELINES.fetch_sub(1, Ordering::Relaxed);
            }
            has_room
        });
        Some(Usual(Box::new(OfTenants { common, by_tenant: Mutex::new(by_tenant) }).into()))
    }

    /// Takes over what another knows, if this knows nothing yet.
    pub fn take_over(&self, other: Usual) {
        if let Some(known) = other.0.into_inner() {
            let _ = self.0.set(known);
        }
    }

    fn note(&self, baseline: &Mutex<Baseline>, ended: &Ended) -> Option<Unusual> {
        let all = self.0.get()?;
        baseline.lock().unwrap_or_else(PoisonError::into_inner).note(ended, &all.common)
    }
}

/// The baseline of the tenant that a session has now.
#[derive(Debug, Default)]
pub struct Own {
    tenant: Option<Tenant>,
    baseline: Option<Arc<Mutex<Baseline>>>,
}

impl Session<'_> {
    /// A statement has ended well. `form`: `None`: it is not recorded.
    pub fn note_ended(&mut self, form: Option<FormId>, rows: u64, bytes: u64) {
        let (Some(form), Some(tenant)) = (form, self.principal.tenant()) else { return };
        if !self.is_watched() {
            return;
        }
        if self.own.tenant.as_ref() != Some(tenant) {
            self.own = Own { tenant: Some(tenant.clone()), baseline: self.login.usual.of(tenant) };
        }
        let Some(baseline) = &self.own.baseline else { return };
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        // Errors have no say (they were worse than nothing in the evaluation), and are not counted.
        let ended = Ended { template: form as u64, at, rows, bytes, error: None };
        if let Some(unusual) = self.login.usual.note(baseline, &ended) {
            self.tell_unusual(&unusual);
        }
    }

    fn tell_unusual(&mut self, unusual: &Unusual) {
        let (mode, action) = self.watch_of(&RULE);
        if mode == Watch::Off {
            return;
        }
        self.shared.events.emit(Event::ThreatFound { rule: RULE.name, mode });
        let tenant = self.principal.tenant().map(|tenant| tenant.0.clone());
        let what = unusual.to_string();
        self.trail.note("threat", |record| {
            record.maybe("tenant", tenant.as_deref()).text("rule", RULE.name).text("mode", mode.as_str()).text("what", &what)
        });
        if mode == Watch::Enforce {
            // It has happened: there is no statement to refuse.
            self.act_on(RULE.name, if action == Action::Deny { Action::EndSession } else { action });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_takes_over_makes_room_again() {
        let mut many = vec![];
        Common::default().write(&mut many);
        many.extend_from_slice(&1000u32.to_le_bytes());
        for n in 0..1000 {
            kept::put_text(&n.to_string(), &mut many);
            Baseline::new(n).write(&mut many);
        }
        let taken = Usual::default();
        for _ in 0..6 {
            taken.take_over(Usual::restore(&mut Bytes(&many)).expect("it was written"));
        }
        assert!(Usual::default().of(&Tenant("another".into())).is_some(), "there is room");
    }

    #[test]
    fn each_tenant_of_a_login_has_a_baseline_of_its_own() {
        let usual = Usual::default();
        let tenant = |name: &str| Tenant(name.into());
        let one = usual.of(&tenant("1")).expect("there is room");
        assert!(Arc::ptr_eq(&one, &usual.of(&tenant("1")).expect("it is known")));
        assert!(!Arc::ptr_eq(&one, &usual.of(&tenant("2")).expect("there is room")));
        let ended = Ended { template: 1, at: 1_800_000_000, rows: 1, bytes: 100, error: None };
        assert!(usual.note(&one, &ended).is_none(), "the warm-up");
        // It is kept.
        let written = |usual: &Usual| {
            let mut out = vec![];
            usual.write(&mut out);
            out
        };
        let again = Usual::default();
        assert!(written(&again).is_empty());
        again.take_over(Usual::restore(&mut Bytes(&written(&usual))).expect("it was written"));
        assert_eq!(written(&again).len(), written(&usual).len());
        let baseline = again.of(&tenant("1")).expect("it is known");
        assert_eq!(again.0.get().map(|all| all.by_tenant.lock().unwrap().len()), Some(2));
        let (mut one_again, mut one_before) = (vec![], vec![]);
        baseline.lock().unwrap().write(&mut one_again);
        one.lock().unwrap().write(&mut one_before);
        assert_eq!(one_again, one_before);
    }
}
