//! The sampling unembedding and the loss over a large vocabulary. `FARSPAN_CPU` chooses the instruction set.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use farspan_benches::Tensor;
use farspan_core::Dtype;
use farspan_core::loss::{CrossEntropy, Reduction};
use farspan_core::sampler::{Order, Ragged, Settings};
use farspan_core::unembed::{Draws, HostDraws, Rules};
use farspan_cpu::loss::{Gradients, Lses, linear_cross_entropy, linear_cross_entropy_gradient};
use farspan_cpu::unembed::{Problem, Samples, sample};
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
            let draws: HostDraws =
                Draws { seed: &seeds, position: &positions, stream: &streams, temperature: &temperatures };
            let mut results = Samples::new(rows, 1, 0);
            group.throughput(Throughput::Elements(rows as u64));
            group.bench_function(format!("B{rows}"), |bencher| {
                bencher.iter(|| {
                    let problem = problem(&hidden, &weight);
                    sample(&problem, &draws, None, results.out()).expect("a valid problem");
                });
            });
        }
    }
}

/// What people draw with: top-k, top-p, a temperature and a repetition penalty over a history, beside the plain draw
/// above.
fn sampling_with_settings(criterion: &mut Criterion) {
    const HISTORY: usize = 256;
    let weight = Tensor::random(Dtype::Bf16, &[VOCAB, DIM], 0);
    let mut group = criterion.benchmark_group(format!("sample with settings/V{VOCAB}/D{DIM}/bfloat16"));
    for rows in [1, 64] {
        let hidden = Tensor::random(Dtype::Bf16, &[rows, DIM], 1);
        let streams: Vec<u32> = (0..rows as u32).collect();
        let (seeds, positions, temperatures) = (vec![0; rows], vec![0; rows], vec![0.7; rows]);
        let draws: HostDraws =
            Draws { seed: &seeds, position: &positions, stream: &streams, temperature: &temperatures };
        let ids: Vec<i64> = (0..rows * HISTORY).map(|i| (i * 7919 % VOCAB) as i64).collect();
        let offsets: Vec<i64> = (0..=rows).map(|row| (row * HISTORY) as i64).collect();
        let [zeros, ones] = [0.0, 1.0].map(|value| vec![value; rows]);
        let [none, one, fifty] = [0, 1, 50].map(|count| vec![count; rows]);
        let (top_p, repetition) = (vec![0.9; rows], vec![1.1; rows]);
        let settings = Settings {
            order: Order::Hf,
            top_k: &fifty,
            top_p: &top_p,
            min_p: &zeros,
            typical: &ones,
            epsilon: &zeros,
            eta: &zeros,
            top_h: &ones,
            top_n_sigma: &zeros,
            xtc_probability: &zeros,
            xtc_threshold: &zeros,
            min_keep: &one,
            repetition_penalty: &repetition,
            frequency_penalty: &zeros,
            presence_penalty: &zeros,
            no_repeat_ngram: &none,
            dry_multiplier: &zeros,
            dry_base: &ones,
            dry_allowed_length: &none,
            history: Some(Ragged { ids: &ids, offsets: &offsets }),
            prompt_lengths: None,
            logit_bias: None,
            banned: None,
            allowed: None,
            mask: None,
            top: 5,
            samples: 1,
        };
        let mut results = Samples::new(rows, 1, settings.top);
        group.throughput(Throughput::Elements(rows as u64));
        group.bench_function(format!("B{rows}"), |bencher| {
            bencher.iter(|| {
                let problem = problem(&hidden, &weight);
                sample(&problem, &draws, Some(&settings), results.out()).expect("a valid problem");
            });
        });
    }
}

/// A loss and its gradients, each for itself.
fn loss(criterion: &mut Criterion) {
    const ROWS: usize = 512;
    let targets: Vec<i64> = (0..ROWS).map(|row| (row * 7919 % VOCAB) as i64).collect();
    let settings = CrossEntropy {
        targets: &targets,
        ignore_index: -100,
        label_smoothing: 0.0,
        class_weight: None,
        z_loss: 0.0,
        reduction: Reduction::Mean,
    };
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let (weight, hidden) = (Tensor::random(dtype, &[VOCAB, DIM], 0), Tensor::random(dtype, &[ROWS, DIM], 1));
        let mut gradients = (Tensor::random(dtype, &[ROWS, DIM], 0), Tensor::random(dtype, &[VOCAB, DIM], 0));
        let problem = problem(&hidden, &weight);
        let (mut of_all, mut max, mut log_sum) = ([0.0], vec![0.0; ROWS], vec![0.0; ROWS]);
        let mut group = criterion.benchmark_group(format!("loss/R{ROWS}/V{VOCAB}/D{DIM}/{}", dtype.name()));
        group.throughput(Throughput::Elements(ROWS as u64));
        group.bench_function("forward", |bencher| {
            bencher.iter(|| {
                let lse = Lses { max: &mut max[..], log_sum: &mut log_sum };
                linear_cross_entropy(&problem, &settings, &mut of_all, lse).expect("a valid problem");
            });
        });
        group.bench_function("backward", |bencher| {
            bencher.iter(|| {
                let (of_hidden, of_weight) = (gradients.0.matrix_mut(), gradients.1.matrix_mut());
                let out = Gradients { hidden: Some(of_hidden), weight: Some(of_weight), bias: None };
                let lse = Lses { max: &max[..], log_sum: &log_sum };
                linear_cross_entropy_gradient(&problem, &settings, lse, &[1.0], out).expect("a valid problem");
            });
        });
    }
}

fn problem<'a>(hidden: &'a Tensor, weight: &'a Tensor) -> Problem<'a> {
    Problem { hidden: hidden.matrix(), weight: weight.matrix(), rules: Rules::default(), shard: None }
}

fn quick() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2))
}

criterion_group! { name = benches; config = quick(); targets = sampling, sampling_with_settings, loss }
criterion_main!(benches);
