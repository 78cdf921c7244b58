//! How a call is cut into blocks: a pure function of sizes and of the device's limits. None of it changes a bit of the
//! result.

use super::variants::{CHUNK, WARP_ROWS, WIDTHS, shared_bytes};
use crate::device::{Limits, MOST_BLOCKS};
use farspan_core::Dtype;

/// Most columns of the values that a thread's registers have room for the sums of: `COLUMNS` of the kernels.
pub const MOST_COLUMNS: usize = 128;
/// Most memory for partial results: beyond, blocks walk all their keys.
pub const MOST_PARTIAL_BYTES: usize = 1 << 30;
/// Most blocks that share the chunks of a row: they are an axis of the grid.
const MOST_SPLITS: usize = MOST_BLOCKS[1] as usize;
/// Chunks of a block that are worth its start.
const FEWEST_CHUNKS: usize = 2;
/// What a block's start and end take, in thousandths of a chunk.
const START: usize = 1000;
/// Waves that blocks of one warp may fill, and cuts that are tried where they are many already. Several warps compute
/// long enough for one wave.
const MOST_WAVES: usize = 4;
const FEW_SPLITS: usize = 8;
/// Of a multiprocessor, and of a thread that walks.
const REGISTERS: usize = 1 << 16;
const THREAD_REGISTERS: usize = 256;
/// Of each block's shared memory, that the system takes.
const RESERVED_SHARED_BYTES: usize = 1 << 10;

/// Numbers that a row sums up beside its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sums {
    /// So many columns of the values.
    Values(usize),
    /// So many moments of the weights: no values are read.
    Moments(usize),
}

impl Sums {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Sums::Values(count) | Sums::Moments(count) => count,
        }
    }

    /// Columns of the values.
    fn columns(self) -> usize {
        match self {
            Sums::Values(columns) => columns,
            Sums::Moments(_) => 0,
        }
    }
}

/// What the cut depends on.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Element type.
    pub dtype: Dtype,
    /// Last axis of query and key.
    pub head_dim: usize,
    /// What a row sums up beside its weights.
    pub sums: Sums,
    /// Heads of query and output.
    pub query_heads: usize,
    /// Query heads that share a key head.
    pub group: usize,
    /// First axis of the arrays.
    pub batch: usize,
    /// Sequences of a ragged batch; None: the batch is dense.
    pub ragged: Option<usize>,
    /// Length of the time axis of the queries.
    pub query_time: usize,
    /// Length of the time axis of the keys.
    pub key_time: usize,
    /// Whether a border asks for a second rotation.
    pub far: bool,
}

/// How a call is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Head dimension of the kernel.
    pub width: usize,
    /// Warps of a block.
    pub warps: u32,
    /// Blocks along the rows of a key head, over all sequences.
    pub tiles: usize,
    /// Blocks that share the columns of the values.
    pub parts: usize,
    /// Blocks that share the chunks of a row; 1: none are shared.
    pub splits: usize,
    /// Chunks of a block.
    pub chunks_per_block: usize,
    /// Shared memory of a block.
    pub shared_bytes: usize,
}

impl Workload {
    /// The rows of all heads.
    pub fn rows(&self) -> usize {
        self.batch * self.query_heads * self.query_time
    }

    /// Chunks of the longest sequence there can be.
    pub fn chunks(&self) -> usize {
        self.key_time.div_ceil(CHUNK)
    }

    /// Memory for the partial results of all rows.
    pub fn partial_bytes(&self) -> usize {
        self.chunks().saturating_mul(self.rows()).saturating_mul(4 * (self.sums.count() + 2))
    }

    /// What partial results of a chunk's rows, written and read, are of its keys and values, in thousandths.
    fn extra_of_parts(&self) -> usize {
        let rows = (self.query_time * self.group).clamp(1, WARP_ROWS);
        let partial = 2 * rows * 4 * (self.sums.count() + 2);
        1000 * partial / (CHUNK * (self.head_dim + self.sums.columns()) * self.dtype.size())
    }

    /// The cut on a device.
    pub fn plan(&self, limits: &Limits) -> Plan {
        let widest = self.head_dim.max(self.sums.columns());
        let width = WIDTHS.into_iter().find(|width| *width >= widest).unwrap_or(WIDTHS[WIDTHS.len() - 1]);
        let weighs = matches!(self.sums, Sums::Values(_));
        let shared_bytes = |warps| shared_bytes(self.dtype, width, warps, self.far, weighs);
        let fits = |warps| shared_bytes(warps) <= limits.shared_bytes_per_block as usize;
        let warps = if self.query_time * self.group > WARP_ROWS && fits(4) { 4 } else { 1 };

        let rows = warps as usize * WARP_ROWS;
        let tiles = match self.ragged {
            None => self.batch * (self.query_time * self.group).div_ceil(rows),
            // Each sequence may begin a tile of its own.
            Some(sequences) => (self.query_time * self.group).div_ceil(rows) + sequences,
        };
        let shared_bytes = shared_bytes(warps);
        let parts = self.sums.columns().div_ceil(MOST_COLUMNS).max(1);
        let blocks = (tiles * parts * self.query_heads / self.group).max(1);
        let wave = limits.multiprocessors as usize * resident_blocks(limits, warps as usize, shared_bytes);
        let may_split = self.partial_bytes() <= MOST_PARTIAL_BYTES;
        let cut = Cut { blocks, chunks: self.chunks(), wave, extra: self.extra_of_parts() };
        let (splits, chunks_per_block) = match may_split {
            true if warps == 1 => cut.shortest(MOST_WAVES, FEW_SPLITS),
            true => cut.shortest(1, 1),
            false => cut.of_splits(1),
        };
        Plan { width, warps, tiles, parts, splits, chunks_per_block, shared_bytes }
    }
}

/// Blocks that a multiprocessor runs at a time. What a block may have of its shared memory is all of it but what the
/// system takes.
fn resident_blocks(limits: &Limits, warps: usize, shared_bytes: usize) -> usize {
    let shared = limits.shared_bytes_per_block as usize + RESERVED_SHARED_BYTES;
    let by_shared = shared / (shared_bytes + RESERVED_SHARED_BYTES);
    by_shared.min(REGISTERS / (THREAD_REGISTERS * 32 * warps)).max(1)
}

/// Rows of blocks whose chunks may be shared out. Blocks run in waves, each as long as one block.
struct Cut {
    blocks: usize,
    chunks: usize,
    wave: usize,
    extra: usize,
}

impl Cut {
    /// How many blocks share the chunks of a row, and how many chunks each takes, for about so many.
    fn of_splits(&self, splits: usize) -> (usize, usize) {
        let splits = splits.clamp(1, self.chunks.clamp(1, MOST_SPLITS));
        let chunks_per_block = self.chunks.div_ceil(splits).max(FEWEST_CHUNKS);
        (self.chunks.div_ceil(chunks_per_block).max(1), chunks_per_block)
    }

    /// Of the cuts that fill up to `most_waves` waves, and of those into few parts, the one that is over first.
    fn shortest(&self, most_waves: usize, few: usize) -> (usize, usize) {
        let filling = (1..=most_waves).map(|waves| waves * self.wave / self.blocks);
        let cuts = (1..=few).chain(filling).map(|splits| self.of_splits(splits));
        cuts.min_by_key(|cut| (self.duration(*cut), cut.0)).unwrap_or_else(|| self.of_splits(1))
    }

    /// In thousandths of a chunk, one after the other.
    fn duration(&self, (splits, chunks_per_block): (usize, usize)) -> usize {
        let chunk = if splits > 1 { 1000 + self.extra } else { 1000 };
        self.blocks.saturating_mul(splits).div_ceil(self.wave) * (chunks_per_block * chunk + START)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Limits = Limits { multiprocessors: 132, shared_bytes_per_block: 227 << 10, architecture: 90 };
    const SMALL: Limits = Limits { multiprocessors: 20, shared_bytes_per_block: 99 << 10, architecture: 86 };

    fn dense(batch: usize, query_time: usize, key_time: usize) -> Workload {
        Workload {
            dtype: Dtype::Bf16,
            head_dim: 128,
            sums: Sums::Values(128),
            query_heads: 32,
            group: 4,
            batch,
            ragged: None,
            query_time,
            key_time,
            far: false,
        }
    }

    #[test]
    fn every_plan_covers_the_call_and_fits_the_device() {
        for dtype in Dtype::ALL {
            for dims in [(1, 1), (32, 33), (64, 64), (80, 128), (256, 16)] {
                for (batch, ragged) in [(1, None), (64, None), (1, Some(5))] {
                    for (query_time, key_time) in [(1, 1), (1, 1 << 20), (5, 0), (4096, 4096), (200_000, 200_000)] {
                        for (far, limits) in [(false, H200), (true, H200), (false, SMALL), (true, SMALL)] {
                            let (head_dim, columns) = dims;
                            let sums = Sums::Values(columns);
                            let sizes = Workload { dtype, head_dim, sums, ragged, far, ..dense(batch, 1, 1) };
                            let work = Workload { query_time, key_time, ..sizes };
                            let plan = work.plan(&limits);
                            let rows = plan.tiles * plan.warps as usize * WARP_ROWS;
                            assert!(plan.width >= head_dim.max(columns));
                            assert!(plan.shared_bytes <= limits.shared_bytes_per_block as usize, "{work:?} {plan:?}");
                            assert!(rows >= batch * query_time * work.group);
                            assert!(plan.parts * plan.width.min(MOST_COLUMNS) >= columns);
                            assert!(plan.splits * plan.chunks_per_block >= work.chunks());
                            assert!(plan.splits == 1 || work.partial_bytes() <= MOST_PARTIAL_BYTES);
                            assert!(plan.splits <= MOST_SPLITS);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn moments_are_no_columns() {
        let values = Workload { dtype: Dtype::F32, sums: Sums::Values(3), head_dim: 64, ..dense(1, 4, 8192) };
        let moments = Workload { sums: Sums::Moments(3), ..values };
        assert_eq!(moments.partial_bytes(), values.partial_bytes());
        assert!(moments.extra_of_parts() > values.extra_of_parts(), "fewer bytes are read for as many results");
        let scratch = WARP_ROWS * 4 * CHUNK;
        assert_eq!(moments.plan(&H200).shared_bytes + scratch, values.plan(&H200).shared_bytes);
        assert_eq!(moments.plan(&H200).parts, 1);
    }

    #[test]
    fn decoding_shares_out_chunks_and_prefill_does_not() {
        let step = dense(1, 1, 8192).plan(&H200);
        assert_eq!((step.warps, step.tiles, step.splits, step.chunks_per_block), (1, 1, 64, 2), "one wave of 4 x 132");
        assert_eq!(dense(256, 1, 8192).plan(&H200).splits, 1);
        let prefill = dense(1, 8192, 8192).plan(&H200);
        assert_eq!((prefill.warps, prefill.tiles, prefill.splits), (4, 512, 1));
    }

    /// The multiprocessors of an RTX 4060 Laptop's kin, an RTX 3070, an A100, an H200 and an RTX 5090.
    #[test]
    fn decoding_fills_whole_waves_of_any_device() {
        let devices = [(16, 99, 86), (46, 99, 86), (108, 163, 80), (132, 227, 90), (170, 99, 120)];
        for (multiprocessors, kilobytes, architecture) in devices {
            let limits = Limits { multiprocessors, shared_bytes_per_block: kilobytes << 10, architecture };
            for batch in [1, 2, 3, 5, 8, 13, 21, 34, 64] {
                for key_time in [64, 500, 2048, 8192, 32768, 131_072] {
                    let work = dense(batch, 1, key_time);
                    if work.partial_bytes() > MOST_PARTIAL_BYTES {
                        continue;
                    }
                    let plan = work.plan(&limits);
                    let blocks = plan.tiles * work.query_heads / work.group;
                    let wave = multiprocessors as usize * resident_blocks(&limits, 1, plan.shared_bytes);
                    let cut = Cut { blocks, chunks: work.chunks(), wave, extra: work.extra_of_parts() };
                    let found = cut.duration((plan.splits, plan.chunks_per_block));
                    let best = (1..=work.chunks()).map(|splits| cut.duration(cut.of_splits(splits))).min();
                    let most = best.unwrap() as f64 * 1.1;
                    assert!(
                        found as f64 <= most,
                        "{multiprocessors} {batch} {key_time}: {plan:?}, {found} of {best:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn as_many_blocks_run_as_have_room() {
        let small = Limits { multiprocessors: 46, shared_bytes_per_block: 99 << 10, architecture: 86 };
        assert_eq!(resident_blocks(&H200, 1, shared_bytes(Dtype::Bf16, 128, 1, false, true)), 4, "by shared memory");
        assert_eq!(resident_blocks(&H200, 1, shared_bytes(Dtype::Bf16, 64, 1, false, true)), 8, "by registers");
        assert_eq!(resident_blocks(&small, 1, shared_bytes(Dtype::Bf16, 128, 1, false, true)), 1);
        assert_eq!(resident_blocks(&H200, 4, shared_bytes(Dtype::Bf16, 128, 4, false, true)), 2, "by registers");
        assert_eq!(resident_blocks(&small, 4, 99 << 10), 1, "one always");
    }
}
