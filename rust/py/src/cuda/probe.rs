//! `_core.cuda_probe`: one bare product of tensor cores, for tests.

use super::device::Memory;
use crate::failure::{Outcome, dtype, guarded};
use farspan_core::Dtype;
use farspan_cuda::probe;
use pyo3::prelude::*;

/// Products of `tiles` tiles: the addresses of `a`, `b` and `c` as `farspan_cuda::probe` wants them.
#[pyfunction]
#[pyo3(signature = (memory, name, tiles, addresses, /))]
pub(crate) fn cuda_probe(memory: &Bound<'_, PyAny>, name: &str, tiles: u32, addresses: (u64, u64, u64)) -> Outcome {
    guarded(|| {
        let element = [Dtype::Bf16, Dtype::F16].into_iter().find(|known| known.name() == name);
        let element = element.ok_or_else(|| dtype("a", "bfloat16 or float16", name))?;
        let place = Memory::new(memory).place()?;
        let (a, b, c) = addresses;
        // SAFETY: Python holds three tensors of these shapes until the stream has run.
        Ok(unsafe { probe::product(place.device(), element, tiles, a, b, c) }?)
    })
}
