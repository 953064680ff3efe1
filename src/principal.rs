//! Who is connected: user, roles, tenant.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Who the rows belong to, as written in the configuration or by the client.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(pub Arc<str>);

/// The tenants that a login may act for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TenantSet {
    Only(BTreeSet<Tenant>),
    Any,
}

impl TenantSet {
    pub fn contains(&self, tenant: &Tenant) -> bool {
        match self {
            TenantSet::Only(set) => set.contains(tenant),
            TenantSet::Any => true,
        }
    }
}

/// What a login may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Always acts for one tenant.
    Fixed(Tenant),
    /// A shared application login that chooses among its tenants (`SET bulkhead.tenant`).
    Shared { tenants: TenantSet, chosen: Option<Tenant> },
    /// DDL and cross-tenant work: statements pass as they came, on a pinned session.
    Unrestricted,
}

/// INVARIANT (AUTHENTICATED): made by `session::startup` once the client has proved who it is, and in `cli`, where
/// nothing is sent to a server for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub user: Arc<str>,
    /// The database as the client names it.
    pub database: Arc<str>,
    /// Bulkhead's own roles, sorted, without duplicates: part of a template's key.
    pub roles: Arc<[Box<str>]>,
    pub access: Access,
    /// A setting that the application uses in the place of `bulkhead.tenant`.
    pub tenant_setting: Option<Arc<str>>,
}

impl Principal {
    /// The tenant whose rows are visible now; `None` for an unrestricted user, or where none was chosen yet.
    pub fn tenant(&self) -> Option<&Tenant> {
        match &self.access {
            Access::Fixed(tenant) => Some(tenant),
            Access::Shared { tenants: _, chosen } => chosen.as_ref(),
            Access::Unrestricted => None,
        }
    }

    pub fn is_unrestricted(&self) -> bool {
        matches!(self.access, Access::Unrestricted)
    }

    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|r| &**r == role)
    }
}
