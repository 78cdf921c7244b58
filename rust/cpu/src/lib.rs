//! The CPU backend of farspan: each algorithm is written once over sixteen lanes; the best instruction set is chosen
//! when the program runs.

pub mod arch;
pub mod attention;
pub mod dispatch;
pub mod linear;
pub mod matrix;
mod product;
pub mod rowwise;
pub mod threads;
pub mod typed;
pub mod unembed;

pub use arch::view::{View, ViewMut};
pub use farspan_core::Dtype;
pub use typed::Typed;
