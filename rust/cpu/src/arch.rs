//! Everything that is unsafe or differs between machines.

/// Writes `kernels`, the choice among the `KERNELS` that a table has compiled for each machine.
macro_rules! kernels_by_machine {
    () => {
        /// The kernels of an available machine.
        pub(crate) fn kernels(machine: crate::dispatch::Machine) -> Kernels {
            assert!(machine.is_available(), "{} is not available", machine.name());
            match machine {
                #[cfg(target_arch = "x86_64")]
                crate::dispatch::Machine::Avx2 => avx2::KERNELS,
                #[cfg(target_arch = "x86_64")]
                crate::dispatch::Machine::Avx512 => avx512::KERNELS,
                _ => portable::KERNELS,
            }
        }
    };
}

#[cfg(test)]
#[macro_use]
mod test_on;

pub mod attention;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub(crate) mod buffer;
pub(crate) mod element;
pub(crate) mod floats;
pub mod lanes;
pub(crate) mod loss;
pub(crate) mod math;
pub mod portable;
pub(crate) mod product;
pub mod rowwise;
pub(crate) mod unembed;
pub mod view;

#[cfg(test)]
mod tests;
