//! Tests of what is generic over machines, on each machine.

/// A test that runs a function of machines, inlined, for one of them: below the target features that it needs.
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
