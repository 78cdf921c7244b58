//! The epilogue of the cross-entropy: softmax sums, the target's logit, and the weighted sum of all logits.

use super::Lses;
use crate::arch::loss;
use crate::arch::unembed::Kernels;
use crate::dispatch;
use crate::unembed::chunk::{Chunk, Sums};
use crate::unembed::pass::Epilogue;
use farspan_core::Result;
use farspan_core::loss::{CrossEntropy, Lse, Weighing};
use farspan_core::merge::Mass;

pub(super) struct Entropy<'a, 'b> {
    kernels: loss::Kernels,
    settings: &'a CrossEntropy<'a>,
    weighing: &'a Weighing<'a>,
    /// Which rows of the problem that was given are read.
    counted: &'a [usize],
    /// Of all rows of the problem that was given.
    lse: &'a mut Lses<&'b mut [f32]>,
    /// Of the rows that are read, in order.
    pub losses: Vec<f64>,
}

impl<'a, 'b> Entropy<'a, 'b> {
    pub(super) fn new(
        settings: &'a CrossEntropy<'a>,
        weighing: &'a Weighing<'a>,
        counted: &'a [usize],
        lse: &'a mut Lses<&'b mut [f32]>,
    ) -> Result<Self> {
        let (kernels, losses) = (loss::kernels(dispatch::machine()?), Vec::with_capacity(counted.len()));
        Ok(Entropy { kernels, settings, weighing, counted, lse, losses })
    }

    fn target(&self, row: usize) -> usize {
        self.settings.targets[self.counted[row]] as usize
    }
}

/// What the pass keeps of a row.
#[derive(Default)]
pub(super) struct Read {
    /// The target's logit, once it passed by.
    target: Option<f32>,
    /// Weighted sums of logits by the first token of their segment: put into that order at the end.
    sums: Vec<(usize, f64)>,
}

impl Epilogue for Entropy<'_, '_> {
    type State = Read;

    fn nothing(&self, _row: usize) -> Read {
        Read::default()
    }

    fn begin(&self, _so_far: &Read) -> Read {
        Read::default()
    }

    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, mass: &mut Mass, found: &mut Read) {
        chunk.extend(kernels, Sums::Plain, mass);
        let target = self.target(row);
        if chunk.tokens.contains(&target) {
            found.target = Some(chunk.logits[target - chunk.tokens.start]);
        }
        if self.weighing.smooths() {
            let weights = self.settings.class_weight.map(|weights| &weights[chunk.tokens.clone()]);
            let sum = f64::from(self.kernels.weighted_sum(chunk.logits, chunk.tokens.len(), weights));
            match found.sums.first_mut() {
                Some((_, so_far)) => *so_far += sum,
                None => found.sums.push((chunk.tokens.start, sum)),
            }
        }
    }

    fn merge(&self, so_far: &mut Read, segment: Read) {
        so_far.target = so_far.target.or(segment.target);
        so_far.sums.extend(segment.sums);
    }

    fn finish(&mut self, row: usize, masses: &[Mass], mut found: Read) {
        let mass = Mass::fold(masses, 1.0);
        found.sums.sort_by_key(|(first, _)| *first);
        let weighted_sum = found.sums.iter().map(|(_, sum)| sum).sum();
        self.lse.set(self.counted[row], Lse::new(mass.max, mass.sum));
        // Nothing is read after a NaN, which the mass remembers.
        let target = found.target.unwrap_or(f32::NAN);
        self.losses.push(self.weighing.loss(self.counted[row], &mass, target, weighted_sum));
    }
}
