//! The kernels of the unembedding: what becomes of products once they are logits.

mod noise;
mod rows;
mod table;

#[cfg(test)]
mod tests;

pub(crate) use noise::PAIRED;
pub(crate) use rows::Rule;
pub(crate) use table::{Kernels, kernels};
