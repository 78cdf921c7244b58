//! How the work is cut. None of it changes a bit of the result, except [`KEY_CHUNK`] and [`GRADIENT_KEYS`].

use super::Sequence;

/// Keys that are weighed under one maximum before their sums are merged with those of the keys before them. Chunks are
/// counted from a sequence's first key, so that a row is summed in the same order in every call.
pub const KEY_CHUNK: usize = 256;

/// Scratch memory that a thread may use for a block of queries.
pub const SCRATCH_BYTES: usize = 5 << 19;

/// Keys that the backward pass takes together; their share of a query's gradient is added to that of the keys before
/// them. Counted from a sequence's first key, as [`KEY_CHUNK`] is: this too changes the bits of results.
pub const GRADIENT_KEYS: usize = 128;

/// Rows (queries times heads that share their keys) that the backward pass takes together.
const GRADIENT_ROWS: usize = 96;

/// Most rows (queries times heads that share their keys) of a block: beyond, packing keys anew costs nothing any more.
const MOST_ROWS: usize = 512;
/// Fewest rows worth packing keys for, when blocks are made smaller to give every thread work.
const FEWEST_ROWS: usize = 96;
/// Blocks for each thread that even out what a thread gets.
const BLOCKS_PER_THREAD: usize = 4;
/// Up to this many rows, keys are read in place and all heads go through a chunk of keys together.
const STREAM_ROWS: usize = 48;
/// Most heads of a block.
const MOST_HEADS: usize = 32;

/// Multiplications up to which a call stays on one thread.
const LITTLE: usize = 1 << 21;
/// What the exponential of a score costs, in multiplications.
const OF_SCORE: usize = 48;
/// What packing a row, its sums and its results cost.
const OF_ROW: usize = 1 << 12;

/// What the cut depends on.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Last axis of query and key.
    pub head_dim: usize,
    /// Last axis of value.
    pub value_dim: usize,
    /// Query heads that share a key head.
    pub group: usize,
    /// Whether a border asks for a second rotation.
    pub far: bool,
    /// Key heads times sequences: what can be shared out without cutting a sequence.
    pub parts: usize,
    /// Threads that share the work.
    pub threads: usize,
}

impl Workload {
    /// Query heads of a block: all that share a key head, as long as they are not too many.
    pub fn heads(&self) -> usize {
        self.group.min(MOST_HEADS)
    }

    /// Whether all of it is done before another thread would have woken up.
    pub fn is_little(&self, sequences: &[Sequence]) -> bool {
        let heads = self.group * self.parts / sequences.len().max(1);
        let of_key = self.head_dim + self.value_dim + OF_SCORE;
        let of_row = |keys: usize| keys.saturating_mul(of_key).saturating_add(OF_ROW);
        let work = sequences
            .iter()
            .fold(0, |work: usize, s| work.saturating_add((heads * s.queries).saturating_mul(of_row(s.keys))));
        self.threads == 1 || work < LITTLE
    }

    /// Pieces that the heads of a chunk are cut into when `chunks` alone would leave threads idle.
    pub fn head_parts(&self, chunks: usize, pieces: usize) -> usize {
        (self.threads * BLOCKS_PER_THREAD).div_ceil(chunks.max(1)).min(pieces)
    }

    /// Whether a sequence has so few queries that its keys should be read in place: few for registers, and few beside
    /// the keys. For a short text that reads itself packing is quicker.
    pub fn streams(&self, queries: usize, keys: usize) -> bool {
        self.heads() * queries <= STREAM_ROWS && 2 * queries < keys
    }

    /// Queries of a block, at least one.
    pub fn block_queries(&self, queries: usize) -> usize {
        let all_rows = self.parts * self.group * queries;
        let even = all_rows.div_ceil(self.threads * BLOCKS_PER_THREAD).max(FEWEST_ROWS);
        let room = (SCRATCH_BYTES / 4).saturating_sub(self.fixed_floats()) / self.row_floats();
        (even.min(room).min(MOST_ROWS) / self.heads()).clamp(1, queries.max(1))
    }

    /// Queries of a block of the backward pass, in which each has a row for every head that shares its keys.
    pub fn gradient_queries(&self) -> usize {
        (GRADIENT_ROWS / self.group).max(1)
    }

    /// How many threads go through the key chunks of one key head of one sequence together, one chunk each at a time.
    pub fn gradient_workers(&self, chunks: usize) -> usize {
        match self.parts >= self.threads * BLOCKS_PER_THREAD {
            true => 1,
            false => self.threads.min(chunks),
        }
    }

    /// Scratch, in bytes, of a block of `queries`.
    pub fn block_bytes(&self, queries: usize) -> usize {
        4 * (self.fixed_floats() + self.heads() * queries * self.row_floats())
    }

    fn rotations(&self) -> usize {
        1 + usize::from(self.far)
    }

    fn width(&self) -> usize {
        self.value_dim.next_multiple_of(16)
    }

    /// Packed keys and values, turns of the keys, a tile of queries as rows, scores of a tile, positions, and a last
    /// tile that is not full.
    fn fixed_floats(&self) -> usize {
        let packed = KEY_CHUNK * (self.head_dim * self.rotations() + self.width());
        let rows = 12 * self.head_dim.next_multiple_of(16) * self.rotations();
        packed + KEY_CHUNK * self.turn_floats() + rows + 2 * 12 * KEY_CHUNK + 2 * KEY_CHUNK + 12 * self.row_floats()
    }

    /// A packed query, its turns, its sums, and its share of the state of its tile.
    fn row_floats(&self) -> usize {
        self.head_dim * self.rotations() + self.turn_floats() + self.width() + 32
    }

    /// Cosines and sines of a row, and twice its position.
    fn turn_floats(&self) -> usize {
        (self.head_dim + 4) * self.rotations()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_stays_below_the_bound() {
        for head_dim in [1, 40, 64, 128, 200, 256] {
            for value_dim in [1, 64, 128, 256] {
                for group in [1, 4, 7, 32, 100] {
                    for far in [false, true] {
                        for (threads, parts) in [(1, 1), (2, 8), (64, 1)] {
                            let work = Workload { head_dim, value_dim, group, far, parts, threads };
                            for queries in [1, 5, 100, 1000, 100_000] {
                                let block = work.block_queries(queries);
                                assert!((1..=queries).contains(&block));
                                assert!(work.block_bytes(block) <= SCRATCH_BYTES, "{work:?}: {block}");
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_thread_gets_work() {
        let work = Workload { head_dim: 128, value_dim: 128, group: 1, far: false, parts: 1, threads: 8 };
        assert!(4096usize.div_ceil(work.block_queries(4096)) >= 16);
    }

    #[test]
    fn little_is_what_is_done_before_a_thread_wakes() {
        let work = |threads| Workload { head_dim: 8, value_dim: 8, group: 1, far: false, parts: 8, threads };
        let (query_start, key_start) = (0, 0);
        let batch = |queries, keys| [Sequence { batch: 0, query_start, queries, key_batch: 0, key_start, keys }];
        assert!(work(2).is_little(&batch(1, 100)) && work(2).is_little(&batch(30, 30)));
        assert!(!work(2).is_little(&batch(100, 100)) && !work(2).is_little(&batch(1, 10_000)));
        assert!(!work(2).is_little(&batch(100, 1)), "rows cost something too");
        assert!(!work(2).is_little(&batch(1, 1 << 58)), "64 times that is 0 where it wraps");
        assert!(work(1).is_little(&batch(1000, 1000)));
    }

    #[test]
    fn a_decode_step_streams() {
        let work = Workload { head_dim: 128, value_dim: 128, group: 8, far: false, parts: 8, threads: 2 };
        assert!(work.streams(1, 4096) && work.streams(4, 4096));
        assert!(!work.streams(64, 4096) && !work.streams(4, 4) && !work.streams(4, 8) && work.streams(4, 9));
    }
}
