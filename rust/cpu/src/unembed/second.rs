//! What one pass could not say: rows whose cuts lie behind their largest logits are read again and sorted whole; ranks
//! that lie there are counted.

use super::chunk::Chunk;
use super::pass::{self, Checked, Epilogue};
use super::row::Row;
use crate::arch::product::Rows;
use crate::arch::unembed::Kernels;
use crate::matrix::Matrix;
use crate::{map, threads};
use farspan_core::Result;
use farspan_core::draw::RowStatistics;
use farspan_core::merge::{Mass, Ranked};
use ndarray::Axis;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

static ROWS: AtomicU64 = AtomicU64::new(0);

/// How many rows this process has read a second time. For tests and measurements.
pub fn second_passes() -> u64 {
    ROWS.load(Ordering::Relaxed)
}

/// Runs `epilogue` over some rows of `hidden`.
fn again<E: Epilogue>(problem: &Checked, hidden: &Matrix, rows: &[usize], epilogue: &mut E) -> Result<()> {
    ROWS.fetch_add(rows.len() as u64, Ordering::Relaxed);
    let gathered = map!(array in hidden => array.select(Axis(0), rows));
    let view = map!(array in &gathered => array.view());
    let problem = Checked { hidden: Rows::new("hidden", &view)?, ..*problem };
    pass::run(&problem, epilogue)
}

/// Reads `rows` again and lists all of their logits.
pub(super) fn whole(problem: &Checked, hidden: &Matrix, all: &[Row], rows: &[usize]) -> Result<Vec<RowStatistics>> {
    let mut whole = Whole { all, rows, statistics: rows.iter().map(|_| RowStatistics::default()).collect() };
    again(problem, hidden, rows, &mut whole)?;
    let mut statistics = whole.statistics;
    threads::run(|| {
        statistics.par_iter_mut().for_each(|statistics| statistics.list.sort_unstable_by(|a, b| b.cmp(a)))
    })?;
    Ok(statistics)
}

/// Keeps every logit above -inf.
struct Whole<'p, 'a> {
    all: &'p [Row<'a>],
    rows: &'p [usize],
    statistics: Vec<RowStatistics>,
}

impl Epilogue for Whole<'_, '_> {
    type State = Vec<Ranked>;

    fn nothing(&self, _row: usize) -> Vec<Ranked> {
        Vec::new()
    }

    fn begin(&self, _so_far: &Vec<Ranked>) -> Vec<Ranked> {
        Vec::new()
    }

    fn change(&self, kernels: &Kernels, row: usize, tokens: &Range<usize>, logits: &mut [f32], max: f32) -> f32 {
        self.all[self.rows[row]].change(kernels, tokens, logits, max)
    }

    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, mass: &mut Mass, entries: &mut Vec<Ranked>) {
        self.all[self.rows[row]].extend(kernels, chunk, mass);
        let tokens = chunk.tokens.clone().map(|token| token as u32);
        let entered = chunk.logits.iter().zip(tokens).filter(|(logit, _)| **logit > f32::NEG_INFINITY);
        entries.extend(entered.map(|(&logit, token)| Ranked::new(logit, token)));
    }

    fn merge(&self, so_far: &mut Vec<Ranked>, segment: Vec<Ranked>) {
        so_far.extend(segment);
    }

    fn finish(&mut self, row: usize, masses: &[Mass], list: Vec<Ranked>) {
        let (masses, size) = (masses.to_vec(), list.len() as u64);
        self.statistics[row] = RowStatistics { masses, list, size, ..RowStatistics::default() };
    }
}

/// A place in the output, its row, and the token and logit to be ranked.
pub(super) type Unranked = (usize, usize, usize, f32);

/// Counts ranks that lie behind the lists of the largest.
pub(super) fn rank(
    problem: &Checked,
    hidden: &Matrix,
    all: &[Row],
    draws: &[Unranked],
    ranks: &mut [i64],
) -> Result<()> {
    let rows: Vec<usize> = draws.iter().map(|(_, row, ..)| *row).collect();
    again(problem, hidden, &rows, &mut Count { all, draws, ranks })
}

/// Counts the tokens before a given one.
struct Count<'p, 'a, 'r> {
    all: &'p [Row<'a>],
    draws: &'p [Unranked],
    ranks: &'r mut [i64],
}

impl Epilogue for Count<'_, '_, '_> {
    type State = i64;

    fn nothing(&self, _row: usize) -> i64 {
        0
    }

    fn begin(&self, _so_far: &i64) -> i64 {
        0
    }

    fn change(&self, kernels: &Kernels, row: usize, tokens: &Range<usize>, logits: &mut [f32], max: f32) -> f32 {
        self.all[self.draws[row].1].change(kernels, tokens, logits, max)
    }

    fn read(&self, kernels: &Kernels, row: usize, chunk: &Chunk, _mass: &mut Mass, before: &mut i64) {
        let (_, _, token, logit) = self.draws[row];
        *before += chunk.tokens_before(kernels, token, logit);
    }

    fn merge(&self, so_far: &mut i64, segment: i64) {
        *so_far += segment;
    }

    fn finish(&mut self, row: usize, _masses: &[Mass], before: i64) {
        self.ranks[self.draws[row].0] = before;
    }
}
