//! A tenant's session and the result cache: what is answered without the server, what is kept, and what is said before a write.

use std::time::Instant;

use super::enforced::{Phase, Session, Step};
use crate::audit;
use crate::cache::doubt;
use crate::cache::{Asked, Form, Looked};
use crate::event::{Cached, Command, Event, Uncached, Verdict};
use crate::gate::{Approved, Protocol};
use crate::plan::{Action, Parameters, Writes};
use crate::wire::backend::TransactionStatus;

impl Session<'_> {
    /// Answers a query from the cache. `false`: it must be sent, and its answer may be kept.
    pub fn query_cached(&mut self, text: &str, approved: &[Approved], begun: Instant) -> bool {
        let Some(cache) = &self.database.cache else { return false };
        let looked = match approved {
            [one] if self.may_be_cached() && *one.plan.action() == Action::Forward => {
                let settings = self.settings.effective();
                let isolation = settings.map().get("default_transaction_isolation");
                if isolation.is_some_and(|level| !level.eq_ignore_ascii_case("read committed"))
                    && !crate::mutant!("cache.any-isolation")
                {
                    Looked::Passed(Uncached::Isolation)
                } else {
                    let receipt = audit::Log::Null.intend();
                    let own = &self.own_sequences;
                    match one.plan.bind(text, &one.literals, Parameters::None, &self.principal, receipt, own) {
                        Ok(bound) => {
                            let asked = Asked { bound: &bound, principal: &self.principal, form: Form::Simple, settings };
                            cache.look(&one.plan, asked)
                        }
                        // Refused where it is sent.
                        Err(_) => return false,
                    }
                }
            }
            _ => Looked::Passed(Uncached::Transaction), // tidy: not a syntax kind
        };
        match looked {
            Looked::Hit(answer) => {
                self.client.outbox.extend_from_slice(&answer);
                self.statements += 1;
                self.tell(Command::Select, Protocol::Simple, Verdict::Permitted);
                self.shared.events.emit(Event::Cached(Cached::Hit));
                self.shared.events.emit(Event::LatencyAdded(begun.elapsed()));
                true
            }
            Looked::Miss(fill) => {
                self.fill = Some(fill);
                false
            }
            Looked::Passed(why) => {
                self.shared.events.emit(Event::Cached(Cached::Passed(why)));
                false
            }
        }
    }

    /// Whether what comes is a transaction of its own, with nothing before it that is not answered.
    fn may_be_cached(&self) -> bool {
        let outside = self.status == TransactionStatus::Idle || crate::mutant!("cache.inside-transactions");
        let alone = self.phase == Phase::Open && !self.batch.sent && self.queue.is_empty();
        outside && alone && !self.pinned && self.intent.is_none()
    }

    /// Takes all that the server has sent, and a copy of what the client gets of it where it may be kept.
    pub fn take_answers(&mut self) -> Step {
        if self.fill.is_none() {
            return self.take_all_answers();
        }
        let before = self.client.outbox.len();
        let taken = self.take_all_answers();
        if taken.is_err() {
            self.fill = None;
        }
        if let Some(fill) = &mut self.fill
            && !fill.add(&self.client.outbox[before..])
        {
            self.abandon(Uncached::Size);
        }
        if self.fill.as_ref().is_some_and(|fill| fill.is_whole())
            && let (Some(fill), Some(cache)) = (self.fill.take(), &self.database.cache)
        {
            cache.keep(*fill);
            self.shared.events.emit(Event::Cached(Cached::Filled));
        }
        taken
    }

    /// What is on its way is not kept.
    pub fn abandon(&mut self, why: Uncached) {
        if self.fill.take().is_some() {
            self.shared.events.emit(Event::Cached(Cached::Passed(why)));
        }
    }

    /// A ReadyForQuery of the server's comes next, and with it the answer is whole; `good`: it is one that may be given again.
    pub fn complete_fill(&mut self, good: bool) {
        match &mut self.fill {
            Some(fill) if good => fill.end(),
            Some(_) => self.abandon(Uncached::Command),
            None => {}
        }
    }

    /// Before a statement leaves: what it may write cannot be read from the cache until its transaction has ended.
    pub fn intend(&mut self, writes: &Writes) {
        let Some(cache) = self.database.cache.as_ref().filter(|_| *writes != Writes::Nothing) else { return };
        let intent = self.intent.get_or_insert_with(|| cache.intend());
        cache.widen(intent, writes, self.principal.tenant());
    }

    /// The transaction has ended, and its outcome is visible.
    pub fn end_intent(&mut self) {
        if let Some(intent) = self.intent.take() {
            intent.end();
        }
    }

    /// The connection is about to be lost: what became of the transaction is to be found out. Before the lease is dropped.
    pub fn doubt(&mut self) {
        self.fill = None;
        if let (Some(intent), Some(lease)) = (self.intent.take(), &self.lease) {
            if crate::mutant!("cache.no-doubt") {
                return intent.end();
            }
            doubt::settle(intent, lease.server().process_id, self.database.pool.clone());
        }
    }
}
