//! The kernels of the unembedding and of linear products.

pub(crate) mod dot;
mod noise;
mod rows;
mod table;

#[cfg(test)]
mod tests;

pub(crate) use noise::PAIRED;
pub(crate) use rows::Rule;
pub(crate) use table::{Kernels, kernels};
