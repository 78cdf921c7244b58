//! Attention on the CPU.

use super::Cpu;
use crate::attention::{Backend, Case, Pages, Result32, judge};
use crate::numbers::{narrow, widen};
use farspan_core::attention::{KEY_CHUNK, Shape};
use farspan_cpu::attention::{Attention, DistanceBias, Far, Rotary, attention};
use farspan_cpu::{View, ViewMut, map};
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

fn array<const N: usize, T>(sizes: [usize; N], data: &[T]) -> View<'_, T, N>
where
    Dim<[usize; N]>: Dimension,
    [usize; N]: ndarray::IntoDimension<Dim = Dim<[usize; N]>>,
{
    View::new("test", &ArrayView::from_shape(sizes, data).unwrap()).unwrap()
}

/// The answer of the instruction set and the threads that are set.
pub fn run(case: &Case) -> Result32 {
    let o = &case.oracle;
    let Shape { batch, query_heads, key_heads, query_time, key_batch, key_time, head_dim, value_dim } = o.shape;
    let pages = case.page_size.map(|size| Pages::new(o, size));
    let (keys, values) = pages.as_ref().map_or((&o.key, &o.value), |pages| (&pages.key, &pages.value));
    let data = [&o.query, keys, values];
    let [first, time] = pages.as_ref().map_or([key_batch, key_time], |pages| [pages.count, pages.size]);
    let stored = data.map(|x| narrow(x, case.dtype));
    let input = |i: usize, sizes: [usize; 4]| map!(x in &stored[i] => array(sizes, x));
    let table = o.distance_bias.as_ref().map(|(rows, minimum)| (rows.concat(), rows[0].len(), *minimum));
    let inv_freq = o.rotary.as_ref().map(|rotary| (rotary.inv_freq.concat(), rotary.inv_freq[0].len()));
    let problem = Attention {
        query: input(0, [batch, query_heads, query_time, head_dim]),
        key: input(1, [first, key_heads, time, head_dim]),
        value: input(2, [first, key_heads, time, value_dim]),
        block_table: pages.as_ref().map(|pages| array([key_batch, key_time / pages.size], &pages.table)),
        sequences: &o.sequences,
        rules: o.rules,
        query_scale: o.query_scale.as_ref().map(|x| array([batch, query_heads, query_time], x)),
        key_bias: o.key_bias.as_ref().map(|x| array([key_batch, query_heads, key_time], x)),
        distance_bias: table.as_ref().map(|(table, length, minimum)| DistanceBias {
            table: array([query_heads, *length], table),
            minimum: *minimum,
        }),
        sink: o.sink.as_ref().map(|x| array([query_heads], x)),
        query_positions: o.query_positions.as_ref().map(|x| array([batch, query_time], x)),
        key_positions: o.key_positions.as_ref().map(|x| array([key_batch, key_time], x)),
        rotary: o.rotary.as_ref().zip(inv_freq.as_ref()).map(|(rotary, (inv_freq, half))| Rotary {
            inv_freq: array([o.sequences.len(), *half], inv_freq),
            magnitude: rotary.magnitude,
            interleaved: rotary.interleaved,
            far: rotary.far.as_ref().map(|(border, queries, keys)| Far {
                border: *border,
                query_positions: array([batch, query_time], queries),
                key_positions: array([key_batch, key_time], keys),
            }),
        }),
    };
    let sizes = [batch, query_heads, query_time, value_dim];
    let count = sizes.iter().product();
    let mut lse = vec![0.5; count / value_dim];
    let mut rows = ArrayViewMut::from_shape([batch, query_heads, query_time], &mut lse).unwrap();
    let lse_view = ViewMut::new("lse", &mut rows).unwrap();
    let mut output = narrow(&vec![0.5; count], case.dtype);
    let view = map!(x in &mut output => {
        ViewMut::new("output", &mut ArrayViewMut::from_shape(sizes, x).unwrap()).unwrap()
    });
    attention(&problem, view, Some(lse_view)).unwrap();
    Result32 { output: widen(&output), lse }
}
