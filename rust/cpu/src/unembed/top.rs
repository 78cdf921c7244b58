//! The epilogue of `top`: the largest logits in order.

use super::TopOut;
use super::chunk::{Chunk, Sums};
use super::pass::Epilogue;
use crate::arch::unembed::Kernels;
use farspan_core::merge::{Mass, TopList};

pub(super) struct Top<'a> {
    pub k: usize,
    pub out: TopOut<'a>,
}

impl Epilogue for Top<'_> {
    type State = TopList;

    fn nothing(&self, _row: usize) -> TopList {
        TopList::new(self.k, f32::NEG_INFINITY)
    }

    fn begin(&self, so_far: &TopList) -> TopList {
        TopList::new(self.k, so_far.threshold())
    }

    fn read(&self, kernels: &Kernels, _row: usize, chunk: &Chunk, mass: &mut Mass, list: &mut TopList) {
        chunk.extend(kernels, Sums::Plain, mass);
        chunk.offer(kernels, list);
    }

    fn merge(&self, so_far: &mut TopList, segment: TopList) {
        so_far.merge(&segment);
    }

    fn finish(&mut self, row: usize, masses: &[Mass], list: TopList) {
        let mass = Mass::fold(masses, 1.0);
        let places = row * self.k..(row + 1) * self.k;
        let (tokens, logits) = (&mut self.out.token[places.clone()], &mut self.out.logit[places]);
        self.out.lse[row] = mass.lse();
        if mass.max.is_nan() {
            tokens.fill(-1);
            logits.fill(f32::NAN);
            return;
        }
        for ((token, logit), entry) in tokens.iter_mut().zip(logits).zip(list.into_sorted()) {
            (*token, *logit) = (entry.token().into(), entry.logit());
        }
    }
}
