//! The arrays of an unembedding, and the rules that turn a product into a logit.

use crate::array::{Array, FloatArray};
use crate::error::{Error, Result};
use std::ops::Range;

/// `hidden [rows, dim]` against `weight [tokens, dim]`, matrices `M` of one element type.
#[derive(Clone, Copy, Debug)]
pub struct Problem<M, B> {
    /// The hidden states.
    pub hidden: M,
    /// The unembedding, or a part of it.
    pub weight: M,
    /// From products to logits.
    pub rules: Rules<B>,
    /// Which part of the vocabulary the weight is; `None`: all of it.
    pub shard: Option<Shard>,
}

/// How the dot product of a hidden state with a weight row becomes a logit:
/// `softcap * tanh(scale * dot / softcap) + bias[token]`, for tokens below `valid_vocab`.
#[derive(Clone, Copy, Debug)]
pub struct Rules<B> {
    /// Factor of the dot product. Finite.
    pub scale: f32,
    /// Bound that the scaled product approaches smoothly. Finite, above 0.
    pub softcap: Option<f32>,
    /// float32, one for each row of the weight, added last; -inf bans a token whatever its product.
    pub bias: Option<B>,
    /// Number of tokens that exist; the whole vocabulary when `None`.
    pub valid_vocab: Option<usize>,
}

impl<B> Default for Rules<B> {
    fn default() -> Self {
        Rules { scale: 1.0, softcap: None, bias: None, valid_vocab: None }
    }
}

/// The largest vocabulary: token ids are the first Philox counter word, and a signed 32-bit integer in the kernels.
pub const MAX_VOCAB: usize = 1 << 31;

/// Where a vocabulary may be cut: softmax sums are folded by stretches of so many tokens, and a cut inside one would
/// change their bits.
pub const SHARD_UNIT: usize = 2048;

/// Which part of a vocabulary a weight holds: the tokens from `first` on, of `vocab` in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The id of the weight's first row.
    pub first: usize,
    /// How many ids the whole vocabulary has.
    pub vocab: usize,
}

impl Shard {
    /// That this many rows are a part of the vocabulary, cut where it may be cut.
    fn check(&self, rows: usize) -> Result<()> {
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

/// The tokens of a checked problem. Ids are those of the whole vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The id of the weight's first row.
    pub first: usize,
    /// How many of the weight's tokens are valid.
    pub count: usize,
    /// How many ids the whole vocabulary has.
    pub vocab: usize,
    /// How many of them are valid: those of padding are not.
    pub valid_vocab: usize,
}

impl Tokens {
    /// The ids of the weight's valid tokens. Of padding alone there are none, behind the last valid one.
    pub fn range(&self) -> Range<usize> {
        let start = self.first.min(self.valid_vocab);
        start..start + self.count
    }
}

impl<M: FloatArray<2>, B: Array<1>> Problem<M, B> {
    /// That shapes, element types and rules fit each other.
    pub fn check(&self) -> Result<Tokens> {
        let (hidden, weight) = (&self.hidden, &self.weight);
        if hidden.dtype() != weight.dtype() {
            let (expected, given) = (format!("{}, as hidden", hidden.dtype().name()), weight.dtype().name().into());
            return Err(Error::Dtype { argument: "weight", expected, given });
        }
        let ([_, dim], [held, weight_dim]) = (hidden.shape(), weight.shape());
        if dim != weight_dim {
            let expected = format!("shape [vocab, {dim}], the dim of hidden");
            return Err(Error::argument("weight", expected, format!("{:?}", weight.shape())));
        }
        if held > MAX_VOCAB {
            return Err(Error::argument("weight", format!("at most {MAX_VOCAB} tokens"), held));
        }
        self.rules.check(held)?;
        let shard = self.shard.unwrap_or(Shard { first: 0, vocab: held });
        shard.check(held)?;
        let Shard { first, vocab } = shard;
        let valid_vocab = self.rules.valid_vocab.unwrap_or(vocab);
        if valid_vocab > vocab {
            let expected = format!("0 to {vocab}, the size of the vocabulary");
            return Err(Error::argument("valid_vocab", expected, valid_vocab));
        }
        Ok(Tokens { first, count: valid_vocab.saturating_sub(first).min(held), vocab, valid_vocab })
    }
}

impl<B: Array<1>> Rules<B> {
    fn check(&self, tokens: usize) -> Result<()> {
        if !self.scale.is_finite() {
            return Err(Error::argument("scale", "a finite number", self.scale));
        }
        if let Some(softcap) = self.softcap
            && !(softcap.is_finite() && softcap > 0.0)
        {
            return Err(Error::argument("softcap", "a finite number above 0", softcap));
        }
        if let Some(bias) = &self.bias
            && bias.shape() != [tokens]
        {
            let expected = format!("shape [{tokens}], one per token");
            return Err(Error::argument("bias", expected, format!("{:?}", bias.shape())));
        }
        Ok(())
    }
}
