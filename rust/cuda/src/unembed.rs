//! The sampling unembedding on a device: what a vocabulary says of hidden states, without ever holding the logits.
//!
//! Every operation is one pass over tiles of the vocabulary, then a block per row that merges what the tiles said.
//! Memory of the device is the caller's: inputs, outputs, and a workspace whose size is asked for beforehand. Nothing
//! waits for the device, so that everything can be captured in a graph. A row's result has the same bits in any batch
//! and at any place in it.
//!
//! Rows with cuts, and shards of a vocabulary, are decided on the host: [`found`] leaves what a reading said of each
//! row, [`FoundLayout::read`] turns the bytes that were copied back into [`farspan_core::draw::Found`].

mod changes;
mod found;
mod launch;
mod params;
mod plan;
mod problem;
mod sample;
mod score;
mod variants;

pub use changes::{Changes, PackedChanges};
pub use found::{FoundLayout, FoundWants, found, found_workspace};
pub use problem::{Draws, Matrix, Problem};
pub use sample::{Options, SampleOut, greedy, sample, sample_workspace};
pub use score::{ScoreOut, TopOut, rank, rank_workspace, score, score_workspace, top, top_workspace};
pub use variants::variants;
