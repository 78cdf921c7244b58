//! The sampling unembedding over a large vocabulary. `FARSPAN_CPU` chooses the instruction set.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use farspan_benches::Tensor;
use farspan_core::Dtype;
use farspan_core::unembed::{Draws, Rules};
use farspan_cpu::unembed::{Samples, sample};
use std::time::Duration;

const VOCAB: usize = 151_936;
const DIM: usize = 896;
const ROWS: [usize; 4] = [1, 8, 64, 256];

fn sampling(criterion: &mut Criterion) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let weight = Tensor::random(dtype, &[VOCAB, DIM], 0);
        let mut group = criterion.benchmark_group(format!("sample/V{VOCAB}/D{DIM}/{}", dtype.name()));
        for rows in ROWS {
            let hidden = Tensor::random(dtype, &[rows, DIM], 1);
            let streams: Vec<u32> = (0..rows as u32).collect();
            let (seeds, positions, temperatures) = (vec![0; rows], vec![0; rows], vec![1.0; rows]);
            let draws = Draws { seed: &seeds, position: &positions, stream: &streams, temperature: &temperatures };
            let mut results = Samples::new(rows, 1, 0);
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_function(format!("B{rows}"), |bencher| {
                bencher.iter(|| {
                    sample(hidden.matrix(), weight.matrix(), &draws, None, &Rules::default(), results.out())
                        .expect("a valid problem");
                });
            });
        }
    }
}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = quick(); targets = sampling }
criterion_main!(benches);
