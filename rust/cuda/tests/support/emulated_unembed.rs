//! Runs unembedding problems on the emulator, whose device memory is this process's.

use farspan_core::draw::Samples;
use farspan_core::unembed::{HostDraws, Rules};
use farspan_core::{Error, Result};
use farspan_cuda::emulator::Emulator;
use farspan_cuda::unembed::{
    Changes, Draws, Matrix, Options, PerRow, Problem, SampleOut, ScoreOut, TopOut, greedy, rank, rank_workspace,
    sample, sample_workspace, score, score_workspace, top, top_workspace,
};
use farspan_cuda::{Device, Limits, Tensor, Workspace};
use farspan_cuda_emulator::forbid;
use farspan_testing::numbers::{Stored, bits};
use farspan_testing::unembed::{Backend, Case, Chosen, Results, judge};
use std::cell::{Cell, RefCell};

pub const LIMITS: Limits = Limits { multiprocessors: 4, shared_bytes_per_block: 99 << 10, architecture: 86 };

pub fn emulator() -> Emulator {
    Emulator::open(&farspan_cuda_emulator::library()).unwrap().with_limits(LIMITS)
}

/// The kernels on the emulator, as a backend of the suite.
pub struct Emulated;

impl Backend for Emulated {
    const QUICK: bool = false;

    fn cases(&self) -> u32 {
        32
    }

    /// Another order of the threads, and tiles of eight rows whatever the batch.
    fn run(&self, case: &Case, variation: u64) -> Results {
        let shared_bytes_per_block = if variation % 2 == 1 { 70 << 10 } else { LIMITS.shared_bytes_per_block };
        let device = emulator().with_seed(variation).with_limits(Limits { shared_bytes_per_block, ..LIMITS });
        run(&device, case)
    }

    fn allowed(&self, case: &Case, row: usize) -> f64 {
        // One float32 chain over the columns, and on a GPU the tensor cores' own sums of 16 products.
        judge::rounding(case, row, case.hidden.columns as f64 + 8.0, 4.0)
    }
}

/// Memory at a multiple of 256, full of numbers that nobody should take for results, with as many behind it that must
/// stay.
pub struct Memory {
    words: Vec<u64>,
    bytes: usize,
}

const GUARD: u64 = 0x7fc5_a5a5_7fc5_a5a5;

thread_local! {
    /// What part of the workspace that is asked for calls get; a row's needs at least.
    pub static SHARE: Cell<usize> = const { Cell::new(1) };
}

impl Memory {
    pub fn new(bytes: usize) -> Memory {
        let memory = Memory { words: vec![GUARD; bytes.div_ceil(8) + 64], bytes };
        let (first, behind) = (memory.words.as_ptr() as usize, memory.start() + bytes);
        forbid(first as u64, memory.start() - first);
        forbid(behind as u64, first + memory.words.len() * 8 - behind);
        memory
    }

    fn start(&self) -> usize {
        (self.words.as_ptr() as usize).next_multiple_of(256)
    }

    pub fn workspace(&self) -> Workspace {
        Workspace { pointer: self.start() as u64, bytes: self.bytes }
    }

    fn contents(&self) -> Vec<u8> {
        let first = (self.start() - self.words.as_ptr() as usize) / 8;
        let words = &self.words[first..first + self.bytes.div_ceil(8)];
        words.iter().flat_map(|word| word.to_le_bytes()).take(self.bytes).collect()
    }

    fn write(&mut self, bytes: &[u8]) {
        let first = (self.start() - self.words.as_ptr() as usize) / 8;
        for (word, bytes) in self.words[first..].iter_mut().zip(bytes.chunks(8)) {
            let mut whole = word.to_le_bytes();
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(whole);
        }
    }

    /// That nothing behind the memory was written.
    pub fn check(&self) {
        let first = (self.start() - self.words.as_ptr() as usize) / 8;
        assert!(self.words[first + self.bytes.div_ceil(8)..].iter().all(|word| *word == GUARD), "written behind");
    }
}

/// Memory as an operation asks for it, piece by piece, all of it kept.
#[derive(Default)]
pub struct Pieces(RefCell<Vec<Memory>>);

impl farspan_cuda::Memory for Pieces {
    type Failure = Error;
    type Bytes = Vec<u8>;

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let memory = Memory::new(bytes);
        let pointer = memory.start() as u64;
        self.0.borrow_mut().push(memory);
        Ok(pointer)
    }

    fn upload(&self, bytes: &[u8]) -> Result<u64> {
        let pointer = self.allocate(bytes.len())?;
        self.0.borrow_mut().last_mut().unwrap().write(bytes);
        Ok(pointer)
    }

    fn download(&self, pointer: u64, bytes: usize) -> Result<Vec<u8>> {
        let pieces = self.0.borrow();
        let memory = pieces.iter().find(|memory| memory.start() as u64 == pointer).unwrap();
        Ok(memory.contents()[..bytes].to_vec())
    }
}

impl Pieces {
    /// That nothing behind any piece was written.
    pub fn check(&self) {
        self.0.borrow().iter().for_each(Memory::check);
    }
}

/// The workspace that `asked` says, or the share of it that serves a row at least.
pub fn workspace(problem: &Problem, asked: impl Fn(&Problem) -> Result<usize>) -> Memory {
    let mut one = *problem;
    one.hidden.tensor.shape[0] = 1;
    let (whole, least) = (asked(problem).unwrap(), asked(&one).unwrap());
    Memory::new((whole / SHARE.get()).max(least))
}

pub fn address<T>(values: &[T]) -> u64 {
    values.as_ptr() as u64
}

pub fn on_device(stored: &Stored) -> Matrix {
    let (pointer, stride) = stored.place();
    Matrix {
        dtype: stored.dtype,
        tensor: Tensor { pointer, shape: [stored.rows, stored.columns], strides: [stride, 1] },
    }
}

pub fn problem(case: &Case) -> Problem {
    Problem {
        hidden: on_device(&case.hidden),
        weight: on_device(&case.weight),
        rules: Rules {
            scale: case.scale,
            softcap: case.softcap,
            bias: case.bias.as_ref().map(|bias| Tensor::contiguous(address(bias), [bias.len()])),
            valid_vocab: Some(case.valid_vocab),
        },
        shard: None,
    }
}

/// Settings as the device reads them.
pub struct DeviceDraws {
    seed: Vec<i64>,
    position: Vec<i64>,
    stream: Vec<i64>,
    temperature: Vec<f32>,
}

impl DeviceDraws {
    pub fn new(draws: &HostDraws) -> DeviceDraws {
        DeviceDraws {
            seed: draws.seed.iter().map(|x| x.cast_signed()).collect(),
            position: draws.position.iter().map(|x| i64::from(*x)).collect(),
            stream: draws.stream.iter().map(|x| i64::from(*x)).collect(),
            temperature: draws.temperature.to_vec(),
        }
    }

    pub fn view(&self) -> Draws {
        let of = |values: &[i64]| PerRow::Each(Tensor::contiguous(address(values), [values.len()]));
        let temperature = Tensor::contiguous(address(&self.temperature), [self.temperature.len()]);
        let temperature = PerRow::Each(temperature);
        Draws { seed: of(&self.seed), position: of(&self.position), stream: of(&self.stream), temperature }
    }
}

fn sample_out(samples: &mut Samples) -> SampleOut {
    SampleOut {
        token: samples.token.as_mut_ptr() as u64,
        logprob: samples.logprob.as_mut_ptr() as u64,
        raw_logprob: samples.raw_logprob.as_mut_ptr() as u64,
        lse: samples.lse.as_mut_ptr() as u64,
        flag: samples.flag.as_mut_ptr() as u64,
        rank: samples.rank.as_mut_ptr() as u64,
        logit: samples.logit.as_mut_ptr() as u64,
        kept: samples.kept.as_mut_ptr() as u64,
        kept_mass: samples.kept_mass.as_mut_ptr() as u64,
        entropy: samples.entropy.as_mut_ptr() as u64,
        top_token: samples.top_token.as_mut_ptr() as u64,
        top_logprob: samples.top_logprob.as_mut_ptr() as u64,
    }
}

/// Draws on the device alone, and then counts the ranks; without `draws` greedily.
pub fn choose(device: &dyn Device, problem: &Problem, draws: Option<&HostDraws>, options: &Options) -> Samples {
    let draws = draws.map(DeviceDraws::new);
    choose_with(device, problem, draws.as_ref().map(DeviceDraws::view).as_ref(), options)
}

/// The same with settings that lie on the device.
pub fn choose_with(device: &dyn Device, problem: &Problem, draws: Option<&Draws>, options: &Options) -> Samples {
    let rows = problem.hidden.tensor.shape[0];
    let mut samples = Samples::new(rows, options.samples, options.top);
    samples.rank.fill(77);
    let out = sample_out(&mut samples);
    let memory = workspace(problem, |problem| sample_workspace(problem, options, &device.limits()));
    // SAFETY: every address is that of a vector of the right length, which outlives the call.
    unsafe {
        match draws {
            Some(draws) => sample(device, problem, draws, options, &out, memory.workspace()).unwrap(),
            None => greedy(device, problem, options, &out, memory.workspace()).unwrap(),
        }
    }
    memory.check();
    let memory = workspace(problem, |problem| rank_workspace(problem, options.samples, &device.limits()));
    let drawn = [out.token, out.logit, out.rank];
    // SAFETY: as above.
    unsafe { rank(device, problem, options.samples, &options.changes, drawn, memory.workspace()).unwrap() };
    memory.check();
    samples
}

fn chosen(samples: Samples) -> Chosen {
    let Samples { token, flag, logprob, raw_logprob, lse, .. } = samples;
    Chosen { token, flag, numbers: [bits(&logprob), bits(&raw_logprob), bits(&lse)] }
}

/// Every operation, with its results as the CPU's tests have them.
pub fn run(device: &dyn Device, case: &Case) -> Results {
    let (problem, rows, limits) = (problem(case), case.hidden.rows, device.limits());
    let options = Options { changes: Changes::default(), ..Options::default() };
    let mut results = Results {
        greedy: chosen(choose(device, &problem, None, &options)),
        sample: chosen(choose(device, &problem, Some(&case.draws()), &options)),
        ..Results::default()
    };
    if case.valid_vocab > 0 {
        let [mut logprob, mut entropy, mut lse] = [(); 3].map(|()| vec![7.0f32; rows]);
        let mut rank = vec![7i64; rows];
        let k = case.k.min(128);
        let (mut top_token, mut top_logprob) = (vec![7i64; rows * k], vec![7.0f32; rows * k]);
        let out = ScoreOut {
            logprob: logprob.as_mut_ptr() as u64,
            rank: rank.as_mut_ptr() as u64,
            entropy: entropy.as_mut_ptr() as u64,
            lse: lse.as_mut_ptr() as u64,
            top_token: top_token.as_mut_ptr() as u64,
            top_logprob: top_logprob.as_mut_ptr() as u64,
        };
        let targets = Tensor::contiguous(address(&case.targets), [rows]);
        let memory = workspace(&problem, |problem| score_workspace(problem, k, &limits));
        // SAFETY: every address is that of a vector of the right length, which outlives the call.
        unsafe { score(device, &problem, &targets, k, &out, memory.workspace()).unwrap() };
        memory.check();
        results.score = [bits(&logprob), bits(&entropy), bits(&lse)];
        results.rank = rank;
        judge::list_beside_score((&top_token, &top_logprob), top_list(device, &problem, k), k);
    }
    let (token, logit, lse) = top_list(device, &problem, case.k);
    results.top_token = token;
    results.top = [bits(&logit), bits(&lse)];
    results
}

/// Tokens, logits and the LSE of `top`.
pub fn top_list(device: &dyn Device, problem: &Problem, k: usize) -> (Vec<i64>, Vec<f32>, Vec<f32>) {
    let rows = problem.hidden.tensor.shape[0];
    let (mut token, mut logit, mut lse) = (vec![7i64; rows * k], vec![7.0f32; rows * k], vec![7.0f32; rows]);
    let out =
        TopOut { token: token.as_mut_ptr() as u64, logit: logit.as_mut_ptr() as u64, lse: lse.as_mut_ptr() as u64 };
    let memory = workspace(problem, |problem| top_workspace(problem, k, &device.limits()));
    // SAFETY: every address is that of a vector of the right length, which outlives the call.
    unsafe { top(device, problem, k, &out, memory.workspace()).unwrap() };
    memory.check();
    (token, logit, lse)
}
