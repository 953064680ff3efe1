//! Threads that serve clients, each with a runtime of its own: a session stays on one thread, so that what it waits for wakes
//! nobody else. Connections to servers go where they are needed (`Connection::come_here`).

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// A thread of [`Workers`], or all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerId(Option<NonZeroU16>);

thread_local! {
    static HERE: Cell<WorkerId> = const { Cell::new(WorkerId(None)) };
}

/// The thread that runs this.
pub fn here() -> WorkerId {
    HERE.get()
}

/// The stack of a worker's threads (bytes): they review statements, and trees are deep.
const STACK: usize = 16 << 20;
/// What other threads have, unless they ask for another.
const ORDINARY_STACK: usize = 2 << 20;

/// How much larger the stack of this thread is than an ordinary one.
pub fn room() -> u32 {
    if here().0.is_some() { (STACK / ORDINARY_STACK) as u32 } else { 1 }
}

/// Runs what may take its time: the other sessions of this thread go on elsewhere.
pub fn aside<T>(f: impl FnOnce() -> T) -> T {
    if here().0.is_some() { tokio::task::block_in_place(f) } else { f() }
}

/// One for two cores: the kernel's share of the work, and whoever else is on the machine, needs the other.
pub fn count() -> NonZeroU16 {
    let cores = thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX));
    NonZeroU16::new(cores.div_ceil(2)).unwrap_or(NonZeroU16::MIN)
}

/// Dropped, they end with all that runs on them.
#[derive(Debug)]
pub struct Workers {
    /// At least one. Each has one thread, and others only for what blocks it.
    runtimes: Vec<Runtime>,
    next: AtomicUsize,
}

impl Workers {
    /// # Errors
    /// A thread cannot be made.
    pub fn start(count: NonZeroU16) -> io::Result<Workers> {
        let runtimes = (1..=count.get()).map(runtime).collect::<io::Result<_>>()?;
        Ok(Workers { runtimes, next: AtomicUsize::new(0) })
    }

    /// Runs a task on one of the threads, each in its turn.
    pub fn spawn(&self, tasks: &mut JoinSet<()>, task: impl Future<Output = ()> + Send + 'static) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % self.runtimes.len();
        tasks.spawn_on(task, self.runtimes[turn].handle());
    }
}

/// Of the kind that lets a task block its thread: the others go on on another.
fn runtime(id: u16) -> io::Result<Runtime> {
    let id = WorkerId(NonZeroU16::new(id));
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).thread_name("worker").thread_stack_size(STACK).on_thread_start(move || HERE.set(id));
    builder.enable_all().build()
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Waiting for them is not allowed where the server runs; nothing is left on them by then.
        self.runtimes.drain(..).for_each(Runtime::shutdown_background);
    }
}

/// Runs `f` on a thread of a worker, for tests.
#[cfg(test)]
pub fn on_a_worker(f: impl FnOnce() + Send + 'static) {
    let runtime = runtime(1).unwrap();
    runtime.block_on(runtime.spawn(async { f() })).unwrap();
}
