//! The epilogue of `top`: the largest logits in order.

use super::TopOut;
use super::pass::{Chunk, Epilogue};
use super::sums::{Wanted, extend};
use crate::arch::unembed::Kernels;
use crate::product::CHUNK;
use farspan_core::merge::{Mass, Ranked, TopList};

pub(super) struct List<'a> {
    pub k: usize,
    pub out: TopOut<'a>,
}

impl Epilogue for List<'_> {
    type Found = TopList;

    fn nothing(&self, _row: usize) -> TopList {
        TopList::new(self.k, f32::NEG_INFINITY)
    }

    fn begin(&self, so_far: &TopList) -> TopList {
        TopList::new(self.k, so_far.threshold())
    }

    fn read(&self, kernels: &Kernels, _row: usize, chunk: &Chunk, mass: &mut Mass, list: &mut TopList) {
        extend(kernels, chunk, Wanted::Plain, mass);
        offer(kernels, chunk, list);
    }

    fn merge(&self, so_far: &mut TopList, segment: TopList) {
        so_far.merge(&segment);
    }

    fn finish(&mut self, row: usize, masses: &[Mass], found: TopList) {
        let mass = Mass::fold(masses, 1.0);
        let places = row * self.k..(row + 1) * self.k;
        let (tokens, logits) = (&mut self.out.token[places.clone()], &mut self.out.logit[places]);
        self.out.lse[row] = mass.lse();
        if mass.max.is_nan() {
            tokens.fill(-1);
            logits.fill(f32::NAN);
            return;
        }
        for ((token, logit), entry) in tokens.iter_mut().zip(logits).zip(found.into_sorted()) {
            (*token, *logit) = (entry.token().into(), entry.logit());
        }
    }
}

/// Offers a chunk's logits to a list of the largest.
pub(super) fn offer(kernels: &Kernels, chunk: &Chunk, list: &mut TopList) {
    if chunk.max < list.threshold() {
        return;
    }
    let mut places = [0; CHUNK];
    let count = kernels.places_at_least(chunk.logits, list.threshold(), &mut places);
    for &place in places[..count].iter().take_while(|place| (**place as usize) < chunk.tokens.len()) {
        list.offer(Ranked::new(chunk.logits[place as usize], chunk.tokens.start as u32 + place));
    }
}
