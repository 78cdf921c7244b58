//! The unembedding's kernels on the emulator: against the float64 oracle and the CPU, at their edges, and the promise
//! that a row has the same bits in every call.

#[path = "support/emulated_unembed.rs"]
mod emulated;
#[allow(dead_code, reason = "the CPU's cases, of which its own tests use more")]
#[path = "../../cpu/tests/support/unembed_case.rs"]
mod unembed_case;

use emulated::{
    LIMITS, SHARE, address, allowed, bits, choose, choose_with, emulator, host_draws, of_bias, problem, run, top_list,
};
use farspan_core::Dtype;
use farspan_core::merge::{Best, Mass, Ranked};
use farspan_core::noise::noise;
use farspan_core::oracle::unembed as oracle;
use farspan_core::unembed::{FLAG_EMPTY, FLAG_NAN};
use farspan_cuda::unembed::{Draws, Options};
use farspan_cuda::{Device, Limits, Tensor};
use proptest::prelude::*;
use unembed_case::{Case, Chosen, Results, Stored, cases, normals};

fn number(bits: u32) -> f64 {
    f64::from(f32::from_bits(bits))
}

fn close(got: u32, truth: f64, allowed: f64, what: &str) -> Result<(), TestCaseError> {
    let got = number(got);
    prop_assert!(got == truth || (got - truth).abs() <= allowed, "{what}: {got}, not {truth} +- {allowed:e}");
    Ok(())
}

/// Cases that a second of emulation can bear.
fn small(case: &Case) -> bool {
    case.hidden.rows * case.weight.rows <= 24_000
}

/// Judges a row of `greedy` or of `sample`, beside what the CPU chose.
fn judge_choice(case: &Case, row: usize, l: &[f64], chosen: &Chosen, cpu: &Chosen, cold: bool) -> TestCaseResult {
    let off = allowed(case, row);
    prop_assert_eq!(chosen.flag[row], cpu.flag[row]);
    if chosen.flag[row] != 0 {
        prop_assert_eq!(chosen.token[row], -1);
        return Ok(());
    }
    let temperature = if cold { 0.0 } else { f64::from(case.temperature[row]) };
    let token = chosen.token[row] as usize;
    let scores = oracle::perturbed(l, &case.key(row), temperature);
    let (best, lead) = oracle::best(&scores);
    let colder = if temperature > 0.0 { temperature.min(1.0) } else { 1.0 };
    let margin = 2.0 * off / colder + 4.0 * f64::from(f32::EPSILON) * (scores[best].abs() + 50.0);
    prop_assert!(scores[token] >= scores[best] - margin, "token {token} instead of {best}");
    if lead > margin {
        prop_assert_eq!(chosen.token[row], cpu.token[row], "a clear winner");
    }
    let lse = oracle::lse(l);
    let slack = 1e-6 * (1.0 + lse.abs());
    close(chosen.numbers[2][row], lse, off + slack, "lse")?;
    close(chosen.numbers[1][row], l[token] - lse, 2.0 * off + slack, "raw_logprob")?;
    if temperature == 0.0 {
        prop_assert_eq!(chosen.numbers[0][row], 0);
    } else if temperature > 1e-30 {
        let scaled: Vec<f64> = l.iter().map(|l| l / temperature).collect();
        let truth = scaled[token] - oracle::lse(&scaled);
        let slack = 2.0 * off / colder + 2e-6 * (1.0 + truth.abs() + (l.len() as f64).ln());
        close(chosen.numbers[0][row], truth, slack, "logprob")?;
    }
    Ok(())
}

fn judge(case: &Case, results: &Results, cpu: &Results) -> TestCaseResult {
    for row in 0..case.hidden.rows {
        let (l, off) = (case.logits(row), allowed(case, row));
        judge_choice(case, row, &l, &results.greedy, &cpu.greedy, true)?;
        judge_choice(case, row, &l, &results.sample, &cpu.sample, false)?;
        let (lse, target) = (oracle::lse(&l), l[case.targets[row] as usize]);
        let slack = 1e-6 * (1.0 + lse.abs());
        let banned = target == f64::NEG_INFINITY;
        close(results.score[2][row], lse, off + slack, "score's lse")?;
        close(results.score[0][row], if banned { target } else { target - lse }, 2.0 * off + slack, "score's logprob")?;
        let count = l.iter().filter(|l| **l > f64::NEG_INFINITY).count() as f64;
        let slack = 8.0 * off + 4e-6 * (1.0 + count.ln() + lse.abs());
        close(results.score[1][row], oracle::entropy(&l), slack, "entropy")?;
        let above = |margin: f64| l.iter().filter(|l| **l > target + margin).count() as i64;
        let ranks = if banned { above(0.0)..=l.len() as i64 } else { above(2.0 * off)..=above(-2.0 * off) };
        prop_assert!(ranks.contains(&results.rank[row]), "rank {} outside {ranks:?}", results.rank[row]);
        close(results.top[1][row], lse, off + 1e-6 * (1.0 + lse.abs()), "top's lse")?;
        let (ranking, places) = (oracle::ranking(&l), row * case.k..(row + 1) * case.k);
        let listed: Vec<_> =
            places.map(|at| Ranked::new(f32::from_bits(results.top[0][at]), results.top_token[at] as u32)).collect();
        prop_assert!(listed.is_sorted_by(|a, b| a > b), "the list is in order, no token twice");
        for (entry, &rightful) in listed.iter().zip(&ranking) {
            close(entry.logit().to_bits(), l[entry.token() as usize], off, "a listed logit is its token's")?;
            close(entry.logit().to_bits(), l[rightful], off, "a listed logit has its place")?;
        }
    }
    Ok(())
}

type TestCaseResult = Result<(), TestCaseError>;

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn every_operation_meets_the_oracle_and_the_cpu(case in cases().prop_filter("small", small)) {
        let results = run(&emulator(), &case);
        judge(&case, &results, &case.run())?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_row_has_the_same_bits_in_any_batch_and_place(
        case in cases().prop_filter("small", small), shift in any::<prop::sample::Index>(), seed: u64,
    ) {
        let whole = run(&emulator(), &case);
        let rows = case.hidden.rows;
        if rows > 0 {
            let shuffled = emulator().with_seed(seed);
            let turned: Vec<usize> = (0..rows).map(|row| (row + shift.index(rows)) % rows).collect();
            let one = [shift.index(rows)];
            prop_assert_eq!(case.slice(&whole, &one), case.pick(&one).run_on(&shuffled), "a row alone");
            // Tiles of eight rows, whatever the batch.
            let narrow = emulator().with_limits(Limits { shared_bytes_per_block: 70 << 10, ..LIMITS });
            prop_assert_eq!(case.slice(&whole, &turned), case.pick(&turned).run_on(&narrow), "turned rows");
        }
    }
}

trait RunOn {
    fn run_on(&self, device: &dyn Device) -> Results;
}

impl RunOn for Case {
    fn run_on(&self, device: &dyn Device) -> Results {
        run(device, self)
    }
}

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
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
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
                let (truth, off) = (tight.logits(row), allowed(&tight, row));
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
    let found = choose(&emulator(), &problem(&case), Some(&host_draws(&case)), &options);
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
        let found = choose(&emulator(), &problem(&case), Some(&host_draws(&case)), &Options::default());
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
fn a_nan_is_flagged_in_its_row_alone() {
    let (rows, vocab, dim) = (11, 300, 20);
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let mut hidden = normals(1, rows * dim);
        let weight = Stored::new(&normals(2, vocab * dim), vocab, dim, 0, dtype);
        let case = |hidden: &[f32]| Case {
            hidden: Stored::new(hidden, rows, dim, 0, dtype),
            weight: weight.clone(),
            bias: None,
            targets: vec![5; rows],
            valid_vocab: vocab,
            k: 3,
            ..of_bias(vec![0.0; vocab], rows)
        };
        let clean = run(&emulator(), &case(&hidden));
        hidden[9 * dim + 7] = f32::NAN;
        let bad = case(&hidden);
        let results = run(&emulator(), &bad);
        let rest: Vec<usize> = (0..rows).filter(|row| *row != 9).collect();
        assert_eq!(bad.slice(&clean, &rest), bad.slice(&results, &rest));
        for chosen in [&results.greedy, &results.sample] {
            assert_eq!((chosen.token[9], chosen.flag[9]), (-1, FLAG_NAN));
            assert!(chosen.numbers.iter().all(|numbers| number(numbers[9]).is_nan()));
        }
        assert_eq!((results.rank[9], results.top_token[27]), (-1, -1));
        assert!(results.score.iter().all(|numbers| number(numbers[9]).is_nan()));
    }
}

#[test]
fn one_nan_logit_flags_its_row() {
    for token in [0, 1, 130, 201, 299] {
        let mut bias = normals(6, 300);
        bias[token] = f32::NAN;
        let results = run(&emulator(), &of_bias(bias, 2));
        for chosen in [&results.greedy, &results.sample] {
            assert_eq!((&chosen.token[..], &chosen.flag[..]), (&[-1, -1][..], &[FLAG_NAN, FLAG_NAN][..]), "{token}");
        }
        assert_eq!((&results.rank[..], results.top_token[0]), (&[-1, -1][..], -1), "{token}");
    }
}

#[test]
fn what_is_banned_or_past_the_vocabulary_has_no_influence() {
    let (rows, vocab, dim) = (3, 700, 24);
    let weight = normals(4, vocab * dim);
    let mut case = Case {
        hidden: Stored::new(&normals(3, rows * dim), rows, dim, 0, Dtype::F32),
        weight: Stored::new(&weight, vocab, dim, 0, Dtype::F32),
        targets: vec![1; rows],
        ..of_bias(vec![0.0; vocab], rows)
    };
    case.valid_vocab = 600;
    case.bias.as_mut().unwrap()[300..400].fill(f32::NEG_INFINITY);
    let clean = run(&emulator(), &case);
    assert!(clean.sample.flag.iter().all(|flag| *flag == 0));
    for filling in [f32::NAN, f32::INFINITY, 1e30] {
        let mut weight = weight.clone();
        weight[300 * dim..400 * dim].fill(filling);
        weight[600 * dim..].fill(filling);
        let filled = Case { weight: Stored::new(&weight, vocab, dim, 0, Dtype::F32), ..case.clone() };
        assert_eq!(clean, run(&emulator(), &filled), "filled with {filling}");
    }
}

#[test]
fn nothing_to_choose_is_flagged() {
    let mut case = of_bias(vec![f32::NEG_INFINITY; 200], 2);
    for valid_vocab in [200, 0] {
        case.valid_vocab = valid_vocab;
        case.k = 0;
        let results = run(&emulator(), &case);
        for chosen in [&results.greedy, &results.sample] {
            assert_eq!((&chosen.token[..], &chosen.flag[..]), (&[-1, -1][..], &[FLAG_EMPTY, FLAG_EMPTY][..]));
            assert!(chosen.numbers.iter().flatten().all(|x| number(*x) == f64::NEG_INFINITY));
        }
    }
}

#[test]
fn infinite_logits_share_the_mass() {
    let mut bias = vec![0.0; 2500];
    bias[600] = f32::INFINITY;
    bias[2400] = f32::INFINITY;
    let case = of_bias(bias, 3);
    let (results, cpu) = (run(&emulator(), &case), case.run());
    assert_eq!((&results.greedy, &results.sample), (&cpu.greedy, &cpu.sample));
    assert_eq!(results.greedy.token, [600; 3]);
    assert!(results.greedy.numbers[1].iter().all(|raw| (number(*raw) + 2f64.ln()).abs() < 1e-6));
}

#[test]
fn ties_go_to_the_lowest_id_across_tiles_and_segments() {
    for ids in [[0usize, 2099], [127, 128], [2047, 2048], [31, 32], [2098, 2099], [4, 5]] {
        let mut bias = vec![-50.0; 2100];
        ids.iter().for_each(|id| bias[*id] = 2.0);
        let mut case = of_bias(bias, 2);
        case.temperature = vec![0.0; 2];
        case.targets = vec![ids[1] as i64; 2];
        let results = run(&emulator(), &case);
        assert_eq!((&results.greedy.token, &results.sample.token), (&vec![ids[0] as i64; 2], &vec![ids[0] as i64; 2]));
        assert_eq!(results.rank, [1; 2]);
        let lowest: Vec<i64> = (0..6).filter(|v| !ids.contains(&(*v as usize))).collect();
        assert_eq!(results.top_token[..4], [ids[0] as i64, ids[1] as i64, lowest[0], lowest[1]]);
    }
}

#[test]
fn lists_are_exact_wherever_the_largest_lie() {
    let sorted = |bias: &[f32]| {
        let mut all: Vec<Ranked> = bias.iter().zip(0..).map(|(l, v)| Ranked::new(*l, v)).collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        all
    };
    let vocab = 3000;
    let spread = normals(8, vocab);
    let mut crowded = spread.clone();
    (0..128).for_each(|v| crowded[1280 + v] += 9.0);
    (0..40).for_each(|v| crowded[2900 + v] += 9.0);
    let few = (0..vocab).map(|v| if v % 900 == 5 { 1.0 } else { f32::NEG_INFINITY }).collect();
    let equal = vec![0.5; vocab];
    for (name, bias) in [("spread", spread), ("crowded", crowded), ("few", few), ("equal", equal)] {
        let truth = sorted(&bias);
        let case = of_bias(bias, 1);
        for k in [1, 16, 17, 33, 200, 1024, 1025, 2200, 3000] {
            let (tokens, logits, _) = top_list(&emulator(), &problem(&case), k);
            let expected: Vec<i64> = truth[..k].iter().map(|entry| entry.token().into()).collect();
            assert_eq!(tokens, expected, "{name}: {k}");
            assert!(logits.iter().zip(&truth).all(|(logit, entry)| *logit == entry.logit()), "{name}: {k}");
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
    let expected = choose(&emulator(), &problem(&case), Some(&host_draws(&repeated)), &Options::default());
    let (seed, position, stream) = ([key.seed as i64], [i64::from(key.position)], [i64::from(key.stream)]);
    let of = |pointer: u64| Tensor { pointer, shape: [rows], strides: [0] };
    let draws = Draws {
        seed: of(address(&seed)),
        position: of(address(&position)),
        stream: of(address(&stream)),
        temperature: of(address(&[0.8f32])),
    };
    assert_eq!(choose_with(&emulator(), &problem(&case), Some(&draws), &Options::default()), expected);
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
