//! The epilogue of `greedy` and `sample`: the token of the largest logit, or of the largest perturbed one.

use super::SampleOut;
use super::pass::{Chunk, Epilogue};
use super::sums::{Wanted, extend};
use crate::arch::unembed::Kernels;
use farspan_core::merge::{Best, Mass};
use farspan_core::noise::NoiseKey;
use farspan_core::unembed::{Draws, FLAG_EMPTY, FLAG_NAN};

pub(super) struct Choose<'a> {
    /// `None`: every row is greedy.
    pub draws: Option<Draws<'a>>,
    pub out: SampleOut<'a>,
}

/// How a row is drawn.
#[derive(Clone, Copy)]
enum Rule {
    Greedy,
    Noise { key: NoiseKey, inverse_temperature: f32 },
}

impl Choose<'_> {
    fn rule(&self, row: usize) -> Rule {
        match &self.draws {
            Some(draws) if draws.temperature[row] > 0.0 => Rule::Noise {
                key: NoiseKey { seed: draws.seed[row], stream: draws.stream[row], position: draws.position[row] },
                // Finite even where the temperature is subnormal: 0 times it is 0.
                inverse_temperature: draws.temperature[row].recip().min(f32::MAX),
            },
            _ => Rule::Greedy,
        }
    }
}

impl Epilogue for Choose<'_> {
    type Found = Best;

    fn nothing(&self) -> Best {
        Best::NOTHING
    }

    fn begin(&self, so_far: &Best) -> Best {
        *so_far
    }

    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, mass: &mut Mass, best: &mut Best) {
        let first = chunk.tokens.start as u32;
        match self.rule(row) {
            Rule::Greedy => {
                extend(kernels, chunk, Wanted::Plain, mass);
                if chunk.max > f32::NEG_INFINITY && chunk.max >= best.score {
                    let token = first + kernels.position(chunk.logits, chunk.max) as u32;
                    *best = best.merge(Best { score: chunk.max, logit: chunk.max, token: Some(token) });
                }
            }
            Rule::Noise { key, inverse_temperature } => {
                // At temperature 1 the two sums are the same.
                let wanted =
                    if inverse_temperature == 1.0 { Wanted::Plain } else { Wanted::Tempered(inverse_temperature) };
                extend(kernels, chunk, wanted, mass);
                kernels.best_perturbed(chunk.logits, first, &key, inverse_temperature, best);
            }
        }
    }

    fn merge(&self, so_far: &mut Best, segment: Best) {
        *so_far = so_far.merge(segment);
    }

    fn inverse_temperature(&self, row: usize) -> f32 {
        match self.rule(row) {
            Rule::Greedy => 1.0,
            Rule::Noise { inverse_temperature, .. } => inverse_temperature,
        }
    }

    fn finish(&mut self, row: usize, mass: Mass, best: Best) {
        let (token, flag) = match best.token {
            _ if mass.max.is_nan() => (-1, FLAG_NAN),
            None => (-1, FLAG_EMPTY),
            Some(token) => (i64::from(token), 0),
        };
        let raw = mass.logprob(best.logit);
        self.out.token[row] = token;
        self.out.flag[row] = flag;
        self.out.lse[row] = mass.lse();
        self.out.raw_logprob[row] = raw;
        self.out.logprob[row] = match self.rule(row) {
            _ if flag != 0 => raw,
            Rule::Greedy => 0.0,
            Rule::Noise { inverse_temperature: 1.0, .. } => raw,
            Rule::Noise { inverse_temperature, .. } => mass.tempered_logprob(best.logit, inverse_temperature),
        };
    }
}
