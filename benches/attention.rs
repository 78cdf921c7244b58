//! Fused attention: prefill, its statistics and its backward pass, and decode, each element type. `FARSPAN_CPU` chooses
//! the instruction set.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use farspan_benches::{DTYPES, Tensor};
use farspan_core::attention::{Rules, Sequence, Shape, dense_sequences};
use farspan_cpu::attention::{
    Attention, Backward, Gradients, Statistics, attention, attention_backward, attention_statistics,
};
use farspan_cpu::{View, ViewMut};
use ndarray::{Array2, Array3};
use std::time::Duration;

/// `[batch, heads, time, dim]` of the queries and of the keys and values.
struct Sizes {
    query: [usize; 4],
    key: [usize; 4],
    causal: bool,
    /// Keys of a page, where keys lie in pages.
    page_size: Option<usize>,
}

impl Sizes {
    /// Multiplications and additions of both products, a causal triangle counted as what it holds.
    fn operations(&self) -> u64 {
        let [batch, heads, queries, dim] = self.query;
        let keys = self.key[2];
        let pairs = if self.causal { queries * (2 * keys - queries + 1) / 2 } else { queries * keys };
        (4 * batch * heads * pairs * dim) as u64
    }
}

fn prefill(criterion: &mut Criterion) {
    for dim in [64, 128] {
        for (name, causal) in [("full", false), ("causal", true)] {
            let shape = [1, 8, 1024, dim];
            let sizes = Sizes { query: shape, key: shape, causal, page_size: None };
            bench(criterion, &format!("prefill/D{dim}/{name}"), &sizes);
        }
    }
}

fn decode(criterion: &mut Criterion) {
    for dim in [64, 128] {
        let sizes = Sizes { query: [1, 32, 1, dim], key: [1, 8, 8192, dim], causal: true, page_size: None };
        bench(criterion, &format!("decode/D{dim}"), &sizes);
        bench(criterion, &format!("decode in pages of 16/D{dim}"), &Sizes { page_size: Some(16), ..sizes });
    }
}

fn backward(criterion: &mut Criterion) {
    for dim in [64, 128] {
        for (name, causal) in [("full", false), ("causal", true)] {
            let shape = [1, 8, 1024, dim];
            bench_backward(criterion, &format!("backward/D{dim}/{name}"), shape, causal);
        }
    }
}

/// What attention looks at, beside the prefills above: the same walk, without values.
fn statistics(criterion: &mut Criterion) {
    for dim in [64, 128] {
        for (name, causal) in [("full", false), ("causal", true)] {
            bench_statistics(criterion, &format!("statistics/D{dim}/{name}"), [1, 8, 1024, dim], causal);
        }
    }
}

fn bench_statistics(criterion: &mut Criterion, name: &str, sizes: [usize; 4], causal: bool) {
    let mut group = criterion.benchmark_group(format!("attention/{name}"));
    // One product where the forward pass has two.
    group
        .throughput(Throughput::Elements(Sizes { query: sizes, key: sizes, causal, page_size: None }.operations() / 2));
    let shape = Shape::new(sizes, sizes, sizes).expect("a valid shape");
    let sequences = dense_sequences(&shape, None).expect("valid lengths");
    let [batch, heads, queries, dim] = sizes;
    for dtype in DTYPES {
        let [query, key] = [0, 1].map(|seed| Tensor::random(dtype, &sizes, seed));
        let problem = plain(&query, &key, &key, &sequences, Rules { causal, ..Rules::plain(dim) });
        let mut found: [Array3<f32>; 6] = std::array::from_fn(|_| Array3::zeros((batch, heads, queries)));
        group.bench_function(dtype.name(), |bencher| {
            bencher.iter(|| {
                let [lse, entropy, largest, first, sink, distance] =
                    found.each_mut().map(|x| ViewMut::new("statistics", &mut x.view_mut()).expect("three dimensions"));
                attention_statistics(&problem, Statistics { lse, entropy, largest, first, sink, distance })
                    .expect("a valid problem");
            });
        });
    }
}

/// A problem without hooks.
fn plain<'a>(
    query: &'a Tensor,
    key: &'a Tensor,
    value: &'a Tensor,
    sequences: &'a [Sequence],
    rules: Rules,
) -> Attention<'a> {
    Attention {
        query: query.input(),
        key: key.input(),
        value: value.input(),
        block_table: None,
        sequences,
        rules,
        query_scale: None,
        key_bias: None,
        distance_bias: None,
        sink: None,
        query_positions: None,
        key_positions: None,
        rotary: None,
    }
}

fn bench_backward(criterion: &mut Criterion, name: &str, sizes: [usize; 4], causal: bool) {
    let mut group = criterion.benchmark_group(format!("attention/{name}"));
    // Five products where the forward pass has two.
    group.throughput(Throughput::Elements(
        Sizes { query: sizes, key: sizes, causal, page_size: None }.operations() / 2 * 5,
    ));
    let shape = Shape::new(sizes, sizes, sizes).expect("a valid shape");
    let sequences = dense_sequences(&shape, None).expect("valid lengths");
    let [batch, heads, queries, dim] = sizes;
    for dtype in DTYPES {
        let [query, key, value, upstream] = [0, 1, 2, 3].map(|seed| Tensor::random(dtype, &sizes, seed));
        let mut output = Tensor::random(dtype, &sizes, 4);
        let mut lse = Array3::<f32>::zeros((batch, heads, queries));
        let problem = plain(&query, &key, &value, &sequences, Rules { causal, ..Rules::plain(dim) });
        let view = ViewMut::new("lse", &mut lse.view_mut()).expect("three dimensions");
        attention(&problem, output.output(), Some(view)).expect("a valid problem");
        let mut found = [5, 6, 7].map(|seed| Tensor::random(dtype, &sizes, seed));
        group.bench_function(dtype.name(), |bencher| {
            bencher.iter(|| {
                let [query, key, value] = found.each_mut().map(|gradient| Some(gradient.output()));
                let call = Backward {
                    problem,
                    output: output.input(),
                    lse: View::new("lse", &lse.view()).expect("three dimensions"),
                    output_gradient: upstream.input(),
                    lse_gradient: None,
                };
                attention_backward(&call, Gradients { query, key, value, ..Gradients::default() })
                    .expect("a valid call");
            });
        });
    }
}

fn bench(criterion: &mut Criterion, name: &str, sizes: &Sizes) {
    let mut group = criterion.benchmark_group(format!("attention/{name}"));
    group.throughput(Throughput::Elements(sizes.operations()));
    let shape = Shape::new(sizes.query, sizes.key, sizes.key).expect("a valid shape");
    let sequences = dense_sequences(&shape, None).expect("valid lengths");
    let rules = Rules { causal: sizes.causal, ..Rules::plain(sizes.query[3]) };
    let [batch, heads, keys, dim] = sizes.key;
    let pages = sizes.page_size.map(|size| [batch * keys / size, heads, size, dim]);
    let table = pages.map(|[count, ..]| scattered(batch, count / batch));
    let stored = pages.unwrap_or(sizes.key);
    for dtype in DTYPES {
        let [query, key, value] =
            [(0, sizes.query), (1, stored), (2, stored)].map(|(seed, shape)| Tensor::random(dtype, &shape, seed));
        let mut output = Tensor::random(dtype, &sizes.query, 3);
        let table = table.as_ref().map(|table| View::new("table", &table.view()).expect("two dimensions"));
        let problem = Attention { block_table: table, ..plain(&query, &key, &value, &sequences, rules) };
        group.bench_function(dtype.name(), |bencher| {
            bencher.iter(|| attention(&problem, output.output(), None).expect("a valid problem"));
        });
    }
}

/// A block table `[sequences, blocks]` of all pages in an order that jumps.
fn scattered(sequences: usize, blocks: usize) -> Array2<i64> {
    let count = sequences * blocks;
    Array2::from_shape_fn((sequences, blocks), |(s, b)| ((s * blocks + b) * 7919 % count) as i64)
}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = quick(); targets = prefill, statistics, decode, backward }
criterion_main!(benches);
