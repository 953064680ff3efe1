//! The client's side of a tenant's session: which message is taken when, simple queries.

use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use smallvec::SmallVec;

use super::cached::{Answered, Sought};
use super::drive::HIGH;
use super::enforced::{End, Phase, Session, Step};
use super::expect::{Attempt, Expected, LookedUp, Outcome, Sent};
use super::own::{in_a_list, no_statement, reason_of};
use super::prepared::is_about_prepared;
use super::statements::{LocalValues, is_forwarded};
use super::unrestricted::{function_call_refused, unknown_message};
use crate::audit;
use crate::cache::{Missing, WrittenRows};
use crate::error::{SqlError, sqlstate};
use crate::event::{Command, Event, Verdict};
use crate::finding::{Denial, Reason};
use crate::gate::{Approved, Protocol};
use crate::plan::{Action, Effect, Emulation, Parameters, TransactionCommand};
use crate::wire::backend::{self as reply, TransactionStatus};
use crate::wire::frontend::{self, FrontendMessage};
use crate::wire::{frame, frontend as request};

impl Session<'_> {
    /// Takes the client's messages as long as they may be taken now.
    pub async fn take_messages(&mut self) -> Step {
        while self.takes_messages() {
            if self.convert_data() || self.database.cache.is_some() && self.batch_cached().await? {
                continue;
            }
            match frame::take(&mut self.client.inbox, self.shared.limits.max_message) {
                Ok(Some(message)) => self.take_message(message.tag, &message.body).await?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(End::Fatal(error)),
            }
        }
        Ok(())
    }

    /// Whether messages may be taken now.
    pub fn takes_messages(&self) -> bool {
        self.phase != Phase::Awaiting
            && !self.is_ending
            && self.client.outbox.len() < HIGH
            && self.lease.as_ref().is_none_or(|lease| lease.outbox.len() < HIGH)
    }

    async fn take_message(&mut self, tag: u8, body: &[u8]) -> Step {
        if self.is_overdue() {
            self.close_glass()?;
        }
        if matches!(tag, b'Q' | b'E') && self.is_slow() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        // INVARIANT (CACHE KEY): of this message, or of none.
        let looked = match self.sought.take() {
            Some(Sought::Query(missing)) => Some(missing),
            Some(Sought::Batch(_)) | None => None,
        };
        if self.phase == Phase::Open && matches!(tag, b'd' | b'c' | b'f') {
            self.await_copy().await?;
        }
        if self.phase == Phase::Skipping && !matches!(tag, b'S' | b'X') {
            // What is skipped must be a message nevertheless.
            let known = matches!(tag, b'Q' | b'P' | b'B' | b'D' | b'E' | b'C' | b'H' | b'F' | b'd' | b'c' | b'f');
            return if known { Ok(()) } else { Err(End::Fatal(unknown_message(tag))) };
        }
        // In the middle of a batch: where something before it failed, it is skipped too, up to Sync.
        if self.phase == Phase::Open && matches!(tag, b'Q' | b'F') && self.batch.sent && !self.settle(tag).await? {
            return Ok(());
        }
        let message = match frontend::parse(tag, body) {
            Ok(Some(message)) => message,
            Ok(None) => return Err(End::Fatal(unknown_message(tag))),
            Err(error) => {
                let protocol = if matches!(tag, b'Q' | b'F') { Protocol::Simple } else { Protocol::Extended };
                self.deny(Denial::new(Reason::Invalid, error), protocol);
                return Ok(());
            }
        };
        if let Phase::CopyIn { extended } = self.phase {
            return self.copy_in(&message, tag, body, extended);
        }
        if matches!(tag, b'Q' | b'P' | b'B')
            && let Err(denial) = self.catalog_known().await
        {
            self.deny(denial, if tag == b'Q' { Protocol::Simple } else { Protocol::Extended });
            return Ok(());
        }
        match message {
            FrontendMessage::Query(text) => self.query(text, looked).await,
            FrontendMessage::Parse(parse) => self.parse(&parse).await,
            FrontendMessage::Bind(bind) => self.bind(&bind).await,
            FrontendMessage::Describe(target) => self.describe(target).await,
            FrontendMessage::Execute(execute) => self.execute(execute).await,
            FrontendMessage::Close(target) => self.close(target).await,
            FrontendMessage::Flush => {
                if let Some(lease) = self.lease.as_mut().filter(|_| self.batch.sent) {
                    request::put_flush(&mut lease.outbox);
                }
                Ok(())
            }
            FrontendMessage::Sync => {
                if self.batch.sent {
                    self.send_sync();
                } else {
                    self.end_batch_here();
                }
                Ok(())
            }
            // Left over from a COPY that failed: dropped, as in PostgreSQL.
            FrontendMessage::CopyData(_) | FrontendMessage::CopyDone | FrontendMessage::CopyFail(_) => Ok(()),
            FrontendMessage::Terminate => Err(End::Client),
            FrontendMessage::FunctionCall => {
                self.deny(Denial::new(Reason::Unsupported, function_call_refused()), Protocol::Simple);
                Ok(())
            }
            FrontendMessage::Authentication(_) => Err(End::Fatal(unknown_message(tag))),
        }
    }

    /// `looked`: it is not known to the cache, as was just seen, and may be kept under this key, if any.
    async fn query(&mut self, text: &str, mut looked: Option<Option<Missing>>) -> Step {
        self.names.remove("");
        self.names.close_portal("");
        let begun = Instant::now();
        while self.query_once(text, begun, looked.take()).await? == Answered::ReviewAgain {}
        Ok(())
    }

    async fn query_once(&mut self, text: &str, begun: Instant, looked: Option<Option<Missing>>) -> Step<Answered> {
        let Err(missing) = looked.map_or_else(|| self.query_known(text, begun), Err) else { return Ok(Answered::Yes) };
        let approved = match self.review(text, Protocol::Simple, &[]) {
            Ok(approved) => approved,
            Err(denial) => {
                self.note_refused(text);
                self.deny(denial, Protocol::Simple);
                return Ok(Answered::Yes);
            }
        };
        let own = match approved.as_slice() {
            [] => Some(&Action::Empty),
            [one] if !is_forwarded(one.plan.action()) => Some(one.plan.action()),
            // What drivers send to reset a session comes as one string.
            [first, ..] if approved.iter().all(only_resets) => Some(first.plan.action()),
            _ => None,
        };
        match own {
            Some(Action::Emulate(Emulation::ResetAll | Emulation::CloseAll))
                if self.status == TransactionStatus::InTransaction && approved.len() == 1 =>
            {
                if let Err(error) = self.check_reset(approved[0].plan.action()) {
                    self.deny(Denial::new(Reason::Invalid, error), Protocol::Simple);
                    return Ok(Answered::Yes);
                }
                self.run_emulated(&approved[0]).await?;
            }
            Some(Action::Empty) => {
                self.answer(reply::put_empty_query);
                self.end_query_here();
            }
            Some(_) => self.query_own(&approved),
            None if approved.iter().any(is_about_prepared) => self.query_prepared(text, &approved, begun).await?,
            None => match self.query_cached(text, &approved, missing, begun).await? {
                Answered::No if self.is_frequent_lookup(&approved) => self.query_lookup(text, &approved, begun).await?,
                Answered::No => self.query_forwarded(text, &approved, begun).await?,
                outcome @ (Answered::Yes | Answered::ReviewAgain) => return Ok(outcome),
            },
        }
        Ok(Answered::Yes)
    }

    /// A query that the proxy answers itself: all that is in its message.
    fn query_own(&mut self, approved: &[Approved]) {
        for one in approved {
            let mut answer = BytesMut::new();
            match self.run_own(&one.plan, &LocalValues::default(), Protocol::Simple, &mut answer) {
                Ok(()) => {
                    self.tell(Command::of_word(one.plan.command()), Protocol::Simple, Verdict::Permitted);
                    self.answer(|out| out.unsplit(answer));
                }
                Err(error) => return self.deny(Denial::new(reason_of(&error), error), Protocol::Simple),
            }
        }
        self.end_query_here();
    }

    /// ReadyForQuery after a Query that was answered here; the server says it where it has seen some of the batch.
    fn end_query_here(&mut self) {
        if self.batch.sent { self.send_sync() } else { self.end_batch_here() }
    }

    async fn query_forwarded(&mut self, text: &str, approved: &[Approved], begun: Instant) -> Step {
        if let Err(denial) = self.check_list(approved) {
            self.deny(denial, Protocol::Simple);
            return Ok(());
        }
        let mut sql = BytesMut::new();
        let mut sent = SmallVec::<[Sent; 1]>::new();
        let mut pins = false;
        let mut at = self.statements;
        let mut own = self.held_sequences();
        for (i, one) in approved.iter().enumerate() {
            let bound = match one.plan.bind(text, &one.literals, Parameters::None, &self.principal, &own) {
                Ok(bound) => bound,
                Err(denial) => {
                    self.deny(denial, Protocol::Simple);
                    return Ok(());
                }
            };
            if i > 0 {
                sql.put_slice(b";");
            }
            at += 1;
            if let Action::Emulate(emulation) = one.plan.action()
                && let Some((statement, expected)) = in_a_list(emulation)
            {
                sql.put_slice(statement.as_bytes());
                sent.push(expected);
                continue;
            }
            match self.reset_to_base(one) {
                Some(statement) => sql.put_slice(statement.as_bytes()),
                None => bound.write_text(&mut sql),
            }
            own.advance(&one.plan);
            sent.push(Sent::of(&one.plan, at, bound.copy_in()));
            pins |= one.plan.effect() == Effect::Pins;
        }
        if let Err(denial) = self.check_hold(pins) {
            self.deny(denial, Protocol::Simple);
            return Ok(());
        }
        self.shared.events.emit(Event::LatencyAdded(begun.elapsed()));
        if let Err(denial) = self.lease().await? {
            self.deny(denial, Protocol::Simple);
            return Ok(());
        }
        if let Err(denial) = self.record_intents(text, approved, &mut sent).await {
            sent.iter_mut().for_each(|one| one.audit.discard());
            self.deny(denial, Protocol::Simple);
            return Ok(());
        }
        for one in approved {
            self.intend(&one.plan, &WrittenRows::of(one.plan.writes(), &one.values(text)));
            self.tell(Command::of_word(one.plan.command()), Protocol::Simple, Verdict::Permitted);
        }
        self.statements = at;
        self.own_sequences = own;
        self.pin(pins);
        let instead = match approved {
            [one] if self.reset_to_base(one).is_some() => Some(one.plan.command()),
            _ => None,
        };
        self.send_query(&sql, sent, instead);
        Ok(())
    }

    /// One place for each statement.
    async fn record_intents(&mut self, text: &str, approved: &[Approved], sent: &mut [Sent]) -> Result<(), Denial> {
        self.judge_together(approved)?;
        for (one, sent) in approved.iter().zip(sent) {
            let told = self.told(&one.plan, &one.values(text))?;
            sent.audit = self.open(&one.plan, Protocol::Simple, told)?;
        }
        self.recorded().await
    }

    /// Whether it is a look-up that is its own transaction, asked for often enough that preparing it pays, and not refused for
    /// want of a tenant.
    fn is_frequent_lookup(&self, approved: &[Approved]) -> bool {
        let [one] = approved else { return false };
        let outside = self.status == TransactionStatus::Idle && !self.batch.sent;
        let permitted = self.principal.tenant().is_some() || !one.plan.needs_tenant();
        outside && permitted && one.plan.is_frequent_lookup()
    }

    /// Runs a look-up by a prepared statement; as text where the server has no place for one more, or its values cannot be bound.
    async fn query_lookup(&mut self, text: &str, approved: &[Approved], begun: Instant) -> Step {
        let decided = begun.elapsed();
        if let Err(denial) = self.lease().await? {
            self.deny(denial, Protocol::Simple);
            return Ok(());
        }
        let leased = Instant::now();
        let told = self.told(&approved[0].plan, &approved[0].values(text));
        let mut open = match told.and_then(|told| self.open(&approved[0].plan, Protocol::Simple, told)) {
            Ok(open) => open,
            Err(denial) => {
                self.deny(denial, Protocol::Simple);
                return Ok(());
            }
        };
        match self.send_lookup(text, &approved[0], &mut open) {
            Some(sent) => {
                self.shared.events.emit(Event::LatencyAdded(decided + leased.elapsed()));
                self.statements += 1;
                self.tell(Command::of_word(sent.plan.command()), Protocol::Simple, Verdict::Permitted);
                self.queue.push_back(Expected::Lookup(sent));
                self.batch.sent = true;
                self.phase = Phase::Awaiting;
                Ok(())
            }
            None => {
                open.discard();
                self.query_forwarded(text, approved, begun).await
            }
        }
    }

    /// `None`: nothing was sent.
    fn send_lookup(&mut self, text: &str, approved: &Approved, open: &mut audit::Open) -> Option<LookedUp> {
        let plan = &approved.plan;
        let upstream = plan.lookup()?;
        let lease = self.lease.as_mut()?;
        let is_prepared = lease.prepared.touch(upstream.id);
        if !is_prepared && lease.prepared.is_full() {
            // To close one and prepare another would cost more than it saves.
            return None;
        }
        // What is refused is refused where it is sent as text.
        let bound = plan.bind(text, &approved.literals, Parameters::None, &self.principal, &self.own_sequences).ok()?;
        // The values are in the text; what is round them takes less than the rest.
        let mut messages = BytesMut::with_capacity(text.len() + 128);
        if !bound.write_lookup(&mut messages) {
            return None;
        }
        if !is_prepared {
            request::put_parse_with(&mut lease.outbox, &upstream.name, |out| out.put_slice(&upstream.text), &upstream.types);
        }
        lease.outbox.extend_from_slice(&messages);
        lease.expect_ready();
        let audit = std::mem::replace(open, audit::Open::none());
        Some(LookedUp { audit, plan: plan.clone(), messages, attempt: Attempt::First, rows: None })
    }

    /// RESET, or SET TO DEFAULT, of a setting that the startup message gave: the server's own would lead to the role's default.
    pub fn reset_to_base(&self, approved: &Approved) -> Option<String> {
        let (name, local) = match approved.plan.action() {
            Action::Reset { name } => (name.to_ascii_lowercase(), false),
            Action::Set { name, values: None, local } => (name.to_ascii_lowercase(), *local),
            _ => return None,
        };
        let value = self.settings.base().map().get(&name)?;
        let mut sql = String::new();
        super::settings::write_set_config(&name, value, local, &mut sql);
        Some(sql)
    }

    /// A query string of several statements: all of them the server's, and none after one that changes how names are resolved,
    /// since all were reviewed under the search_path of the first.
    pub fn check_list(&self, approved: &[Approved]) -> Result<(), Denial> {
        let Some((_, before)) = approved.split_last().filter(|(_, before)| !before.is_empty()) else { return Ok(()) };
        let about_prepared = approved.iter().any(is_about_prepared);
        let alone = |one: &Approved| match one.plan.action() {
            // What PREPARE and EXECUTE mean depends on what DEALLOCATE has done.
            Action::Emulate(emulation) => about_prepared || in_a_list(emulation).is_none(),
            Action::Empty => false,
            other => !is_forwarded(other),
        };
        if approved.iter().any(|one| alone(one) || self.reset_to_base(one).is_some()) {
            let message = "a command that changes the session must be alone in its query string";
            return Err(Denial::unsupported(message));
        }
        for one in approved {
            if let Action::Emulate(Emulation::Deallocate(name)) = one.plan.action()
                && self.names.get(name).is_none()
            {
                return Err(Denial::new(Reason::Invalid, no_statement(name)));
            }
        }
        let changes_path = |one: &Approved| match one.plan.action() {
            Action::Set { name, .. } | Action::Configure { name, .. } | Action::Reset { name } => {
                name.eq_ignore_ascii_case("search_path")
            }
            Action::Transaction(
                TransactionCommand::Commit { .. } | TransactionCommand::Rollback { .. } | TransactionCommand::RollbackTo(_),
            ) => self.settings.may_change_at_end() || self.lease.as_ref().is_some_and(|l| l.lock.is_local()),
            Action::Transaction(_) | Action::Forward | Action::Prepare(_) | Action::Execute { .. } => false,
            Action::ChooseTenant { .. } | Action::Emulate(_) | Action::Empty => false,
        };
        if before.iter().any(changes_path) {
            return Err(Denial::unsupported(
                "a statement after one that changes search_path, or the tenant, in the same query string",
            ));
        }
        Ok(())
    }

    pub fn send_query(&mut self, sql: &[u8], sent: SmallVec<[Sent; 1]>, instead: Option<&'static str>) {
        let Some(lease) = &mut self.lease else { return };
        request::put_query_with(&mut lease.outbox, |out| out.put_slice(sql));
        lease.expect_ready();
        self.queue.push_back(Expected::Query { sent, next: 0, instead });
        self.batch.sent = true;
        self.phase = Phase::Awaiting;
    }

    /// What is answered here outside a transaction, but inside one must be done by the server.
    async fn run_emulated(&mut self, approved: &Approved) -> Step {
        let (sql, outcome, tag) = match approved.plan.action() {
            Action::Emulate(Emulation::ResetAll) => (self.settings.reset_all_text(), Outcome::ResetAll, "RESET"),
            _ => ("CLOSE ALL".to_owned(), Outcome::Nothing, "CLOSE CURSOR ALL"),
        };
        self.statements += 1;
        self.send_query(sql.as_bytes(), SmallVec::from_iter([Sent::own(outcome)]), Some(tag));
        Ok(())
    }
}

/// Whether the proxy answers it, and it may stand with others in a query string (DISCARD ALL must be alone, as in PostgreSQL).
fn only_resets(approved: &Approved) -> bool {
    match approved.plan.action() {
        Action::Emulate(emulation) => *emulation != Emulation::DiscardAll,
        Action::Forward
        | Action::Transaction(_)
        | Action::Set { .. }
        | Action::Configure { .. }
        | Action::Reset { .. }
        | Action::ChooseTenant { .. }
        | Action::Prepare(_)
        | Action::Execute { .. }
        | Action::Empty => false,
    }
}

/// Whether what comes next cannot be judged before this is answered.
pub(super) fn awaits_context(expected: &Expected) -> bool {
    match expected {
        Expected::Execute { sent, .. } => sent.outcome.changes_context(),
        Expected::Query { sent, .. } => sent.iter().any(|one| one.outcome.changes_context()),
        _ => false,
    }
}

/// 25001, as PostgreSQL says it.
pub(super) fn not_in_transaction(command: &str) -> SqlError {
    SqlError::new(sqlstate::ACTIVE_TRANSACTION, format!("{command} cannot run inside a transaction block"))
}
