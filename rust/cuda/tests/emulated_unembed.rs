//! The unembedding's kernels on the emulator: the suite of every backend, the bits of their definitions, and what only
//! a device can be asked.

#[path = "support/emulated_unembed.rs"]
#[allow(dead_code, reason = "what the other tests use")]
mod emulated_unembed;

use emulated_unembed::{Emulated, LIMITS, SHARE, address, choose, choose_with, emulator, problem, run, top_list};
use farspan_core::Dtype;
use farspan_core::merge::{Best, Mass, Ranked};
use farspan_core::noise::noise;
use farspan_cuda::unembed::{Draws, Options, PerRow};
use farspan_cuda::{Device, Limits, Tensor};
use farspan_testing::numbers::{Stored, bits, normals};
use farspan_testing::unembed::judge::number;
use farspan_testing::unembed::{Backend, Case, of_bias};
use farspan_testing::{DTYPES, unembed_suite};

unembed_suite!(emulated = Some(Emulated));

/// The logits of a call, by `top` over all tokens, row by row and token by token.
fn logits(device: &dyn Device, case: &Case) -> Vec<u32> {
    let vocab = case.valid_vocab;
    let (token, logit, _) = top_list(device, &problem(case), vocab);
    let mut all = vec![0; token.len()];
    for (at, (token, logit)) in token.iter().zip(bits(&logit)).enumerate() {
        all[at / vocab * vocab + *token as usize] = logit;
    }
    all
}

#[test]
fn neither_the_tile_nor_the_way_of_copying_changes_a_bit() {
    let vocab = 150;
    for dtype in DTYPES {
        // More slabs than there are stages; whole chunks of 16 bytes, and a last one that is not.
        for (rows, dim) in [(70, 328), (9, 600), (3, 331)] {
            let (x, w) = (normals(dim as u64, rows * dim), normals(7, vocab * dim));
            let case = |gap: usize| Case {
                hidden: Stored::new(&x, rows, dim, gap, dtype),
                weight: Stored::new(&w, vocab, dim, gap, dtype),
                bias: None,
                ..of_bias(vec![0.0; vocab], rows)
            };
            let (tight, loose) = (case(0), case(1));
            let all = logits(&emulator(), &tight);
            for row in 0..rows {
                let (truth, off) = (tight.logits(row), Emulated.allowed(&tight, row));
                for (token, truth) in truth.iter().enumerate() {
                    let got = number(all[row * vocab + token]);
                    assert!((got - truth).abs() <= off, "{dtype:?} {dim}: {got}, not {truth} +- {off:e}");
                }
            }
            let narrow = emulator().with_limits(Limits { shared_bytes_per_block: 70 << 10, ..LIMITS });
            assert_eq!(logits(&narrow, &tight), all, "{dtype:?} {dim}: tiles of eight rows");
            assert_eq!(logits(&narrow, &loose), all, "{dtype:?} {dim}: rows that begin anywhere");
        }
    }
}

/// Rows of different temperatures over the same logits.
fn mixed(bias: Vec<f32>, rows: usize) -> Case {
    let temperatures = [1.0, 0.0, 0.7, 1e-40, 1.9, 1e6];
    let mut case = of_bias(bias, rows);
    case.temperature = (0..rows).map(|row| temperatures[row % temperatures.len()]).collect();
    case
}

#[test]
fn the_noise_has_the_bits_of_the_core() {
    let vocab = 1500;
    // Many tokens share the largest logit, so that at the lowest temperatures the noise alone decides.
    let mut case = mixed(normals(5, vocab).iter().map(|x| (3.0 * x).min(5.0)).collect(), 12);
    case.temperature[6..].copy_from_slice(&[1e-4, 1e-6, 1e-7, 1e-9, 1e-30, 1e-45]);
    let options = Options { samples: 3, ..Options::default() };
    let found = choose(&emulator(), &problem(&case), Some(&case.draws()), &options);
    let bias = case.bias.as_ref().unwrap();
    for (at, &token) in found.token.iter().enumerate() {
        let (row, sample) = (at / 3, at % 3);
        let mut key = case.key(row);
        key.stream = key.stream.wrapping_add(sample as u32);
        let temperature = case.temperature[row];
        let inverse = temperature.recip().min(f32::MAX);
        let all = (0..vocab as u32).map(|token| {
            let logit = bias[token as usize];
            if temperature > 0.0 {
                return Best::perturbed(logit, inverse, noise(&key, token), token);
            }
            Best { score: logit, rest: 0.0, logit, token: Some(token) }
        });
        assert_eq!(token, i64::from(all.fold(Best::NOTHING, Best::merge).token.unwrap()), "row {row}, sample {sample}");
    }
}

/// The softmax sums of logits by the kernels' order: lanes of four tokens, a tree over the 32 of a tile, a tree over
/// the 16 tiles of a segment, segments one by one.
fn mass_of(logits: &[f32], inverse: f32) -> Mass {
    use farspan_core::elementary::exp;
    fn tree(mut sums: Vec<f32>) -> f32 {
        while sums.len() > 1 {
            let (low, high) = sums.split_at(sums.len() / 2);
            sums = low.iter().zip(high).map(|(a, b)| a + b).collect();
        }
        sums[0]
    }
    let largest = |logits: &[f32]| logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let tile = |logits: &[f32]| {
        let max = largest(logits);
        let lanes = |each: &dyn Fn(f32, f32) -> f32| {
            let lane = |i: usize| {
                logits
                    .iter()
                    .skip(4 * i)
                    .take(4)
                    .filter(|l| **l > f32::NEG_INFINITY)
                    .fold(0.0, |sum, l| each(l - max, sum))
            };
            tree((0..32).map(lane).collect())
        };
        let warm = |gap: f32| gap * inverse;
        let (tempered, tempered_moment) = if inverse == 1.0 {
            (0.0, 0.0)
        } else {
            (
                lanes(&|gap, sum| sum + exp(warm(gap))),
                lanes(&|gap, sum| exp(warm(gap)).mul_add(warm(gap).max(-1000.0), sum)),
            )
        };
        Mass {
            max,
            sum: lanes(&|gap, sum| sum + exp(gap)),
            tempered,
            moment: lanes(&|gap, sum| exp(gap).mul_add(gap.max(-1000.0), sum)),
            tempered_moment,
        }
    };
    let segments = logits.chunks(2048).map(|logits| {
        let max = largest(logits);
        let mut tiles: Vec<Mass> = logits.chunks(128).map(|l| tile(l).relative_to(max, inverse)).collect();
        tiles.resize(16, Mass::NOTHING);
        let over = |of: fn(&Mass) -> f32| tree(tiles.iter().map(of).collect());
        Mass {
            max,
            sum: over(|m| m.sum),
            tempered: over(|m| m.tempered),
            moment: over(|m| m.moment),
            tempered_moment: over(|m| m.tempered_moment),
        }
    });
    Mass::fold(&segments.collect::<Vec<_>>(), inverse)
}

#[test]
fn sums_have_the_bits_of_their_definition() {
    for vocab in [1, 3, 129, 2048, 5003] {
        let mut bias: Vec<f32> = normals(vocab as u64, vocab).iter().map(|x| 6.0 * x).collect();
        (0..vocab).filter(|v| v % 7 == 3).for_each(|v| bias[v] = f32::NEG_INFINITY);
        let case = mixed(bias.clone(), 4);
        let found = choose(&emulator(), &problem(&case), Some(&case.draws()), &Options::default());
        for row in 0..4 {
            let temperature = case.temperature[row];
            let inverse = if temperature > 0.0 { temperature.recip().min(f32::MAX) } else { 1.0 };
            let mass = mass_of(&bias, inverse);
            let logit = bias[found.token[row] as usize];
            let logprob = match temperature {
                0.0 => 0.0,
                1.0 => mass.logprob(logit),
                _ => mass.tempered_logprob(logit, inverse),
            };
            let expected = [mass.lse(), mass.entropy(), mass.logprob(logit), logprob, logit];
            let got =
                [found.lse[row], found.entropy[row], found.raw_logprob[row], found.logprob[row], found.logit[row]];
            assert_eq!(bits(&got), bits(&expected), "vocabulary of {vocab}, row {row}");
            let size = bias.iter().filter(|l| **l > f32::NEG_INFINITY).count() as i64;
            assert_eq!(found.kept[row], if temperature > 0.0 { size } else { 1 });
            let key = Ranked::new(logit, found.token[row] as u32);
            let before = (0..vocab).filter(|v| Ranked::new(bias[*v], *v as u32) > key).count() as i64;
            assert_eq!(found.rank[row], before);
        }
    }
}

#[test]
fn a_small_workspace_takes_the_rows_in_goes() {
    let rows = 21;
    let bias = normals(3, 700);
    let mut case = mixed(bias, rows);
    case.k = 30;
    case.seed[20] = 99;
    case.targets = (0..rows as i64).collect();
    let whole = run(&emulator(), &case);
    for share in [2, 7, 1000] {
        SHARE.set(share);
        let results = run(&emulator(), &case);
        SHARE.set(1);
        assert_eq!(whole, results, "one part in {share} of the workspace");
    }
}

#[test]
fn one_number_serves_all_rows() {
    let case = of_bias(normals(6, 300), 3);
    let (rows, key) = (3, case.key(2));
    let repeated = Case { seed: vec![key.seed; rows], temperature: vec![0.8; rows], ..case.clone() };
    let expected = choose(&emulator(), &problem(&case), Some(&repeated.draws()), &Options::default());
    let (seed, position, stream) = ([key.seed as i64], [i64::from(key.position)], [i64::from(key.stream)]);
    let of = |pointer: u64| PerRow::Each(Tensor { pointer, shape: [rows], strides: [0] });
    let held = Draws {
        seed: of(address(&seed)),
        position: of(address(&position)),
        stream: of(address(&stream)),
        temperature: of(address(&[0.8f32])),
    };
    let carried = Draws {
        seed: PerRow::integer(seed[0], rows),
        position: PerRow::integer(position[0], rows),
        stream: PerRow::integer(stream[0], rows),
        temperature: PerRow::number(0.8, rows),
    };
    for draws in [held, carried] {
        assert_eq!(choose_with(&emulator(), &problem(&case), Some(&draws), &Options::default()), expected);
    }
}

#[test]
fn a_target_that_is_no_token_is_not_a_number() {
    let mut case = of_bias(normals(6, 300), 4);
    case.valid_vocab = 200;
    case.targets = vec![-1, 200, i64::MAX, 199];
    let results = run(&emulator(), &case);
    assert_eq!(results.rank[..3], [-1; 3]);
    assert!(results.score[0][..3].iter().all(|logprob| number(*logprob).is_nan()));
    assert!(results.rank[3] >= 0 && number(results.score[0][3]).is_finite());
}

#[test]
fn what_does_not_fit_is_refused_with_the_words_of_the_cpu() {
    let case = of_bias(vec![0.0; 40], 2);
    let refused = |alter: &dyn Fn(&mut farspan_cuda::unembed::Problem)| {
        let mut problem = problem(&case);
        alter(&mut problem);
        farspan_cuda::unembed::top_workspace(&problem, 3, &LIMITS).unwrap_err().to_string()
    };
    assert_eq!(refused(&|p| p.hidden.dtype = Dtype::Bf16), "weight: expected bfloat16, as hidden, given float32");
    assert_eq!(
        refused(&|p| p.weight.tensor.shape[1] = 2),
        "weight: expected shape [vocab, 1], the dim of hidden, given [40, 2]"
    );
    assert_eq!(refused(&|p| p.rules.softcap = Some(0.0)), "softcap: expected a finite number above 0, given 0");
    assert_eq!(refused(&|p| p.rules.scale = f32::NAN), "scale: expected a finite number, given NaN");
    assert_eq!(
        refused(&|p| p.rules.valid_vocab = Some(41)),
        "valid_vocab: expected 0 to 40, the size of the vocabulary, given 41"
    );
    assert_eq!(
        refused(&|p| p.rules.bias = Some(Tensor::contiguous(16, [39]))),
        "bias: expected shape [40], one per token, given [39]"
    );
    assert_eq!(refused(&|p| p.rules.valid_vocab = Some(2)), "k: expected 0 to 2, the number of tokens, given 3");
    let strided = |p: &mut farspan_cuda::unembed::Problem| {
        p.hidden.tensor = Tensor { pointer: 16, shape: [2, 9], strides: [18, 2] };
        p.weight.tensor = Tensor { pointer: 16, shape: [40, 9], strides: [9, 1] };
    };
    assert_eq!(refused(&strided), "hidden: expected a contiguous last dimension, given stride 2 elements");
    let options = Options { samples: 0, ..Options::default() };
    let error = farspan_cuda::unembed::sample_workspace(&problem(&case), &options, &LIMITS).unwrap_err();
    assert_eq!(error.to_string(), "samples: expected at least 1, given 0");
}
