//! The package's own threads: a rayon pool of a settable size, rebuilt in a forked child, where the parent's threads do
//! not exist.

use farspan_core::{Error, Result};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use rayon::{ScopeFifo, ThreadPool, ThreadPoolBuilder};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

struct Threads {
    process: u32,
    count: usize,
    pool: Arc<ThreadPool>,
}

/// 0 until somebody sets it: then the CPU's own number counts.
static WANTED: AtomicUsize = AtomicUsize::new(0);
static CURRENT: Mutex<Option<Threads>> = Mutex::new(None);

/// How many threads share the work of each call. Results never depend on it.
pub fn set_num_threads(count: usize) -> Result<()> {
    if count == 0 {
        return Err(Error::argument("num_threads", "1 or more", count));
    }
    WANTED.store(count, Ordering::Relaxed);
    Ok(())
}

/// The number of threads that the next call uses.
pub fn num_threads() -> usize {
    match WANTED.load(Ordering::Relaxed) {
        0 => std::thread::available_parallelism().map_or(1, NonZero::get),
        count => count,
    }
}

/// Who does spawned work.
pub(crate) enum Spawner<'a, 's> {
    /// The caller, at once.
    Caller,
    /// The pool's threads, first in, first out.
    Pool(&'a ScopeFifo<'s>),
}

impl<'s> Spawner<'_, 's> {
    /// Has `work` done by the end of the [`scope`] that this came from.
    pub(crate) fn spawn(&self, work: impl FnOnce(&Spawner<'_, 's>) + Send + 's) {
        match self {
            Spawner::Caller => work(&Spawner::Caller),
            Spawner::Pool(scope) => scope.spawn_fifo(move |scope| work(&Spawner::Pool(scope))),
        }
    }
}

/// Runs what `start` spawns, and what that spawns; `alone` when it is too little to wake a thread for.
pub(crate) fn scope<'s>(alone: bool, start: impl FnOnce(&Spawner<'_, 's>) + Send) -> Result<()> {
    if alone {
        start(&Spawner::Caller);
        return Ok(());
    }
    run(|| rayon::scope_fifo(|scope| start(&Spawner::Pool(scope))))
}

/// Runs `work` inside the pool; rayon's parallel iterators in it use the pool's threads. Any number of threads may
/// call.
pub(crate) fn run<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R> {
    Ok(pool(num_threads())?.install(work))
}

/// Does `work` on each item, shared out among the threads; a single thread is the caller's own, whose caches have what
/// it made last.
pub fn for_each<T: Send>(items: Vec<T>, work: impl Fn(T) + Send + Sync) -> Result<()> {
    let count = if items.len() < 2 { 1 } else { num_threads() };
    if count == 1 {
        items.into_iter().for_each(work);
        return Ok(());
    }
    pool(count)?.install(|| items.into_par_iter().for_each(work));
    Ok(())
}

fn pool(count: usize) -> Result<Arc<ThreadPool>> {
    let process = std::process::id();
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(threads) = current.as_ref()
        && threads.count == count
        && threads.process == process
    {
        return Ok(Arc::clone(&threads.pool));
    }
    let built = ThreadPoolBuilder::new().num_threads(count).thread_name(|i| format!("farspan-{i}")).build();
    let refused = |error| Error::backend("num_threads", format!("{count} threads"), &error).because(error);
    let pool = Arc::new(built.map_err(refused)?);
    let old = current.replace(Threads { process, count, pool: Arc::clone(&pool) });
    if let Some(old) = old.filter(|old| old.process != process) {
        // The parent's threads do not run here, so nobody could end them: dropping the pool would wait for ever.
        std::mem::forget(old);
    }
    Ok(pool)
}
