//! The probe's kernels: one program for each of these lines. The emulator's build script reads this file too.

use crate::device::Variant;

/// The product in each half precision.
pub fn variants() -> Vec<Variant> {
    vec![variant("bf16", "bfloat16"), variant("f16", "float16")]
}

/// The product of one element type: what the kernel is named by, and what its text calls it.
pub fn variant(dtype: &str, element: &str) -> Variant {
    let name = format!("probe_{dtype}");
    let line = format!("FARSPAN_KERNEL({name}, ProbeParams, probe<{element}>)");
    Variant { name, header: "probe.cuh", line, threads: 32, stack_bytes: 0, shared_bytes: 0 }
}
