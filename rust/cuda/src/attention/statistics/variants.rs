//! The kernels of attention's statistics. The emulator's build script reads this file too.

use crate::attention::{ROWS_OF_WARPS, WARPS, hooks_stack_bytes, shared_bytes, type_names, walks};
use crate::device::Variant;
use farspan_core::Dtype;

/// Walks the keys of 16 rows a warp, as attention does. `hooks`: scores know more than a scale and a mask.
pub fn walk(dtype: Dtype, width: usize, warps: u32, hooks: bool) -> Variant {
    let (name, cpp) = type_names(dtype);
    let hooks = hooks || dtype == Dtype::F32;
    let threads = 32 * warps;
    let name = format!("attention_statistics_{name}_d{width}_w{warps}{}", if hooks { "_hooks" } else { "" });
    let body = format!("attention_statistics<{cpp}, {width}, {warps}, {hooks}>");
    let line = format!("FARSPAN_KERNEL_OF({name}, StatisticsParams, {threads}, {body})");
    let header = "attention/statistics/walk.cuh";
    let shared_bytes = shared_bytes(dtype, width, warps, false, false) as u32;
    Variant { name, header, line, threads, stack_bytes: hooks_stack_bytes(hooks), shared_bytes }
}

/// Merges the partial results of rows whose chunks were shared out.
pub fn combine() -> Variant {
    let (name, threads) = ("attention_statistics_combine".to_string(), 32 * ROWS_OF_WARPS);
    let line = format!("FARSPAN_KERNEL_OF({name}, StatisticsParams, {threads}, combine_statistics)");
    let header = "attention/statistics/combine.cuh";
    Variant { name, header, line, threads, stack_bytes: 0, shared_bytes: 0 }
}

/// Every kernel of the statistics.
pub fn variants() -> Vec<Variant> {
    let mut variants = vec![combine()];
    variants.extend(walks(&WARPS, walk));
    variants
}
