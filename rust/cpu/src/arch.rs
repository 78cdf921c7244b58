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

/// A test that runs a function of machines, inlined, for one of them: below the target features that it needs.
#[cfg(test)]
macro_rules! test_on {
    ($name:ident, $function:ident::<Portable>) => {
        test_on!(@run $name, $function, crate::arch::portable::Portable, true,);
    };
    ($name:ident, $function:ident::<Avx2>) => {
        #[cfg(target_arch = "x86_64")]
        test_on!(@run $name, $function, crate::arch::avx2::Avx2, crate::arch::avx2::is_available(), "avx2,fma,f16c");
    };
    ($name:ident, $function:ident::<Avx512>) => {
        #[cfg(target_arch = "x86_64")]
        test_on!(
            @run $name, $function, crate::arch::avx512::Avx512, crate::arch::avx512::is_available(),
            "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c"
        );
    };
    (@run $name:ident, $function:ident, $machine:ty, $available:expr, $($feature:tt)?) => {
        #[test]
        fn $name() {
            $(#[target_feature(enable = $feature)])?
            unsafe fn on_machine() {
                // SAFETY: the caller runs on a CPU with the features.
                unsafe { $function::<$machine>() }
            }
            if !$available {
                eprintln!("skipped: this CPU has no {}", stringify!($machine));
                return;
            }
            // SAFETY: the features were just detected.
            unsafe { on_machine() }
        }
    };
}

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
