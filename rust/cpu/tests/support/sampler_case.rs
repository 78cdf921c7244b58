//! Random sampler settings over logits that float32 holds exactly, and what they should keep, by sorting.

use farspan_core::Result;
use farspan_core::noise::philox;
use farspan_core::sampler::{Mask, Order, Ragged, Settings, xtc_applies};
use farspan_core::unembed::{Draws, Rules, Shard};
use farspan_cpu::matrix::Matrix;
use farspan_cpu::unembed::{Problem, SampleOut, Samples, sample, sample_of_shard};
use ndarray::{Array2, s};
use proptest::prelude::*;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};

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

    /// Draws from the whole vocabulary.
    pub fn run(&self) -> Samples {
        self.call(|hidden, weight, draws, settings, out| {
            let problem = problem(hidden, weight, None);
            sample(&problem, draws, Some(settings), out).unwrap();
        })
    }

    /// Draws from parts of the vocabulary that end at these tokens; what the holder of each of them drew.
    pub fn run_in_parts(&self, ends: &[usize]) -> Vec<Samples> {
        self.each_part(ends, |hidden, weight, part, draws, settings, mut exchange, out| {
            let problem = problem(hidden, weight, Some(part));
            sample_of_shard(&problem, draws, Some(settings), &mut exchange, out).unwrap();
        })
    }

    /// Hands everything that a draw takes to `run`, once for each part of the vocabulary, in a thread for each of them.
    pub fn each_part(
        &self,
        ends: &[usize],
        run: impl Fn(&Array2<f32>, &Array2<f32>, Range<usize>, &Draws, &Settings, Exchange, SampleOut) + Sync,
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
    pub fn call(&self, run: impl FnOnce(&Array2<f32>, &Array2<f32>, &Draws, &Settings, SampleOut)) -> Samples {
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
            no_repeat_ngram: &column(rows, |_| 0),
            dry_multiplier: &column(rows, |_| 0.0),
            dry_base: &column(rows, |_| 1.75),
            dry_allowed_length: &column(rows, |_| 2),
            history: Some(lists(&history)),
            prompt_lengths: Some(&column(rows, |r| r.prompt_length)),
            logit_bias: Some((lists(&bias), &amounts)),
            banned: Some(lists(&banned)),
            allowed: Some(lists(&allowed)),
            mask: Some(Mask { words: &words, width: rows[0].mask.len() }),
            top: self.top,
            samples: self.samples,
        };
        let draws = Draws {
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

impl Row {
    /// The logits after bias, penalties and bans. All numbers are sums of powers of two, so none is rounded.
    pub fn changed(&self) -> Vec<f64> {
        let mut l: Vec<f64> = self.logits.iter().map(|&l| f64::from(l) + 0.0).collect(); // one zero
        self.bias.iter().for_each(|(id, amount)| l[*id as usize] += f64::from(*amount));
        let [repetition, frequency, presence] = self.penalties.map(f64::from);
        for (token, l) in l.iter_mut().enumerate() {
            let is = |id: &&i64| **id == token as i64;
            if self.history.iter().any(|id| is(&id)) {
                *l = if *l < 0.0 { *l * repetition } else { *l / repetition };
            }
            let count = self.history[self.prompt_length as usize..].iter().filter(is).count();
            *l -= if count > 0 { count as f64 * frequency + presence } else { 0.0 };
            let outside = !self.allowed.is_empty() && !self.allowed.iter().any(|id| is(&id));
            if self.banned.iter().any(|id| is(&id)) || outside || self.mask[token / 32] >> (token % 32) & 1 == 0 {
                *l = f64::NEG_INFINITY;
            }
        }
        l
    }

    /// The tokens left by the cuts, and how near to its border the nearest decision was. `None`: greedy, or nothing
    /// there.
    pub fn kept(&self, order: Order, sample: usize) -> Option<(Vec<usize>, f64)> {
        let l = self.changed();
        let mut ids: Vec<usize> = (0..l.len()).filter(|&token| l[token] > f64::NEG_INFINITY).collect();
        if ids.is_empty() || self.temperature == 0.0 {
            return None;
        }
        ids.sort_by(|&a, &b| l[b].total_cmp(&l[a]).then(a.cmp(&b)));
        let divisor = if order == Order::LlamaCpp { 1.0 } else { f64::from(self.temperature) };
        let mut left =
            Left { tokens: ids.into_iter().map(|token| (token, l[token] / divisor)).collect(), margin: f64::INFINITY };
        let min_keep = if matches!(order, Order::Hf | Order::LlamaCpp) { self.min_keep as usize } else { 1 };
        let (seed, position, stream) = self.draw;
        let coin = xtc_applies(seed, stream.wrapping_add(sample as u32), position, self.xtc_probability);
        let all =
            |left: &mut Left, names: &[&str]| names.iter().for_each(|name| left.cut(name, self, order, min_keep, coin));
        match order {
            Order::Hf => {
                all(&mut left, &["top_h", "top_k", "top_p", "min_p", "typical", "epsilon", "eta", "sigma", "xtc"])
            }
            Order::Vllm => {
                all(&mut left, &["min_p", "top_k", "top_p", "top_h", "typical", "epsilon", "eta", "sigma", "xtc"])
            }
            Order::LlamaCpp => {
                all(&mut left, &["sigma", "top_k", "typical", "top_p", "min_p", "xtc", "top_h", "epsilon", "eta"]);
            }
            Order::SgLang => {
                let shortest = ["top_k", "top_p", "min_p"].map(|name| {
                    let mut alone = left.clone();
                    alone.cut(name, self, order, min_keep, coin);
                    left.margin = left.margin.min(alone.margin);
                    alone.tokens.len()
                });
                left.tokens.truncate(shortest.into_iter().min().unwrap());
                all(&mut left, &["top_h", "typical", "epsilon", "eta", "sigma", "xtc"]);
            }
        }
        Some((left.tokens.iter().map(|(token, _)| *token).collect(), left.margin))
    }
}

/// Tokens that are still there and their `l / T`, the largest first, equal ones by id.
#[derive(Clone)]
struct Left {
    tokens: Vec<(usize, f64)>,
    margin: f64,
}

impl Left {
    fn shares(&self) -> Vec<f64> {
        let powers: Vec<f64> = self.tokens.iter().map(|(_, x)| (x - self.tokens[0].1).exp()).collect();
        let sum: f64 = powers.iter().sum();
        powers.iter().map(|power| power / sum).collect()
    }

    /// `value < border`, with a note of how near they are.
    fn below(&mut self, value: f64, border: f64) -> bool {
        self.margin = self.margin.min((value - border).abs() / border.abs().max(1e-9));
        value < border
    }

    fn cut(&mut self, name: &str, row: &Row, order: Order, min_keep: usize, coin: bool) {
        let (shares, size) = (self.shares(), self.tokens.len());
        let entropy: f64 = shares.iter().map(|p| -p * p.ln()).sum();
        match name {
            "top_k" if row.top_k > 0 && (row.top_k.max(min_keep as i64) as usize) < size => {
                let wanted = row.top_k.max(min_keep as i64) as usize;
                let last = self.tokens[wanted - 1].1;
                let ties = matches!(order, Order::Hf | Order::Vllm);
                let mut place = 0;
                self.tokens.retain(|(_, x)| {
                    place += 1;
                    place <= wanted || (ties && *x == last)
                });
            }
            "top_p" if row.top_p < 1.0 => {
                let (mut before, mut count) = (0.0, 0);
                while count < size && (count == 0 || self.below(before, row.top_p)) {
                    before += shares[count];
                    count += 1;
                }
                self.tokens.truncate(count.max(min_keep));
            }
            "min_p" if row.min_p > 0.0 => {
                let count = shares.iter().filter(|p| **p == shares[0] || !self.below(**p / shares[0], row.min_p));
                let count = count.count();
                self.tokens.truncate(count.max(min_keep));
            }
            "epsilon" | "eta" if (if name == "eta" { row.eta } else { row.epsilon }) > 0.0 => {
                let eta = row.eta;
                let limit = if name == "eta" { eta.min(eta.sqrt() * (-entropy).exp()) } else { row.epsilon };
                let least = self.tokens[min_keep.min(size) - 1].1;
                let tokens = self.tokens.clone();
                let count = tokens.iter().zip(&shares).filter(|((_, x), p)| *x >= least || !self.below(**p, limit));
                let count = count.count();
                self.tokens.truncate(count);
            }
            "top_h" if row.top_h < 1.0 => {
                let mut head = Left { tokens: self.tokens[..size.min(100)].to_vec(), margin: self.margin };
                let parts: Vec<f64> = head.shares().iter().map(|p| -p * p.ln()).collect();
                let (limit, mut sum, mut count) = (row.top_h * parts.iter().sum::<f64>(), 0.0, 0);
                while count < parts.len() && head.below(sum + parts[count], limit) {
                    sum += parts[count];
                    count += 1;
                }
                self.margin = head.margin;
                self.tokens.truncate(count.max(1));
            }
            "sigma" if row.top_n_sigma > 0.0 && size > 1 => {
                let mean = self.tokens.iter().map(|(_, x)| x).sum::<f64>() / size as f64;
                let square = self.tokens.iter().map(|(_, x)| (x - mean).powi(2)).sum::<f64>() / size as f64;
                let (largest, reach) = (self.tokens[0].1, row.top_n_sigma * square.sqrt());
                let tokens = self.tokens.clone();
                let count = tokens.iter().filter(|(_, x)| *x == largest || self.below(largest - x, reach)).count();
                self.tokens.truncate(count);
            }
            "typical" if row.typical < 1.0 => {
                let mut near: Vec<(f64, usize)> = shares.iter().map(|p| (-p.ln() - entropy).abs()).zip(0..).collect();
                near.sort_by(|a, b| a.0.total_cmp(&b.0).then(self.tokens[a.1].0.cmp(&self.tokens[b.1].0)));
                let apart = near.windows(2).filter(|w| self.tokens[w[0].1].1 != self.tokens[w[1].1].1);
                if apart.map(|w| w[1].0 - w[0].0).fold(f64::INFINITY, f64::min) < 1e-9 {
                    self.margin = 0.0;
                }
                let (mut sum, mut count) = (0.0, 0);
                let passes = order == Order::LlamaCpp;
                while count < size && (self.below(sum, row.typical) || (passes && count < min_keep)) {
                    sum += shares[near[count].1];
                    count += 1;
                }
                while !passes && count < size && near[count].0 - near[count - 1].0 < 1e-9 {
                    count += 1;
                }
                count = count.max(min_keep).min(size);
                let mut kept: Vec<usize> = near[..count].iter().map(|(_, place)| *place).collect();
                kept.sort_unstable();
                self.tokens = kept.into_iter().map(|place| self.tokens[place]).collect();
            }
            "xtc" if coin && row.xtc_threshold <= 0.5 && size > 1 => {
                let above = shares.iter().filter(|p| !self.below(**p, row.xtc_threshold)).count();
                if above > 1 && size - (above - 1) >= min_keep {
                    self.tokens.drain(..above - 1);
                }
            }
            _ => {}
        }
    }
}

/// Hidden states against all rows of a weight, or against those of one part of a vocabulary.
fn problem<'a>(hidden: &'a Array2<f32>, weight: &'a Array2<f32>, part: Option<Range<usize>>) -> Problem<'a> {
    let shard = part.as_ref().map(|part| Shard { first: part.start, vocab: weight.nrows() });
    let part = part.unwrap_or(0..weight.nrows());
    let (hidden, weight) = (Matrix::F32(hidden.view()), Matrix::F32(weight.slice(s![part, ..])));
    Problem { hidden, weight, rules: Rules::default(), shard }
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
