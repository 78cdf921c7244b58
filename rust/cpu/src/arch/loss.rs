//! The kernels of the losses over a vocabulary: what a chunk of logits adds to a loss, the slopes of a loss by logits,
//! and the products of slopes with hidden states and weights.

mod outer;
mod rows;
mod table;

pub(crate) use outer::{DEPTH, Outer};
pub(crate) use rows::Sloping;
pub(crate) use table::{Kernels, kernels};
