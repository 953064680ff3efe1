//! The server's side of a tenant's session: each message meets what is expected, and goes on, is swallowed, or is replaced.

use bytes::{Buf, BufMut};
use std::cell::Cell;

use super::enforced::{End, Patience, Phase, Session, Snapshots, Step};
use super::expect::{Attempt, Expected, LookedUp, Outcome, ParseFor, Shown};
use super::{poison, scrub};
use crate::audit;
use crate::error::{Severity, SqlError, sqlstate};
use crate::event::Uncached;
use crate::plan::{Action, TransactionCommand, name_of};
use crate::rules::threat::canary_row::Tail;
use crate::wire::backend::{self as reply, ErrorFields, TransactionStatus, tag};
use crate::wire::{frame, frontend};

/// A row of up to so many bytes is passed on when it is whole, where rows are looked through.
const LONG_ROW: usize = 1 << 20;

impl Session<'_> {
    /// Takes all that the server has sent.
    pub fn take_all_answers(&mut self) -> Step {
        loop {
            if self.pass_rows()? {
                return Ok(());
            }
            let Some(lease) = &mut self.lease else { return Ok(()) };
            match frame::take(&mut lease.inbox, frame::CAP_SERVER) {
                Ok(Some(message)) => self.take_answer(message.tag, &message.body)?,
                Ok(None) => return Ok(()),
                Err(error) => return Err(broken(&error)),
            }
        }
    }

    /// Passes on rows and COPY data as one slice, without waiting for a large one to be whole. `true`: all was taken.
    fn pass_rows(&mut self) -> Step<bool> {
        let left = self.is_limited().then(|| self.rows_left());
        let Some(lease) = &mut self.lease else { return Ok(true) };
        if self.queue.front().is_some_and(Expected::shows_rows) {
            let rows = |tag| matches!(tag, tag::DATA_ROW | tag::COPY_DATA);
            let count = Cell::new(0);
            // The first that is too many is looked at, and not passed on.
            let is_too_many = |tag| rows(tag) && left.is_some_and(|left| count.replace(count.get() + 1) >= left);
            let interesting = |tag| !rows(tag) || is_too_many(tag);
            // What may have to be kept back is not begun to be passed on.
            let whole = if self.learned.canary_rows.is_some() { LONG_ROW } else { 0 };
            let before = self.down;
            let advanced = self.down.advance_by(whole, &lease.inbox, frame::CAP_SERVER, interesting);
            let length = advanced.map_err(|error| broken(&error))?;
            let is_seen =
                self.learned.canary_rows.as_ref().is_some_and(|c| c.is_in(&lease.inbox[..length], &mut self.learned.tail));
            if is_seen {
                // Nothing of this was passed on: an error may follow what was.
                let inside = std::mem::replace(&mut self.down, before);
                self.note_canary_row()?;
                self.down = inside;
            }
            let Some(lease) = &mut self.lease else { return Ok(true) };
            self.client.outbox.extend_from_slice(&lease.inbox[..length]);
            self.passed += length as u64;
            lease.inbox.advance(length);
            if let Some(left) = left {
                self.note_rows(count.get().min(left));
                if count.get() > left {
                    return Err(self.end_over_limit());
                }
            }
        }
        let Some(lease) = &self.lease else { return Ok(true) };
        Ok(lease.inbox.is_empty() || self.down.is_inside())
    }

    fn take_answer(&mut self, tag: u8, body: &[u8]) -> Step {
        if matches!(tag, tag::NOTICE | tag::ERROR)
            && self.learned.canary_rows.as_ref().is_some_and(|rows| rows.is_in(body, &mut Tail::default()))
            && !crate::mutant!("watch.errors-are-not-looked-through")
        {
            // What it quotes is a value of a row.
            self.note_canary_row()?;
        }
        match tag {
            tag::NOTICE => {
                let own = matches!(self.queue.front(), Some(Expected::Prelude { .. } | Expected::OwnSync));
                if !own && !scrub::is_the_backends_own(body) {
                    self.abandon(Uncached::Answer);
                    self.write_told(tag, body);
                }
                Ok(())
            }
            tag::PARAMETER_STATUS => self.take_parameter(body),
            tag::NOTIFICATION => {
                if self.pinned {
                    self.abandon(Uncached::Answer);
                    self.pass(tag, body);
                }
                Ok(())
            }
            tag::ERROR => self.take_error(body),
            tag::READY_FOR_QUERY => self.take_ready(body),
            _ => self.take_reply(tag, body),
        }
    }

    fn pass(&mut self, tag: u8, body: &[u8]) {
        frame::write(&mut self.client.outbox, tag, |out| out.extend_from_slice(body));
    }

    /// What an error or a notice may quote of the client's own rows.
    pub fn own_rows(&self) -> scrub::OwnRows {
        match self.database.gate.masks_for(&self.principal.roles) {
            true => scrub::OwnRows::Masked,
            false => scrub::OwnRows::Whole,
        }
    }

    fn take_parameter(&mut self, body: &[u8]) -> Step {
        let (name, value) = reply::parse_parameter_status(body).map_err(|error| broken(&error))?;
        if let Some(lease) = &mut self.lease {
            lease.note_parameter(name, value);
        }
        let own = matches!(self.queue.front(), Some(Expected::Prelude { .. }));
        if !own && name != "session_authorization" {
            self.abandon(Uncached::Answer);
            self.pass(tag::PARAMETER_STATUS, body);
        }
        Ok(())
    }

    fn take_reply(&mut self, tag: u8, body: &[u8]) -> Step {
        if tag == tag::COMMAND_COMPLETE {
            self.forget_rows(body);
        }
        if tag == tag::PORTAL_SUSPENDED {
            self.keep_rows();
        }
        match (self.queue.front_mut(), tag) {
            (Some(Expected::Prelude { .. } | Expected::Query { instead: Some(_), .. }), _) => return Ok(()),
            // Rows come here only where they are not passed on as they are.
            (Some(Expected::Query { sent, next, instead: None }), tag::ROW_DESCRIPTION | tag::DATA_ROW)
                if sent.get(*next).is_some_and(|s| s.hides_rows) =>
            {
                return Ok(());
            }
            (Some(Expected::Execute { sent, .. }), tag::DATA_ROW) if sent.hides_rows => return Ok(()),
            (Some(Expected::Query { sent, next, instead: None }), tag::COMMAND_COMPLETE | tag::EMPTY_QUERY) => {
                let bytes = std::mem::take(&mut self.passed);
                let (outcome, shown, form) = match sent.get_mut(*next) {
                    Some(one) => {
                        let form = one.audit.form();
                        one.audit.complete(done(bytes, body));
                        (one.outcome.clone(), one.shown, form)
                    }
                    None => (Outcome::Nothing, Shown::AsItCame, None),
                };
                *next += 1;
                self.note_ended(form, reply::rows_of_tag(body), bytes);
                self.copy = None;
                self.succeed(&outcome, body);
                match shown {
                    Shown::AsItCame => self.pass(tag, body),
                    Shown::Instead(command) => reply::put_command_complete(&mut self.client.outbox, command),
                    Shown::Nothing => {}
                }
                return Ok(());
            }
            (Some(Expected::Query { .. }), tag::ROW_DESCRIPTION | tag::COPY_OUT | tag::COPY_DONE) => {
                self.pass(tag, body);
                return Ok(());
            }
            (Some(Expected::Query { sent, next, instead: None }), tag::COPY_IN) => {
                let copy = sent.get(*next).and_then(|s| s.copy.clone());
                return self.begin_copy(copy, body, false);
            }
            (Some(Expected::Lookup(_)), _) => return self.take_reply_of_lookup(tag, body),
            (Some(Expected::Execute { .. }), tag::COPY_OUT | tag::COPY_DONE) => {
                self.pass(tag, body);
                return Ok(());
            }
            (Some(Expected::Execute { sent, .. }), tag::COPY_IN) => {
                let copy = sent.copy.clone();
                // A Sync that was sent already is swallowed by the COPY: the client sends another after it.
                self.queue.retain(|e| !matches!(e, Expected::Sync));
                return self.begin_copy(copy, body, true);
            }
            (Some(Expected::DescribeStatement { statement }), tag::PARAMETER_DESCRIPTION) => {
                let types = reply::parse_parameter_description(body).map_err(|error| broken(&error))?;
                statement.note_types(&types);
                if statement.plan.has_tenant_parameter() {
                    reply::put_parameter_description_without_last(&mut self.client.outbox, body)
                        .map_err(|error| broken(&error))?;
                } else {
                    self.pass(tag, body);
                }
                return Ok(());
            }
            (Some(_) | None, _) => {}
        }
        let Some(expected) = self.queue.pop_front() else { return Err(unexpected(tag)) };
        self.finish(expected, tag, body)?;
        self.pass_own_replies();
        Ok(())
    }

    /// Of the messages that run a look-up, the client gets what a simple query would have brought.
    fn take_reply_of_lookup(&mut self, tag: u8, body: &[u8]) -> Step {
        let Some(Expected::Lookup(lookup)) = self.queue.front_mut() else { return Err(unexpected(tag)) };
        match tag {
            tag::PARSE_COMPLETE => {
                if let Some(upstream) = lookup.plan.lookup() {
                    let id = upstream.id;
                    self.note_prepared(id);
                }
            }
            tag::BIND_COMPLETE | tag::CLOSE_COMPLETE => {}
            tag::ROW_DESCRIPTION => self.pass(tag, body),
            tag::COMMAND_COMPLETE => {
                let rows = reply::rows_of_select(body).ok_or_else(|| unexpected(tag))?;
                lookup.rows = Some(rows);
                let (form, bytes) = (lookup.audit.form(), std::mem::take(&mut self.passed));
                lookup.audit.complete(audit::Outcome::Done { rows, bytes });
                self.note_ended(form, rows, bytes);
            }
            _ => return Err(unexpected(tag)),
        }
        Ok(())
    }

    /// The message that ends what was expected.
    fn finish(&mut self, expected: Expected, tag: u8, body: &[u8]) -> Step {
        match (expected, tag) {
            (Expected::Parse { statement, by }, tag::PARSE_COMPLETE) => {
                if let Some(upstream) = &statement.upstream {
                    self.note_prepared(upstream.id);
                }
                if matches!(by, ParseFor::Client(_)) {
                    self.pass(tag, body);
                }
            }
            (Expected::Execute { mut sent, .. }, tag::COMMAND_COMPLETE | tag::EMPTY_QUERY) => {
                let (form, bytes) = (sent.audit.form(), std::mem::take(&mut self.passed));
                sent.audit.complete(done(bytes, body));
                self.note_ended(form, reply::rows_of_tag(body), bytes);
                self.copy = None;
                self.succeed(&sent.outcome, body);
                self.pass(tag, body);
            }
            (Expected::DescribePortal { hides_rows: true }, tag::ROW_DESCRIPTION) => {
                reply::put_no_data(&mut self.client.outbox);
            }
            (Expected::DescribeStatement { statement }, tag::ROW_DESCRIPTION) if statement.hides_rows() => {
                reply::put_no_data(&mut self.client.outbox);
            }
            (Expected::Bind { .. }, tag::BIND_COMPLETE)
            | (Expected::ClosePortal, tag::CLOSE_COMPLETE)
            | (Expected::DescribeStatement { .. } | Expected::DescribePortal { .. }, tag::ROW_DESCRIPTION | tag::NO_DATA) => {
                self.pass(tag, body);
            }
            (Expected::Execute { mut sent, .. }, tag::PORTAL_SUSPENDED) => {
                sent.audit.complete(audit::Outcome::Suspended { bytes: std::mem::take(&mut self.passed) });
                self.pass(tag, body);
            }
            (Expected::Evict, tag::CLOSE_COMPLETE) => {}
            (_, _) => return Err(unexpected(tag)),
        }
        Ok(())
    }

    /// The proxy's own replies whose turn has come.
    fn pass_own_replies(&mut self) {
        loop {
            match self.queue.front() {
                Some(Expected::Local(own)) => self.client.outbox.extend_from_slice(own),
                Some(Expected::Known { .. }) => reply::put_parse_complete(&mut self.client.outbox),
                Some(_) | None => return,
            }
            self.queue.pop_front();
        }
    }

    /// An entry is made only now that the server has confirmed.
    pub fn note_prepared(&mut self, id: u128) {
        self.parsing.retain(|p| *p != id);
        if let Some(lease) = &mut self.lease
            && let Some(evicted) = lease.prepared.insert(id)
            && !crate::mutant!("session.evicted-statements-stay-upstream")
        {
            self.doomed.push(evicted);
        }
    }

    /// A statement has succeeded: what it changes in the session.
    fn succeed(&mut self, outcome: &Outcome, tag: &[u8]) {
        match outcome {
            Outcome::Nothing => {}
            Outcome::Begin { at } => {
                if self.status != TransactionStatus::InTransaction {
                    self.began_at = Some(*at);
                }
                self.status = TransactionStatus::InTransaction;
            }
            Outcome::ResetAll => {
                self.settings.reset_all();
                self.forget_sequences();
                self.choice.choose(&mut self.principal.access, None, false);
            }
            Outcome::Deallocated(Some(name)) => {
                self.names.remove(name);
            }
            Outcome::Deallocated(None) => self.names.deallocate_all(),
            Outcome::Prepared { statement, name } => {
                if let Some(upstream) = &statement.upstream {
                    self.note_prepared(upstream.id);
                }
                if let Some(name) = name {
                    self.names.insert(name, statement.clone());
                }
            }
            Outcome::Of(plan) => match plan.action() {
                Action::Set { name, values, local } => self.settings.set(name, values.as_deref(), *local),
                Action::Reset { name } => self.settings.set(name, None, false),
                Action::Transaction(command) => self.transaction_changed(command, tag),
                // Never run so.
                Action::Configure { .. }
                | Action::Forward
                | Action::ChooseTenant { .. }
                | Action::Emulate(_)
                | Action::Prepare(_)
                | Action::Execute { .. }
                | Action::Empty => {}
            },
        }
    }

    fn transaction_changed(&mut self, command: &TransactionCommand, tag: &[u8]) {
        if let (TransactionCommand::Commit { .. } | TransactionCommand::Rollback { .. }, Some(lease)) = (command, &mut self.lease)
        {
            lease.lock.end_transaction();
        }
        let chained = |chain: bool| if chain { TransactionStatus::InTransaction } else { TransactionStatus::Idle };
        match command {
            TransactionCommand::Begin(_) => self.status = TransactionStatus::InTransaction,
            // COMMIT of a failed transaction is a ROLLBACK, and its tag says so.
            TransactionCommand::Commit { chain } if tag.starts_with(b"COMMIT") => {
                self.settings.commit();
                self.choice.commit(&mut self.principal.access);
                self.began_at = chain.then_some(self.statements);
                self.status = chained(*chain);
            }
            TransactionCommand::Commit { chain } | TransactionCommand::Rollback { chain } => {
                self.settings.rollback();
                self.choice.rollback(&mut self.principal.access);
                self.began_at = chain.then_some(self.statements);
                self.status = chained(*chain);
            }
            TransactionCommand::Savepoint(name) => self.settings.savepoint(name),
            TransactionCommand::Release(name) => self.settings.release(name),
            TransactionCommand::RollbackTo(name) => {
                self.settings.rollback_to(name);
                self.status = TransactionStatus::InTransaction;
            }
        }
    }

    fn take_error(&mut self, body: &[u8]) -> Step {
        let fatal = ErrorFields::new(body).is_fatal();
        match self.queue.front_mut() {
            // Inside the client's transaction: it is lost with the connection, and the client must know.
            Some(Expected::Prelude { in_block: true, .. }) => return Err(End::Lost),
            Some(Expected::Prelude { in_block: false, .. }) if !fatal => return self.prelude_failed(body),
            Some(Expected::Poison(error)) if poison::is_poison(body) => reply::put_error(&mut self.client.outbox, error),
            Some(Expected::Lookup(lookup))
                if lookup.attempt == Attempt::First && is_stale_plan(body) && !crate::mutant!("session.stale-look-ups-stay") =>
            {
                lookup.attempt = Attempt::Stale;
                return Ok(());
            }
            Some(_) if self.patience == Patience::Ended && is_canceled(body) => {
                let error = SqlError::new(sqlstate::QUERY_CANCELED, "canceling statement due to statement timeout");
                reply::put_error(&mut self.client.outbox, &error);
            }
            Some(_) => self.write_told(tag::ERROR, body),
            // An idle server has something to say only when it goes.
            None => self.write_told(tag::ERROR, body),
        }
        if fatal {
            return Err(End::Server);
        }
        self.record_failure(body);
        self.batch.failed = true;
        self.copy = None;
        // What was sent may not have run.
        self.forget_sequences();
        match self.queue.front() {
            Some(Expected::Lookup(_)) => Ok(()),
            Some(Expected::Query { .. }) => {
                self.forget_stale_plan(body);
                // A COPY that failed is over; what the client still sends of it is dropped.
                self.phase = Phase::Awaiting;
                Ok(())
            }
            Some(_) => {
                self.forget_stale_plan(body);
                self.skip_to_sync();
                Ok(())
            }
            None => Err(End::Lost),
        }
    }

    /// The statement that comes first has failed, and what was sent with it does not run.
    fn record_failure(&mut self, body: &[u8]) {
        self.passed = 0;
        self.forget_rows(b"");
        // As the client is told it.
        let sqlstate = match scrub::is_of_a_policy(body) {
            true => sqlstate::INSUFFICIENT_PRIVILEGE.0,
            false => ErrorFields::new(body).sqlstate().unwrap_or_default(),
        };
        self.record_signs_of_failure(sqlstate);
        let failed = audit::Outcome::Failed { sqlstate };
        match self.queue.front_mut() {
            Some(Expected::Query { sent, next, .. }) => {
                for (i, one) in sent.iter_mut().enumerate().skip(*next) {
                    one.audit.complete(if i == *next { failed } else { audit::Outcome::Skipped });
                }
                // Those before it were of the same transaction, where no block was open.
                if *next > 0 && self.status == TransactionStatus::Idle {
                    self.note_undone(body);
                }
            }
            Some(Expected::Lookup(lookup)) => lookup.audit.complete(failed),
            // An Execute, or the Bind that it needs: a value that cannot be read, or computed, is found there.
            Some(_) | None => {
                let at_end = matches!(self.queue.front(), Some(Expected::Sync));
                let batch = self.queue.iter_mut().take_while(|expected| !matches!(expected, Expected::Sync));
                let mut executes = batch.filter_map(|expected| match expected {
                    Expected::Execute { sent, .. } => Some(sent),
                    _ => None, // tidy: not a syntax kind
                });
                match executes.next() {
                    Some(sent) => sent.audit.complete(failed),
                    // A constraint that was put off: what has been told as done is not.
                    None if at_end => self.note_undone(body),
                    None => {}
                }
            }
        }
    }

    /// Statements that were told as done are not: their transaction has failed after them.
    fn note_undone(&mut self, body: &[u8]) {
        let sqlstate = ErrorFields::new(body).sqlstate().unwrap_or_default().to_owned();
        self.trail.note("undone", |record| record.text("sqlstate", &sqlstate));
    }

    /// `cached plan must not change result type`: the next try prepares it anew.
    fn forget_stale_plan(&mut self, body: &[u8]) {
        if crate::mutant!("session.stale-plans-stay") || !is_stale_plan(body) {
            return;
        }
        let id = match self.queue.front() {
            Some(Expected::Bind { id }) => *id,
            Some(Expected::Execute { statement, .. } | Expected::DescribeStatement { statement }) => match statement.planned() {
                Some(upstream) => upstream.id,
                None => return,
            },
            Some(Expected::Query { sent, next, .. }) => {
                match sent.get(*next).and_then(|s| s.executes.as_ref()).and_then(|s| s.upstream.as_ref()) {
                    Some(upstream) => upstream.id,
                    None => return,
                }
            }
            Some(_) | None => return,
        };
        if let Some(lease) = &mut self.lease {
            lease.prepared.remove(id);
            self.doomed.push(id);
        }
    }

    /// The server skips all messages up to Sync: none of their replies will come.
    fn skip_to_sync(&mut self) {
        while let Some(expected) = self.queue.front_mut() {
            match expected {
                Expected::Sync => return,
                Expected::Execute { sent, .. } if !crate::mutant!("audit.skipped-is-unknown") => {
                    sent.audit.complete(audit::Outcome::Skipped);
                }
                Expected::Execute { .. } => {}
                Expected::Parse { statement, by } => {
                    if let Some(name) = by.name() {
                        self.names.retract(name, statement);
                    }
                }
                Expected::Known { statement, name } => {
                    self.names.retract(name, statement);
                }
                Expected::Local(_)
                | Expected::Bind { .. }
                | Expected::DescribeStatement { .. }
                | Expected::DescribePortal { .. }
                | Expected::ClosePortal
                | Expected::Evict
                | Expected::Query { .. }
                | Expected::Lookup(_)
                | Expected::Poison(_)
                | Expected::Prelude { .. }
                | Expected::OwnSync => {}
            }
            self.queue.pop_front();
        }
        self.parsing.clear();
        self.phase = Phase::Skipping;
    }

    /// The backend could not be given the client's settings: it is closed, and the statement fails. Nothing of it ran, since
    /// the prelude went first; what the server makes of the rest is lost with the connection.
    fn prelude_failed(&mut self, body: &[u8]) -> Step {
        // KNOWN-STATE: dropped, not given back.
        self.doubt();
        self.lease = None;
        self.registration.slot().clear();
        if !self.batch.sent {
            // Nothing of the client's depended on it; what was answered here stays true.
            self.queue.pop_front();
            self.pass_own_replies();
            return Ok(());
        }
        self.write_told(tag::ERROR, body);
        let ends = self.queue.iter().any(|e| matches!(e, Expected::Sync | Expected::Query { .. } | Expected::Lookup(_)));
        for expected in std::mem::take(&mut self.queue) {
            let (statement, name) = match &expected {
                Expected::Parse { statement, by } => (statement, by.name()),
                Expected::Known { statement, name } => (statement, Some(&**name)),
                _ => continue,
            };
            if let Some(name) = name {
                self.names.retract(name, statement);
            }
        }
        self.doomed.clear();
        self.status = TransactionStatus::Idle;
        self.batch.failed = true;
        self.batch.sent = false;
        if ends {
            self.end_batch_here();
        } else {
            self.phase = Phase::Skipping;
        }
        Ok(())
    }

    fn take_ready(&mut self, body: &[u8]) -> Step {
        let status = TransactionStatus::parse(body).map_err(|error| broken(&error))?;
        let Some(lease) = &mut self.lease else { return Err(End::Lost) };
        lease.note_ready(status).map_err(|error| broken(&error))?;
        self.patience = Patience::Resting;
        match self.queue.pop_front() {
            Some(Expected::Prelude { wanted, in_block: _ }) => lease.settings = wanted,
            Some(Expected::OwnSync) => {}
            Some(Expected::Query { sent, instead, .. }) => {
                if let Some(command) = instead.filter(|_| !self.batch.failed) {
                    sent.iter().for_each(|one| self.succeed(&one.outcome, command.as_bytes()));
                    reply::put_command_complete(&mut self.client.outbox, command);
                }
                self.finish_batch(status, body);
            }
            Some(Expected::Lookup(lookup)) if lookup.attempt == Attempt::Stale => return self.look_up_again(lookup),
            Some(Expected::Lookup(lookup)) => {
                if let Some(rows) = lookup.rows.filter(|_| !self.batch.failed) {
                    reply::put_select_complete(&mut self.client.outbox, rows);
                }
                self.finish_batch(status, body);
            }
            Some(Expected::Sync) => self.finish_batch(status, body),
            Some(_) | None => return Err(unexpected(tag::READY_FOR_QUERY)),
        }
        self.pass_own_replies();
        Ok(())
    }

    /// What a look-up selects has changed its type since it was prepared: it is prepared anew.
    fn look_up_again(&mut self, lookup: LookedUp) -> Step {
        let (Some(upstream), Some(lease)) = (lookup.plan.lookup(), &mut self.lease) else { return Err(End::Lost) };
        lease.prepared.remove(upstream.id);
        frontend::put_close(&mut lease.outbox, frontend::Target::Statement(&upstream.name));
        frontend::put_parse_with(&mut lease.outbox, &upstream.name, |out| out.put_slice(&upstream.text), &upstream.types);
        lease.outbox.extend_from_slice(&lookup.messages);
        lease.expect_ready();
        self.queue.push_front(Expected::Lookup(LookedUp { attempt: Attempt::Second, ..lookup }));
        Ok(())
    }

    fn finish_batch(&mut self, status: TransactionStatus, body: &[u8]) {
        if status == TransactionStatus::Idle {
            self.forget_parts();
        }
        self.status = status;
        self.phase = Phase::Open;
        self.complete_fill(!self.batch.failed && status != TransactionStatus::Failed);
        if status == TransactionStatus::Idle {
            self.snapshots = Snapshots::Unknown;
        }
        // Most sessions have set none.
        if !self.settings.effective().read_by().is_empty()
            && !self.batch.failed
            && !crate::mutant!("cache.date-style-as-set")
            && let Some(style) = self.lease.as_ref().and_then(|lease| lease.parameters().get("DateStyle"))
        {
            self.settings.note_date_style(style);
        }
        self.end_batch();
        self.pass(tag::READY_FOR_QUERY, body);
        let Some(lease) = &mut self.lease else { return };
        if status == TransactionStatus::Idle && lease.settings != *self.settings.committed() {
            lease.settings = self.settings.committed().clone();
        }
        if self.doomed.is_empty() {
            return;
        }
        for id in self.doomed.drain(..) {
            frontend::put_close(&mut lease.outbox, frontend::Target::Statement(&name_of(id)));
            self.queue.push_back(Expected::Evict);
        }
        frontend::put_sync(&mut lease.outbox);
        lease.expect_ready();
        self.queue.push_back(Expected::OwnSync);
    }
}

/// How a statement has ended well, by its command tag.
fn done(bytes: u64, tag: &[u8]) -> audit::Outcome<'static> {
    audit::Outcome::Done { rows: reply::rows_of_tag(tag), bytes }
}

/// `cached plan must not change result type` (RevalidateCachedQuery of plancache.c).
fn is_canceled(body: &[u8]) -> bool {
    ErrorFields::new(body).sqlstate() == Some(sqlstate::QUERY_CANCELED.0)
}

fn is_stale_plan(body: &[u8]) -> bool {
    let fields = ErrorFields::new(body);
    fields.sqlstate() == Some("0A000") && fields.message().contains("cached plan must not change result type")
}

/// The connection cannot be used any more.
pub(super) fn broken(error: &crate::error::SqlError) -> End {
    debug_assert!(matches!(error.severity, Severity::Error | Severity::Fatal));
    tracing::warn!(%error, "the server broke the protocol");
    End::Lost
}

pub(super) fn unexpected(tag: u8) -> End {
    tracing::warn!(tag = %char::from(tag), "unexpected message from the server");
    End::Lost
}
