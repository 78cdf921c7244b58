//! The mathematics of farspan, without memory, threads or instruction sets: what a valid problem is, which noise a
//! token gets, how partial results merge, how work is cut into tiles, and what the right answer is in float64.
#![forbid(unsafe_code)]

pub mod array;
pub mod attention;
pub mod draw;
pub mod dtype;
pub mod elementary;
pub mod error;
pub mod merge;
pub mod noise;
pub mod oracle;
pub mod sampler;
pub mod unembed;

pub use dtype::Dtype;
pub use error::{Error, Result};
