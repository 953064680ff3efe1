//! Choosing a tenant: what a login may choose, and how long a choice lasts.

use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::error::{SqlError, sqlstate};
use crate::principal::{Access, Tenant};

/// The setting that chooses a tenant.
pub const SETTING: &str = "bulkhead.tenant";

/// The tenant that `value` names, if the login may act for it. `token_key`: only values signed with it are taken.
///
/// # Errors
/// 28000: not signed, signed by someone else, or not one of the login's tenants. The three are not told apart.
pub fn admit(access: &Access, token_key: Option<&[u8]>, value: &str) -> Result<Tenant, SqlError> {
    let refused =
        || SqlError::new(sqlstate::INVALID_AUTHORIZATION, format!("tenant \"{}\" is not allowed for this login", shown(value)));
    let name = match token_key {
        Some(key) => verified(key, value).ok_or_else(refused)?,
        None => value,
    };
    let tenant = Tenant(name.into());
    let allowed = match access {
        Access::Fixed(fixed) => *fixed == tenant,
        Access::Shared { tenants, chosen: _ } => tenants.contains(&tenant),
        Access::Unrestricted => false,
    };
    if allowed && !name.is_empty() { Ok(tenant) } else { Err(refused()) }
}

/// A token is not repeated to the client whole, since errors end in logs.
fn shown(value: &str) -> &str {
    value.split_once('.').map_or(value, |(name, _)| name)
}

/// The value of `value.hex-hmac-sha256`, if the signature is right.
fn verified<'a>(key: &[u8], token: &'a str) -> Option<&'a str> {
    let (value, signature) = token.rsplit_once('.')?;
    let signature = from_hex(signature)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(value.as_bytes());
    mac.verify_slice(&signature).ok()?;
    Some(value)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    bytes.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// How the chosen tenant follows transactions: as a setting does.
#[derive(Debug, Default)]
pub struct Choice {
    /// At the last commit.
    committed: Option<Tenant>,
    /// What COMMIT keeps.
    session: Option<Tenant>,
    /// Chosen in this transaction already.
    used: bool,
}

impl Choice {
    pub fn new(tenant: Option<Tenant>) -> Self {
        Choice { committed: tenant.clone(), session: tenant, used: false }
    }

    /// Whether this tenant stays when the transaction ends, however it does.
    pub fn lasts(&self, tenant: Option<&Tenant>) -> bool {
        self.session.as_ref() == tenant && self.committed.as_ref() == tenant
    }

    pub fn is_used(&self) -> bool {
        self.used
    }

    /// `local`: until the end of the transaction.
    pub fn choose(&mut self, access: &mut Access, tenant: Option<Tenant>, local: bool) {
        if !local || crate::mutant!("session.local-tenant-stays") {
            self.session = tenant.clone();
        }
        self.used = true;
        set(access, tenant);
    }

    pub fn commit(&mut self, access: &mut Access) {
        self.used = false;
        if self.committed != self.session {
            self.committed = self.session.clone();
        }
        set(access, self.committed.clone());
    }

    pub fn rollback(&mut self, access: &mut Access) {
        if crate::mutant!("session.rollback-keeps-the-tenant") {
            return self.commit(access);
        }
        self.used = false;
        self.session = self.committed.clone();
        set(access, self.committed.clone());
    }
}

fn set(access: &mut Access, tenant: Option<Tenant>) {
    match access {
        Access::Shared { tenants: _, chosen } => *chosen = tenant,
        Access::Fixed(_) | Access::Unrestricted => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::principal::TenantSet;

    fn login() -> Access {
        Access::Shared { tenants: TenantSet::Only([Tenant("1".into()), Tenant("a.b".into())].into()), chosen: None }
    }

    #[test]
    fn only_the_login_s_tenants() {
        assert_eq!(admit(&login(), None, "1"), Ok(Tenant("1".into())));
        assert_eq!(admit(&login(), None, "2").unwrap_err().sqlstate, sqlstate::INVALID_AUTHORIZATION);
        assert!(admit(&Access::Fixed(Tenant("1".into())), None, "2").is_err());
        assert!(admit(&Access::Shared { tenants: TenantSet::Any, chosen: None }, None, "").is_err());
    }

    #[test]
    fn tokens_are_verified_and_may_hold_dots() {
        let mut mac = Hmac::<Sha256>::new_from_slice(b"key").unwrap();
        mac.update(b"a.b");
        let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(admit(&login(), Some(b"key"), &format!("a.b.{hex}")), Ok(Tenant("a.b".into())));
        for bad in ["1", "1.", "1.zz", &format!("1.{hex}"), &format!("a.b.{}", &hex[2..])] {
            assert!(admit(&login(), Some(b"key"), bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_choice_follows_the_transaction() {
        let mut access = login();
        let mut choice = Choice::new(None);
        let chosen = |a: &Access| match a {
            Access::Shared { tenants: _, chosen } => chosen.clone(),
            Access::Fixed(_) | Access::Unrestricted => None,
        };
        choice.choose(&mut access, Some(Tenant("1".into())), true);
        assert_eq!(chosen(&access), Some(Tenant("1".into())));
        choice.commit(&mut access);
        assert_eq!(chosen(&access), None);
        choice.choose(&mut access, Some(Tenant("1".into())), false);
        choice.rollback(&mut access);
        assert_eq!(chosen(&access), None);
        choice.choose(&mut access, Some(Tenant("1".into())), false);
        choice.commit(&mut access);
        choice.choose(&mut access, None, false);
        choice.rollback(&mut access);
        assert_eq!(chosen(&access), Some(Tenant("1".into())));
    }
}
