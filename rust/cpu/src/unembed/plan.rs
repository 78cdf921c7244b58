//! How each row of a call is drawn.

use super::changes::Changes;
use super::pass::Chunk;
use super::sums::{Wanted, extend};
use crate::arch::unembed::Kernels;
use farspan_core::merge::{Best, Mass, Ranked};
use farspan_core::noise::{NoiseKey, noise};
use farspan_core::sampler::{Cuts, Settings, xtc_applies};
use farspan_core::unembed::Draws;

/// Largest logits that a row without cuts keeps, so that the rank of its draw is usually known.
const RANKED: usize = 128;
/// How many more than the k of top-k: ties with the k-th, which some orders keep.
const TIES: usize = 64;
/// Largest logits that decide most cuts of another kind.
const HEAD: usize = 1024;
/// A top-k beyond this is treated as a cut of another kind.
const LARGE_K: usize = 4096;

/// One row's draw.
pub(super) struct Plan<'a> {
    /// `None`: greedy.
    pub warm: Option<Warm>,
    /// `None`: nothing is cut.
    pub cuts: Option<Cuts>,
    /// What happens to single logits.
    pub changes: Option<Changes<'a>>,
    /// How many of the largest logits the pass keeps.
    pub listed: usize,
}

/// A draw with noise.
#[derive(Clone, Copy)]
pub(super) struct Warm {
    key: NoiseKey,
    pub temperature: f32,
    /// Finite even where the temperature is subnormal: 0 times it is 0.
    pub inverse: f32,
}

impl Warm {
    /// The noise of the `sample`-th draw: streams follow each other.
    pub(super) fn key(&self, sample: usize) -> NoiseKey {
        NoiseKey { stream: self.key.stream.wrapping_add(sample as u32), ..self.key }
    }

    /// Whether XTC applies to the `sample`-th draw.
    pub(super) fn coin(&self, sample: usize, cuts: &Cuts) -> bool {
        let key = self.key(sample);
        xtc_applies(key.seed, key.stream, key.position, cuts.xtc_probability)
    }

    /// The token of the largest perturbed logit among a few.
    pub(super) fn best_of(&self, sample: usize, entries: &[Ranked]) -> Best {
        let key = self.key(sample);
        let candidates = entries.iter().map(|entry| Best {
            score: entry.logit().mul_add(self.inverse, noise(&key, entry.token())),
            logit: entry.logit(),
            token: Some(entry.token()),
        });
        candidates.fold(Best::NOTHING, Best::merge)
    }
}

impl<'a> Plan<'a> {
    pub(super) fn new(draws: Option<&Draws>, settings: Option<&Settings<'a>>, row: usize, valid_vocab: usize) -> Self {
        let warm = draws.filter(|draws| draws.temperature[row] > 0.0).map(|draws| Warm {
            key: NoiseKey { seed: draws.seed[row], stream: draws.stream[row], position: draws.position[row] },
            temperature: draws.temperature[row],
            inverse: draws.temperature[row].recip().min(f32::MAX),
        });
        let cuts = settings.filter(|_| warm.is_some()).map(|settings| {
            let cuts = settings.cuts(row);
            Cuts { top_k: if cuts.top_k < valid_vocab { cuts.top_k } else { 0 }, ..cuts }
        });
        let cuts = cuts.filter(|cuts| cuts.any(cuts.xtc_probability > 0.0));
        let needed = match (&warm, &cuts) {
            (None, _) => 1,
            (Some(_), None) => RANKED,
            (Some(_), Some(cuts)) if (1..LARGE_K).contains(&cuts.top_k) => (cuts.top_k + TIES).max(RANKED),
            (Some(_), Some(_)) => HEAD,
        };
        Plan {
            warm,
            cuts,
            changes: settings.map(|settings| Changes::of(settings, row)),
            listed: needed.max(settings.map_or(0, |settings| settings.top)),
        }
    }

    /// Adds a chunk to the row's softmax sums. At temperature 1 those at the temperature are the plain ones.
    pub(super) fn extend(&self, kernels: &Kernels, chunk: &Chunk, mass: &mut Mass) {
        let inverse = self.inverse_temperature();
        extend(kernels, chunk, if inverse == 1.0 { Wanted::Moment } else { Wanted::Tempered(inverse) }, mass);
    }

    /// What `Mass::tempered` is meant for.
    pub(super) fn inverse_temperature(&self) -> f32 {
        self.warm.map_or(1.0, |warm| warm.inverse)
    }
}
