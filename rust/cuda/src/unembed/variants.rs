//! The unembedding's kernels by name.

use crate::device::Variant;

/// Tokens of a tile.
pub const TOKENS: usize = 128;
/// Threads of a block of every kernel but [`target`]'s.
const THREADS: u32 = 256;
/// Threads of a block of [`target`]'s kernel.
const TARGET_THREADS: u32 = 128;

/// Element types: what kernels are named by, what the kernels' text calls them, and how many rows a tile may have.
const TYPES: [(&str, &str, &[usize]); 3] =
    [("bf16", "bfloat16", &[8, 64, 128]), ("f16", "float16", &[8, 64, 128]), ("f32", "float", &[8, 64])];

/// Every kernel of the family.
pub fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for (name, _, rows) in TYPES {
        all.extend(rows.iter().map(|rows| pass(name, *rows)));
    }
    all.extend(TYPES.map(|(name, ..)| target(name)));
    all.extend([merge(), select()]);
    all
}

/// The pass over the vocabulary by tiles of `rows` rows.
pub fn pass(dtype: &str, rows: usize) -> Variant {
    let body = format!("unembed<{}, {rows}>", element(dtype));
    let name = format!("unembed_{dtype}_rows{rows}");
    let variant = variant(name, "unembed/walk.cuh", "UnembedParams", THREADS, &body);
    Variant { shared_bytes: shared_bytes(rows) as u32, ..variant }
}

/// Shared memory of a tile: slabs of 128 bytes a row, some on their way; then, in the same place, the logits.
pub fn shared_bytes(rows: usize) -> usize {
    let stages = if rows <= 8 { 4 } else { 3 };
    let logits = rows * (TOKENS + 4) * 4;
    logits.max(stages * (TOKENS + rows) * 128)
}

/// How many rows a tile of an element type may have, in rising order.
pub fn tile_rows(dtype: &str) -> &'static [usize] {
    TYPES.iter().find(|(name, ..)| *name == dtype).map_or(&[], |(.., rows)| rows)
}

/// The logits of given tokens.
pub fn target(dtype: &str) -> Variant {
    let body = format!("unembed_target<{}>", element(dtype));
    variant(format!("unembed_target_{dtype}"), "unembed/target.cuh", "UnembedParams", TARGET_THREADS, &body)
}

/// The results of rows from those of their tiles.
pub fn merge() -> Variant {
    variant("unembed_merge_rows".into(), "unembed/merge.cuh", "MergeParams", THREADS, "unembed_merge")
}

/// The largest entries of rows from the lists of their tiles.
pub fn select() -> Variant {
    variant("unembed_select_rows".into(), "unembed/select.cuh", "SelectParams", THREADS, "unembed_select")
}

fn element(dtype: &str) -> &'static str {
    TYPES.iter().find(|(name, ..)| *name == dtype).map_or("", |(_, element, _)| element)
}

fn variant(name: String, header: &'static str, params: &str, threads: u32, body: &str) -> Variant {
    let line = format!("FARSPAN_KERNEL_OF({name}, {params}, {threads}, {body})");
    Variant { name, header, line, threads, stack_bytes: 0, shared_bytes: 0 }
}
