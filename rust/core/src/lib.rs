//! The mathematics of farspan, without memory, threads or instruction sets: what a valid problem is, which noise a
//! token gets, how partial results merge, and how work is cut into tiles.
//!
//! ```
//! use farspan_core::attention::{Shape, dense_sequences};
//!
//! // Two sequences: five queries in four heads, and up to nine keys in two heads.
//! let shape = Shape::new([2, 4, 5, 64], [2, 2, 9, 64], [2, 2, 9, 64])?;
//! let sequences = dense_sequences(&shape, Some(&[9, 6]))?;
//! assert_eq!(sequences[1].keys, 6);
//!
//! // What does not fit is refused by name.
//! let refused = Shape::new([2, 4, 5, 64], [2, 3, 9, 64], [2, 3, 9, 64]).unwrap_err();
//! assert!(refused.to_string().starts_with("key: expected "));
//! # Ok::<(), farspan_core::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod array;
pub mod attention;
pub mod draw;
pub mod dtype;
pub mod elementary;
pub mod error;
pub mod loss;
pub mod merge;
pub mod noise;
pub mod sampler;
pub mod unembed;

pub use dtype::Dtype;
pub use error::{Error, Result};
