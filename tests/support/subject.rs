//! What stands between the tenant and the database of all tenants. Tests judge the proxy; to see that a test can fail,
//! run it with `SUBJECT=plain` (nothing in between: must fail at once) or `SUBJECT=rls` (PostgreSQL's own row security).
//! `LEVEL=paranoid` puts the second lock under the proxy.

use super::cluster::{APP_PASSWORD, Cluster};
use super::proxy::{Proxy, Setup, User};
use super::wire::Target;

/// What `bulkhead harden` adds to a database besides row security shows in the catalog (it holds no row that a tenant reads): the
/// twin has as much.
const SCHEMA_OF_THE_LOCK: &str = "CREATE SCHEMA bulkhead; GRANT USAGE ON SCHEMA bulkhead TO PUBLIC;
    CREATE TABLE bulkhead.lock_key (one boolean PRIMARY KEY DEFAULT true CHECK (one), inner_pad bytea NOT NULL, outer_pad bytea NOT NULL);
    CREATE TABLE bulkhead.hardened (relation regclass PRIMARY KEY, had_enabled boolean NOT NULL, had_forced boolean NOT NULL)";

fn is_paranoid() -> bool {
    std::env::var("LEVEL").is_ok_and(|level| level == "paranoid")
}

/// Gives a twin the schema that the second lock gives the others, where they have it.
pub fn like_the_others(cluster: &Cluster, twin: &str) {
    if is_paranoid() {
        cluster.execute(twin, SCHEMA_OF_THE_LOCK);
    }
}

pub enum Subject {
    Proxy(Box<Proxy>),
    /// A role without any filter.
    Plain,
    /// A role under CREATE POLICY.
    Rls,
}

impl Subject {
    /// `databases` are those of all tenants. `rls`: SQL that puts the role `tenant_1` under row security; `views`: that
    /// puts plain views in the place of the tables.
    pub fn start(cluster: &Cluster, databases: &[String], policies: &str, rls: &str, views: Option<&str>) -> Subject {
        match std::env::var("SUBJECT").as_deref() {
            Ok("plain" | "twin") => Subject::Plain,
            Ok("rls") => {
                cluster.execute("postgres", &format!("CREATE ROLE tenant_1 LOGIN PASSWORD '{APP_PASSWORD}' IN ROLE app"));
                cluster.execute("postgres", "ALTER ROLE tenant_1 SET statement_timeout = '3s'");
                for database in databases {
                    cluster.execute(database, rls);
                }
                Subject::Rls
            }
            Ok("views") => {
                let views = views.expect("this test has no views");
                for database in databases {
                    cluster.execute(database, views);
                }
                Subject::Plain
            }
            Ok("proxy") | Err(_) => {
                let databases: Vec<(String, String)> = databases.iter().map(|d| (d.clone(), cluster.app_url(d))).collect();
                let users = [User { name: "tenant_1", access: "tenant = \"1\"\nroles = [\"app\"]" }];
                let setup = Setup::new(&databases, &users, &[("policies.toml", policies)]);
                if is_paranoid() {
                    let urls: Vec<String> = databases.iter().map(|(d, _)| cluster.superuser_url(d)).collect();
                    setup.harden(&urls);
                }
                Subject::Proxy(Box::new(Proxy::start(setup)))
            }
            Ok(other) => panic!("SUBJECT is proxy, plain, rls, views or twin, not {other}"),
        }
    }

    /// How tenant 1 reaches a database.
    pub fn tenant(&self, cluster: &Cluster, database: &str) -> Target {
        match self {
            Subject::Proxy(proxy) => proxy.target("tenant_1", database),
            Subject::Plain => cluster.app(database),
            Subject::Rls => cluster.role("tenant_1", database),
        }
    }

    pub fn is_proxy(&self) -> bool {
        matches!(self, Subject::Proxy(_))
    }
}
