//! The epilogue of `greedy` and `sample`: one pass finds the draws of rows that nothing is cut from, and the largest
//! logits of all rows, which decide nearly every cut.

use super::list::{fill, offer};
use super::pass::{Chunk, Epilogue};
use super::plan::Plan;
use super::result::{Drawn, Results};
use crate::arch::unembed::Kernels;
use farspan_core::merge::{Best, Mass, Ranked, Spread, TopList};
use farspan_core::sampler::{Summary, Totals};
use std::ops::Range;

pub(super) struct Draw<'p, 'a, 'o> {
    pub plans: &'p [Plan<'a>],
    pub results: Results<'o>,
    /// Rows whose cuts the largest logits did not decide.
    pub undecided: Vec<usize>,
}

/// What the pass keeps of a row.
pub(super) struct Found {
    /// One per sample, of a row that nothing is cut from.
    best: Vec<Best>,
    list: TopList,
    /// How many logits are above -inf.
    size: usize,
    /// Spreads of chunks by first token: folded in that order, whichever thread came first.
    spreads: Vec<(usize, Spread)>,
    row: usize,
}

impl Draw<'_, '_, '_> {
    fn free_samples(&self, row: usize) -> usize {
        let plan = &self.plans[row];
        if plan.warm.is_some() && plan.cuts.is_none() { self.results.samples } else { 0 }
    }
}

impl Epilogue for Draw<'_, '_, '_> {
    type Found = Found;

    fn nothing(&self, row: usize) -> Found {
        Found {
            best: vec![Best::NOTHING; self.free_samples(row)],
            list: TopList::new(self.plans[row].listed, f32::NEG_INFINITY),
            size: 0,
            spreads: Vec::new(),
            row,
        }
    }

    fn begin(&self, so_far: &Found) -> Found {
        Found {
            best: so_far.best.clone(),
            list: TopList::new(self.plans[so_far.row].listed, so_far.list.threshold()),
            ..self.nothing(so_far.row)
        }
    }

    fn change(&self, kernels: &Kernels, row: usize, tokens: &Range<usize>, logits: &mut [f32], max: f32) -> f32 {
        match &self.plans[row].changes {
            Some(changes) => changes.apply(kernels, tokens, logits, max),
            None => max,
        }
    }

    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, mass: &mut Mass, found: &mut Found) {
        let plan = &self.plans[row];
        plan.extend(kernels, chunk, mass);
        offer(kernels, chunk, &mut found.list);
        let count = kernels.count_above(chunk.logits, f32::NEG_INFINITY, 0);
        found.size += count;
        if plan.cuts.is_some_and(|cuts| cuts.top_n_sigma > 0.0) {
            found.spreads.push((chunk.tokens.start, spread(kernels, chunk.logits, count)));
        }
        if let Some(warm) = &plan.warm {
            for (sample, best) in found.best.iter_mut().enumerate() {
                let first = chunk.tokens.start as u32;
                kernels.best_perturbed(chunk.logits, first, &warm.key(sample), warm.inverse, best);
            }
        }
    }

    fn merge(&self, so_far: &mut Found, segment: Found) {
        so_far.best.iter_mut().zip(segment.best).for_each(|(best, other)| *best = best.merge(other));
        so_far.list.merge(&segment.list);
        so_far.size += segment.size;
        so_far.spreads.extend(segment.spreads);
    }

    fn inverse_temperature(&self, row: usize) -> f32 {
        self.plans[row].inverse_temperature()
    }

    fn finish(&mut self, row: usize, mass: Mass, mut found: Found) {
        let plan = &self.plans[row];
        let list = found.list.into_sorted();
        let flagged = self.results.row(row, &mass, found.size);
        let top = self.results.top;
        if top > 0 {
            let (tokens, logprobs) = self.results.top_lists(row);
            fill(&list, mass.max.is_nan(), tokens, logprobs, |logit| mass.logprob(logit));
        }
        if flagged {
            return;
        }
        let Some(warm) = &plan.warm else {
            for sample in 0..self.results.samples {
                let drawn = Drawn { token: list[0].token(), logit: list[0].logit(), logprob: 0.0, rank: Some(0) };
                self.results.drawn(row, sample, &mass, drawn);
            }
            self.results.kept(row, 1, 1.0);
            return;
        };
        let Some(cuts) = &plan.cuts else {
            self.results.kept(row, found.size, 1.0);
            for (sample, best) in found.best.into_iter().enumerate() {
                let Some(token) = best.token else { continue };
                let logprob = match warm.inverse {
                    1.0 => mass.logprob(best.logit),
                    inverse => mass.tempered_logprob(best.logit, inverse),
                };
                let rank = list.binary_search_by(|entry| Ranked::new(best.logit, token).cmp(entry)).ok();
                self.results.drawn(row, sample, &mass, Drawn { token, logit: best.logit, logprob, rank });
            }
            return;
        };
        found.spreads.sort_by_key(|(first, _)| *first);
        let spread = found.spreads.into_iter().fold(Spread::default(), |sum, (_, spread)| sum.merge(spread));
        let plain = Totals { mass: f64::from(mass.sum), energy: f64::from(mass.moment) };
        let summary = Summary {
            head: &list[..list.partition_point(|entry| entry.logit() > f32::NEG_INFINITY)],
            size: found.size,
            plain,
            warm: match warm.inverse {
                1.0 => plain,
                _ => Totals { mass: f64::from(mass.tempered), energy: f64::from(mass.tempered_moment) },
            },
            deviation: spread.deviation(),
        };
        if self.results.cut(row, warm, cuts, &summary, &mass).is_err() {
            self.undecided.push(row);
        }
    }
}

/// Number, mean and squared deviations of a chunk's logits above -inf, in two sweeps of it.
fn spread(kernels: &Kernels, logits: &[f32], count: usize) -> Spread {
    let first = logits.iter().copied().find(|l| *l > f32::NEG_INFINITY).unwrap_or(0.0);
    let mean = first + kernels.deviations(logits, first) / count.max(1) as f32;
    Spread { count: count as u32, mean: mean.into(), squares: kernels.squared_deviations(logits, mean).into() }
}
