//! The one loop of every draw: read, decide, and read again what the largest logits did not decide.

use super::plan::Plan;
use super::result::Results;
use crate::error::Error;
use crate::merge::{Best, Mass, Ranked, Spread};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// All that a draw has to know of a row's logits of some neighbouring tokens.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RowStatistics {
    /// Softmax sums of stretches of a fixed length, in order of tokens. Float32 sums keep their bits only when they
    /// are added in the same order again, so they are not added up here.
    pub masses: Vec<Mass>,
    /// The token of each sample, of a row from which nothing is cut.
    pub best: Vec<Best>,
    /// The largest logits in falling order, equal ones by id.
    pub list: Vec<Ranked>,
    /// How many logits are above -inf.
    pub size: u64,
    /// Spreads of chunks, in order of tokens; only where the deviation is asked for.
    pub spreads: Vec<Spread>,
}

impl RowStatistics {
    /// Adds the statistics of the tokens that follow, keeping the `listed` largest logits.
    pub fn append(&mut self, next: RowStatistics, listed: usize) {
        self.masses.extend(next.masses);
        if self.best.is_empty() {
            self.best = next.best;
        } else {
            self.best.iter_mut().zip(next.best).for_each(|(best, other)| *best = best.merge(other));
        }
        self.list.extend(next.list);
        self.list.sort_unstable_by(|a, b| b.cmp(a));
        self.list.truncate(listed);
        self.size += next.size;
        self.spreads.extend(next.spreads);
    }

    /// The softmax sums of all tokens.
    pub fn mass(&self, inverse_temperature: f32) -> Mass {
        Mass::fold(&self.masses, inverse_temperature)
    }

    /// The population standard deviation of the finite logits, where spreads were kept.
    pub fn deviation(&self) -> f64 {
        self.spreads.iter().fold(Spread::default(), |sum, spread| sum.merge(*spread)).deviation()
    }
}

/// Whoever reads the logits of a call's rows: a backend, or several of them that share out a vocabulary.
pub trait Read {
    /// What a reading can fail with.
    type Failure: From<Error>;

    /// Reads every row and gives what is to be known by its plan; with `whole`, only these rows, and every logit of
    /// theirs is listed.
    fn read(&mut self, whole: Option<&[usize]>) -> Result<Vec<RowStatistics>, Self::Failure>;

    /// Bytes of lists of every logit that a reading may hold.
    fn most_bytes(&self) -> usize;

    /// Reads every row and decides it. A reader that can decide rows while others are read, or on several threads, does
    /// so.
    fn read_and_decide(&mut self, mut rows: Rows<'_>) -> Result<(), Self::Failure> {
        for (row, statistics) in self.read(None)?.iter().enumerate() {
            rows.decide(row, statistics);
        }
        Ok(())
    }
}

/// Rows of a call that are to be decided from their statistics.
#[derive(Debug)]
pub struct Rows<'r> {
    plans: &'r [Plan],
    results: Results<'r>,
    first: usize,
    undecided: &'r Mutex<Vec<usize>>,
}

impl Rows<'_> {
    /// Writes the results of row `row` of the call, or notes that the largest of its logits do not decide its cuts.
    pub fn decide(&mut self, row: usize, statistics: &RowStatistics) {
        if self.results.row(row - self.first, &self.plans[row], statistics).is_err() {
            self.undecided.lock().unwrap_or_else(PoisonError::into_inner).push(row);
        }
    }

    /// The rows' numbers in the call.
    pub fn numbers(&self) -> Range<usize> {
        self.first..self.first + self.results.rows()
    }

    /// The rows, `count` at a time, for threads.
    pub fn parts(&mut self, count: usize) -> Vec<Rows<'_>> {
        let Rows { plans, undecided, .. } = *self;
        let parts = self.results.parts(count).into_iter();
        parts.map(|(first, results)| Rows { plans, results, first: self.first + first, undecided }).collect()
    }
}

/// Draws every row of a call, of which `plans` say how, and writes the results.
pub fn decide<R: Read>(
    reader: &mut R,
    plans: &[Plan],
    results: &mut Results,
    valid_vocab: usize,
) -> Result<(), R::Failure> {
    let undecided = Mutex::new(Vec::new());
    reader.read_and_decide(Rows { plans, results: results.borrow(), first: 0, undecided: &undecided })?;
    let mut undecided = undecided.into_inner().unwrap_or_else(PoisonError::into_inner);
    undecided.sort_unstable();
    let at_once = reader.most_bytes() / (valid_vocab * size_of::<Ranked>()).max(1);
    for rows in undecided.chunks(at_once.max(1)) {
        for (&row, statistics) in rows.iter().zip(&reader.read(Some(rows))?) {
            results.whole_row(row, &plans[row], statistics);
        }
    }
    Ok(())
}
