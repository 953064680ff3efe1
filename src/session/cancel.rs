//! Cancel keys: which client runs on which backend right now.
//!
//! A client gets a key of the proxy's own. A CancelRequest that shows it reaches only what that client runs at that moment:
//! the handle belongs to one lease, and a backend with a cancel on its way goes back to the pool only after the cancel has
//! ended (`backend::cancel`), so that it never hits the statement of a later client.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use subtle::ConstantTimeEq;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::backend::cancel::CancelHandle;

/// Length of the keys of protocol 3.0.
const SHORT_KEY: usize = 4;
/// Length of the keys of protocol 3.2 (which allows up to 256).
const LONG_KEY: usize = 32;

/// What a client is doing, as a cancel request needs to know it.
#[derive(Debug, Default)]
enum Target {
    #[default]
    Nothing,
    /// Waits for a backend.
    Waiting,
    /// Has a backend; the handle does nothing once the lease has ended.
    Backend(CancelHandle),
}

/// One client's entry. The session says what it does; cancel requests read it.
#[derive(Debug, Default)]
pub struct Slot {
    target: Mutex<Target>,
    /// Wakes a client that waits for a backend.
    interrupt: Notify,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Target> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_waiting(&self) {
        *self.lock() = Target::Waiting;
    }

    pub fn set_backend(&self, handle: CancelHandle) {
        *self.lock() = Target::Backend(handle);
    }

    pub fn clear(&self) {
        *self.lock() = Target::Nothing;
    }

    /// Ends when a cancel request asks a waiting client to stop waiting.
    pub fn interrupted(&self) -> Notified<'_> {
        self.interrupt.notified()
    }

    /// Cancels what the client runs, if anything.
    pub async fn cancel(&self) {
        let handle = match &*self.lock() {
            Target::Nothing => return,
            Target::Waiting => {
                self.interrupt.notify_waiters();
                return;
            }
            Target::Backend(handle) => handle.clone(),
        };
        if let Err(error) = handle.cancel().await {
            tracing::warn!(%error, "cancel request failed");
        }
    }
}

struct Entry {
    key: Box<[u8]>,
    slot: Arc<Slot>,
}

/// All clients that may be cancelled.
#[derive(Default)]
pub struct Registry {
    clients: DashMap<u32, Entry>,
    next: AtomicU32,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registry").field("clients", &self.clients.len()).finish()
    }
}

impl Registry {
    /// Enters a client. `long_key`: it speaks protocol 3.2 or later.
    pub fn register(self: &Arc<Self>, long_key: bool) -> Registration {
        let mut key = vec![0u8; if long_key { LONG_KEY } else { SHORT_KEY }].into_boxed_slice();
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut key);
        let slot = Arc::new(Slot::default());
        loop {
            // Positive numbers only: some clients print the id as a process id.
            let pid = self.next.fetch_add(1, Ordering::Relaxed) & 0x7fff_ffff;
            if pid == 0 {
                continue;
            }
            if let dashmap::Entry::Vacant(vacant) = self.clients.entry(pid) {
                vacant.insert(Entry { key: key.clone(), slot: slot.clone() });
                return Registration { registry: self.clone(), pid, key, slot };
            }
        }
    }

    /// Serves a CancelRequest. Says nothing about whether the key was right, as PostgreSQL does not.
    pub async fn cancel(&self, pid: u32, key: &[u8]) {
        let slot = match self.clients.get(&pid) {
            Some(entry) if bool::from(entry.key.ct_eq(key)) || crate::mutant!("session.any-key-cancels") => entry.slot.clone(),
            Some(_) | None => {
                tracing::debug!(pid, "cancel request with a wrong key");
                return;
            }
        };
        slot.cancel().await;
    }
}

/// A client's place in the registry; dropping it takes the client out.
#[derive(Debug)]
pub struct Registration {
    registry: Arc<Registry>,
    pid: u32,
    key: Box<[u8]>,
    slot: Arc<Slot>,
}

impl Registration {
    /// For BackendKeyData.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// For BackendKeyData.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    pub fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.clients.remove(&self.pid);
    }
}
