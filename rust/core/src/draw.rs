//! A draw, apart from reading the vocabulary: how each row is drawn ([`Plan`]), the loop that has it read and decides
//! it ([`decide`]), its results ([`Results`]), and what holders of parts of a vocabulary send each other ([`Shards`]).
//!
//! A backend reads logits and gives [`RowStatistics`]; everything after that is written here, once.

mod decide;
mod plan;
mod result;
mod shards;

pub use decide::{Read, RowStatistics, Rows, decide};
pub use plan::{Plan, Warm, plans};
pub use result::{Results, SampleOut, Samples, UNRANKED, write_list};
pub use shards::{Gather, Shards, sum_ranks};
