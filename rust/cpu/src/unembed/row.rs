//! How one row of a draw is read: its plan, and what its settings do to single logits as its chunks pass by.

use super::chunk::{Chunk, Sums};
use crate::arch::unembed::{Kernels, Rule};
use farspan_core::draw::Plan;
use farspan_core::merge::Mass;
use farspan_core::sampler::{Change, Settings};
use std::ops::Range;

/// How one row is read: its draw, and what happens to single logits.
pub(super) struct Row<'a> {
    pub plan: Plan,
    pub changes: Option<Changes<'a>>,
}

impl Row<'_> {
    /// As [`super::pass::Epilogue::change`].
    pub(super) fn change(&self, kernels: &Kernels, tokens: &Range<usize>, logits: &mut [f32], max: f32) -> f32 {
        self.changes.as_ref().map_or(max, |changes| changes.apply(kernels, tokens, logits, max))
    }

    /// Adds a chunk to the row's softmax sums. At temperature 1 those at the temperature are the plain ones.
    pub(super) fn extend(&self, kernels: &Kernels, chunk: &Chunk, mass: &mut Mass) {
        let inverse = self.plan.inverse_temperature();
        chunk.extend(kernels, if inverse == 1.0 { Sums::Moment } else { Sums::Tempered(inverse) }, mass);
    }
}

/// The changes of one row.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    /// By token, in order.
    single: Vec<(u32, Change)>,
    /// The only tokens that may come, in order.
    allowed: Option<Vec<u32>>,
    /// One bit per token.
    mask: Option<&'a [i32]>,
}

impl<'a> Changes<'a> {
    pub(super) fn of(settings: &Settings<'a>, row: usize) -> Self {
        Changes {
            single: settings.changes(row),
            allowed: settings.allowed(row),
            mask: settings.mask.map(|mask| mask.row(row)),
        }
    }

    /// Changes the logits of `tokens`, whose largest is `max`; gives the largest there is then, NaN if any is NaN.
    pub(super) fn apply(&self, kernels: &Kernels, tokens: &Range<usize>, logits: &mut [f32], max: f32) -> f32 {
        let single = within(&self.single, tokens, |(token, _)| *token);
        if single.is_empty() && self.allowed.is_none() && self.mask.is_none() {
            return max;
        }
        for (token, change) in single {
            let logit = &mut logits[*token as usize - tokens.start];
            *logit = change.apply(*logit);
        }
        if let Some(words) = self.mask {
            debug_assert!(tokens.start.is_multiple_of(32), "chunks start at whole words");
            kernels.keep_bits(logits, words.get(tokens.start / 32..).unwrap_or_default());
        }
        if let Some(allowed) = &self.allowed {
            let place = |token: &u32| *token as usize - tokens.start;
            let kept: Vec<_> =
                within(allowed, tokens, |token| *token).iter().map(|t| (place(t), logits[place(t)])).collect();
            logits.fill(f32::NEG_INFINITY);
            kept.into_iter().for_each(|(place, logit)| logits[place] = logit);
        }
        kernels.apply_rule(logits, tokens.len(), &Rule { scale: 1.0, softcap: None, bias: None })
    }
}

/// The part of a list in order of tokens that concerns these tokens.
fn within<'l, T>(list: &'l [T], tokens: &Range<usize>, token: impl Fn(&T) -> u32) -> &'l [T] {
    let start = list.partition_point(|entry| (token(entry) as usize) < tokens.start);
    let length = list[start..].partition_point(|entry| (token(entry) as usize) < tokens.end);
    &list[start..start + length]
}
