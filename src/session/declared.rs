//! What a session says of itself, and what it may do therefore: the purpose that it reads for, and breaking the glass.
//!
//! Both are roles that it takes on: policies name `purpose:billing` as they name any role, and what was decided for other roles is decided
//! anew. They hold until they are RESET; the second ends by itself.

use std::time::{Duration, Instant};

use super::enforced::{End, Session, Step};
use crate::config::User;
use crate::error::{SqlError, sqlstate};
use crate::plan::{Action, Declaration, Emulation};
use crate::policy::masks::{BROKEN_GLASS, PURPOSE};
use crate::wire::backend::TransactionStatus;

/// What a session has said.
#[derive(Debug, Default)]
pub struct Declared {
    pub purpose: Option<Box<str>>,
    /// The glass is broken until then.
    pub glass_until: Option<Instant>,
}

/// A shorter reason (characters) is none.
const SHORTEST_REASON: usize = 8;

/// The purpose that a login may say.
///
/// # Errors
/// 28000: it may not.
pub fn admit_purpose(user: &User, purpose: &str) -> Result<Box<str>, SqlError> {
    if user.purposes.contains(purpose) {
        return Ok(purpose.into());
    }
    let message = format!("purpose \"{purpose}\" is not allowed for this login");
    Err(SqlError::new(sqlstate::INVALID_AUTHORIZATION, message))
}

/// A login's roles with what it has said.
pub fn roles(user: &User, declared: &Declared) -> Vec<Box<str>> {
    let purpose = declared.purpose.iter().map(|purpose| format!("{PURPOSE}{purpose}"));
    let broken = declared.glass_until.iter().flat_map(|_| user.glass.roles.iter().cloned().chain([BROKEN_GLASS.to_owned()]));
    let mut roles: Vec<Box<str>> = user.roles.iter().cloned().chain(purpose).chain(broken).map(Into::into).collect();
    roles.sort();
    roles.dedup();
    roles
}

impl Session<'_> {
    /// `value`: `None` unsets.
    ///
    /// # Errors
    /// It may not, or not now.
    pub fn declare(&mut self, what: Declaration, value: Option<&str>) -> Result<(), SqlError> {
        let value = value.filter(|value| !value.is_empty());
        if self.status != TransactionStatus::Idle || self.batch.sent {
            let message = format!("{} can be set outside a transaction", what.setting());
            return Err(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message));
        }
        if self.pinned {
            let message = format!(
                "{} cannot be changed in a session that has held a cursor open or made a temporary table",
                what.setting()
            );
            return Err(SqlError::new(sqlstate::FEATURE_NOT_SUPPORTED, message));
        }
        match (what, value) {
            (Declaration::Purpose, None) => self.declared.purpose = None,
            (Declaration::Purpose, Some(purpose)) => self.declared.purpose = Some(admit_purpose(&self.login.user, purpose)?),
            (Declaration::BreakGlass, None) => self.declared.glass_until = None,
            (Declaration::BreakGlass, Some(reason)) => self.break_glass(reason)?,
        }
        if what == Declaration::Purpose {
            let purpose = self.declared.purpose.as_deref();
            self.trail.note("purpose", |record| record.maybe("purpose", purpose));
        }
        self.take_roles();
        Ok(())
    }

    fn break_glass(&mut self, reason: &str) -> Result<(), SqlError> {
        let glass = &self.login.user.glass;
        let refused = |message: &'static str| Err(SqlError::new(sqlstate::INSUFFICIENT_PRIVILEGE, message));
        if glass.roles.is_empty() {
            return refused("this login may not break the glass");
        }
        if !self.trail.is_on() {
            return refused("the glass is not broken without an audit log");
        }
        if reason.trim().chars().count() < SHORTEST_REASON {
            let error = SqlError::new(
                sqlstate::INVALID_PARAMETER_VALUE,
                "SET bulkhead.break_glass takes a reason of eight characters at least",
            );
            return Err(error.with_hint("say why, for those who read the audit log"));
        }
        let (minutes, roles) = (glass.minutes, glass.roles.iter().map(String::as_str));
        self.trail.note("break_glass", |record| record.text("reason", reason).number("minutes", minutes).texts("roles", roles));
        tracing::warn!(user = &*self.principal.user, minutes, "the glass is broken");
        self.declared.glass_until = Some(Instant::now() + Duration::from_secs(minutes * 60));
        Ok(())
    }

    /// RESET ALL in a block, where what was declared cannot be taken back.
    ///
    /// # Errors
    /// 25001
    pub fn check_reset(&self, action: &Action) -> Result<(), SqlError> {
        let declared = [
            (self.declared.purpose.is_some(), Declaration::Purpose),
            (self.declared.glass_until.is_some(), Declaration::BreakGlass),
        ];
        match (action, declared.into_iter().find(|(is_set, _)| *is_set)) {
            (Action::Emulate(Emulation::ResetAll), Some((_, what))) if !crate::mutant!("watch.reset-keeps-what-was-said") => {
                let message = format!("RESET ALL while {} is set: reset it outside a transaction first", what.setting());
                Err(SqlError::new(sqlstate::ACTIVE_TRANSACTION, message))
            }
            (_, _) => Ok(()),
        }
    }

    /// RESET ALL and the like.
    ///
    /// # Errors
    /// Not now.
    pub fn declare_nothing(&mut self) -> Result<(), SqlError> {
        if self.declared.purpose.is_some() {
            self.declare(Declaration::Purpose, None)?;
        }
        if self.declared.glass_until.is_some() {
            self.declare(Declaration::BreakGlass, None)?;
        }
        Ok(())
    }

    /// The roles that it has now. What was bound for others must not run.
    fn take_roles(&mut self) {
        self.principal.roles = roles(&self.login.user, &self.declared).into();
        self.names.drop_portals();
        self.forget_learned();
    }

    /// Whether the glass is to be closed.
    pub fn is_overdue(&self) -> bool {
        self.declared.glass_until.is_some_and(|until| Instant::now() >= until)
    }

    /// The time is over: a session that has something open from it ends.
    ///
    /// # Errors
    /// It ends.
    pub fn close_glass(&mut self) -> Step {
        self.declared.glass_until = None;
        self.trail.note("break_glass_end", |record| record);
        let is_clean = self.status == TransactionStatus::Idle && !self.batch.sent && !self.pinned;
        self.take_roles();
        if is_clean {
            return Ok(());
        }
        Err(End::Fatal(SqlError::fatal(
            sqlstate::ADMIN_SHUTDOWN,
            "terminating connection: the time for which the glass was broken is over",
        )))
    }
}
