//! `bulkhead harden`: the DDL of the second lock (`policy::lock`). SQL is put together here from quoted identifiers.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use super::{Common, Outcome, complain_of, say};
use crate::backend;
use crate::catalog::Catalog;
use crate::config::{Config, Database, Level, Upstream, UserAccess, upstream};
use crate::policy::lock::{self, FUNCTION, Governed, LockKey, OPERATOR_POLICY, State, TENANT_POLICY};

/// Make PostgreSQL enforce the wall between tenants too: prints the DDL; --apply runs it, --revert undoes it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  bulkhead harden                                          print the DDL, change nothing
  bulkhead harden --apply --database postgres://owner@127.0.0.1/shop
  bulkhead harden --revert                                 print the DDL that takes it back
  bulkhead harden --revert --apply

The DDL enables and forces row security on every table of the policies whose rows belong to tenants, with its partitions and
children, and makes the schema `bulkhead`. Run it again after a change of policies and after new partitions; it is idempotent,
and one transaction that locks these tables for a moment. It holds a key: treat it as a secret. It connects with --database, else
as the unrestricted user of the configuration, else as the upstream's role (which can only print).
Exit status: 0 fine, 1 something is left to do that the DDL cannot do, 2 could not run.")]
pub struct Args {
    /// A role that owns the tables, or a superuser
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Run it
    #[arg(long)]
    apply: bool,
    /// Take back exactly what harden has made
    #[arg(long)]
    revert: bool,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let (config, policies) = match common.load_all() {
        Ok(loaded) => loaded,
        Err(outcome) => return outcome,
    };
    match super::block_on(harden(&config, &policies, args)) {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) | Err(error) => {
            complain_of(error);
            Outcome::CouldNotRun
        }
    }
}

async fn harden(config: &Config, policies: &crate::policy::model::PolicyModel, args: &Args) -> Result<Outcome, String> {
    let url = args.database.as_deref().map(|url| upstream::parse(url, "postgres")).transpose();
    let url = url.map_err(|e| format!("the URL of --database is not understood: {e}"))?;
    let database = choose(config, url.as_ref())?;
    let server = url.or_else(|| of_operator(config, database)).unwrap_or_else(|| database.upstream.clone());
    if args.revert {
        return finish(&server, &revert(), args.apply, Outcome::Fine).await;
    }
    let key = LockKey::of(database)?;
    let told = |error: crate::error::SqlError| error.to_string();
    let catalog = Arc::new(Catalog::new(backend::catalog::load(&server).await.map_err(told)?));
    let governed = lock::governed(&policies.of_database(&database.name), &catalog)
        .map_err(|problems| crate::config::Problems(problems).render(false))?;
    let state = backend::lock::state(&server, &key).await.map_err(told)?;
    let sql = ddl(config, database, &key, &governed, &state);
    let before = backend::lock::state(&database.upstream, &key).await.ok();
    let mut left = before.map(|state| state.faults_of_role()).unwrap_or_default();
    finish(&server, &sql, args.apply, Outcome::Fine).await?;
    if args.apply {
        let after = backend::lock::state(&database.upstream, &key).await.map_err(told)?;
        left = after.faults(&governed);
    }
    for fault in &left {
        say(&format!("-- left to do, by a superuser: {fault}\n"));
    }
    if args.apply && config.level != Level::Paranoid {
        say(
            "-- left to do: [isolation] level = \"paranoid\", and start serve again; at any other level tenants see no rows under the lock\n",
        );
    }
    Ok(if left.is_empty() { Outcome::Fine } else { Outcome::FoundSomethingWrong })
}

async fn finish(server: &Upstream, sql: &str, apply: bool, outcome: Outcome) -> Result<Outcome, String> {
    if !apply {
        say(sql);
        return Ok(outcome);
    }
    backend::lock::run(server, sql).await.map_err(|error| format!("nothing was changed: {error}"))?;
    say("-- applied\n");
    Ok(outcome)
}

/// The `[[database]]` that a URL leads to, or the only one.
pub(super) fn choose<'a>(config: &'a Config, url: Option<&Upstream>) -> Result<&'a Database, String> {
    match (config.databases.as_slice(), url) {
        ([], _) => Err("there is no [[database]] in the configuration".to_owned()),
        ([only], _) => Ok(only),
        (several, Some(url)) => {
            let mut same = several.iter().filter(|d| d.upstream.database == url.database);
            match (same.next(), same.next()) {
                (Some(one), None) => Ok(one),
                _ => Err(format!(
                    "which [[database]] does --database mean? none, or several, have the server's `{}`",
                    url.database
                )),
            }
        }
        (_, None) => Err("there are several [[database]]: --database URL says which is meant".to_owned()),
    }
}

/// The server as the first unrestricted user with a role of its own for this database.
fn of_operator(config: &Config, database: &Database) -> Option<Upstream> {
    operators(config, database).next().cloned()
}

/// The upstreams of unrestricted users that lead to this database by a role of their own.
fn operators<'a>(config: &'a Config, database: &'a Database) -> impl Iterator<Item = &'a Upstream> {
    config.users.iter().filter_map(move |user| match &user.access {
        UserAccess::Unrestricted { upstream: Some(upstream) }
            if upstream.database == database.upstream.database && upstream.user != database.upstream.user =>
        {
            Some(upstream)
        }
        UserAccess::Unrestricted { upstream: _ } | UserAccess::Fixed(_) | UserAccess::Shared { .. } => None,
    })
}

pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn literal(text: &str) -> String {
    // A backslash is nothing special: standard_conforming_strings is on, or the server is not used.
    format!("'{}'", text.replace('\'', "''"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// All of it, as one transaction.
fn ddl(config: &Config, database: &Database, key: &LockKey, governed: &[Governed], state: &State) -> String {
    let (inner, outer) = key.pads();
    let mut sql = format!(
        "-- Row security for tenants, under Bulkhead (`bulkhead harden`). It holds a key: treat it as a secret.\n\
         BEGIN;\n\
         SET LOCAL client_min_messages TO warning;\n\
         CREATE SCHEMA IF NOT EXISTS bulkhead;\n\
         GRANT USAGE ON SCHEMA bulkhead TO PUBLIC;\n\
         -- The key of the tokens that say which tenant a connection speaks for; nobody but its owner reads it.\n\
         CREATE TABLE IF NOT EXISTS bulkhead.lock_key (one boolean PRIMARY KEY DEFAULT true CHECK (one), inner_pad bytea NOT NULL, outer_pad bytea NOT NULL);\n\
         REVOKE ALL ON bulkhead.lock_key FROM PUBLIC;\n\
         INSERT INTO bulkhead.lock_key (inner_pad, outer_pad) VALUES ('\\x{}', '\\x{}')\n  \
         ON CONFLICT (one) DO UPDATE SET inner_pad = excluded.inner_pad, outer_pad = excluded.outer_pad;\n\
         -- What was so before, for --revert.\n\
         CREATE TABLE IF NOT EXISTS bulkhead.hardened (relation regclass PRIMARY KEY, had_enabled boolean NOT NULL, had_forced boolean NOT NULL);\n\
         -- The tenant of a valid token, or NULL.\n\
         CREATE OR REPLACE FUNCTION bulkhead.tenant() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL RESTRICTED AS $bulkhead${FUNCTION}$bulkhead$;\n\
         GRANT EXECUTE ON FUNCTION bulkhead.tenant() TO PUBLIC;\n",
        hex(&inner),
        hex(&outer)
    );
    for relation in governed {
        let mut roles: BTreeSet<&str> = operators(config, database).map(|u| u.user.as_str()).collect();
        roles.extend(state.owner_of(relation.oid));
        roles.remove(database.upstream.user.as_str());
        put_table(&mut sql, relation, &roles);
    }
    sql.push_str("COMMIT;\n");
    sql
}

/// One table. `roles`: who works on it without being a tenant. FORCE is for views and functions that run with the owner's rights:
/// what counts for the operators' policy is therefore who has logged in, not whose rights are in force.
fn put_table(sql: &mut String, relation: &Governed, roles: &BTreeSet<&str>) {
    let name = format!("{}.{}", identifier(&relation.schema), identifier(&relation.name));
    let tenant = match relation.cast() {
        "text" => "bulkhead.tenant()".to_owned(),
        cast => format!("bulkhead.tenant()::{cast}"),
    };
    let wall = format!("({} OPERATOR(pg_catalog.=) (SELECT {tenant}))", identifier(&relation.column));
    let _ = write!(
        sql,
        "\n-- {}\n\
         INSERT INTO bulkhead.hardened SELECT oid, relrowsecurity, relforcerowsecurity FROM pg_catalog.pg_class\n  \
         WHERE oid = {}::pg_catalog.regclass ON CONFLICT DO NOTHING;\n\
         ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;\n\
         DROP POLICY IF EXISTS {TENANT_POLICY} ON {name};\n\
         CREATE POLICY {TENANT_POLICY} ON {name} USING {wall}\n  WITH CHECK {wall};\n\
         DROP POLICY IF EXISTS {OPERATOR_POLICY} ON {name};\n",
        name.replace(['\n', '\r'], " "),
        literal(&name),
    );
    if roles.is_empty() {
        return;
    }
    let names: Vec<String> = roles.iter().map(|r| identifier(r)).collect();
    let tests: Vec<String> =
        roles.iter().map(|r| format!("pg_catalog.pg_has_role(session_user, {}, 'USAGE')", literal(r))).collect();
    let _ = writeln!(
        sql,
        "CREATE POLICY {OPERATOR_POLICY} ON {name} TO {} USING ((SELECT {}));",
        names.join(", "),
        tests.join(" OR ")
    );
}

/// Goes by what `harden` has noted, not by the policies: they may have changed since.
fn revert() -> String {
    format!(
        "-- Takes back what `bulkhead harden` has made.\n\
         BEGIN;\n\
         SET LOCAL client_min_messages TO warning;\n\
         DO $bulkhead$\n\
         DECLARE t record;\n\
         BEGIN\n  \
           IF pg_catalog.to_regclass('bulkhead.hardened') IS NULL THEN\n    RETURN;\n  END IF;\n  \
           FOR t IN SELECT h.*, n.nspname, c.relname FROM bulkhead.hardened h JOIN pg_catalog.pg_class c ON c.oid = h.relation\n      \
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY 4, 5 LOOP\n    \
             EXECUTE pg_catalog.format('DROP POLICY IF EXISTS {TENANT_POLICY} ON %I.%I', t.nspname, t.relname);\n    \
             EXECUTE pg_catalog.format('DROP POLICY IF EXISTS {OPERATOR_POLICY} ON %I.%I', t.nspname, t.relname);\n    \
             IF NOT t.had_forced THEN\n      \
               EXECUTE pg_catalog.format('ALTER TABLE %I.%I NO FORCE ROW LEVEL SECURITY', t.nspname, t.relname);\n    \
             END IF;\n    \
             IF NOT t.had_enabled THEN\n      \
               EXECUTE pg_catalog.format('ALTER TABLE %I.%I DISABLE ROW LEVEL SECURITY', t.nspname, t.relname);\n    \
             END IF;\n  \
           END LOOP;\n  \
           DROP FUNCTION bulkhead.tenant();\n  \
           DROP TABLE bulkhead.hardened, bulkhead.lock_key;\n  \
           DROP SCHEMA bulkhead;\n\
         END\n\
         $bulkhead$;\n\
         COMMIT;\n"
    )
}
