//! A chunk of a row's logits, and what the operations ask of it.

use crate::arch::unembed::Kernels;
use crate::product::CHUNK;
use farspan_core::merge::{Mass, Ranked, TopList};
use std::ops::Range;

/// A row's logits of the tokens `tokens`, by their ids; behind them -inf, up to a whole number of vectors.
pub(crate) struct Chunk<'a> {
    pub tokens: Range<usize>,
    pub logits: &'a [f32],
    /// The largest logit; neither NaN nor -inf.
    pub max: f32,
}

/// Which softmax sums an operation needs beside `sum(exp(l - max))`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sums {
    /// None.
    Plain,
    /// `Mass::moment`.
    Moment,
    /// `Mass::moment`, then `Mass::tempered` and its moment at this inverse temperature.
    Tempered(f32),
}

impl Chunk<'_> {
    /// Adds the logits to `mass`, which is not NaN.
    pub(crate) fn extend(&self, kernels: &Kernels, wanted: Sums, mass: &mut Mass) {
        let inverse = if let Sums::Tempered(inverse) = wanted { inverse } else { 1.0 };
        if self.max == f32::INFINITY {
            // exp(inf - inf) is not a number: infinite logits share the mass evenly.
            let infinities = kernels.count_above(self.logits, f32::MAX, 0);
            *mass = mass.merge(Mass::of_infinities(infinities), inverse);
            return;
        }
        if mass.max == f32::INFINITY || self.max == f32::NEG_INFINITY {
            return;
        }
        let max = mass.max.max(self.max);
        let mut sums = mass.relative_to(max, inverse);
        sums.max = max;
        match wanted {
            Sums::Plain => sums.sum += kernels.sum(self.logits, max),
            Sums::Moment => {
                let [sum, moment] = kernels.moment_sums(self.logits, max);
                sums.sum += sum;
                sums.moment += moment;
            }
            Sums::Tempered(inverse) => {
                let [sum, moment, tempered, tempered_moment] = kernels.tempered_sums(self.logits, max, inverse);
                sums.sum += sum;
                sums.moment += moment;
                sums.tempered += tempered;
                sums.tempered_moment += tempered_moment;
            }
        }
        *mass = sums;
    }

    /// Offers the logits to a list of the largest.
    pub(super) fn offer(&self, kernels: &Kernels, list: &mut TopList) {
        if self.max < list.threshold() {
            return;
        }
        let mut places = [0; CHUNK];
        let count = kernels.places_at_least(self.logits, list.threshold(), &mut places);
        for &place in places[..count].iter().take_while(|place| (**place as usize) < self.tokens.len()) {
            list.offer(Ranked::new(self.logits[place as usize], self.tokens.start as u32 + place));
        }
    }

    /// How many tokens come before a token in the order of logits: larger ones, equal ones of a lower id.
    pub(super) fn tokens_before(&self, kernels: &Kernels, token: usize, logit: f32) -> i64 {
        let lower_ids = token.saturating_sub(self.tokens.start).min(self.tokens.len());
        kernels.count_above(self.logits, logit, lower_ids) as i64
    }
}
