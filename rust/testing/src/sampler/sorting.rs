//! What settings should keep, by a program that sorts.

use super::{Case, Row};
use crate::oracle::unembed::noise;
use farspan_core::draw::Samples;
use farspan_core::noise::NoiseKey;
use farspan_core::sampler::{Order, xtc_applies};
use farspan_core::unembed::FLAG_EMPTY;
use proptest::prelude::*;

/// Decisions nearer to their border than this, relative to it, are left to rounding.
pub const BORDER: f64 = 2e-5;

impl Row {
    /// The logits after bias, penalties and bans. All numbers are sums of powers of two, so none is rounded.
    pub fn changed(&self) -> Vec<f64> {
        let mut l: Vec<f64> = self.logits.iter().map(|&l| f64::from(l) + 0.0).collect(); // one zero
        self.bias.iter().for_each(|(id, amount)| l[*id as usize] += f64::from(*amount));
        let [repetition, frequency, presence] = self.penalties;
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

/// One row against the sorting program; whether its decisions were clear.
pub fn judge(case: &Case, row: usize, samples: &Samples) -> Result<bool, TestCaseError> {
    let l = case.rows[row].changed();
    let size = l.iter().filter(|l| **l > f64::NEG_INFINITY).count();
    let tokens = &samples.token[row * case.samples..(row + 1) * case.samples];
    if size == 0 {
        prop_assert_eq!((tokens[0], samples.flag[row], samples.kept[row]), (-1, FLAG_EMPTY, 0));
        return Ok(true);
    }
    prop_assert_eq!(samples.flag[row], 0);
    let mut clear = true;
    for (sample, &token) in tokens.iter().enumerate() {
        let Some((kept, margin)) = case.rows[row].kept(case.order, sample) else {
            prop_assert_eq!((samples.kept[row], samples.kept_mass[row]), (1, 1.0));
            let best = (0..l.len()).rev().max_by(|&a, &b| l[a].total_cmp(&l[b])).unwrap();
            prop_assert_eq!(token, best as i64);
            continue;
        };
        if margin < BORDER {
            clear = false;
            continue;
        }
        if sample == 0 {
            prop_assert_eq!(samples.kept[row], kept.len() as i64, "row {}: {:?}", row, case.rows[row].draw);
            let share = |tokens: &[usize]| -> f64 {
                let largest = l.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                tokens.iter().map(|&token| ((l[token] - largest) / f64::from(case.rows[row].temperature)).exp()).sum()
            };
            let mass = share(&kept) / share(&(0..l.len()).collect::<Vec<_>>());
            prop_assert!((f64::from(samples.kept_mass[row]) - mass).abs() < 1e-5, "kept mass {mass}");
        }
        prop_assert!(kept.contains(&(token as usize)), "token {} is not kept", token);
        let (seed, position, stream) = case.rows[row].draw;
        let key = NoiseKey { seed, position, stream: stream.wrapping_add(sample as u32) };
        let temperature = f64::from(case.rows[row].temperature);
        let score = |token: usize| l[token] / temperature + noise(&key, token as u32);
        let best = kept.iter().map(|&token| score(token)).fold(f64::NEG_INFINITY, f64::max);
        prop_assert!(score(token as usize) > best - 1e-4, "token {} does not win", token);
    }
    Ok(clear)
}
