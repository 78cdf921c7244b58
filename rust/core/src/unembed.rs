//! What a valid unembedding is: the problem, and the settings of a draw.

mod problem;

use crate::array::Array;
use crate::error::{Error, Result};
pub use problem::{MAX_VOCAB, Problem, Rules, SHARD_UNIT, Shard, Tokens};

/// `Sample::flag` of a row that has a NaN among its logits.
pub const FLAG_NAN: i32 = 1;
/// `Sample::flag` of a row whose logits are all -inf.
pub const FLAG_EMPTY: i32 = 2;

/// Settings of a draw, `[rows]` each: 64-bit numbers `L`, 32-bit numbers `I` and float32 numbers `F` as a backend holds
/// them.
#[derive(Clone, Copy, Debug)]
pub struct Draws<L, I, F> {
    /// The key of the noise.
    pub seed: L,
    /// The index of the drawn token in its sequence.
    pub position: I,
    /// Which of several sequences of one seed.
    pub stream: I,
    /// Finite, at least 0; 0 is greedy.
    pub temperature: F,
}

/// Settings of a draw in the host's memory.
pub type HostDraws<'a> = Draws<&'a [u64], &'a [u32], &'a [f32]>;

/// That a per-row argument has one entry per row.
pub fn check_rows(argument: &'static str, rows: usize, given: usize) -> Result<()> {
    if rows == given {
        return Ok(());
    }
    Err(Error::argument(argument, format!("one entry for each of {rows} rows"), given))
}

impl<L: Array<1>, I: Array<1>, F: Array<1>> Draws<L, I, F> {
    /// That there is one setting of each kind per row.
    pub fn check_rows(&self, rows: usize) -> Result<()> {
        check_rows("seed", rows, self.seed.shape()[0])?;
        check_rows("position", rows, self.position.shape()[0])?;
        check_rows("stream", rows, self.stream.shape()[0])?;
        check_rows("temperature", rows, self.temperature.shape()[0])
    }
}

impl HostDraws<'_> {
    /// One setting of each kind per row, temperatures finite and not negative.
    pub fn check(&self, rows: usize) -> Result<()> {
        self.check_rows(rows)?;
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
