//! One pass over the vocabulary: tiles of logits, an epilogue that reads them, and the merge of what it found.
//!
//! The vocabulary is cut into segments of a fixed length, each read chunk by chunk; softmax sums are folded in that
//! order and then segment by segment. Threads take (segment, block of rows) pairs in any order, so neither they nor the
//! batch have a part in any result.

use super::Problem;
use super::chunk::Chunk;
use crate::arch::product::Rows;
use crate::arch::unembed::{Kernels, PAIRED, Rule, kernels};
use crate::dispatch;
use crate::product::{CHUNK, MULTIPLE, block_rows, for_each_chunk};
use crate::threads;
use farspan_core::Result;
use farspan_core::merge::Mass;
use farspan_core::unembed::{Rules, SHARD_UNIT, Tokens};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Tokens of a segment: the unit that threads share out, and that softmax sums are folded by.
pub(crate) const SEGMENT: usize = SHARD_UNIT;
const _: () = assert!(SEGMENT.is_multiple_of(CHUNK) && MULTIPLE.is_multiple_of(PAIRED));
/// Rows whose summaries are held at the same time.
const SUPER_BLOCK: usize = 1024;

/// A checked problem: `hidden [rows, dim]`, `weight [vocab, dim]`, and how products become logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checked<'a> {
    pub kernels: Kernels,
    pub hidden: Rows<'a>,
    pub weight: Rows<'a>,
    pub rules: Rules<&'a [f32]>,
    pub tokens: Tokens,
}

impl<'a> Checked<'a> {
    /// A problem whose arrays fit each other and can be read.
    pub(crate) fn new(problem: &Problem<'a>) -> Result<Checked<'a>> {
        let tokens = problem.check()?;
        let (hidden, weight) = (Rows::new("hidden", &problem.hidden)?, Rows::new("weight", &problem.weight)?);
        Ok(Checked { kernels: kernels(dispatch::machine()?), hidden, weight, rules: problem.rules, tokens })
    }

    /// The rules for the weight's rows in `range`.
    pub(crate) fn rule(&self, range: Range<usize>) -> Rule<'_> {
        Rule { scale: self.rules.scale, softcap: self.rules.softcap, bias: self.rules.bias.map(|bias| &bias[range]) }
    }

    /// Hands the logits of some rows by the weight's rows in `range` to `consume(row, chunk, logits, max)`, chunks in
    /// order. Rows are counted from the first one. Behind the last token are -inf, `max` is NaN if any logit is.
    pub(crate) fn for_each_chunk(
        &self,
        rows: Range<usize>,
        range: Range<usize>,
        mut consume: impl FnMut(usize, Range<usize>, &mut [f32], f32),
    ) {
        let x = self.hidden.part(rows.start, rows.len());
        for_each_chunk(&self.kernels.products, x, self.weight, range, |row, chunk, products| {
            let max = self.kernels.apply_rule(products, chunk.len(), &self.rule(chunk.clone()));
            consume(row, chunk, products, max);
        });
    }
}

/// What an operation makes of the logits. `State` is what it keeps of a row beside the softmax sums; states are merged
/// in any order.
pub(crate) trait Epilogue: Sync {
    type State: Send;

    /// What is known of row `row` before the first chunk.
    fn nothing(&self, row: usize) -> Self::State;

    /// What a segment starts from: nothing, or what helps it to skip tokens that cannot matter any more.
    fn begin(&self, so_far: &Self::State) -> Self::State;

    /// Changes the logits of a chunk of row `row` before anything reads them, whose largest is `max`; gives the largest
    /// there is then, NaN if any is NaN.
    fn change(&self, _kernels: &Kernels, _row: usize, _tokens: &Range<usize>, _logits: &mut [f32], max: f32) -> f32 {
        max
    }

    /// Reads a chunk of row `row`: adds to the softmax sums and to the state. Never called again in a segment
    /// after a NaN.
    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, mass: &mut Mass, state: &mut Self::State);

    /// Adds the state of a segment to what was known.
    fn merge(&self, so_far: &mut Self::State, segment: Self::State);

    /// Takes the sums of a row's segments, in order, and its state.
    fn finish(&mut self, row: usize, masses: &[Mass], state: Self::State);
}

/// Runs `epilogue` over all rows and all tokens that exist.
pub(crate) fn run<E: Epilogue>(problem: &Checked, epilogue: &mut E) -> Result<()> {
    let rows = problem.hidden.count();
    for first in (0..rows).step_by(SUPER_BLOCK) {
        super_block(problem, first..rows.min(first + SUPER_BLOCK), epilogue)?;
    }
    Ok(())
}

fn super_block<E: Epilogue>(problem: &Checked, rows: Range<usize>, epilogue: &mut E) -> Result<()> {
    let block = block_rows(rows.len());
    let blocks = rows.len().div_ceil(block);
    let segments = problem.tokens.count.div_ceil(SEGMENT);
    let states: Vec<_> = rows.clone().map(|row| Mutex::new(epilogue.nothing(row))).collect();
    let mut masses = vec![Mass::NOTHING; segments * blocks * block];

    let shared = &*epilogue;
    let read = |(index, masses): (usize, &mut [Mass])| {
        let (segment, first) = (index / blocks, index % blocks * block);
        let here = first..rows.len().min(first + block);
        let weights = segment * SEGMENT..problem.tokens.count.min((segment + 1) * SEGMENT);
        let task = Task { problem, first_row: rows.start + first, weights };
        task.run(shared, &mut masses[..here.len()], &states[here]);
    };
    if segments * blocks == 1 {
        read((0, &mut masses));
    } else {
        threads::run(|| masses.par_chunks_mut(block).enumerate().for_each(read))?;
    }

    let mut of_row = Vec::with_capacity(segments);
    for (i, state) in states.into_iter().enumerate() {
        of_row.clear();
        of_row.extend(masses.chunks_exact(blocks * block).map(|segment| segment[i]));
        epilogue.finish(rows.start + i, &of_row, state.into_inner().unwrap_or_else(PoisonError::into_inner));
    }
    Ok(())
}

/// What a thread does at a time: a block of rows meets a segment of the vocabulary.
struct Task<'a> {
    problem: &'a Checked<'a>,
    first_row: usize,
    weights: Range<usize>,
}

impl Task<'_> {
    fn run<E: Epilogue>(self, epilogue: &E, masses: &mut [Mass], states: &[Mutex<E::State>]) {
        let Checked { kernels, tokens: Tokens { first, .. }, .. } = self.problem;
        let rows = self.first_row..self.first_row + states.len();
        let mut mine: Vec<E::State> = states.iter().map(|state| epilogue.begin(&lock(state))).collect();
        self.problem.for_each_chunk(rows, self.weights, |row, weights, logits, max| {
            let mass = &mut masses[row];
            let tokens = first + weights.start..first + weights.end;
            let max = epilogue.change(kernels, self.first_row + row, &tokens, logits, max);
            if max.is_nan() {
                mass.max = f32::NAN;
            }
            if !mass.max.is_nan() {
                let chunk = Chunk { tokens, logits, max };
                epilogue.read(kernels, self.first_row + row, &chunk, mass, &mut mine[row]);
            }
        });
        for (state, mine) in states.iter().zip(mine) {
            epilogue.merge(&mut lock(state), mine);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
