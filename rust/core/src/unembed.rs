//! What a valid unembedding is: the problem, and the settings of a draw.

mod problem;

use crate::error::{Error, Result};
pub use problem::{MAX_VOCAB, Problem, Rules, SHARD_UNIT, Shard, Tokens};

/// `Sample::flag` of a row that has a NaN among its logits.
pub const FLAG_NAN: i32 = 1;
/// `Sample::flag` of a row whose logits are all -inf.
pub const FLAG_EMPTY: i32 = 2;

/// Settings of a draw, one per row.
#[derive(Clone, Copy, Debug)]
pub struct Draws<'a> {
    /// `[rows]`, the key of the noise.
    pub seed: &'a [u64],
    /// `[rows]`, the index of the drawn token in its sequence.
    pub position: &'a [u32],
    /// `[rows]`, which of several sequences of one seed.
    pub stream: &'a [u32],
    /// `[rows]`, finite, at least 0; 0 is greedy.
    pub temperature: &'a [f32],
}

/// That a per-row argument has one entry per row.
pub fn check_rows(argument: &'static str, rows: usize, given: usize) -> Result<()> {
    if rows == given {
        return Ok(());
    }
    Err(Error::argument(argument, format!("one entry for each of {rows} rows"), given))
}

impl Draws<'_> {
    /// One setting of each kind per row, temperatures finite and not negative.
    pub fn check(&self, rows: usize) -> Result<()> {
        check_rows("seed", rows, self.seed.len())?;
        check_rows("position", rows, self.position.len())?;
        check_rows("stream", rows, self.stream.len())?;
        check_rows("temperature", rows, self.temperature.len())?;
        match self.temperature.iter().find(|t| !(t.is_finite() && **t >= 0.0)) {
            None => Ok(()),
            Some(wrong) => Err(Error::argument("temperature", "finite numbers, at least 0", wrong)),
        }
    }
}

/// Targets `[rows]`, each the id of a token that exists.
pub fn check_targets(targets: &[i64], rows: usize, valid_vocab: usize) -> Result<()> {
    check_rows("targets", rows, targets.len())?;
    match targets.iter().find(|t| usize::try_from(**t).map_or(true, |t| t >= valid_vocab)) {
        None => Ok(()),
        Some(wrong) => Err(Error::argument("targets", format!("token ids from 0 to {valid_vocab} exclusive"), wrong)),
    }
}

/// A list length that the tokens that exist can fill.
pub fn check_k(k: usize, valid_vocab: usize) -> Result<()> {
    if k <= valid_vocab {
        return Ok(());
    }
    Err(Error::argument("k", format!("0 to {valid_vocab}, the number of tokens"), k))
}
