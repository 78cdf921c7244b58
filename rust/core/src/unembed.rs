//! What a valid unembedding is: the rules that turn a product into a logit, and the settings of a draw.

use crate::error::{Error, Result};

/// `Sample::flag` of a row that has a NaN among its logits.
pub const FLAG_NAN: i32 = 1;
/// `Sample::flag` of a row whose logits are all -inf.
pub const FLAG_EMPTY: i32 = 2;

/// How the dot product of a hidden state with a weight row becomes a logit:
/// `softcap * tanh(scale * dot / softcap) + bias[token]`, for tokens below `valid_vocab`.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// Factor of the dot product. Finite.
    pub scale: f32,
    /// Bound that the scaled product approaches smoothly. Finite, above 0.
    pub softcap: Option<f32>,
    /// `[vocab]`, added last; -inf bans a token whatever its product.
    pub bias: Option<&'a [f32]>,
    /// Number of tokens that exist; the whole vocabulary when `None`.
    pub valid_vocab: Option<usize>,
}

impl Default for Rules<'_> {
    fn default() -> Self {
        Rules { scale: 1.0, softcap: None, bias: None, valid_vocab: None }
    }
}

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

/// The largest vocabulary: token ids are the first Philox counter word, and a signed 32-bit integer in the kernels.
pub const MAX_VOCAB: usize = 1 << 31;

/// Which part of a vocabulary a weight holds: the tokens from `first` on, of `vocab` in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The id of the weight's first row.
    pub first: usize,
    /// How many ids the whole vocabulary has.
    pub vocab: usize,
}

/// Where a vocabulary may be cut: softmax sums are folded by stretches of so many tokens, and a cut inside one would
/// change their bits.
pub const SHARD_UNIT: usize = 2048;

impl Shard {
    /// That this many rows are a part of the vocabulary, cut where it may be cut.
    pub fn check(&self, rows: usize) -> Result<()> {
        if self.vocab > MAX_VOCAB {
            return Err(Error::argument("shard", format!("a vocabulary of at most {MAX_VOCAB}"), self.vocab));
        }
        let end = self.first.saturating_add(rows);
        let whole = |token: usize| token.is_multiple_of(SHARD_UNIT) || token == self.vocab;
        if end <= self.vocab && whole(self.first) && whole(end) {
            return Ok(());
        }
        let expected = format!("tokens that begin and end at multiples of {SHARD_UNIT}, or at the end, {}", self.vocab);
        Err(Error::argument("shard", expected, format!("{} to {end}", self.first)))
    }
}

/// The shapes of `hidden [rows, dim]` and `weight [tokens, dim]`, which holds a part of a vocabulary, and the rules
/// over them: the number of tokens that exist in all.
pub fn check_rules(hidden: [usize; 2], weight: [usize; 2], rules: &Rules, shard: Shard) -> Result<usize> {
    if hidden[1] != weight[1] {
        return Err(Error::argument(
            "weight",
            format!("shape [vocab, {}], the dim of hidden", hidden[1]),
            format!("{weight:?}"),
        ));
    }
    if weight[0] > MAX_VOCAB {
        return Err(Error::argument("weight", format!("at most {MAX_VOCAB} tokens"), weight[0]));
    }
    if !rules.scale.is_finite() {
        return Err(Error::argument("scale", "a finite number", rules.scale));
    }
    if let Some(softcap) = rules.softcap
        && !(softcap.is_finite() && softcap > 0.0)
    {
        return Err(Error::argument("softcap", "a finite number above 0", softcap));
    }
    if let Some(bias) = rules.bias
        && bias.len() != weight[0]
    {
        return Err(Error::argument(
            "bias",
            format!("shape [{}], one per token", weight[0]),
            format!("[{}]", bias.len()),
        ));
    }
    shard.check(weight[0])?;
    match rules.valid_vocab {
        None => Ok(shard.vocab),
        Some(valid) if valid <= shard.vocab => Ok(valid),
        Some(valid) => {
            Err(Error::argument("valid_vocab", format!("0 to {}, the size of the vocabulary", shard.vocab), valid))
        }
    }
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
