//! Losses over a vocabulary on a device, and their gradients, without ever holding the logits.
//!
//! A loss is a pass over tiles of the vocabulary, then a warp for each row that merges what the tiles said. Its
//! gradient computes the logits again, a stretch of the vocabulary at a time, and leaves the slopes of the loss by its
//! products, in the element type of hidden. Two products of these follow, with weight and with hidden. Sums are float32
//! in a fixed order, and nothing is added atomically: a row's loss and the gradient of its hidden state have the same
//! bits in any batch, and neither the workspace nor the device shows in any result.
//!
//! Only the kernels read targets: rows that do not count are found on the device, and nothing waits for it.

mod backward;
mod entropy;
mod launch;
mod pairs;
mod params;
mod variants;

pub use backward::{Gradients, ScoreRead, score_gradient, score_gradient_workspace};
pub use entropy::{
    CrossEntropy, EntropyOut, EntropyRead, linear_cross_entropy, linear_cross_entropy_gradient,
    linear_cross_entropy_gradient_workspace, linear_cross_entropy_workspace,
};
pub use pairs::{
    DivergenceOut, DivergenceRead, Sides, divergence, divergence_gradient, divergence_gradient_workspace,
    divergence_workspace,
};
pub use variants::variants;
