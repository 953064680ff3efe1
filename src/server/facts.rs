//! What configuration and policies say, for compliance rules: [`Facts`].

use std::net::IpAddr;
use std::time::SystemTime;

use crate::config::{Config, Database, OnFailure, SslMode, Upstream, User, UserAccess};
use crate::policy::model::{ApplicationPolicy, Mode, PolicyModel, Scope, TablePolicy, ThreatPolicy, WindowPolicy};
use crate::rules::compliance::{Access, Audit, ClientTls, Column, Facts, Restriction, Table, User as Login};
use crate::rules::{self, Modes, RULES, Watch};

/// Everything about one database but what only a catalog and the audit log can tell. `policies`: those that apply to it.
pub fn of(config: &Config, database: &Database, policies: &PolicyModel) -> Facts {
    let modes = modes_for_everybody(policies);
    let in_mode = |mode| {
        let rules = RULES.iter().enumerate().filter(|(number, _)| modes.of_rule(*number) == mode);
        // Whoever is let off, and what is only slowed down or told, is not refused.
        let rules = rules.filter(|(number, _)| modes.action_of(*number).refuses());
        let rules =
            rules.filter(|(_, rule)| ![Watch::Off, Watch::Shadow].into_iter().any(|mode| is_ever(policies, rule.name, mode)));
        rules.map(|(_, rule)| rule.name.to_owned()).collect()
    };
    Facts {
        // Nobody reaches those of a denied table.
        columns: policies.tables.iter().filter(|t| t.scope != Scope::Denied).flat_map(|t| columns(t, policies)).collect(),
        tables: policies.tables.iter().map(table).collect(),
        unclassified: None,
        users: config.users.iter().filter(|user| names(user, database)).map(login).collect(),
        limits: policies.limits.iter().map(|limit| limit.roles.clone()).collect(),
        windows: policies.windows.iter().filter(|window| restricts(window)).map(|window| window.users.clone()).collect(),
        level: config.level.as_str().to_owned(),
        client_tls: match &config.server.tls {
            None => ClientTls::Off,
            Some(tls) if tls.required => ClientTls::Required,
            Some(_) => ClientTls::Offered,
        },
        unverified_servers: unverified(config, database),
        client_idle_timeout: config.limits.client_idle_timeout.map(|limit| limit.as_secs()),
        threats_off: RULES
            .iter()
            .map(|rule| rule.name)
            .filter(|rule| is_ever(policies, rule, Watch::Off))
            .map(str::to_owned)
            .collect(),
        threats_enforced: in_mode(Watch::Enforce),
        learned: policies.applications.iter().filter(|application| holds(application)).count(),
        audit: config.audit.as_ref().map(|audit| Audit {
            refuses: match audit.on_failure {
                OnFailure::FailOperation | OnFailure::Shutdown => true,
                OnFailure::Continue => false,
            },
            retention_days: audit.retention.map(|retention| retention.as_secs() / 86_400),
        }),
    }
}

/// Whether a user may name a database.
fn names(user: &User, database: &Database) -> bool {
    user.databases.is_empty() || user.databases.contains(&database.name)
}

/// Whether a rule does no more than this for somebody.
fn is_ever(policies: &PolicyModel, rule: &str, mode: Watch) -> bool {
    let of_it = policies.threats.iter().filter(|threat| threat.rule.is_empty() || threat.rule == rule);
    // The last one for everybody says what holds for everybody; what is for some is for them.
    let is_for_all = |threat: &&ThreatPolicy| threat.roles.is_empty() && threat.applications.is_empty();
    let (all, some): (Vec<_>, Vec<_>) = of_it.partition(is_for_all);
    all.last().is_some_and(|threat| threat.mode == mode) || some.iter().any(|threat| threat.mode == mode)
}

/// Whether a list holds an application to anything.
fn holds(application: &ApplicationPolicy) -> bool {
    let learns = application.learns_until.is_some_and(|until| SystemTime::now() < until);
    !application.statements.is_empty() && !learns
}

/// Servers that are neither verified nor on this machine: the database's, and those of users of their own.
fn unverified(config: &Config, database: &Database) -> Vec<String> {
    let own = [Some(&database.upstream), database.follow.as_ref()].into_iter().flatten();
    let own = own.filter(|upstream| !is_verified(upstream)).map(|_| database.name.clone());
    let users = config.users.iter().filter(|user| names(user, database)).filter(|user| match &user.access {
        UserAccess::Unrestricted { upstream: Some(upstream) } => !is_verified(upstream),
        UserAccess::Unrestricted { upstream: None } | UserAccess::Fixed(_) | UserAccess::Shared { .. } => false,
    });
    let mut found: Vec<String> = own.chain(users.map(|user| format!("{} of user {}", database.name, user.name))).collect();
    found.dedup();
    found
}

/// What threat rules do where nobody is named.
fn modes_for_everybody(policies: &PolicyModel) -> Modes {
    let everybody = policies.threats.iter().filter(|threat| threat.roles.is_empty() && threat.applications.is_empty());
    Modes::of(everybody.flat_map(|threat| {
        let numbers = rules::named(&threat.rule).map_or(0..RULES.len(), |number| number..number + 1);
        numbers.map(|number| (number, threat.mode, threat.action))
    }))
}

fn columns<'p>(table: &'p TablePolicy, policies: &'p PolicyModel) -> impl Iterator<Item = Column> + 'p {
    table.columns.iter().filter_map(move |column| {
        let class = column.class.clone()?;
        let of_class = policies.class_of(table, column);
        let mask = column.mask.as_ref();
        Some(Column {
            name: format!("{}.{}.{}", table.schema, table.name, column.name),
            class,
            is_masked: mask.is_some(),
            unless_roles: mask.map(|mask| mask.unless_roles.clone()).unwrap_or_default(),
            purposes: mask.map(|mask| mask.purposes.clone()).unwrap_or_default(),
            never_stored: mask.is_some_and(|mask| mask.never_stored),
            hides_rows_from: of_class.map(|class| class.hides_rows_from.clone()).unwrap_or_default(),
            retention_days: of_class.and_then(|class| class.retention_days),
        })
    })
}

fn table(table: &TablePolicy) -> Table {
    let scope = match table.scope {
        Scope::Tenant { column: _ } => "tenant",
        Scope::Shared => "shared",
        Scope::View => "view",
        Scope::Denied => "denied",
    };
    // Those of classes are told by their columns.
    let own = table.rules.iter().filter(|rule| rule.mode == Mode::Restrictive && !rule.of_class);
    let restrictions = own.filter_map(|rule| {
        let using = rule.using.as_ref()?;
        Some(Restriction { roles: rule.roles.clone(), using: using.text.clone() })
    });
    Table { name: format!("{}.{}", table.schema, table.name), scope: scope.to_owned(), restrictions: restrictions.collect() }
}

/// Whether it is ever closed, or for a ticket.
fn restricts(window: &WindowPolicy) -> bool {
    let is_always_open = window.minutes == (0..24 * 60) && (0..7).all(|day| window.days.contains(&day));
    window.ticket || !is_always_open
}

fn login(user: &User) -> Login {
    let access = match &user.access {
        UserAccess::Fixed(_) => Access::Fixed,
        UserAccess::Shared { token_key: Some(_), .. } => Access::Signed,
        UserAccess::Shared { token_key: None, .. } => Access::Shared,
        UserAccess::Unrestricted { .. } => Access::Unrestricted,
    };
    Login {
        name: user.name.clone(),
        access,
        roles: user.roles.iter().cloned().collect(),
        purposes: user.purposes.iter().cloned().collect(),
        breaks_glass: !user.glass.roles.is_empty(),
    }
}

/// By its certificate and name, or because it is on this machine.
fn is_verified(upstream: &Upstream) -> bool {
    let is_loopback = upstream.host.parse().map_or(upstream.host == "localhost", |address: IpAddr| address.is_loopback());
    upstream.ssl_mode == SslMode::VerifyFull || upstream.host.starts_with('/') || is_loopback
}
