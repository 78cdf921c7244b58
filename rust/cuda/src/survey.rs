//! What every kernel needs on every architecture, found without a GPU.

use crate::compiler::{Compiled, Compiler};
use crate::cubin::{self, Resources};
use crate::device::Variant;
use crate::nvrtc;
use farspan_core::{Error, Result};

/// The architectures that every kernel is compiled for in the tests: one of each generation, and each whose
/// instructions or limits differ.
pub const ARCHITECTURES: [u32; 6] = [80, 86, 89, 90, 100, 120];

/// One kernel on one architecture.
#[derive(Clone, Debug)]
pub struct Need {
    /// The kernel.
    pub variant: Variant,
    /// The compute capability.
    pub architecture: u32,
    /// Whether it was compiled for this survey, not found in the cache.
    pub fresh: bool,
    /// What the compiler says.
    pub resources: Resources,
}

impl Need {
    /// The registers of a multiprocessor of any architecture.
    const REGISTERS: u32 = 1 << 16;

    /// What is wrong with the kernel, if anything is.
    pub fn complaint(&self) -> Option<String> {
        let Resources { registers, stack_bytes, threads, .. } = self.resources;
        let place = format!("{} on {}", self.variant.name, nvrtc::target(self.architecture));
        let spilled = stack_bytes.saturating_sub(self.variant.stack_bytes);
        if spilled > 0 {
            return Some(format!("{place}: {spilled} bytes of registers spilled to memory"));
        }
        if threads > 0 && threads < self.variant.threads {
            return Some(format!("{place}: compiled for {threads} threads, launched with {}", self.variant.threads));
        }
        // Registers are given out by eights.
        let block = registers.next_multiple_of(8) * self.variant.threads;
        (block > Self::REGISTERS).then(|| format!("{place}: {block} registers a block, more than there are"))
    }
}

/// Compiles every kernel for one architecture on `threads` threads.
pub fn survey(compiler: &Compiler, architecture: u32, threads: usize) -> Vec<Result<Need>> {
    let variants = crate::variants();
    let compiled = compiler.compile_all(&variants, architecture, threads);
    let need = |(variant, compiled): (Variant, Result<Compiled>)| {
        let compiled = compiled?;
        let resources = cubin::resources(&compiled.cubin)
            .ok_or_else(|| Error::backend("NVRTC", "machine code with what it needs", variant.name.clone()))?;
        Ok(Need { variant, architecture, fresh: compiled.fresh, resources })
    };
    variants.into_iter().zip(compiled).map(need).collect()
}

#[cfg(test)]
mod tests {
    use super::{Need, Resources};

    fn complaint(threads: u32, resources: Resources) -> Option<String> {
        let variant = crate::Variant { threads, ..crate::probe::variants().remove(0) };
        Need { variant, architecture: 90, fresh: true, resources }.complaint()
    }

    #[test]
    fn what_cannot_run_well_is_named() {
        let fine = Resources { registers: 255, stack_bytes: 0, threads: 256, params_bytes: 24, code_bytes: 1000 };
        assert_eq!(complaint(256, fine), None);
        assert_eq!(complaint(1024, Resources { registers: 64, threads: 0, ..fine }), None);
        let says = |threads, resources, words: &str| {
            let complaint = complaint(threads, resources).unwrap();
            assert!(complaint.starts_with("probe_bf16 on sm_90a: ") && complaint.contains(words), "{complaint}");
        };
        says(256, Resources { stack_bytes: 8, ..fine }, "8 bytes of registers spilled");
        says(257, fine, "compiled for 256 threads, launched with 257");
        says(1024, Resources { registers: 65, threads: 0, ..fine }, "73728 registers a block");
    }
}
