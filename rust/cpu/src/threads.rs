//! The package's own threads: a rayon pool of a settable size, rebuilt in a forked child, where the parent's threads do
//! not exist.

use crate::arch::floats::PlainFloats;
use farspan_core::{Error, Result};
use rayon::{Scope, ThreadPool, ThreadPoolBuilder};
use std::collections::VecDeque;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
    /// The caller and threads of the pool, first in, first out.
    Team(&'a Tasks<'s>, &'a dyn Fn()),
}

impl<'s> Spawner<'_, 's> {
    /// Has `work` done by the end of the [`scope`] that this came from.
    pub(crate) fn spawn(&self, work: impl FnOnce(&Spawner<'_, 's>) + Send + 's) {
        match self {
            Spawner::Caller => work(&Spawner::Caller),
            Spawner::Team(tasks, call_for_help) => {
                if tasks.push(Box::new(work)) {
                    call_for_help();
                }
            }
        }
    }
}

type Task<'s> = Box<dyn FnOnce(&Spawner<'_, 's>) + Send + 's>;

/// What is to be done, and the threads that come to do it. The one that calls is among them: it is awake, and has in
/// its caches what the work begins with. So one thread less has to wake.
pub(crate) struct Tasks<'s> {
    queue: Mutex<Queue<'s>>,
    /// Threads of the pool that were called and have not left.
    helpers: AtomicUsize,
    most_helpers: usize,
}

#[derive(Default)]
struct Queue<'s> {
    waiting: VecDeque<Task<'s>>,
    /// Tasks that wait or run.
    unfinished: usize,
}

impl<'s> Tasks<'s> {
    fn new(threads: usize) -> Self {
        Tasks { queue: Mutex::default(), helpers: AtomicUsize::new(0), most_helpers: threads - 1 }
    }

    /// Whether one more helper is to be called: there are more tasks than threads, and another may come.
    fn push(&self, task: Task<'s>) -> bool {
        let mut queue = self.lock();
        queue.waiting.push_back(task);
        queue.unfinished += 1;
        let helpers = self.helpers.load(Ordering::Relaxed);
        let wanted = helpers < self.most_helpers && helpers + 1 < queue.unfinished;
        if wanted {
            self.helpers.fetch_add(1, Ordering::Relaxed);
        }
        wanted
    }

    /// Does what waits until nothing does. Whoever pushes a task works here afterwards, so no task is left.
    fn work(&self, call_for_help: &dyn Fn()) {
        let mut next = self.lock().waiting.pop_front();
        while let Some(task) = next {
            task(&Spawner::Team(self, call_for_help));
            let mut queue = self.lock();
            queue.unfinished -= 1;
            next = queue.waiting.pop_front();
        }
    }

    fn call<'p>(&'p self, pool: &Scope<'p>) {
        pool.spawn(move |pool| {
            let _leave = Leave(&self.helpers);
            self.work(&|| self.call(pool));
        });
    }

    /// Helpers are mostly done within microseconds of each other: a thread that slept would take longer to wake.
    fn wait_a_little(&self) {
        for _ in 0..PATIENCE {
            if self.helpers.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<'s>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a thread looks whether the others are done before it sleeps until they are.
const PATIENCE: usize = 2000;

/// A helper's end, in a panic too.
struct Leave<'t>(&'t AtomicUsize);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Runs what `start` spawns, and what that spawns; `alone` when it is too little to wake a thread for.
pub(crate) fn scope<'s>(alone: bool, start: impl FnOnce(&Spawner<'_, 's>)) -> Result<()> {
    let _plain = PlainFloats::begin();
    let count = num_threads();
    if alone || count == 1 {
        start(&Spawner::Caller);
        return Ok(());
    }
    let tasks = Tasks::new(count);
    pool(count)?.in_place_scope(|pool| {
        let call_for_help = || tasks.call(pool);
        start(&Spawner::Team(&tasks, &call_for_help));
        tasks.work(&call_for_help);
        tasks.wait_a_little();
    });
    Ok(())
}

/// Runs `work` inside the pool; rayon's parallel iterators in it use the pool's threads. Any number of threads may
/// call.
pub(crate) fn run<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R> {
    Ok(pool(num_threads())?.install(work))
}

/// Does `work` on each item, shared out among the threads.
pub fn for_each<T: Send>(items: Vec<T>, work: impl Fn(T) + Send + Sync) -> Result<()> {
    each(items.len() < 2, items, work)
}

/// The same; `alone` when all of it is too little to wake a thread for.
pub(crate) fn each<T: Send>(
    alone: bool,
    items: impl IntoIterator<Item = T>,
    work: impl Fn(T) + Send + Sync,
) -> Result<()> {
    let work = &work;
    scope(alone, |spawner| {
        for item in items {
            spawner.spawn(move |_| work(item));
        }
    })
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
    let built = ThreadPoolBuilder::new()
        .num_threads(count)
        .thread_name(|i| format!("farspan-{i}"))
        .start_handler(|_| std::mem::forget(PlainFloats::begin()))
        .build();
    let refused = |error| Error::backend("num_threads", format!("{count} threads"), &error).because(error);
    let pool = Arc::new(built.map_err(refused)?);
    let old = current.replace(Threads { process, count, pool: Arc::clone(&pool) });
    if let Some(old) = old.filter(|old| old.process != process) {
        // The parent's threads do not run here, so nobody could end them: dropping the pool would wait for ever.
        std::mem::forget(old);
    }
    Ok(pool)
}

/// Runs a test with so many threads: their number belongs to the process, and tests run side by side.
#[cfg(test)]
pub(crate) fn with_threads<R>(count: usize, test: impl FnOnce() -> R) -> R {
    struct Restore(usize);
    impl Drop for Restore {
        fn drop(&mut self) {
            WANTED.store(self.0, Ordering::Relaxed);
        }
    }
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let _restore = Restore(WANTED.swap(count, Ordering::Relaxed));
    test()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::floats::control;
    use std::hint::black_box;
    use std::panic::catch_unwind;
    use std::sync::atomic::AtomicBool;
    use std::time::{Duration, Instant};

    #[test]
    fn what_tasks_spawn_is_done_once_before_the_scope_ends() {
        for count in [1, 2, 5] {
            with_threads(count, || {
                for alone in [false, true] {
                    let done = AtomicUsize::new(0);
                    let one = || _ = done.fetch_add(1, Ordering::Relaxed);
                    scope(alone, |spawner| spawner.spawn(|_| one())).unwrap();
                    assert_eq!(done.swap(0, Ordering::Relaxed), 1, "a single one");
                    scope(alone, |spawner| {
                        for _ in 0..40 {
                            spawner.spawn(|spawner| {
                                one();
                                for _ in 0..3 {
                                    spawner.spawn(|_| one());
                                }
                            });
                        }
                    })
                    .unwrap();
                    assert_eq!(done.into_inner(), 160, "{count} threads");
                }
            });
        }
    }

    #[test]
    fn helpers_come_where_the_caller_is_not_enough() {
        with_threads(2, || {
            // Each waits until the other runs.
            let here = [AtomicBool::new(false), AtomicBool::new(false)];
            let begun = Instant::now();
            for_each(vec![0, 1], |i: usize| {
                here[i].store(true, Ordering::Release);
                while !here[1 - i].load(Ordering::Acquire) {
                    assert!(begun.elapsed() < Duration::from_secs(60), "nobody came");
                    std::thread::yield_now();
                }
            })
            .unwrap();
        });
    }

    #[test]
    fn several_callers_share_the_threads() {
        with_threads(3, || {
            std::thread::scope(|callers| {
                for _ in 0..4 {
                    callers.spawn(|| {
                        for length in 0..50 {
                            let sum = AtomicUsize::new(0);
                            for_each((0..length).collect(), |i| _ = sum.fetch_add(i, Ordering::Relaxed)).unwrap();
                            assert_eq!(sum.into_inner(), (0..length).sum::<usize>());
                        }
                    });
                }
            });
        });
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_caller_that_flushes_subnormal_numbers_keeps_its_way_and_changes_no_number() {
        let flushing = control::PLAIN | 0x8040;
        for count in [1, 7] {
            with_threads(count, || {
                let before = control::read();
                control::write(flushing);
                let found: Vec<AtomicUsize> = (0..30).map(|_| AtomicUsize::new(0)).collect();
                let product = || (black_box(1e-30f32) * black_box(1e-10f32)).to_bits() as usize;
                let in_pool = run(product).unwrap();
                for_each(found.iter().collect(), |bits: &AtomicUsize| bits.store(product(), Ordering::Relaxed))
                    .unwrap();
                let (after, flushed) = (control::read(), black_box(product()));
                control::write(before);
                assert!((after & control::SETTINGS, flushed) == (flushing, 0), "the caller's own way");
                assert_eq!(in_pool, 1e-40f32.to_bits() as usize, "a pool that was built meanwhile");
                assert!(found.iter().all(|bits| bits.load(Ordering::Relaxed) == 1e-40f32.to_bits() as usize));
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        with_threads(3, || {
            let failed = catch_unwind(|| for_each((0..20).collect(), |i: usize| assert!(i != 7, "the seventh")));
            assert!(failed.is_err());
            let after = AtomicUsize::new(0);
            for_each((0..20).collect(), |_: usize| _ = after.fetch_add(1, Ordering::Relaxed)).unwrap();
            assert_eq!(after.into_inner(), 20, "the threads work on");
        });
    }
}
