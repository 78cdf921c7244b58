//! Threads and instruction sets.

use crate::failure::Outcome;
use farspan_cpu::dispatch::{self, MACHINES, Machine};
use farspan_cpu::threads;
use pyo3::prelude::*;

/// How many threads share the work of each call.
#[pyfunction]
pub(crate) fn set_num_threads(count: usize) -> Outcome {
    Ok(threads::set_num_threads(count)?)
}

/// The number of threads that the next call uses.
#[pyfunction]
pub(crate) fn num_threads() -> usize {
    threads::num_threads()
}

/// Makes every following call of the process run on the named instruction set, or with None on the usual one again.
#[pyfunction]
#[pyo3(signature = (name))]
pub(crate) fn force_cpu(name: Option<&str>) -> Outcome {
    dispatch::force(name.map(Machine::from_name).transpose()?);
    Ok(())
}

/// The instruction set in use, and for each known one whether this CPU has it.
#[pyfunction]
pub(crate) fn cpu_info() -> Outcome<(&'static str, Vec<(&'static str, bool)>)> {
    let known = MACHINES.into_iter().map(|machine| (machine.name(), machine.is_available())).collect();
    Ok((dispatch::machine()?.name(), known))
}
