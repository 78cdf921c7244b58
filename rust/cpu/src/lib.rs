//! The CPU backend of farspan: each algorithm is written once over sixteen lanes; the best instruction set is chosen
//! when the program runs.
//!
//! ```
//! use farspan_core::draw::Samples;
//! use farspan_cpu::{Typed, unembed};
//! use ndarray::array;
//!
//! // One hidden state, three tokens: the last one has the largest logit.
//! let (hidden, weight) = (array![[1f32, 2.0]], array![[1f32, 0.0], [0.0, 1.0], [1.0, 1.0]]);
//! let mut samples = Samples::new(1, 1, 0);
//! let (hidden, weight) = (Typed::F32(hidden.view()), Typed::F32(weight.view()));
//! let problem = unembed::Problem { hidden, weight, rules: Default::default(), shard: None };
//! unembed::greedy(&problem, samples.out())?;
//! assert_eq!((samples.token[0], samples.logit[0]), (2, 3.0));
//! # Ok::<(), farspan_core::Error>(())
//! ```

pub mod arch;
pub mod attention;
pub mod dispatch;
pub mod linear;
pub mod loss;
pub mod matrix;
mod product;
pub mod rowwise;
pub mod threads;
pub mod typed;
pub mod unembed;

pub use arch::view::{View, ViewMut};
pub use farspan_core::Dtype;
pub use typed::Typed;
