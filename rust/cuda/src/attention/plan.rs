//! How a call is cut into blocks: a pure function of sizes and of the device's limits. None of it changes a bit of the
//! result.

use super::variants::{CHUNK, WARP_ROWS, WIDTHS, shared_bytes};
use crate::device::{Limits, MOST_BLOCKS};
use farspan_core::Dtype;

/// Most columns of the values that a thread's registers have room for the sums of: `COLUMNS` of the kernels.
pub const MOST_COLUMNS: usize = 128;
/// Most memory for partial results: beyond, blocks walk all their keys.
pub const MOST_PARTIAL_BYTES: usize = 256 << 20;
/// Most blocks that share the chunks of a row: they are an axis of the grid.
const MOST_SPLITS: usize = MOST_BLOCKS[1] as usize;
/// Chunks of a block that are worth its start.
const FEWEST_CHUNKS: usize = 2;
/// Blocks that keep a multiprocessor busy, of one warp and of several.
const BLOCKS_OF_A_WARP: usize = 8;
const BLOCKS_OF_WARPS: usize = 2;

/// What the cut depends on.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// Element type.
    pub dtype: Dtype,
    /// Last axis of query and key.
    pub head_dim: usize,
    /// Last axis of value.
    pub value_dim: usize,
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
        self.chunks().saturating_mul(self.rows()).saturating_mul(4 * (self.value_dim + 2))
    }

    /// The cut on a device.
    pub fn plan(&self, limits: &Limits) -> Plan {
        let widest = self.head_dim.max(self.value_dim);
        let width = WIDTHS.into_iter().find(|width| *width >= widest).unwrap_or(WIDTHS[WIDTHS.len() - 1]);
        let shared_bytes = |warps| shared_bytes(self.dtype, width, warps, self.far);
        let fits = |warps| shared_bytes(warps) <= limits.shared_bytes_per_block as usize;
        let warps = if self.query_time * self.group > WARP_ROWS && fits(4) { 4 } else { 1 };

        let rows = warps as usize * WARP_ROWS;
        let tiles = match self.ragged {
            None => self.batch * (self.query_time * self.group).div_ceil(rows),
            // Each sequence may begin a tile of its own.
            Some(sequences) => (self.query_time * self.group).div_ceil(rows) + sequences,
        };
        let wanted = limits.multiprocessors as usize * if warps == 1 { BLOCKS_OF_A_WARP } else { BLOCKS_OF_WARPS };
        let parts = self.value_dim.div_ceil(MOST_COLUMNS);
        let blocks = (tiles * parts * self.query_heads / self.group).max(1);
        let chunks = self.chunks();
        let may_split = self.partial_bytes() <= MOST_PARTIAL_BYTES;
        let splits = if may_split { (wanted / blocks).clamp(1, chunks.clamp(1, MOST_SPLITS)) } else { 1 };
        let chunks_per_block = chunks.div_ceil(splits).max(FEWEST_CHUNKS);
        let splits = chunks.div_ceil(chunks_per_block).max(1);
        let shared_bytes = shared_bytes(warps);
        Plan { width, warps, tiles, parts, splits, chunks_per_block, shared_bytes }
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
            value_dim: 128,
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
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
            for dims in [(1, 1), (32, 33), (64, 64), (80, 128), (256, 16)] {
                for (batch, ragged) in [(1, None), (64, None), (1, Some(5))] {
                    for (query_time, key_time) in [(1, 1), (1, 1 << 20), (5, 0), (4096, 4096), (200_000, 200_000)] {
                        for (far, limits) in [(false, H200), (true, H200), (false, SMALL), (true, SMALL)] {
                            let (head_dim, value_dim) = dims;
                            let sizes = Workload { dtype, head_dim, value_dim, ragged, far, ..dense(batch, 1, 1) };
                            let work = Workload { query_time, key_time, ..sizes };
                            let plan = work.plan(&limits);
                            let rows = plan.tiles * plan.warps as usize * WARP_ROWS;
                            assert!(plan.width >= head_dim.max(value_dim));
                            assert!(plan.shared_bytes <= limits.shared_bytes_per_block as usize, "{work:?} {plan:?}");
                            assert!(rows >= batch * query_time * work.group);
                            assert!(plan.parts * plan.width.min(MOST_COLUMNS) >= value_dim);
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
    fn decoding_shares_out_chunks_and_prefill_does_not() {
        let step = dense(1, 1, 8192).plan(&H200);
        assert_eq!((step.warps, step.tiles, step.splits, step.chunks_per_block), (1, 1, 64, 2));
        assert_eq!(dense(256, 1, 8192).plan(&H200).splits, 1);
        let prefill = dense(1, 8192, 8192).plan(&H200);
        assert_eq!((prefill.warps, prefill.tiles, prefill.splits), (4, 512, 1));
    }
}
