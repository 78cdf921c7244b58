//! A draw, apart from reading the vocabulary: how each row is drawn ([`Plan`]), what reading it found ([`Found`]), how
//! what was found in several parts of the vocabulary becomes one ([`Part`], [`merge`]), and the results ([`Results`]).
//!
//! A backend reads a row's logits and fills a [`Found`]; everything after that is written here, once.

mod found;
mod part;
mod plan;
mod result;

pub use found::Found;
pub use part::{Part, merge};
pub use plan::{Plan, Warm, plans};
pub use result::{Results, SampleOut, Samples, UNRANKED, write_list};
