//! The kernels of products of rows with rows, which the unembedding and linear layers share.

mod dot;
mod panels;
mod rows;
mod short;
mod table;

pub(crate) use dot::{Carry, Padded, Product, Rows, padded_width};
pub(crate) use panels::{Left, Multiplied, Order, Panels};
pub(crate) use short::Short;
pub(crate) use table::{Kernels, kernels};
