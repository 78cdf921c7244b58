//! How each row of a call is drawn.

use crate::error::Result;
use crate::merge::{Best, Ranked};
use crate::noise::{NoiseKey, noise};
use crate::sampler::{Cuts, Settings, xtc_applies};
use crate::unembed::{HostDraws, Tokens};

/// Largest logits that a row without cuts keeps, so that the rank of its draw is usually known.
const RANKED: usize = 128;
/// How many more than the k of top-k: ties with the k-th, which some orders keep.
const TIES: usize = 64;
/// Largest logits that decide most cuts of another kind.
const HEAD: usize = 1024;
/// A top-k beyond this is treated as a cut of another kind.
const LARGE_K: usize = 4096;

/// One row's draw.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// `None`: greedy.
    pub warm: Option<Warm>,
    /// `None`: nothing is cut.
    pub cuts: Option<Cuts>,
    /// How many of the largest logits a reading keeps.
    pub listed: usize,
}

/// A draw with noise.
#[derive(Clone, Copy, Debug)]
pub struct Warm {
    key: NoiseKey,
    /// Above 0.
    pub temperature: f32,
    /// Finite even where the temperature is subnormal: 0 times it is 0.
    pub inverse: f32,
}

impl Warm {
    /// The noise of the `sample`-th draw: streams follow each other.
    pub fn key(&self, sample: usize) -> NoiseKey {
        NoiseKey { stream: self.key.stream.wrapping_add(sample as u32), ..self.key }
    }

    /// Whether XTC applies to the `sample`-th draw.
    pub fn coin(&self, sample: usize, cuts: &Cuts) -> bool {
        let key = self.key(sample);
        xtc_applies(key.seed, key.stream, key.position, cuts.xtc_probability)
    }

    /// The token of the largest perturbed logit among a few.
    pub fn best_of(&self, sample: usize, entries: &[Ranked]) -> Best {
        let key = self.key(sample);
        let candidates = entries
            .iter()
            .map(|entry| Best::perturbed(entry.logit(), self.inverse, noise(&key, entry.token()), entry.token()));
        candidates.fold(Best::NOTHING, Best::merge)
    }
}

/// The plan of each of `rows`, of draws and settings that fit. Without draws every row is greedy.
pub fn plans(
    tokens: &Tokens,
    rows: usize,
    draws: Option<&HostDraws>,
    settings: Option<&Settings>,
) -> Result<Vec<Plan>> {
    if let Some(draws) = draws {
        draws.check(rows)?;
    }
    if let Some(settings) = settings {
        settings.check(rows, tokens.vocab, tokens.valid_vocab)?;
    }
    Ok((0..rows).map(|row| Plan::new(draws, settings, row, tokens.valid_vocab)).collect())
}

impl Plan {
    fn new(draws: Option<&HostDraws>, settings: Option<&Settings>, row: usize, valid_vocab: usize) -> Self {
        let warm: Option<Warm> = draws.filter(|draws| draws.temperature[row] > 0.0).map(|draws| Warm {
            key: NoiseKey { seed: draws.seed[row], stream: draws.stream[row], position: draws.position[row] },
            temperature: draws.temperature[row],
            inverse: draws.temperature[row].recip().min(f32::MAX),
        });
        let cuts = settings.filter(|_| warm.is_some()).map(|settings| {
            let cuts = settings.cuts(row);
            Cuts { top_k: if cuts.top_k < valid_vocab { cuts.top_k } else { 0 }, ..cuts }
        });
        let samples = settings.map_or(1, |settings| settings.samples);
        let coin = |cuts: &Cuts| warm.is_some_and(|warm| (0..samples).any(|sample| warm.coin(sample, cuts)));
        let cuts = cuts.filter(|cuts| cuts.any(coin(cuts)));
        let needed = match (&warm, &cuts) {
            (None, _) => 1,
            (Some(_), None) => RANKED,
            (Some(_), Some(cuts)) if (1..LARGE_K).contains(&cuts.top_k) => (cuts.top_k + TIES).max(RANKED),
            (Some(_), Some(_)) => HEAD,
        };
        Plan { warm, cuts, listed: needed.max(settings.map_or(0, |settings| settings.top)) }
    }

    /// The draw with noise from which nothing is cut: its tokens are found while the logits are read.
    pub fn free(&self) -> Option<&Warm> {
        self.warm.as_ref().filter(|_| self.cuts.is_none())
    }

    /// Whether the spread of the logits has to be found.
    pub fn spreads(&self) -> bool {
        self.cuts.is_some_and(|cuts| cuts.top_n_sigma > 0.0)
    }

    /// What `Mass::tempered` is meant for.
    pub fn inverse_temperature(&self) -> f32 {
        self.warm.map_or(1.0, |warm| warm.inverse)
    }
}
