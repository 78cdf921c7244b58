//! Fused attention, forward: prefill and decode, each element type. `FARSPAN_CPU` chooses the instruction set.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use farspan_benches::{DTYPES, Tensor};
use farspan_core::attention::{Rules, Shape, dense_sequences};
use farspan_cpu::attention::{Attention, attention};
use std::time::Duration;

/// `[batch, heads, time, dim]` of the queries and of the keys and values.
struct Sizes {
    query: [usize; 4],
    key: [usize; 4],
    causal: bool,
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
            bench(criterion, &format!("prefill/D{dim}/{name}"), &Sizes { query: shape, key: shape, causal });
        }
    }
}

fn decode(criterion: &mut Criterion) {
    for dim in [64, 128] {
        let sizes = Sizes { query: [1, 32, 1, dim], key: [1, 8, 8192, dim], causal: true };
        bench(criterion, &format!("decode/D{dim}"), &sizes);
    }
}

fn bench(criterion: &mut Criterion, name: &str, sizes: &Sizes) {
    let mut group = criterion.benchmark_group(format!("attention/{name}"));
    group.throughput(Throughput::Elements(sizes.operations()));
    let shape = Shape::new(sizes.query, sizes.key, sizes.key).expect("a valid shape");
    let sequences = dense_sequences(&shape, None).expect("valid lengths");
    let rules = Rules { causal: sizes.causal, ..Rules::plain(sizes.query[3]) };
    for dtype in DTYPES {
        let [query, key, value] =
            [(0, sizes.query), (1, sizes.key), (2, sizes.key)].map(|(seed, shape)| Tensor::random(dtype, &shape, seed));
        let mut output = Tensor::random(dtype, &sizes.query, 3);
        let problem = Attention {
            query: query.input(),
            key: key.input(),
            value: value.input(),
            sequences: &sequences,
            rules,
            query_scale: None,
            key_bias: None,
            distance_bias: None,
            sink: None,
            query_positions: None,
            key_positions: None,
            rotary: None,
        };
        group.bench_function(dtype.name(), |bencher| {
            bencher.iter(|| attention(&problem, output.output(), None).expect("a valid problem"));
        });
    }
}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = quick(); targets = prefill, decode }
criterion_main!(benches);
