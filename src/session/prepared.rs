//! PREPARE and EXECUTE as SQL.
//!
//! A client's SQL names and protocol names are one namespace, as in PostgreSQL, and both mean statements that are prepared
//! upstream by content, with the tenant as a parameter: PREPARE is a Parse by another name, and EXECUTE a Bind whose values
//! stand in the text. So no session is pinned, a statement works on every backend, and the tenant is put in when it is
//! executed: what one tenant has prepared reads another's rows as little as a Parse does. What upstream does not have yet
//! is sent with the EXECUTE, as a PREPARE of the proxy's own in front of it.

use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

use super::enforced::{Session, Step, in_failed_transaction};
use super::expect::{Outcome, Sent, Shown};
use super::extended::{MAX_NAMED, MAX_NAMED_BYTES};
use super::own::no_statement;
use super::statements::Statement;
use crate::audit;
use crate::cache::WrittenRows;
use crate::error::{SqlError, sqlstate};
use crate::event::{Command, Event, Verdict};
use crate::finding::{Denial, Reason};
use crate::gate::{Approved, Protocol};
use crate::plan::{Action, Effect, OwnSequences, Parameters, Prepare};
use crate::wire::backend::{self as reply, TransactionStatus};

/// Statements that this query string prepares, before the session knows them.
type Own = SmallVec<[(Box<str>, Arc<Statement>); 2]>;

/// One statement of a query string, resolved.
enum Piece {
    Text { sql: BytesMut, sent: Sent },
    Prepare { name: Box<str>, statement: Arc<Statement> },
    Execute { sql: BytesMut, statement: Arc<Statement> },
}

/// Whether the statement is about prepared ones.
pub(super) fn is_about_prepared(approved: &Approved) -> bool {
    match approved.plan.action() {
        Action::Prepare(_) | Action::Execute { .. } => true,
        Action::Forward
        | Action::Transaction(_)
        | Action::Set { .. }
        | Action::Configure { .. }
        | Action::Reset { .. }
        | Action::ChooseTenant { .. }
        | Action::Emulate(_)
        | Action::Empty => false,
    }
}

impl Session<'_> {
    /// A query string that holds PREPARE or EXECUTE.
    pub async fn query_prepared(&mut self, text: &str, approved: &[Approved], begun: Instant) -> Step {
        let (pieces, own_sequences) = match self.pieces(text, approved) {
            Ok(pieces) => pieces,
            Err(denial) => {
                let failed = self.status == TransactionStatus::Failed;
                let denial = if failed { Denial::new(Reason::Invalid, in_failed_transaction()) } else { denial };
                self.deny(denial, Protocol::Simple);
                return Ok(());
            }
        };
        let pins = approved.iter().any(|one| one.plan.effect() == Effect::Pins);
        if let Err(denial) = self.check_hold(pins) {
            self.deny(denial, Protocol::Simple);
            return Ok(());
        }
        self.shared.events.emit(Event::LatencyAdded(begun.elapsed()));
        if let Err(denial) = self.lease().await? {
            self.deny(denial, Protocol::Simple);
            return Ok(());
        }
        for one in approved {
            self.intend(&one.plan, &WrittenRows::of(one.plan.writes(), &one.values(text)));
        }
        let mut out = Text::default();
        if let Err(denial) = self.add_pieces(text, approved, pieces, &mut out).await {
            out.sent.iter_mut().for_each(|one| one.audit.discard());
            self.deny(denial, Protocol::Simple);
            return Ok(());
        }
        for one in approved {
            self.tell(Command::of_word(one.plan.command()), Protocol::Simple, Verdict::Permitted);
        }
        self.statements += approved.len() as u64;
        self.pin(pins);
        self.own_sequences = own_sequences;
        self.send_query(&out.sql, out.sent, None);
        Ok(())
    }

    async fn add_pieces(&mut self, text: &str, approved: &[Approved], pieces: Vec<Piece>, out: &mut Text) -> Result<(), Denial> {
        self.judge_together(approved)?;
        for (one, piece) in approved.iter().zip(pieces) {
            let audit = match &piece {
                Piece::Execute { sql: _, statement } => {
                    self.intend(&statement.plan, &WrittenRows::default());
                    let execute = text.get(one.source.start as usize..one.source.end as usize).unwrap_or_default();
                    let told = self.told_of_execute(statement, execute)?;
                    self.open(&statement.plan, Protocol::Simple, told)?
                }
                Piece::Text { .. } | Piece::Prepare { .. } => {
                    let told = self.told(&one.plan, &one.values(text))?;
                    self.open(&one.plan, Protocol::Simple, told)?
                }
            };
            self.add(piece, out, audit)?;
        }
        self.recorded().await
    }

    fn pieces(&mut self, text: &str, approved: &[Approved]) -> Result<(Vec<Piece>, OwnSequences), Denial> {
        self.check_list(approved)?;
        let mut own_sequences = self.held_sequences();
        let mut own = Own::new();
        let mut pieces = vec![];
        for (i, one) in approved.iter().enumerate() {
            let at = self.statements + 1 + i as u64;
            pieces.push(match one.plan.action() {
                Action::Prepare(prepare) => {
                    self.check_new_name(&prepare.name, text.len())?;
                    if own.iter().any(|(name, _)| *name == prepare.name) {
                        return Err(already_exists(&prepare.name));
                    }
                    let statement = self.prepared_by(text, one, prepare)?;
                    own.push((prepare.name.clone(), statement.clone()));
                    Piece::Prepare { name: prepare.name.clone(), statement }
                }
                Action::Execute { name, arguments } => {
                    let known = own.iter().find(|(n, _)| n == name).map(|(_, statement)| statement.clone());
                    let statement = match known {
                        Some(statement) => statement,
                        None => self.prepared(name)?,
                    };
                    let sql = self.execution(text, one, &statement, name, *arguments, &own_sequences)?;
                    own_sequences.advance(&statement.plan);
                    Piece::Execute { sql, statement }
                }
                Action::Forward
                | Action::Transaction(_)
                | Action::Set { .. }
                | Action::Configure { .. }
                | Action::Reset { .. }
                | Action::ChooseTenant { .. }
                | Action::Emulate(_)
                | Action::Empty => {
                    let bound = one.plan.bind(text, &one.literals, Parameters::None, &self.principal, &own_sequences)?;
                    own_sequences.advance(&one.plan);
                    let mut sql = BytesMut::new();
                    bound.write_text(&mut sql);
                    Piece::Text { sql, sent: Sent::of(&one.plan, at, bound.copy_in()) }
                }
            });
        }
        Ok((pieces, own_sequences))
    }

    /// Adds a statement, and in front of it what upstream needs first.
    fn add(&mut self, piece: Piece, text: &mut Text, audit: audit::Open) -> Result<(), Denial> {
        match piece {
            Piece::Text { sql, sent } => text.push(&sql, Sent { audit, ..sent }),
            Piece::Prepare { name, statement } => match self.preparation(&statement, text)? {
                Some(sql) => text.push(&sql, Sent { audit, ..Sent::own(Outcome::Prepared { statement, name: Some(name) }) }),
                // It is there: this is for its place in the order, and for what the transaction's state says to it.
                None => {
                    let outcome = Outcome::Prepared { statement, name: Some(name) };
                    text.push(
                        b"SELECT",
                        Sent { audit, hides_rows: true, shown: Shown::Instead("PREPARE"), ..Sent::own(outcome) },
                    );
                }
            },
            Piece::Execute { sql, statement } => {
                if let Some(sql) = self.preparation(&statement, text)? {
                    let outcome = Outcome::Prepared { statement: statement.clone(), name: None };
                    text.push(&sql, Sent { shown: Shown::Nothing, ..Sent::own(outcome) });
                }
                let hides_rows = statement.hides_rows();
                text.push(&sql, Sent { audit, hides_rows, executes: Some(statement), ..Sent::own(Outcome::Nothing) });
            }
        }
        Ok(())
    }

    /// The PREPARE that the backend needs before it can execute the statement, if it needs one.
    fn preparation(&mut self, statement: &Arc<Statement>, text: &mut Text) -> Result<Option<Vec<u8>>, Denial> {
        let (Some(upstream), Some(lease)) = (&statement.upstream, &mut self.lease) else { return Ok(None) };
        if lease.prepared.touch(upstream.id) || text.preparing.contains(&upstream.id) {
            return Ok(None);
        }
        if let Some(i) = self.doomed.iter().position(|id| *id == upstream.id) {
            self.doomed.swap_remove(i);
            self.note_prepared(upstream.id);
            return Ok(None);
        }
        let mut sql = format!("PREPARE {}", upstream.name);
        for (i, oid) in upstream.types.iter().enumerate() {
            let type_ = if *oid == 0 { Some("unknown".to_owned()) } else { self.database.gate.type_name(*oid) };
            let type_ = type_.ok_or_else(|| Denial::unsupported(format!("parameters of type {oid} cannot be secured")))?;
            sql += if i == 0 { "(" } else { ", " };
            sql += &type_;
        }
        sql += if upstream.types.is_empty() { " AS " } else { ") AS " };
        let mut sql = sql.into_bytes();
        sql.extend_from_slice(&upstream.text);
        text.preparing.push(upstream.id);
        Ok(Some(sql))
    }

    /// PREPARE by the extended protocol: the Parse that its query is.
    pub async fn execute_prepare(&mut self, statement: &Statement, prepare: &Prepare) -> Step {
        if !self.settle(b'E').await? {
            return Ok(());
        }
        let made = self.check_new_name(&prepare.name, statement.source.len()).and_then(|()| {
            let under = self.under();
            Statement::prepared(&statement.source, statement.literals.clone(), prepare, under).map(Arc::new)
        });
        let made = match made {
            Ok(made) => made,
            Err(denial) => {
                self.deny(denial, Protocol::Extended);
                return Ok(());
            }
        };
        if let Err(denial) = self.lease().await? {
            self.deny(denial, Protocol::Extended);
            return Ok(());
        }
        self.tell(Command::of_word(statement.plan.command()), Protocol::Extended, Verdict::Permitted);
        self.statements += 1;
        self.batch.sent = true;
        self.names.insert(&prepare.name, made.clone());
        self.ensure_prepared(&made, super::expect::ParseFor::Sql(prepare.name.clone()));
        self.answer(|out| reply::put_command_complete(out, "PREPARE"));
        Ok(())
    }

    /// EXECUTE by the extended protocol: a statement whose text executes another one.
    pub fn executing(&mut self, text: &str, one: &Approved, name: &str, arguments: usize) -> Result<Arc<Statement>, Denial> {
        let target = self.prepared(name)?;
        // It may be executed in any transaction: of none of them anything is known.
        let sql = self.execution(text, one, &target, name, arguments, &OwnSequences::default())?;
        let (under, tenant) = (self.under(), self.principal.tenant());
        let literals = one.literals.clone();
        Ok(Arc::new(Statement::executing(text, literals, one.plan.clone(), under, tenant, target, sql.freeze())))
    }

    /// What a name means now, reviewed again where its review has grown old (EPOCH).
    fn prepared(&mut self, name: &str) -> Result<Arc<Statement>, Denial> {
        let known = self.names.get(name).filter(|_| !name.is_empty()).cloned();
        let mut statement = known.ok_or_else(|| Denial::new(Reason::Invalid, no_statement(name)))?;
        if !self.is_current(&statement) {
            statement = self.review_again(&statement)?;
            self.names.insert(name, statement.clone());
        }
        Ok(statement)
    }

    /// The statement that a PREPARE in a query string makes.
    pub fn prepared_by(&mut self, text: &str, one: &Approved, prepare: &Prepare) -> Result<Arc<Statement>, Denial> {
        let (start, end) = (one.source.start, one.source.end);
        let source = text.get(start as usize..end as usize).unwrap_or_default();
        let literals = one.literals.iter().map(|r| r.start - start..r.end - start).collect();
        let under = self.under();
        Statement::prepared(source, literals, prepare, under).map(Arc::new)
    }

    /// The text of an EXECUTE of that statement, for the tenant of now.
    fn execution(
        &self,
        text: &str,
        one: &Approved,
        target: &Statement,
        name: &str,
        arguments: usize,
        own: &OwnSequences,
    ) -> Result<BytesMut, Denial> {
        let upstream = match (target.plan.action(), target.plan.command(), &target.upstream) {
            (Action::Forward, "SELECT" | "INSERT" | "UPDATE" | "DELETE" | "MERGE", Some(upstream))
                if !target.plan.inlines_tenant() =>
            {
                upstream
            }
            (_, _, _) => {
                let message = "EXECUTE of something else than SELECT, INSERT, UPDATE, DELETE or MERGE cannot be secured";
                return Err(Denial::unsupported(message));
            }
        };
        let wanted = target.parameters();
        if arguments != wanted {
            let message = format!("wrong number of parameters for prepared statement \"{name}\"");
            let mut error = SqlError::new(sqlstate::SYNTAX_ERROR, message);
            error.detail = Some(format!("Expected {wanted} parameters but got {arguments}.").into());
            return Err(Denial::new(Reason::Invalid, error));
        }
        // The arguments have conditions of their own.
        one.plan.bind(text, &one.literals, Parameters::None, &self.principal, own)?;
        // Of what an argument comes to nothing is known here: a value that decides something is refused.
        let bound = target.plan.bind(&target.source, &target.literals, Parameters::None, &self.principal, own)?;
        let mut list = BytesMut::new();
        one.plan.write_parameterised(text, &one.literals, None, &mut list);
        let mut sql = BytesMut::new();
        bound.write_execute(&upstream.name, &list, &mut sql);
        Ok(sql)
    }

    /// A name for one more prepared statement of the client's, whose text has that many bytes.
    pub fn check_new_name(&self, name: &str, bytes: usize) -> Result<(), Denial> {
        if name.is_empty() {
            let message = "invalid statement name: must not be empty";
            return Err(Denial::invalid(sqlstate::INVALID_PSTATEMENT_DEFINITION, message));
        }
        if self.names.get(name).is_some() {
            return Err(already_exists(name));
        }
        if self.names.len() >= MAX_NAMED || self.names.bytes() + bytes > MAX_NAMED_BYTES {
            let message = format!("a session can have {MAX_NAMED} prepared statements of {MAX_NAMED_BYTES} bytes in all");
            return Err(Denial::new(Reason::Limit, SqlError::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, message)));
        }
        Ok(())
    }
}

/// 42P05, as PostgreSQL says it.
fn already_exists(name: &str) -> Denial {
    Denial::invalid(sqlstate::DUPLICATE_PREPARED_STATEMENT, format!("prepared statement \"{name}\" already exists"))
}

/// A query string in the making.
#[derive(Default)]
struct Text {
    sql: BytesMut,
    sent: SmallVec<[Sent; 1]>,
    /// What it prepares upstream.
    preparing: SmallVec<[u128; 4]>,
}

impl Text {
    fn push(&mut self, sql: &[u8], sent: Sent) {
        if !self.sent.is_empty() {
            self.sql.put_u8(b';');
        }
        self.sql.put_slice(sql);
        self.sent.push(sent);
    }
}
