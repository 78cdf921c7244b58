//! What gives the statistics of attention's weights, and the suite of those that do.

pub mod judge;
pub mod suite;

use crate::attention::{Case, cut};
pub use crate::oracle::statistics::Statistics;
use farspan_core::attention::Shape;

/// What runs the statistics.
pub trait Backend {
    /// Keys that it weighs under one maximum.
    const CHUNK: usize;

    /// Random problems that a test of it takes.
    fn cases(&self) -> u32;

    /// Runs a problem. Calls of another `variation` are made under other circumstances, which must not show in any
    /// result.
    fn run(&self, case: &Case, variation: u64) -> Statistics<f32>;

    /// Panics when a result is further from the oracle's than this backend's arithmetic explains.
    fn judge(&self, case: &Case, found: &Statistics<f32>);
}

impl Statistics<f32> {
    /// What one sequence of a case got, laid out as [`Case::only`] lays it out.
    pub fn sequence(&self, case: &Case, index: usize) -> Statistics<f32> {
        let Shape { query_heads, query_time, .. } = case.oracle.shape;
        let s = case.oracle.sequences[index];
        self.map(|x| cut(x, query_heads, query_time, 1, s.batch, s.query_start, s.queries))
    }

    /// What one query got; `self` is of one sequence.
    pub fn query(&self, case: &Case, query: usize) -> Statistics<f32> {
        let heads = case.oracle.shape.query_heads;
        self.map(|x| cut(x, heads, x.len() / heads, 1, 0, query, 1))
    }
}

pub fn assert_bits(expected: &Statistics<f32>, given: &Statistics<f32>, what: &str) {
    for ((name, a), (_, b)) in expected.named().into_iter().zip(given.named()) {
        assert_eq!(a.len(), b.len(), "{what}: {name}");
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(), "{what}: {name} {i}: {x:?} and {y:?}");
        }
    }
}
