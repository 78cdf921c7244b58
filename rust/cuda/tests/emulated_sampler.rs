//! Sampler settings on the emulator: the suite of every backend, and what the device changes, finds and leaves to the
//! host, against the CPU.

#[path = "support/emulated_unembed.rs"]
#[allow(dead_code, reason = "what the other tests use")]
mod emulated_unembed;

use emulated_unembed::{DeviceDraws, Pieces, address, choose, emulator};
use farspan_core::draw::{Read, Results, RowStatistics, Rows, SampleOut, Samples, Shards, UNRANKED, decide, plans};
use farspan_core::sampler::{Mask, Settings};
use farspan_core::unembed::{HostDraws, Rules, Shard};
use farspan_core::{Dtype, Error, Result};
use farspan_cuda::Tensor;
use farspan_cuda::emulator::Emulator;
use farspan_cuda::unembed::{Changes, Matrix, Options, PackedChanges, Place, Problem, Reader, sample_on_host};
use farspan_testing::cpu::Cpu;
use farspan_testing::sampler::sorting::BORDER;
use farspan_testing::sampler::{Backend, Case, Exchange, cases, everything};
use farspan_testing::sampler_suite;
use ndarray::Array2;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::ops::Range;

sampler_suite!(emulated = Some(Emulated));

/// The kernels on the emulator, as a backend of the suite.
struct Emulated;

impl Backend for Emulated {
    fn cases(&self) -> u32 {
        12
    }

    fn run(&self, case: &Case, variation: u64) -> Samples {
        case.call(|hidden, weight, draws, settings, out| {
            let mut call = Call::new(hidden, weight, draws, settings);
            call.device = emulator().with_seed(variation);
            call.run(out);
        })
    }

    fn run_in_parts(&self, case: &Case, ends: &[usize]) -> Vec<Samples> {
        case.each_part(ends, |hidden, weight, part, draws, settings, exchange, out| {
            Call::new(hidden, weight, draws, settings).run_part(part, exchange, out);
        })
    }
}

fn matrix(array: &Array2<f32>) -> Matrix {
    Matrix { dtype: Dtype::F32, tensor: Tensor::contiguous(array.as_ptr() as u64, array.dim().into()) }
}

/// A call on the emulator, as the host sees it.
struct Call<'a> {
    device: Emulator,
    hidden: &'a Array2<f32>,
    weight: &'a Array2<f32>,
    host_draws: HostDraws<'a>,
    draws: DeviceDraws,
    settings: Settings<'a>,
    packed: PackedChanges,
    /// Added to the logits of all tokens, by way of the rules.
    bias: Vec<f32>,
}

impl<'a> Call<'a> {
    fn new(
        hidden: &'a Array2<f32>,
        weight: &'a Array2<f32>,
        draws: &HostDraws<'a>,
        settings: &Settings<'a>,
    ) -> Call<'a> {
        Call {
            device: emulator(),
            hidden,
            weight,
            host_draws: *draws,
            draws: DeviceDraws::new(draws),
            settings: *settings,
            packed: PackedChanges::new(settings, hidden.nrows()),
            bias: vec![0.0; weight.nrows()],
        }
    }

    /// The same with a bias of every token.
    fn with_bias(mut self) -> Self {
        self.bias.iter_mut().enumerate().for_each(|(token, bias)| *bias = (token % 23) as f32 / 8.0);
        self
    }

    fn problem(&self, tokens: &Range<usize>) -> Problem {
        let mut weight = matrix(self.weight);
        weight.tensor.pointer += (tokens.start * self.weight.ncols() * 4) as u64;
        weight.tensor.shape[0] = tokens.len();
        let shard = Some(Shard { first: tokens.start, vocab: self.weight.nrows() });
        let bias = Tensor::contiguous(address(&self.bias[tokens.start..]), [tokens.len()]);
        let rules = Rules { bias: Some(bias), ..Rules::default() };
        Problem { hidden: matrix(self.hidden), weight, rules, shard }
    }

    /// The changes' bytes as they lie on the device.
    fn uploaded(&self) -> Vec<u128> {
        let words = self.packed.bytes().chunks(16).map(|chunk| {
            let mut word = [0; 16];
            word[..chunk.len()].copy_from_slice(chunk);
            u128::from_le_bytes(word)
        });
        words.collect()
    }

    /// Draws from the whole vocabulary in one piece.
    fn run(&self, out: SampleOut) {
        let (problem, memory) = (self.problem(&(0..self.weight.nrows())), Pieces::default());
        let place = Place { device: &self.device, memory: &memory, threads: one_by_one };
        let draws = (&self.host_draws, &self.draws.view());
        // SAFETY: every address is that of memory of the right length, which outlives the call.
        unsafe { sample_on_host(place, &problem, draws, Some(&self.settings), None, out).unwrap() };
        memory.check();
    }

    /// Draws with the holders of the other parts.
    fn run_part(&self, part: Range<usize>, mut exchange: Exchange, out: SampleOut) {
        let (problem, memory, draws) = (self.problem(&part), Pieces::default(), self.draws.view());
        let Settings { samples, top, .. } = self.settings;
        let rows = self.hidden.nrows();
        let tokens = problem.check().unwrap();
        let plans = plans(&tokens, rows, Some(&self.host_draws), Some(&self.settings)).unwrap();
        let changes = Changes::upload(&memory, Some(&self.settings), rows).unwrap();
        let place = Place { device: &self.device, memory: &memory, threads: one_by_one };
        // SAFETY: every address is that of memory of the right length, which outlives the call.
        let reader = unsafe { Reader::new(place, &problem, &plans, &draws, changes, samples) };
        let mut results = Results::new(out, rows, samples, top).unwrap();
        let watched = Watched { reader, first: None };
        let mut shards = Shards::<_, Error>::new(watched, &plans, samples, tokens, &mut exchange);
        decide(&mut shards, &plans, &mut results, tokens.valid_vocab).unwrap();
        memory.check();
    }
}

/// No threads.
fn one_by_one<'r>(parts: Vec<Rows<'r>>, work: &(dyn Fn(Rows<'r>) + Sync)) -> Result<()> {
    parts.into_iter().for_each(work);
    Ok(())
}

/// A reader whose second reading of a row must agree with the first, and which reads few rows whole at a time.
struct Watched<'a> {
    reader: Reader<'a, Pieces>,
    /// What the first reading said.
    first: Option<Vec<RowStatistics>>,
}

impl Read for Watched<'_> {
    type Failure = Error;

    fn read(&mut self, whole: Option<&[usize]>) -> Result<Vec<RowStatistics>> {
        let statistics = self.reader.read(whole)?;
        match (whole, &self.first) {
            (None, _) => self.first = Some(statistics.clone()),
            (Some(rows), Some(first)) => {
                for (&row, statistics) in rows.iter().zip(&statistics) {
                    assert_eq!(statistics.masses, first[row].masses, "the second reading finds the sums of the first");
                }
            }
            (Some(_), None) => unreachable!("the first reading is of all rows"),
        }
        Ok(statistics)
    }

    fn most_bytes(&self) -> usize {
        1 << 14
    }
}

fn near(got: &[f32], expected: &[f32], what: &str) -> std::result::Result<(), TestCaseError> {
    for (got, expected) in got.iter().zip(expected) {
        let same = got == expected || (got.is_nan() && expected.is_nan());
        prop_assert!(same || (got - expected).abs() <= 2e-5 * (1.0 + expected.abs()), "{what}: {got}, not {expected}");
    }
    Ok(())
}

/// A case with the cuts of all rows taken away.
fn uncut(case: &Case) -> Case {
    let mut case = case.clone();
    for row in &mut case.rows {
        (row.top_k, row.top_p, row.min_p, row.typical, row.epsilon, row.eta) = (0, 1.0, 0.0, 1.0, 0.0, 0.0);
        (row.top_h, row.top_n_sigma, row.xtc_probability) = (1.0, 0.0, 0.0);
    }
    case
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn settings_do_what_they_do_on_the_cpu(case in cases()) {
        let (found, cpu) = (Emulated.run(&case, 0), Cpu::best().run(&case, 0));
        prop_assert_eq!(&found.flag, &cpu.flag);
        prop_assert_eq!(&found.top_token, &cpu.top_token);
        near(&found.lse, &cpu.lse, "lse")?;
        near(&found.entropy, &cpu.entropy, "entropy")?;
        near(&found.top_logprob, &cpu.top_logprob, "top_logprob")?;
        for row in 0..case.rows.len() {
            let clear = |sample| case.rows[row].kept(case.order, sample).is_none_or(|(_, margin)| margin > BORDER);
            if !(0..case.samples).all(clear) {
                continue;
            }
            let drawn = row * case.samples..(row + 1) * case.samples;
            prop_assert_eq!(&found.token[drawn.clone()], &cpu.token[drawn.clone()]);
            prop_assert_eq!(&found.logit[drawn.clone()], &cpu.logit[drawn.clone()]);
            prop_assert_eq!(&found.rank[drawn.clone()], &cpu.rank[drawn.clone()]);
            prop_assert_eq!(found.kept[row], cpu.kept[row]);
            near(&found.kept_mass[row..=row], &cpu.kept_mass[row..=row], "kept_mass")?;
            near(&found.logprob[drawn.clone()], &cpu.logprob[drawn.clone()], "logprob")?;
            near(&found.raw_logprob[drawn.clone()], &cpu.raw_logprob[drawn], "raw_logprob")?;
        }
    }

    #[test]
    fn without_cuts_the_device_alone_gives_the_bits_of_the_host(case in cases()) {
        let case = uncut(&case);
        let mut alone = Samples::default();
        let mut host = case.call(|hidden, weight, draws, settings, out| {
            let call = Call::new(hidden, weight, draws, settings);
            let uploaded = call.uploaded();
            let options = Options { samples: case.samples, top: case.top, changes: call.packed.at(address(&uploaded)) };
            alone = choose(&call.device, &call.problem(&(0..weight.nrows())), Some(draws), &options);
            call.run(out);
        });
        // A rank behind the list is known only once it is counted, as `choose` does.
        let counted = host.rank.iter_mut().zip(&alone.rank).filter(|(rank, _)| **rank == UNRANKED);
        counted.for_each(|(rank, counted)| *rank = *counted);
        prop_assert_eq!(everything(&alone, &case), everything(&host, &case));
        let cpu = Cpu::best().run(&case, 0);
        prop_assert_eq!((&alone.token, &alone.kept), (&cpu.token, &cpu.kept));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    #[test]
    fn a_part_has_the_bias_of_its_own_tokens(case in cases(), cuts in prop::collection::vec(0usize..5, 1..4)) {
        let vocab = case.rows[0].logits.len();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| (cut * 2048).min(vocab)).chain([vocab]).collect();
        ends.sort_unstable();
        let whole = case.call(|hidden, weight, draws, settings, out| {
            Call::new(hidden, weight, draws, settings).with_bias().run(out);
        });
        let holders = case.each_part(&ends, |hidden, weight, part, draws, settings, exchange, out| {
            Call::new(hidden, weight, draws, settings).with_bias().run_part(part, exchange, out);
        });
        for drawn in holders {
            prop_assert_eq!(everything(&drawn, &case), everything(&whole, &case), "cut at {:?}", ends);
        }
    }
}

#[test]
fn a_mask_may_lie_on_the_device_already() {
    let runner = &mut proptest::test_runner::TestRunner::deterministic();
    for _ in 0..10 {
        let case = uncut(&cases().new_tree(runner).unwrap().current());
        case.call(|hidden, weight, draws, settings, _| {
            // The last word is missing, which bans; what lies there in memory allows.
            let (rows, words) = (hidden.nrows(), settings.mask.unwrap().width - 1);
            let (stride, of) = (words + 3, |row: usize| &settings.mask.unwrap().row(row)[..words]);
            let mask = Mask { words: &(0..rows).flat_map(of).copied().collect::<Vec<_>>(), width: words };
            let mut padded = vec![-1i32; rows * stride];
            (0..rows).for_each(|row| padded[row * stride..][..words].copy_from_slice(of(row)));
            let [masked, bare] =
                [Some(mask), None].map(|mask| Call::new(hidden, weight, draws, &Settings { mask, ..*settings }));
            let tensor = Tensor { pointer: address(&padded), shape: [rows, words], strides: [stride as i64, 1] };
            let problem = masked.problem(&(0..weight.nrows()));
            let uploaded = [masked.uploaded(), bare.uploaded()];
            let changes =
                [masked.packed.at(address(&uploaded[0])), bare.packed.at(address(&uploaded[1])).with_mask(tensor)];
            let [one, other] = changes.map(|changes| {
                let options = Options { samples: case.samples, top: case.top, changes };
                everything(&choose(&masked.device, &problem, Some(draws), &options), &case)
            });
            assert_eq!(one, other);
        });
    }
}
