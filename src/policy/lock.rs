//! The second lock: PostgreSQL's own row security under the same tenant wall (`bulkhead harden`, `level = "paranoid"`).
//!
//! A backend proves which tenant it speaks for with a token in the setting [`SETTING`]: the hex of
//! HMAC-SHA256(key, identity of the backend `/` tenant), then the tenant. The function `bulkhead.tenant()` verifies it, once
//! a statement, since policies call it in a sub-select of its own. The key lies in a table that only its owner reads, so that a
//! tenant's SQL can neither make a token nor use one that was made for another backend.
//!
//! Only the wall between tenants is doubled: rules within a tenant depend on Bulkhead's own roles, which PostgreSQL does not
//! know. Pure: `backend::lock` asks the server, `cli::harden` writes the DDL.

use hmac::{Hmac, Mac};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::epoch::{PolicySet, RelationPolicy};
use super::load::PolicyProblem;
use super::model::PolicyModel;
use crate::catalog::Catalog;
use crate::config::Database;
use crate::id::PolicyEpoch;
use crate::principal::Tenant;
use crate::sql::types::oid;

/// The setting that carries the token.
pub const SETTING: &str = "bulkhead.token";
/// The body of `bulkhead.tenant()`.
pub const FUNCTION: &str = include_str!("lock/tenant.sql");
/// One row of JSON: [`State`].
pub const STATE_SQL: &str = include_str!("lock/state.sql");
/// One row of text: what a token is bound to, as [`FUNCTION`] computes it too. No setting of a client changes how it prints.
pub const IDENTITY_SQL: &str = "SELECT pg_catalog.concat_ws('/', pg_catalog.pg_backend_pid(), pg_catalog.inet_client_addr(), \
     pg_catalog.inet_client_port(), EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()))";
/// The policy that is the wall.
pub const TENANT_POLICY: &str = "bulkhead_tenant";
/// The policy that lets the owner, and the roles of unrestricted users, work as before.
pub const OPERATOR_POLICY: &str = "bulkhead_operator";

/// The key of the tokens. INVARIANT: never printed but by `harden`.
#[derive(Clone, PartialEq, Eq)]
pub struct LockKey([u8; 32]);

impl std::fmt::Debug for LockKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LockKey(***)")
    }
}

impl LockKey {
    /// # Errors
    /// Neither `lock_key` nor a password to derive one from.
    pub fn of(database: &Database) -> Result<LockKey, String> {
        let secret = match (&database.lock_key, &database.upstream.password) {
            (Some(key), _) => &key.0,
            (None, Some(password)) => password,
            (None, None) => {
                return Err(format!(
                    "database \"{}\": the second lock needs a key, and the upstream has no password to derive one from: set lock_key = \"file:..\"",
                    database.name
                ));
            }
        };
        let mut hash = Sha256::new();
        hash.update(b"bulkhead second lock/");
        hash.update(secret.as_bytes());
        Ok(LockKey(hash.finalize().into()))
    }

    /// The key's two blocks in HMAC (RFC 2104), which save the server the XOR.
    pub fn pads(&self) -> ([u8; 64], [u8; 64]) {
        let pad = |byte: u8| {
            let mut block = [byte; 64];
            block.iter_mut().zip(self.0).for_each(|(b, k)| *b ^= k);
            block
        };
        (pad(0x36), pad(0x5c))
    }

    /// The token that makes the backend of this identity speak for `tenant`.
    pub fn token(&self, identity: &str, tenant: &Tenant) -> String {
        use std::fmt::Write as _;
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.0) else { return String::new() };
        mac.update(identity.as_bytes());
        mac.update(b"/");
        mac.update(tenant.0.as_bytes());
        let mut token = String::with_capacity(64 + tenant.0.len());
        for byte in mac.finalize().into_bytes() {
            // Writing to a String cannot fail.
            let _ = write!(token, "{byte:02x}");
        }
        token.push_str(&tenant.0);
        token
    }
}

/// A relation that must be locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Governed {
    pub oid: u32,
    pub schema: String,
    pub name: String,
    pub column: String,
    type_oid: u32,
}

impl Governed {
    /// The type that the tenant is cast to.
    pub fn cast(&self) -> &'static str {
        match self.type_oid {
            oid::INT2 => "smallint",
            oid::INT4 => "integer",
            oid::INT8 => "bigint",
            oid::UUID => "uuid",
            _ => "text",
        }
    }

    /// The wall as PostgreSQL prints it where search_path is empty.
    fn printed(&self) -> String {
        let column = quoted(&self.column);
        let column = if self.type_oid == oid::VARCHAR { format!("({column})::text") } else { column };
        match self.cast() {
            "text" => format!("({column} = ( SELECT bulkhead.tenant() AS tenant))"),
            cast => format!("({column} = ( SELECT (bulkhead.tenant())::{cast} AS tenant))"),
        }
    }
}

/// An identifier as `quote_identifier` prints it, but that every keyword is quoted by the caller's comparison.
fn quoted(name: &str) -> String {
    let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// Every table whose rows belong to tenants, with its partitions and children, by name.
///
/// # Errors
/// The policies do not fit the catalog.
pub fn governed(policies: &PolicyModel, catalog: &Catalog) -> Result<Vec<Governed>, Vec<PolicyProblem>> {
    let set = PolicySet::bind(policies, catalog, PolicyEpoch(0), false)?;
    let mut found = vec![];
    for relation in catalog.snapshot().relations.iter().filter(|r| matches!(r.kind, 'r' | 'p')) {
        let Some(RelationPolicy::Tenant(policy)) = set.policy_of(relation, catalog) else { continue };
        let Some(column) = relation.column(&policy.column) else { continue };
        found.push(Governed {
            oid: relation.oid,
            schema: relation.schema.clone(),
            name: relation.name.clone(),
            column: policy.column.clone(),
            type_oid: column.type_oid,
        });
    }
    found.sort_by(|a, b| (&a.schema, &a.name).cmp(&(&b.schema, &b.name)));
    Ok(found)
}

/// What the server says about the lock, to the role that tenants' statements run in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub role: String,
    pub superuser: bool,
    pub bypasses: bool,
    pub member_of: Vec<Membership>,
    function: Option<Function>,
    schema: Option<Schema>,
    key: Option<Key>,
    relations: Vec<Table>,
    /// Whether `bulkhead.tenant()` took a token made with our key.
    #[serde(skip)]
    pub opens: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    pub name: String,
    /// Superuser, BYPASSRLS or CREATEROLE: SET ROLE leads to it.
    pub powerful: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Function {
    source: String,
    language: String,
    definer: bool,
    volatility: char,
    returns: String,
    configured: bool,
    owned: bool,
    executable: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Schema {
    owned: bool,
    usable: bool,
    writable: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    owned: bool,
    open: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    oid: u32,
    owner: String,
    owned: bool,
    enabled: bool,
    forced: bool,
    policies: Vec<Policy>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    name: String,
    permissive: bool,
    /// `polcmd`: `*` for ALL.
    command: char,
    public: bool,
    using: Option<String>,
    check: Option<String>,
    /// To the role itself.
    applies: bool,
}

impl State {
    pub fn owner_of(&self, oid: u32) -> Option<&str> {
        self.relations.iter().find(|t| t.oid == oid).map(|t| t.owner.as_str())
    }

    /// The role is none that row security can hold. In words for an operator; empty: all is well.
    pub fn faults_of_role(&self) -> Vec<String> {
        let role = &self.role;
        let mut faults = vec![];
        if self.superuser {
            faults.push(format!("role \"{role}\" is a superuser: row security does not hold it (ALTER ROLE .. NOSUPERUSER)"));
        }
        if self.bypasses {
            faults.push(format!("role \"{role}\" has BYPASSRLS: row security does not hold it (ALTER ROLE .. NOBYPASSRLS)"));
        }
        for of in self.member_of.iter().filter(|m| m.powerful) {
            faults.push(format!(
                "role \"{role}\" is a member of \"{}\", which is a superuser or has BYPASSRLS or CREATEROLE (REVOKE ..)",
                of.name
            ));
        }
        faults
    }

    /// What of the lock is not in place, for these relations. Empty: it holds.
    pub fn faults(&self, governed: &[Governed]) -> Vec<String> {
        let mut faults = self.faults_of_role();
        if !self.superuser {
            faults.extend(self.faults_of_function());
        }
        for relation in governed {
            match self.relations.iter().find(|t| t.oid == relation.oid) {
                Some(table) => faults.extend(self.faults_of_table(table, relation)),
                None => faults.push(format!("table {}.{} is not there", relation.schema, relation.name)),
            }
        }
        faults
    }

    fn faults_of_function(&self) -> Vec<String> {
        let role = &self.role;
        let (Some(function), Some(schema), Some(key)) = (&self.function, &self.schema, &self.key) else {
            return vec!["the function bulkhead.tenant() or its key is not there".to_owned()];
        };
        let mut faults = vec![];
        let mut unless = |holds: bool, fault: &str| {
            if !holds {
                faults.push(fault.to_owned());
            }
        };
        let is_ours = function.source == FUNCTION
            && function.language == "plpgsql"
            && function.definer
            && function.volatility == 's'
            && function.returns == "text"
            && !function.configured;
        unless(is_ours, "the function bulkhead.tenant() is not the one that `bulkhead harden` makes");
        let owns = function.owned || schema.owned || schema.writable || key.owned;
        unless(!owns, &format!("role \"{role}\" owns the schema bulkhead or something in it, or can create there"));
        unless(!key.open, &format!("role \"{role}\" has privileges on the table bulkhead.lock_key"));
        let usable = function.executable && schema.usable;
        unless(usable, &format!("role \"{role}\" may not execute bulkhead.tenant()"));
        if is_ours && usable {
            unless(self.opens, "the key in bulkhead.lock_key is another one than the configuration's");
        }
        faults
    }

    fn faults_of_table(&self, table: &Table, relation: &Governed) -> Vec<String> {
        let name = format!("{}.{}", relation.schema, relation.name);
        let mut faults = vec![];
        if !table.enabled {
            faults.push(format!("table {name}: row security is not enabled"));
        } else if !table.forced {
            faults.push(format!("table {name}: row security is not forced"));
        }
        if table.owned && !self.superuser {
            let (role, owner) = (&self.role, &table.owner);
            faults.push(format!("table {name}: role \"{role}\" is its owner, or a member of its owner \"{owner}\""));
        }
        match table.policies.iter().find(|p| p.name == TENANT_POLICY) {
            None => faults.push(format!("table {name}: the policy {TENANT_POLICY} is not there")),
            Some(policy) if !policy.is_the_wall(relation) => {
                faults.push(format!("table {name}: the policy {TENANT_POLICY} is not the one that `bulkhead harden` makes"));
            }
            Some(_) => {}
        }
        for other in table.policies.iter().filter(|p| p.permissive && p.name != TENANT_POLICY && p.applies && !self.superuser) {
            faults.push(format!("table {name}: the permissive policy \"{}\" opens it to role \"{}\"", other.name, self.role));
        }
        faults
    }
}

impl Policy {
    fn is_the_wall(&self, relation: &Governed) -> bool {
        let wanted = relation.printed();
        // A column whose name is a keyword is printed in quotes.
        let as_keyword = wanted.replacen(&quoted(&relation.column), &format!("\"{}\"", relation.column), 1);
        let is_wanted = |text: &Option<String>| text.as_ref().is_some_and(|t| *t == wanted || *t == as_keyword);
        self.permissive && self.command == '*' && self.public && is_wanted(&self.using) && is_wanted(&self.check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LockSecret, upstream};

    fn database(key: Option<&str>, url: &str) -> Database {
        let lock_key = key.map(|k| LockSecret(k.to_owned()));
        Database {
            follow: None,
            name: "shop".into(),
            upstream: upstream::parse(url, "shop").unwrap(),
            pool_size: 1,
            tenant_pool_size: None,
            min_pool_size: 0,
            max_clients: None,
            lock_key,
        }
    }

    #[test]
    fn a_token_is_an_hmac_of_who_and_for_whom() {
        let key = LockKey::of(&database(Some("k"), "postgres://app@127.0.0.1")).unwrap();
        let tenant = Tenant("a'b/c".into());
        let token = key.token("17/127.0.0.1/5", &tenant);
        // As the server computes it.
        let (inner, outer) = key.pads();
        let digest = Sha256::new().chain_update(inner).chain_update("17/127.0.0.1/5/a'b/c").finalize();
        let digest = Sha256::new().chain_update(outer).chain_update(digest).finalize();
        let hex: String = digest.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(token, format!("{hex}a'b/c"));
        assert_ne!(token[..64], key.token("18/127.0.0.1/5", &tenant)[..64]);
        assert_eq!(format!("{key:?}"), "LockKey(***)");
    }

    #[test]
    fn a_key_of_its_own_goes_before_the_password_and_one_must_be_there() {
        let url = "postgres://app:pw@127.0.0.1";
        assert_ne!(LockKey::of(&database(Some("k"), url)), LockKey::of(&database(None, url)));
        assert!(LockKey::of(&database(None, "postgres://app@127.0.0.1")).unwrap_err().contains("lock_key"));
    }
}
