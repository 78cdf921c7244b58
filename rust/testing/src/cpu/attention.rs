//! Attention on the CPU.

use super::Cpu;
use crate::attention::{Backend, Case, Pages, Result32, judge};
use crate::numbers::{narrow, widen};
use crate::oracle::attention as oracle;
use farspan_core::attention::{KEY_CHUNK, Shape};
use farspan_cpu::attention::{Attention, DistanceBias, Far, Rotary, attention};
use farspan_cpu::{Typed, View, ViewMut, map};
use ndarray::{ArrayView, ArrayViewMut, Dim, Dimension};

impl Backend for Cpu {
    const CHUNK: usize = KEY_CHUNK;

    fn cases(&self) -> u32 {
        match self.name() {
            "portable" => 24,
            _ => 96,
        }
    }

    fn run(&self, case: &Case, variation: u64) -> Result32 {
        self.alone(variation, || run(case))
    }

    fn judge(&self, case: &Case, result: &Result32) {
        judge::float32(case, result);
    }
}

pub(super) fn array<const N: usize, T>(sizes: [usize; N], data: &[T]) -> View<'_, T, N>
where
    Dim<[usize; N]>: Dimension,
    [usize; N]: ndarray::IntoDimension<Dim = Dim<[usize; N]>>,
{
    View::new("test", &ArrayView::from_shape(sizes, data).unwrap()).unwrap()
}

/// The memory of a case's problem.
pub(super) struct Stored<'c> {
    oracle: &'c oracle::Problem,
    pages: Option<Pages>,
    large: [Typed<Vec<f32>, Vec<u16>>; 3],
    /// `[query_heads, L]`
    table: Option<(Vec<f32>, usize)>,
    inv_freq: Option<Vec<f32>>,
}

impl<'c> Stored<'c> {
    pub(super) fn new(case: &'c Case) -> Self {
        let oracle = &case.oracle;
        let pages = case.page_size.map(|size| Pages::new(oracle, size));
        let (keys, values) = pages.as_ref().map_or((&oracle.key, &oracle.value), |pages| (&pages.key, &pages.value));
        let large = [&oracle.query, keys, values].map(|x| narrow(x, case.dtype));
        let table = oracle.distance_bias.as_ref().map(|(rows, _)| (rows.concat(), rows[0].len()));
        let inv_freq = oracle.rotary.as_ref().map(|rotary| rotary.inv_freq.concat());
        Stored { oracle, pages, large, table, inv_freq }
    }

    pub(super) fn problem(&self) -> Attention<'_> {
        let o = self.oracle;
        let Shape { batch, query_heads, key_heads, query_time, key_batch, key_time, head_dim, value_dim } = o.shape;
        let [first, time] = self.pages.as_ref().map_or([key_batch, key_time], |pages| [pages.count, pages.size]);
        let input = |i: usize, sizes: [usize; 4]| map!(x in &self.large[i] => array(sizes, x));
        let minimum = o.distance_bias.as_ref().map_or(0, |(_, minimum)| *minimum);
        Attention {
            query: input(0, [batch, query_heads, query_time, head_dim]),
            key: input(1, [first, key_heads, time, head_dim]),
            value: input(2, [first, key_heads, time, value_dim]),
            block_table: self.pages.as_ref().map(|pages| array([key_batch, key_time / pages.size], &pages.table)),
            sequences: &o.sequences,
            rules: o.rules,
            query_scale: o.query_scale.as_ref().map(|x| array([batch, query_heads, query_time], x)),
            key_bias: o.key_bias.as_ref().map(|x| array([key_batch, query_heads, key_time], x)),
            distance_bias: self
                .table
                .as_ref()
                .map(|(table, length)| DistanceBias { table: array([query_heads, *length], table), minimum }),
            sink: o.sink.as_ref().map(|x| array([query_heads], x)),
            query_positions: o.query_positions.as_ref().map(|x| array([batch, query_time], x)),
            key_positions: o.key_positions.as_ref().map(|x| array([key_batch, key_time], x)),
            rotary: o.rotary.as_ref().zip(self.inv_freq.as_ref()).map(|(rotary, inv_freq)| Rotary {
                inv_freq: array([o.sequences.len(), rotary.inv_freq[0].len()], inv_freq),
                magnitude: rotary.magnitude,
                interleaved: rotary.interleaved,
                far: rotary.far.as_ref().map(|(border, queries, keys)| Far {
                    border: *border,
                    query_positions: array([batch, query_time], queries),
                    key_positions: array([key_batch, key_time], keys),
                }),
            }),
        }
    }
}

/// The answer of the instruction set and the threads that are set.
pub fn run(case: &Case) -> Result32 {
    let Shape { batch, query_heads, query_time, value_dim, .. } = case.oracle.shape;
    let sizes = [batch, query_heads, query_time, value_dim];
    let count = sizes.iter().product();
    let mut lse = vec![0.5; count / value_dim];
    let mut rows = ArrayViewMut::from_shape([batch, query_heads, query_time], &mut lse).unwrap();
    let lse_view = ViewMut::new("lse", &mut rows).unwrap();
    let mut output = narrow(&vec![0.5; count], case.dtype);
    let view = map!(x in &mut output => {
        ViewMut::new("output", &mut ArrayViewMut::from_shape(sizes, x).unwrap()).unwrap()
    });
    attention(&Stored::new(case).problem(), view, Some(lse_view)).unwrap();
    Result32 { output: widen(&output), lse }
}
