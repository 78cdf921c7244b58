//! The kernels of attention's backward pass. The emulator's build script reads this file too.

use crate::attention::{CHUNK, ROWS_OF_WARPS, WARP_ROWS, type_names, walks};
use crate::device::Variant;
use farspan_core::Dtype;

/// What a walk gives the gradient of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Of queries: its lines are rows.
    Query,
    /// Of keys: its lines are keys.
    Key,
    /// Of values: its lines are keys.
    Value,
}

/// Threads of a block of `attention_sum`.
pub const SUM_THREADS: u32 = 256;
/// Terms that a thread of it adds up by itself: `SUM_ALONE` of the kernel.
pub const SUM_ALONE: i64 = 64;
/// Most columns whose sums a thread's registers have room for: `most_sums` of the kernels.
pub fn most_sums(dtype: Dtype, width: usize) -> usize {
    if warps(dtype, width) == 1 { 64 } else { 128 }
}

/// Warps of a block that walks: as many as fit the shared memory of every GPU. It does not follow the device, so that
/// sums have one order everywhere.
pub fn warps(dtype: Dtype, width: usize) -> u32 {
    match (dtype, width) {
        (Dtype::F32, 256) => 1,
        (Dtype::F32, 128) => 2,
        _ => 4,
    }
}

/// Meets the lines of a gradient with all others. `hooks`: scores know more than a scale and a mask.
pub fn walk(dtype: Dtype, width: usize, of: Of, hooks: bool) -> Variant {
    let (name, cpp) = type_names(dtype);
    let hooks = hooks || dtype == Dtype::F32;
    let warps = warps(dtype, width);
    let (of_name, constant) = match of {
        Of::Query => ("query", "OF_QUERY"),
        Of::Key => ("key", "OF_KEY"),
        Of::Value => ("value", "OF_VALUE"),
    };
    let name = format!("attention_{of_name}_gradient_{name}_d{width}{}", if hooks { "_hooks" } else { "" });
    let threads = 32 * warps;
    let body = format!("attention_gradient<{cpp}, {width}, {warps}, {constant}, {hooks}>");
    let line = format!("FARSPAN_KERNEL_OF({name}, GradientParams, {threads}, {body})");
    // Products of a lane with a chunk, of the values too, where there are hooks; and, for infinite numbers only, the
    // weights where they are packed.
    let products = if of == Of::Value { 128 } else { 256 };
    let packed = if dtype == Dtype::F32 { 0 } else { 64 };
    let stack_bytes = packed + if hooks { products } else { 0 };
    let shared_bytes = shared_bytes(dtype, width, of) as u32;
    Variant { name, header: "attention/gradient/walk.cuh", line, threads, stack_bytes, shared_bytes }
}

/// Shared memory of a block that walks: two tiles, what is known of the rows of a chunk, the own lines for either
/// product, and the scratch of each warp. `Gradient` of the kernels.
pub fn shared_bytes(dtype: Dtype, width: usize, of: Of) -> usize {
    let row = width * dtype.size();
    let lines = warps(dtype, width) as usize * WARP_ROWS;
    let operands = if of == Of::Value { 1 } else { 2 };
    let scratch = if dtype == Dtype::F32 { 4 * CHUNK } else { 0 };
    CHUNK * (2 * row.min(256) + 32) + lines * (row * operands + scratch)
}

fn by_rows(dtype: Dtype, body: &str, header: &'static str, params: &str) -> Variant {
    let (name, cpp) = type_names(dtype);
    let (name, threads) = (format!("{body}_{name}"), 32 * ROWS_OF_WARPS);
    let line = format!("FARSPAN_KERNEL_OF({name}, {params}, {threads}, {body}<{cpp}>)");
    Variant { name, header, line, threads, stack_bytes: 0, shared_bytes: 0 }
}

/// Writes down what is known of each row.
pub fn known(dtype: Dtype) -> Variant {
    by_rows(dtype, "attention_known", "attention/gradient/known.cuh", "KnownParams")
}

/// Turns sums of turned queries or keys back.
pub fn turn_back(dtype: Dtype) -> Variant {
    by_rows(dtype, "attention_turn_back", "attention/gradient/turn.cuh", "TurnParams")
}

fn summing(name: &str, params: &str, body: &str, shared_bytes: u32) -> Variant {
    let line = format!("FARSPAN_KERNEL_OF({name}, {params}, {SUM_THREADS}, {body})");
    let header = "attention/gradient/sum.cuh";
    Variant { name: name.into(), header, line, threads: SUM_THREADS, stack_bytes: 0, shared_bytes }
}

/// Sums over rows.
pub fn sum() -> Variant {
    summing("attention_sum", "SumParams", "sum_over_rows", SUM_THREADS * size_of::<f64>() as u32)
}

/// Zeros, to be summed where a walk writes nothing.
pub fn clear() -> Variant {
    summing("attention_clear", "ClearParams", "clear_numbers", 0)
}

/// Every kernel of the backward pass.
pub fn variants() -> Vec<Variant> {
    let mut variants = vec![sum(), clear()];
    variants.extend(Dtype::ALL.into_iter().flat_map(|dtype| [known(dtype), turn_back(dtype)]));
    variants.extend(walks(&[Of::Query, Of::Key, Of::Value], walk));
    variants
}
