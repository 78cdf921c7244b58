//! The losses' kernels by name. The emulator's build script reads this file too.

use crate::device::Variant;

/// Tokens of a tile.
pub const TOKENS: usize = 128;
/// Rows of a tile of a pass.
pub const PLAIN_ROWS: usize = 64;
/// The same where a tile is of both sides of a divergence.
pub const PAIR_ROWS: usize = 32;
/// The tile of a gradient that a block of an outer product computes.
pub const HEIGHT: usize = 128;
/// Its columns.
pub const BREADTH: usize = 64;
/// Bytes of a row of slopes that are on their way at the same time.
const SLAB_BYTES: usize = 128;
/// Slabs whose products are summed apart.
const SUMMED: usize = 16;
/// Threads of a block of every kernel but those of the outer products.
const THREADS: u32 = 256;
const OUTER_THREADS: u32 = 128;
/// Rows, or tokens, for each block of a kernel that has a warp, or a thread, for each.
pub const ROWS_OF_MERGE: usize = 8;
/// See above.
pub const TOKENS_OF_BIAS: usize = THREADS as usize;

/// Shared memory of a kernel of one block: a word of each warp, and behind them a float64 of each.
pub const SUM_BYTES: usize = 32 + 64;

/// Element types: what kernels are named by, and what the kernels' text calls them.
const TYPES: [(&str, &str); 3] = [("bf16", "bfloat16"), ("f16", "float16"), ("f32", "float")];

/// Every kernel of the family.
pub fn variants() -> Vec<Variant> {
    let small = [gather(), merge(), merge_pairs(), reduce(), weigh(), bias()];
    let typed = TYPES.iter().flat_map(|&(name, _)| {
        [entropy(name), pairs(name), slopes(name, false), slopes(name, true), outer(name, false), outer(name, true)]
            .into_iter()
            .chain([store(name)])
    });
    small.into_iter().chain(typed).collect()
}

/// How many tokens, or rows, are summed apart.
pub fn depth(element_bytes: usize) -> usize {
    SUMMED * SLAB_BYTES / element_bytes
}

/// Which rows count.
pub fn gather() -> Variant {
    small("gather", "loss/gather.cuh", "GatherParams")
}

/// The losses of rows from those of their tiles.
pub fn merge() -> Variant {
    small("merge", "loss/entropy.cuh", "EntropyParams")
}

/// The divergences of rows from those of their tiles.
pub fn merge_pairs() -> Variant {
    small("merge_pairs", "loss/pairs.cuh", "PairParams")
}

/// The loss of all rows.
pub fn reduce() -> Variant {
    small("reduce", "loss/entropy.cuh", "ReduceParams")
}

/// How the logits of rows become slopes.
pub fn weigh() -> Variant {
    small("weigh", "loss/rows.cuh", "RowsParams")
}

/// The gradient of bias.
pub fn bias() -> Variant {
    small("bias", "loss/store.cuh", "BiasParams")
}

/// The pass of the cross-entropy.
pub fn entropy(dtype: &str) -> Variant {
    let body = format!("loss_entropy<{}, {PLAIN_ROWS}>", element(dtype));
    let variant = variant(format!("loss_entropy_{dtype}"), "loss/entropy.cuh", "LossParams", THREADS, &body);
    Variant { shared_bytes: shared_bytes(false) as u32, ..variant }
}

/// The pass of the divergence.
pub fn pairs(dtype: &str) -> Variant {
    let body = format!("loss_pairs<{}, {PAIR_ROWS}>", element(dtype));
    let variant = variant(format!("loss_pairs_{dtype}"), "loss/pairs.cuh", "LossParams", THREADS, &body);
    Variant { shared_bytes: shared_bytes(true) as u32, ..variant }
}

/// The slopes of a stretch of tokens, of both sides of a divergence or of one.
pub fn slopes(dtype: &str, pair: bool) -> Variant {
    let (name, rows) = if pair { ("pair_slopes", PAIR_ROWS) } else { ("slopes", PLAIN_ROWS) };
    let body = format!("loss_slopes<{}, {rows}, {pair}>", element(dtype));
    let variant = variant(format!("loss_{name}_{dtype}"), "loss/slopes.cuh", "SlopesParams", THREADS, &body);
    Variant { shared_bytes: shared_bytes(pair) as u32, ..variant }
}

/// Shared memory of a pass: slabs of 128 bytes a row; in the same place the products, behind it those of the target.
pub fn shared_bytes(pair: bool) -> usize {
    let slabs = |rows| 3 * (TOKENS + rows) * SLAB_BYTES;
    if pair { slabs(PAIR_ROWS) + PAIR_ROWS * (TOKENS + 4) * 4 } else { slabs(PLAIN_ROWS) }
}

/// The gradient of hidden, or of weight, from slopes.
pub fn outer(dtype: &str, of_weight: bool) -> Variant {
    let (name, body) = (if of_weight { "weight" } else { "hidden" }, format!("{}, {of_weight}", element(dtype)));
    let body = format!("loss_outer<{body}>");
    let variant = variant(format!("loss_{name}_{dtype}"), "loss/outer.cuh", "OuterParams", OUTER_THREADS, &body);
    Variant { shared_bytes: outer_shared_bytes() as u32, ..variant }
}

/// Shared memory of an outer product: three slabs of slopes and of the other operand.
pub fn outer_shared_bytes() -> usize {
    3 * (HEIGHT + BREADTH) * SLAB_BYTES
}

/// Rounds the gradient of hidden to its type.
pub fn store(dtype: &str) -> Variant {
    let body = format!("loss_store<{}>", element(dtype));
    variant(format!("loss_store_{dtype}"), "loss/store.cuh", "StoreParams", THREADS, &body)
}

fn element(dtype: &str) -> &'static str {
    TYPES.iter().find(|(name, _)| *name == dtype).map_or("", |(_, element)| element)
}

fn small(name: &str, header: &'static str, params: &str) -> Variant {
    variant(format!("loss_{name}_rows"), header, params, THREADS, &format!("loss_{name}"))
}

fn variant(name: String, header: &'static str, params: &str, threads: u32, body: &str) -> Variant {
    let line = format!("FARSPAN_KERNEL_OF({name}, {params}, {threads}, {body})");
    Variant { name, header, line, threads, stack_bytes: 0, shared_bytes: 0 }
}
