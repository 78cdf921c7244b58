//! Everything that is unsafe or differs between machines.

pub mod attention;
#[cfg(target_arch = "x86_64")]
pub mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub(crate) mod buffer;
pub(crate) mod element;
pub mod lanes;
pub(crate) mod loss;
pub(crate) mod math;
pub mod portable;
pub(crate) mod product;
pub mod rowwise;
pub(crate) mod unembed;
pub mod view;

#[cfg(test)]
mod tests;
