//! What the tests of farspan's backends share: every operation once more in float64 ([`oracle`]), random problems, and
//! suites that hold a backend to the oracle and to its promises. A suite is written once for each operation, and the
//! tests of a backend instantiate it. No crate that users get depends on this one.
//!
//! ```
//! use farspan_testing::cpu::Cpu;
//! use farspan_testing::unembed::{Backend, of_bias};
//!
//! // A row whose logits are 0.0 to 9.0: the largest wins.
//! let problem = of_bias((0..10).map(|token| token as f32).collect(), 1);
//! assert_eq!(Cpu::best().run(&problem, 0).greedy.token, [9]);
//! ```

#![expect(missing_docs, reason = "the fields of problems are named as the arguments that they are")]

pub mod attention;
pub mod cpu;
pub mod gradient;
pub mod linear;
pub mod loss;
pub mod numbers;
pub mod oracle;
pub mod sampler;
pub mod statistics;
pub mod unembed;

/// The element types.
pub const DTYPES: [farspan_core::Dtype; 3] = farspan_core::Dtype::ALL;

/// Makes a test of each function of a suite, in a module that is named as the backend. `$backend` is an `Option`: where
/// a machine lacks it, there is nothing to test, and whoever makes it says so.
#[macro_export]
macro_rules! instantiate {
    ($name:ident = $backend:expr, [$($suite:tt)+]: $($test:ident)+) => {
        mod $name {
            use super::*;
            use $($suite)+ as suite;

            $(
                #[test]
                fn $test() {
                    if let Some(backend) = $backend {
                        suite::$test(&backend);
                    }
                }
            )+
        }
    };
}
