//! The sampling unembedding over a large vocabulary. `FARSPAN_CPU` chooses the instruction set.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use farspan_benches::Tensor;
use farspan_core::Dtype;
use farspan_core::unembed::{Draws, Rules};
use farspan_cpu::unembed::{SampleOut, sample};
use std::time::Duration;

const VOCAB: usize = 151_936;
const DIM: usize = 896;
const ROWS: [usize; 4] = [1, 8, 64, 256];

/// Owned memory of one row's results each.
struct Results {
    token: Vec<i64>,
    logprob: Vec<f32>,
    raw_logprob: Vec<f32>,
    lse: Vec<f32>,
    flag: Vec<i32>,
}

impl Results {
    fn new(rows: usize) -> Results {
        let floats = || vec![0.0; rows];
        Results { token: vec![0; rows], logprob: floats(), raw_logprob: floats(), lse: floats(), flag: vec![0; rows] }
    }

    fn out(&mut self) -> SampleOut<'_> {
        SampleOut {
            token: &mut self.token,
            logprob: &mut self.logprob,
            raw_logprob: &mut self.raw_logprob,
            lse: &mut self.lse,
            flag: &mut self.flag,
        }
    }
}

fn sampling(criterion: &mut Criterion) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let weight = Tensor::random(dtype, &[VOCAB, DIM], 0);
        let mut group = criterion.benchmark_group(format!("sample/V{VOCAB}/D{DIM}/{}", dtype.name()));
        for rows in ROWS {
            let hidden = Tensor::random(dtype, &[rows, DIM], 1);
            let streams: Vec<u32> = (0..rows as u32).collect();
            let (seeds, positions, temperatures) = (vec![0; rows], vec![0; rows], vec![1.0; rows]);
            let draws = Draws { seed: &seeds, position: &positions, stream: &streams, temperature: &temperatures };
            let mut results = Results::new(rows);
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_function(format!("B{rows}"), |bencher| {
                bencher.iter(|| {
                    sample(hidden.matrix(), weight.matrix(), &draws, &Rules::default(), results.out())
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
