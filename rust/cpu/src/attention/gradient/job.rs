//! One key head of one sequence: its chunks of keys, its blocks of queries, and the turns that threads take at them.

use super::chunk::{self, Scratch};
use super::cut::{KeyParts, QueryParts};
use super::packed::{BlockRoom, PackedQueries};
use super::small::InOrder;
use super::{Pass, packed};
use crate::attention::context::{Context, QueryBlock};
use crate::attention::visibility::{hull, union};
use crate::threads::Spawner;
use farspan_core::attention::plan::GRADIENT_KEYS;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::vec::IntoIter;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A key head of a sequence on its way through the threads.
pub(super) struct Job<'a> {
    /// All of its queries, in the heads that share the key head.
    pub whole: QueryBlock,
    /// Among the sequences that have jobs.
    pub ordinal: usize,
    pub blocks: Vec<Block<'a>>,
    /// Sums of the gradient of the heads' tables, in the order of the chunks.
    pub table: Mutex<InOrder>,
    pub chunk_count: usize,
    /// In order: whoever takes one has all before it under way.
    tasks: Mutex<IntoIter<KeyTask<'a>>>,
}

/// A chunk of keys.
pub(super) struct KeyTask<'a> {
    pub index: usize,
    pub keys: Range<usize>,
    pub parts: KeyParts<'a>,
}

/// A block of queries.
pub(super) struct Block<'a> {
    pub query_block: QueryBlock,
    packed: OnceLock<PackedQueries>,
    sums: Mutex<Sums<'a>>,
    moved: Condvar,
}

/// What the chunks so far have given to a block.
pub(super) struct Sums<'a> {
    /// The chunk whose turn it is; [`DONE`] behind the last.
    turn: usize,
    /// Whether a thread has failed, so that some turns never come.
    failed: bool,
    /// Sums of turned keys, near and far, `[rows, key width]`; empty before the first.
    pub of_keys: [Vec<f32>; 2],
    parts: QueryParts<'a>,
}

const DONE: usize = usize::MAX;

impl<'a> Job<'a> {
    pub(super) fn new(whole: QueryBlock, ordinal: usize, blocks: Vec<Block<'a>>, tasks: Vec<KeyTask<'a>>) -> Self {
        let (chunk_count, tasks) = (tasks.len(), Mutex::new(tasks.into_iter()));
        Job { whole, ordinal, blocks, table: Mutex::default(), chunk_count, tasks }
    }

    fn next(&self) -> Option<KeyTask<'a>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).next()
    }
}

/// Hands the jobs to the threads in their order. `tables` has, for each key head, the sums of the tables' gradient over
/// the sequences.
pub(super) fn spawn<'s>(
    spawner: &Spawner<'_, 's>,
    pass: &'s Pass<'_, '_>,
    jobs: Vec<Job<'s>>,
    tables: &'s [Mutex<InOrder>],
) {
    for job in jobs {
        let workers = pass.context.work.gradient_workers(job.chunk_count);
        let job = Arc::new(job);
        for _ in 0..workers {
            let job = Arc::clone(&job);
            spawner.spawn(move |_| SCRATCH.with_borrow_mut(|scratch| work(pass, &job, tables, scratch)));
        }
    }
}

/// Takes chunks until there is none left.
fn work(pass: &Pass, job: &Job, tables: &[Mutex<InOrder>], scratch: &mut Scratch) {
    let _release = Release(job);
    while let Some(mut task) = job.next() {
        chunk::run(pass, job, &mut task, scratch);
        if pass.asked.distance_bias {
            let mut of_job = job.table.lock().unwrap_or_else(PoisonError::into_inner);
            of_job.add(task.index, scratch.take_table());
            if let Some(total) = of_job.finished(job.chunk_count) {
                let mut of_call = tables[job.whole.key_head].lock().unwrap_or_else(PoisonError::into_inner);
                of_call.add(job.ordinal, total);
            }
        }
    }
}

/// Lets nobody wait for a thread that has failed. The failure itself comes to light where the work was asked for.
struct Release<'j, 'a>(&'j Job<'a>);

impl Drop for Release<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for block in &self.0.blocks {
                block.sums.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
                block.moved.notify_all();
            }
        }
    }
}

impl<'a> Block<'a> {
    pub(super) fn new(pass: &Pass, query_block: QueryBlock, parts: QueryParts<'a>) -> Self {
        let turn = next_chunk(&pass.context, &query_block, 0);
        let sums = Mutex::new(Sums { turn, failed: false, of_keys: Default::default(), parts });
        Block { query_block, packed: OnceLock::new(), sums, moved: Condvar::new() }
    }

    /// Its queries, packed by whoever comes first.
    pub(super) fn packed(&self, pass: &Pass, room: &mut BlockRoom) -> &PackedQueries {
        self.packed.get_or_init(|| PackedQueries::new(pass, &self.query_block, room))
    }

    /// Lets `add` add what a chunk gives, once the chunks before it have had their turn.
    pub(super) fn in_turn(&self, pass: &Pass, chunk: usize, room: &mut BlockRoom, add: impl FnOnce(&mut Sums)) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        while sums.turn < chunk && !sums.failed {
            sums = self.moved.wait(sums).unwrap_or_else(PoisonError::into_inner);
        }
        if sums.failed {
            return;
        }
        add(&mut sums);
        self.pass_on(pass, chunk, room, sums);
    }

    fn pass_on(&self, pass: &Pass, chunk: usize, room: &mut BlockRoom, mut sums: MutexGuard<Sums>) {
        sums.turn = next_chunk(&pass.context, &self.query_block, chunk + 1);
        if sums.turn == DONE {
            let Sums { of_keys, parts, .. } = &mut *sums;
            packed::finish(pass, &self.query_block, room, std::mem::take(of_keys), parts);
        }
        drop(sums);
        self.moved.notify_all();
    }
}

/// The first chunk from `first` on of which some query of a block sees a key.
fn next_chunk(context: &Context, query_block: &QueryBlock, first: usize) -> usize {
    let seen = union(context, query_block, query_block.queries.clone());
    let keys = context.sequence(query_block.sequence).keys;
    let chunk = |index: usize| index * GRADIENT_KEYS..((index + 1) * GRADIENT_KEYS).min(keys);
    (first..keys.div_ceil(GRADIENT_KEYS)).find(|&index| hull(&seen, &chunk(index)).is_some()).unwrap_or(DONE)
}
