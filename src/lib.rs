//! Bulkhead: a PostgreSQL proxy that keeps tenants apart. **This page is the map.**
//!
//! # Bird's eye
//! An application points its connection string at Bulkhead and changes nothing else. Every statement is read, judged,
//! rewritten so that it can only touch its own tenant's rows, and sent to the real PostgreSQL.
//!
//! # Life of a statement
//! ```text
//! bytes -> Frame -> FrontendMessage -> Template + literals -+- known -> Plan
//!                                                           +- new   -> Statement -> Analysis -> Decision
//!                                                                       Decision = Permit | Denial;  Permit -> Plan
//! Plan + literals/params + Principal -> Bound -> Lease on a backend -> Open (audit) -> rows -> Outcome (audit) -> bytes
//! ```
//! Everything that depends only on the statement's shape, the policy epoch, the catalog epoch and the principal's role
//! set is decided once per template and kept. The tenant is a *slot* of the plan, never part of it.
//!
//! # Floors
//! A module imports only from lower floors; `tests/tidy.rs` fails otherwise.
//! ```text
//! 7  main, server, cli      args, config, build, serve, drain; one file per subcommand
//! 6  session, admin         one client's state machine; health and metrics
//! 5  cache                  kept answers: stamps, intents, the memory tier, the tier in Redis
//! 4  gate                   review(): the one place that orders analyse > decide > plan
//! 4  backend                connection, pool, cancel, catalog loader
//! 3  plan                   rewriting; needs a Permit
//! 2  policy, rules, audit, metrics model, load, decide, epoch; threat and compliance rules, learned lists, baselines; records, the tree over
//!                           them, proofs; the only file that names counters
//! 1  sql, wire, event       parsers and the output check; frames and messages (no sockets); what can happen
//! 0  calendar, config, catalog, principal, finding, id, error, mutants
//! ```
//!
//! # Invariants
//! Named here, and named again where code relies on them.
//!
//! * **PERMIT**: only [`policy::decide`] makes a [`policy::Permit`]; only a `Permit` makes a [`plan::Plan`]; what
//!   reaches a backend for a tenant is a [`plan::Bound`]. The proxy's own SQL is `&'static str` with bound parameters.
//! * **TWO READINGS**: PostgreSQL's own grammar (libpg_query) reads every new template, a second parser (sqlparser) must see
//!   the same tree, in the text or in its plain form ([`sql::second`]), or it is refused; and what is printed is read again and checked ([`sql::verify`]) by code that shares nothing with
//!   the rewriter.
//! * **TOTAL**: analysis is total. A syntax node it does not know is a [`finding::Denial`]; there is no `_ =>` over
//!   kinds of syntax nodes and no `..` in patterns over them.
//! * **REFUSE**: a parse error, a missing catalog entry, a disagreement between parsers is a `Denial`.
//! * **EPOCH**: a permit carries its epoch; a prepared statement whose epoch is old is reviewed again when it is used. No review is
//!   older than definitions that an unrestricted user was told are changed: tenants wait for them.
//! * **ROLES**: a session's roles change (a purpose is said, the glass is broken) only where nothing is open from before; what was decided for
//!   other roles, prepared or kept, is decided again.
//! * **KNOWN-STATE**: the pool takes back only a connection whose state is known; on any doubt it is closed.
//! * **VERDICT**: a verdict is a returned value bound to its statement. A query string of n statements is refused whole
//!   if one is refused. A denial inside a transaction aborts that transaction upstream.
//! * **UNRESTRICTED**: an `unrestricted` user's plan is the client's text as it came, on a pinned session.
//! * **NOTHING STALE**: a kept answer is given only while nothing has begun to write what it was made of ([`cache`]); what may write
//!   says so before it is sent.
//! * **CACHE KEY**: one constructor, from what is bound and for whom: tenant and policy epoch come with it.
//! * **EVIDENCE**: what writes is sent after its intent was taken by the audit log, under `sync` after it is on the disk; what is sent has
//!   an [`audit::Open`] in the queue of answers, whose drop records that nobody knows its outcome; a log that has lost what a checkpoint
//!   covers is not gone on with.
//! * **AUTHENTICATED**: authentication yields a [`principal::Principal`]; the serve loop cannot be entered without one.
//!
//! Deliberately absent: `wire` opens no socket; `sql`, `policy` and `plan` do no I/O; nothing but `metrics` names a counter.
#![forbid(unsafe_code)]

// Test support is shared by unit tests and test targets: both name the crate alike.
#[cfg(test)]
extern crate self as bulkhead;

// floor 0
pub mod calendar;
pub mod catalog;
pub mod config;
pub mod error;
pub mod finding;
pub mod id;
pub mod mutants;
pub mod principal;
pub mod worker;
// floor 1
pub mod event;
pub mod sql;
pub mod wire;
// floor 2
pub mod audit;
pub mod metrics;
pub mod policy;
pub mod rules;
// floor 3
pub mod plan;
// floor 4
pub mod backend;
pub mod gate;
// floor 5
pub mod cache;
// floor 6
pub mod admin;
pub mod session;
// floor 7
pub mod cli;
pub mod server;
