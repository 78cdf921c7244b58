//! The sampling unembedding on a device: what a vocabulary says of hidden states, without ever holding the logits.
//!
//! Every operation is one pass over tiles of the vocabulary, then a block per row that merges what the tiles said.
//! Memory of the device is the caller's: inputs, outputs, and a workspace whose size is asked for beforehand. Nothing
//! waits for the device, so that everything can be captured in a graph. A row's result has the same bits in any batch
//! and at any place in it.
//!
//! Rows with cuts, and shards of a vocabulary, are decided on the host: [`statistics`] leaves what a reading said of
//! each row, [`StatisticsLayout::read`] turns the bytes that were copied back into
//! [`farspan_core::draw::RowStatistics`].

mod changes;
mod host;
mod launch;
mod params;
mod plan;
mod problem;
mod sample;
mod score;
mod statistics;
mod variants;

pub(crate) use params::{HIDDEN_ALIGNED, RowsAt, Setting, UnembedParams, WEIGHT_ALIGNED};
pub(crate) use plan::{ALIGNMENT, name};
pub(crate) use problem::{Checked, check_contiguous, setting};

pub use changes::{Changes, PackedChanges};
pub use host::{Place, Reader, Threads, sample_on_host};
pub use problem::{Draws, Matrix, PerRow, Problem};
pub use sample::{Options, SampleOut, greedy, sample, sample_workspace};
pub use score::{ScoreOut, TopOut, rank, rank_workspace, score, score_workspace, top, top_workspace};
pub use statistics::{StatisticsLayout, StatisticsWants, statistics, statistics_workspace};
pub use variants::variants;
