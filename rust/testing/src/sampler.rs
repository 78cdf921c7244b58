//! Random sampler settings over logits that float32 holds exactly, and the suite of the backends that follow them.

pub mod sorting;
pub mod suite;

use farspan_core::Result;
use farspan_core::draw::{SampleOut, Samples};
use farspan_core::noise::philox;
use farspan_core::sampler::{Mask, Order, Penalties, Ragged, Settings};
use farspan_core::unembed::{Draws, HostDraws};
use ndarray::Array2;
use proptest::prelude::*;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};

/// What draws with sampler settings.
pub trait Backend {
    /// Random problems that a test of it takes.
    fn cases(&self) -> u32;

    /// Draws from the whole vocabulary. Calls of another `variation` are made under other circumstances, which must not
    /// show in any result.
    fn run(&self, case: &Case, variation: u64) -> Samples;

    /// Draws from parts of the vocabulary that end at these tokens, multiples of [`SHARD_UNIT`] but for the last; what
    /// the holder of each of them drew.
    ///
    /// [`SHARD_UNIT`]: farspan_core::unembed::SHARD_UNIT
    fn run_in_parts(&self, case: &Case, ends: &[usize]) -> Vec<Samples>;
}

/// Philox words of one seed, one after the other.
#[derive(Clone, Debug)]
pub struct Words {
    seed: u64,
    drawn: u32,
}

impl Words {
    fn next(&mut self) -> u32 {
        self.drawn += 1;
        philox([self.drawn, 1, 2, 77], [self.seed as u32, (self.seed >> 32) as u32])[0]
    }

    fn below(&mut self, end: usize) -> usize {
        ((u64::from(self.next()) * end as u64) >> 32) as usize
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn list(&mut self, longest: usize, end: usize) -> Vec<i64> {
        (0..self.below(longest + 1)).map(|_| self.below(end) as i64).collect()
    }
}

/// Everything that one row asks for.
#[derive(Clone, Debug)]
pub struct Row {
    pub logits: Vec<f32>,
    pub draw: (u64, u32, u32),
    pub temperature: f32,
    pub top_k: i64,
    pub top_p: f64,
    pub min_p: f64,
    pub typical: f64,
    pub epsilon: f64,
    pub eta: f64,
    pub top_h: f64,
    pub top_n_sigma: f64,
    pub xtc_probability: f64,
    pub xtc_threshold: f64,
    pub min_keep: i64,
    pub penalties: [f64; 3],
    pub history: Vec<i64>,
    pub prompt_length: i64,
    pub banned: Vec<i64>,
    pub allowed: Vec<i64>,
    pub bias: Vec<(i64, f32)>,
    pub mask: Vec<i32>,
}

/// A call: rows of settings of their own, one order.
#[derive(Clone, Debug)]
pub struct Case {
    pub order: Order,
    pub rows: Vec<Row>,
    pub samples: usize,
    pub top: usize,
}

fn random_row(words: &mut Words, vocab: usize) -> Row {
    let (grid, spread) = (words.pick(&[64.0f32, 64.0, 1.0]), words.pick(&[0.2f32, 1.0, 2.5]));
    let logit = |words: &mut Words| {
        let sum: f32 = (0..4).map(|_| words.below(4096) as f32 / 4096.0).sum();
        ((sum - 2.0) * 1.7 * spread * grid).round() / grid
    };
    let history = words.list(20, vocab.min(5));
    Row {
        logits: (0..vocab).map(|_| logit(words)).collect(),
        draw: (u64::from(words.next()) << 32 | u64::from(words.next()), words.next(), words.next()),
        temperature: words.pick(&[1.0, 1.0, 0.5, 1.5, 0.0]),
        top_k: words.pick(&[0, 0, 1, 5, 60, 1500, 1 << 40]),
        top_p: words.pick(&[1.0, 1.0, 0.0, 0.4, 0.9, 0.999]),
        min_p: words.pick(&[0.0, 0.0, 0.001, 0.2, 1.0]),
        typical: words.pick(&[1.0, 1.0, 1.0, 0.3, 0.9]),
        epsilon: words.pick(&[0.0, 0.0, 0.0, 0.0005, 0.1]),
        eta: words.pick(&[0.0, 0.0, 0.0, 0.0005, 0.1]),
        top_h: words.pick(&[1.0, 1.0, 1.0, 0.5]),
        top_n_sigma: words.pick(&[0.0, 0.0, 0.8, 2.0]),
        xtc_probability: words.pick(&[0.0, 0.0, 0.5, 1.0]),
        xtc_threshold: words.pick(&[0.0, 0.01, 0.1, 0.6]),
        min_keep: words.pick(&[1, 1, 1, 4, 90]),
        penalties: [words.pick(&[1.0, 2.0, 0.5]), words.pick(&[0.0, 0.5, -0.25]), words.pick(&[0.0, 0.75])],
        prompt_length: words.below(history.len() + 1) as i64,
        history,
        banned: if words.below(3) == 0 { words.list(vocab, vocab) } else { Vec::new() },
        allowed: if words.below(4) == 0 { words.list(vocab, vocab) } else { Vec::new() },
        bias: words.list(4, vocab).into_iter().map(|id| (id, words.pick(&[4.0, -0.5, f32::NEG_INFINITY]))).collect(),
        mask: (0..vocab.div_ceil(32)).map(|_| words.next() as i32 | words.next() as i32).collect(),
    }
}

pub fn cases() -> impl Strategy<Value = Case> {
    let vocab = prop_oneof![
        3 => 1usize..80,
        2 => 500usize..600,
        1 => 1000usize..1100,
        1 => 2040usize..2600,
        1 => 4090usize..9000,
    ];
    let order = prop_oneof![Just(Order::Hf), Just(Order::Vllm), Just(Order::SgLang), Just(Order::LlamaCpp)];
    (vocab, order, 1usize..7, 1usize..4, any::<u64>()).prop_map(|(vocab, order, rows, samples, seed)| {
        let mut words = Words { seed, drawn: 0 };
        let rows: Vec<Row> = (0..rows).map(|_| random_row(&mut words, vocab)).collect();
        Case { order, rows, samples, top: words.below(vocab.min(128) + 1) }
    })
}

fn column<T>(rows: &[Row], of: impl Fn(&Row) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

fn joined(rows: &[Row], of: impl Fn(&Row) -> Vec<i64>) -> (Vec<i64>, Vec<i64>) {
    let (mut ids, mut offsets) = (Vec::new(), vec![0]);
    for row in rows {
        ids.extend(of(row));
        offsets.push(ids.len() as i64);
    }
    (ids, offsets)
}

impl Case {
    /// The same rows alone, in this order.
    pub fn pick(&self, rows: &[usize]) -> Case {
        Case { rows: rows.iter().map(|&row| self.rows[row].clone()).collect(), ..self.clone() }
    }

    /// Hands everything that a draw takes to `run`, once for each part of the vocabulary, in a thread for each of them.
    pub fn each_part(
        &self,
        ends: &[usize],
        run: impl Fn(&Array2<f32>, &Array2<f32>, Range<usize>, &HostDraws, &Settings, Exchange, SampleOut) + Sync,
    ) -> Vec<Samples> {
        let parts = [0].iter().chain(ends).zip(ends).map(|(start, end)| *start..*end);
        let one = |(part, exchange)| {
            self.call(|hidden, weight, draws, settings, out| {
                run(hidden, weight, part, draws, settings, exchange, out);
            })
        };
        std::thread::scope(|scope| {
            let holders: Vec<_> = parts.zip(exchanges(ends.len())).map(|part| scope.spawn(|| one(part))).collect();
            holders.into_iter().map(|holder| holder.join().unwrap()).collect()
        })
    }

    /// Hands everything that a draw takes to `run`, and gives what it wrote.
    pub fn call(&self, run: impl FnOnce(&Array2<f32>, &Array2<f32>, &HostDraws, &Settings, SampleOut)) -> Samples {
        // Row r of hidden picks column r of weight.
        let rows = &self.rows;
        let hidden = Array2::from_shape_fn((rows.len(), rows.len()), |(r, c)| f32::from(u8::from(r == c)));
        let weight = Array2::from_shape_fn((rows[0].logits.len(), rows.len()), |(token, r)| rows[r].logits[token]);
        let [history, banned, allowed] =
            [|r: &Row| r.history.clone(), |r: &Row| r.banned.clone(), |r: &Row| r.allowed.clone()]
                .map(|of| joined(rows, of));
        let bias = joined(rows, |r| r.bias.iter().map(|(id, _)| *id).collect());
        let amounts: Vec<f32> = rows.iter().flat_map(|r| r.bias.iter().map(|(_, amount)| *amount)).collect();
        let words: Vec<i32> = rows.iter().flat_map(|r| r.mask.clone()).collect();
        fn lists((ids, offsets): &(Vec<i64>, Vec<i64>)) -> Ragged<'_> {
            Ragged { ids, offsets }
        }
        let unused = Penalties::default();
        let settings = Settings {
            order: self.order,
            top_k: &column(rows, |r| r.top_k),
            top_p: &column(rows, |r| r.top_p),
            min_p: &column(rows, |r| r.min_p),
            typical: &column(rows, |r| r.typical),
            epsilon: &column(rows, |r| r.epsilon),
            eta: &column(rows, |r| r.eta),
            top_h: &column(rows, |r| r.top_h),
            top_n_sigma: &column(rows, |r| r.top_n_sigma),
            xtc_probability: &column(rows, |r| r.xtc_probability),
            xtc_threshold: &column(rows, |r| r.xtc_threshold),
            min_keep: &column(rows, |r| r.min_keep),
            repetition_penalty: &column(rows, |r| r.penalties[0]),
            frequency_penalty: &column(rows, |r| r.penalties[1]),
            presence_penalty: &column(rows, |r| r.penalties[2]),
            no_repeat_ngram: &column(rows, |_| unused.no_repeat_ngram as i64),
            dry_multiplier: &column(rows, |_| unused.dry_multiplier.into()),
            dry_base: &column(rows, |_| unused.dry_base.into()),
            dry_allowed_length: &column(rows, |_| unused.dry_allowed_length as i64),
            history: Some(lists(&history)),
            prompt_lengths: Some(&column(rows, |r| r.prompt_length)),
            logit_bias: Some((lists(&bias), &amounts)),
            banned: Some(lists(&banned)),
            allowed: Some(lists(&allowed)),
            mask: Some(Mask { words: &words, width: rows[0].mask.len() }),
            top: self.top,
            samples: self.samples,
        };
        let draws: HostDraws = Draws {
            seed: &column(rows, |r| r.draw.0),
            position: &column(rows, |r| r.draw.1),
            stream: &column(rows, |r| r.draw.2),
            temperature: &column(rows, |r| r.temperature),
        };
        let mut samples = Samples::new(rows.len(), self.samples, self.top);
        run(&hidden, &weight, &draws, &settings, samples.out());
        samples
    }
}

/// All fields of some rows by their bits, so that NaN equals itself.
pub fn bits(samples: &Samples, rows: &[usize], case: &Case) -> Vec<u64> {
    let mut all = Vec::new();
    for &row in rows {
        let (drawn, listed) = (row * case.samples..(row + 1) * case.samples, row * case.top..(row + 1) * case.top);
        let whole = [&samples.token[drawn.clone()], &samples.rank[drawn.clone()], &samples.top_token[listed.clone()]];
        let real = [&samples.logprob, &samples.raw_logprob, &samples.logit].map(|all| &all[drawn.clone()]).concat();
        let own = [samples.lse[row], samples.kept_mass[row], samples.entropy[row]];
        all.extend(whole.concat().iter().map(|&x| x as u64));
        all.extend(real.iter().chain(&samples.top_logprob[listed]).chain(&own).map(|x| u64::from(x.to_bits())));
        all.extend([samples.kept[row] as u64, samples.flag[row] as u64]);
    }
    all
}

pub fn everything(samples: &Samples, case: &Case) -> Vec<u64> {
    bits(samples, &(0..case.rows.len()).collect::<Vec<_>>(), case)
}

/// How one of several threads sends bytes to all and hears from all.
pub type Exchange = Box<dyn FnMut(Vec<u8>) -> Result<Vec<Vec<u8>>> + Send>;

/// So many of them. Each hears of the others in another order.
fn exchanges(count: usize) -> Vec<Exchange> {
    let mut senders: Vec<Vec<Sender<Vec<u8>>>> = vec![Vec::new(); count];
    let receivers = (0..count).map(|_| {
        let pairs = senders.iter_mut().map(|senders| {
            let (sender, receiver) = channel();
            senders.push(sender);
            receiver
        });
        pairs.collect::<Vec<_>>()
    });
    let mut receivers: Vec<_> = receivers.collect();
    receivers.iter_mut().enumerate().for_each(|(at, receivers)| receivers.rotate_left(at));
    senders.into_iter().zip(receivers).map(|(senders, receivers)| exchange(senders, receivers)).collect()
}

fn exchange(senders: Vec<Sender<Vec<u8>>>, receivers: Vec<Receiver<Vec<u8>>>) -> Exchange {
    Box::new(move |own| {
        senders.iter().for_each(|sender| sender.send(own.clone()).unwrap());
        Ok(receivers.iter().map(|receiver| receiver.recv().unwrap()).collect())
    })
}
