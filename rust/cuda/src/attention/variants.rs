//! The kernels of attention, each a program of its own. The emulator's build script reads this file too.

use crate::device::Variant;
use farspan_core::Dtype;

/// What head dimensions are rounded up to.
pub const WIDTHS: [usize; 3] = [64, 128, 256];
/// Warps of a block: one for few rows, several that share keys for many.
pub const WARPS: [u32; 2] = [1, 4];
/// Keys that are weighed under one maximum: `CHUNK` of the kernels.
pub const CHUNK: usize = 64;
/// Rows of a warp: `WARP_ROWS` of the kernels.
pub const WARP_ROWS: usize = 16;
/// Threads of a block of `attention_prepare`.
pub const PREPARE_THREADS: u32 = 128;
/// Threads of a block of `attention_rotate`.
pub const ROTATE_THREADS: u32 = 128;
/// Rows of a block whose warps take one each: `ROWS_OF_WARPS` of the kernels.
pub const ROWS_OF_WARPS: u32 = 4;

/// The element type in a kernel's name, and in C++.
pub(crate) fn type_names(dtype: Dtype) -> (&'static str, &'static str) {
    match dtype {
        Dtype::F32 => ("f32", "float"),
        Dtype::Bf16 => ("bf16", "bfloat16"),
        Dtype::F16 => ("f16", "float16"),
    }
}

/// Walks the keys of 16 rows a warp. `hooks`: scores know more than a scale and a mask. Products of float32 take so
/// long that one kernel does for both.
pub fn walk(dtype: Dtype, width: usize, warps: u32, hooks: bool) -> Variant {
    let (name, cpp) = type_names(dtype);
    let hooks = hooks || dtype == Dtype::F32;
    let threads = 32 * warps;
    let name = format!("attention_{name}_d{width}_w{warps}{}", if hooks { "_hooks" } else { "" });
    let body = format!("attention<{cpp}, {width}, {warps}, {hooks}>");
    let line = format!("FARSPAN_KERNEL_OF({name}, AttentionParams, {threads}, {body})");
    let stack_bytes = walk_stack_bytes(dtype, width, hooks);
    let shared_bytes = shared_bytes(dtype, width, warps, false, true) as u32;
    Variant { name, header: "attention/walk.cuh", line, threads, stack_bytes, shared_bytes }
}

/// Bytes of a row of a tile: `Panels` of the kernels.
pub fn panel_bytes(dtype: Dtype, width: usize) -> usize {
    (width * dtype.size()).min(256)
}

/// Shared memory of a block that walks: the ring of tiles, the queries, at their far positions too where a border asks
/// for it, and, to weigh values, the scratch of each warp. `Ring` and `RowBlock` of the kernels.
pub fn shared_bytes(dtype: Dtype, width: usize, warps: u32, far: bool, weighs: bool) -> usize {
    let (row, panel) = (width * dtype.size(), panel_bytes(dtype, width));
    let slots = if warps == 1 && row / panel < 4 { 3 } else { 2 };
    let queries = row * (1 + usize::from(far));
    let scratch = if weighs && dtype == Dtype::F32 { 4 * CHUNK } else { 0 };
    slots * CHUNK * panel + warps as usize * WARP_ROWS * (queries + scratch)
}

/// Of a lane's two rows: near and far scores of a chunk of 64 keys where there are hooks.
pub fn hooks_stack_bytes(hooks: bool) -> u32 {
    if hooks { 256 } else { 0 }
}

/// [`hooks_stack_bytes`]; and, for infinite values only, a panel's columns, and the weights where they are packed.
fn walk_stack_bytes(dtype: Dtype, width: usize, hooks: bool) -> u32 {
    let panel = width.min(256 / dtype.size()) as u32;
    let packed = if dtype == Dtype::F32 { 0 } else { 64 };
    2 * panel + packed + hooks_stack_bytes(hooks)
}

/// Merges the partial results of rows whose chunks were shared out.
pub fn combine(dtype: Dtype, width: usize) -> Variant {
    let (name, cpp) = type_names(dtype);
    let threads = 32 * ROWS_OF_WARPS;
    let name = format!("attention_combine_{name}_d{width}");
    let line = format!("FARSPAN_KERNEL_OF({name}, AttentionParams, {threads}, attention_combine<{cpp}, {width}>)");
    Variant { name, header: "attention/combine.cuh", line, threads, stack_bytes: 0, shared_bytes: 0 }
}

/// Writes down what positions mean.
pub fn prepare() -> Variant {
    let name = "attention_prepare".to_string();
    let line = format!("FARSPAN_KERNEL_OF({name}, PrepareParams, {PREPARE_THREADS}, prepare_attention)");
    let header = "attention/prepare.cuh";
    Variant { name, header, line, threads: PREPARE_THREADS, stack_bytes: 0, shared_bytes: 0 }
}

/// Turns queries and keys.
pub fn rotate(dtype: Dtype) -> Variant {
    let (name, cpp) = type_names(dtype);
    let name = format!("attention_rotate_{name}");
    let line = format!("FARSPAN_KERNEL_OF({name}, RotateParams, {ROTATE_THREADS}, rotate_rows<{cpp}>)");
    let header = "attention/rotate.cuh";
    Variant { name, header, line, threads: ROTATE_THREADS, stack_bytes: 0, shared_bytes: 0 }
}

/// The kernels of a family that there are for each element type, width and `kind`, without hooks and with them.
pub fn walks<K: Copy>(kinds: &[K], walk: impl Fn(Dtype, usize, K, bool) -> Variant) -> Vec<Variant> {
    let mut variants = Vec::new();
    for dtype in Dtype::ALL {
        for width in WIDTHS {
            for &kind in kinds {
                variants.extend([false, true].map(|hooks| walk(dtype, width, kind, hooks)));
            }
        }
    }
    variants.dedup(); // where one kernel does for both
    variants
}

/// Every kernel of attention.
pub fn variants() -> Vec<Variant> {
    let mut variants = vec![prepare()];
    for dtype in Dtype::ALL {
        variants.push(rotate(dtype));
        variants.extend(WIDTHS.map(|width| combine(dtype, width)));
    }
    variants.extend(walks(&WARPS, walk));
    variants
}
