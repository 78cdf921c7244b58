//! Which instruction set runs: the best one the CPU has, unless `FARSPAN_CPU` or [`force`] chooses another.

use farspan_core::{Error, Result};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Machine {
    /// Plain Rust on any CPU.
    Portable = 0,
    /// AVX2, FMA and F16C.
    Avx2 = 1,
    /// AVX-512 F, BW, DQ, VL and CD.
    Avx512 = 2,
}

/// Every machine, the slowest first.
pub const MACHINES: [Machine; 3] = [Machine::Portable, Machine::Avx2, Machine::Avx512];

impl Machine {
    /// The name in `FARSPAN_CPU` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Machine::Portable => "portable",
            Machine::Avx2 => "avx2",
            Machine::Avx512 => "avx512",
        }
    }

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        match self {
            Machine::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2 => crate::arch::avx2::is_available(),
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512 => crate::arch::avx512::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// The available machine of this name.
    pub fn from_name(name: &str) -> Result<Machine> {
        let usable = || MACHINES.into_iter().filter(|m| m.is_available());
        usable().find(|m| m.name() == name).ok_or_else(|| {
            let names = usable().map(Machine::name).collect::<Vec<_>>().join(", ");
            Error::backend("FARSPAN_CPU", format!("one of {names}"), name)
        })
    }
}

const UNFORCED: u8 = u8::MAX;
static FORCED: AtomicU8 = AtomicU8::new(UNFORCED);
static CHOSEN: OnceLock<Result<Machine>> = OnceLock::new();

/// Makes every following call of the process run on `machine`, or, with `None`, on the usual choice again. For tests
/// and measurements: results do not depend on it.
pub fn force(machine: Option<Machine>) {
    FORCED.store(machine.map_or(UNFORCED, |m| m as u8), Ordering::Relaxed);
}

/// The machine to run on: an error when `FARSPAN_CPU` names one that this CPU lacks.
pub fn machine() -> Result<Machine> {
    match FORCED.load(Ordering::Relaxed) {
        UNFORCED => CHOSEN
            .get_or_init(|| match std::env::var("FARSPAN_CPU") {
                Ok(name) if !name.is_empty() => Machine::from_name(&name),
                _ => Ok(MACHINES.into_iter().rfind(|m| m.is_available()).unwrap_or(Machine::Portable)),
            })
            .clone(),
        forced => Ok(MACHINES[usize::from(forced)]),
    }
}
