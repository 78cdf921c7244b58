//! The CPU backend as a backend of the suites, on one instruction set.

pub mod attention;
pub mod gradient;
pub mod loss;
pub mod sampler;
pub mod statistics;
pub mod unembed;

use farspan_cpu::dispatch::{MACHINES, Machine, force};
use farspan_cpu::threads::set_num_threads;
use std::sync::{Mutex, PoisonError};

/// The backend on one instruction set.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    machine: Machine,
}

/// Instruction set and number of threads are the process's: one call at a time.
static ALONE: Mutex<()> = Mutex::new(());

impl Cpu {
    /// On this instruction set; on a machine that lacks it, nothing but a note that its tests are skipped.
    pub fn on(machine: Machine) -> Option<Cpu> {
        if !machine.is_available() {
            eprintln!("skipped: this CPU has no {}", machine.name());
            return None;
        }
        Some(Cpu { machine })
    }

    /// On each instruction set that this machine has.
    pub fn all() -> impl Iterator<Item = Cpu> {
        MACHINES.into_iter().filter(|machine| machine.is_available()).map(|machine| Cpu { machine })
    }

    /// On the best one.
    pub fn best() -> Cpu {
        Cpu::all().last().expect("portable is available everywhere")
    }

    /// What it is called.
    pub fn name(&self) -> &'static str {
        self.machine.name()
    }

    /// Calls `run` with this instruction set, and with a number of threads that `variation` chooses.
    pub fn alone<T>(&self, variation: u64, run: impl FnOnce() -> T) -> T {
        let _guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        force(Some(self.machine));
        set_num_threads([2, 1, 3][(variation % 3) as usize]).unwrap();
        let result = run();
        force(None);
        result
    }
}
