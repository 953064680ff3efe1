//! Questions that are on their way: who asks the same meanwhile waits for the first answer, and looks again. That is all that a flight
//! gives: an answer comes from the store, where it is validated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// How many can be followed at once; others fly alone.
const SLOTS: usize = 1 << 10;
/// One that takes longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// All flights.
#[derive(Debug)]
pub struct Flights(Box<[Slot]>);

#[derive(Debug, Default)]
struct Slot {
    /// What is asked, hashed; 0: nothing.
    question: AtomicU64,
    over: Notify,
}

/// A question on its way, until this is dropped.
#[derive(Debug)]
pub struct Flight {
    flights: Arc<Flights>,
    slot: usize,
}

/// Another's flight.
#[derive(Debug)]
pub struct Following {
    flights: Arc<Flights>,
    question: u64,
}

/// What becomes of a question.
#[derive(Debug)]
pub enum Takeoff {
    /// Others may follow it.
    First(Flight),
    /// Somebody asks it already.
    Follow(Following),
    Alone,
}

impl Default for Flights {
    fn default() -> Self {
        Flights((0..SLOTS).map(|_| Slot::default()).collect())
    }
}

impl Flights {
    fn slot(&self, question: u64) -> &Slot {
        &self.0[question as usize % SLOTS]
    }

    /// Whether somebody asks this now.
    pub fn flies(&self, question: u64) -> bool {
        let question = question.max(1);
        self.slot(question).question.load(Ordering::Acquire) == question
    }

    /// `question`: a hash; two questions of one hash only wait for each other.
    pub fn take_off(self: &Arc<Self>, question: u64) -> Takeoff {
        let question = question.max(1);
        match self.slot(question).question.compare_exchange(0, question, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Takeoff::First(Flight { flights: self.clone(), slot: question as usize % SLOTS }),
            Err(other) if other == question => Takeoff::Follow(Following { flights: self.clone(), question }),
            Err(_) => Takeoff::Alone,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let slot = &self.flights.0[self.slot];
        slot.question.store(0, Ordering::Release);
        slot.over.notify_waiters();
    }
}

impl Following {
    /// Waits until it is over, or long enough.
    pub async fn over(self) {
        let slot = self.flights.slot(self.question);
        let over = slot.over.notified();
        tokio::pin!(over);
        // Before the look: what ends in between is noticed.
        over.as_mut().enable();
        if slot.question.load(Ordering::Acquire) == self.question {
            let _ = tokio::time::timeout(PATIENCE, over).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asks_the_same_waits_for_the_first() {
        let flights = Arc::new(Flights::default());
        let Takeoff::First(first) = flights.take_off(7) else { panic!("nobody asked") };
        assert!(matches!(flights.take_off(7 + SLOTS as u64), Takeoff::Alone), "another question in its place");
        assert!(matches!(flights.take_off(8), Takeoff::First(_)));
        let Takeoff::Follow(second) = flights.take_off(7) else { panic!("it is on its way") };
        let Takeoff::Follow(late) = flights.take_off(7) else { panic!("it is on its way") };
        let waiting = tokio::spawn(second.over());
        drop(first);
        waiting.await.expect("it is over");
        late.over().await;
        assert!(matches!(flights.take_off(7), Takeoff::First(_)));
    }
}
