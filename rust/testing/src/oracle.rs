//! Every operation once more, naively and in float64: what tests compare the backends with.

pub mod attention;
pub mod gradient;
pub mod loss;
pub mod statistics;
pub mod unembed;
