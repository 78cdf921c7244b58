//! What is known of a row after a part of the vocabulary, and how two parts combine.
//!
//! [`Mass`] is a float32 sum: its bits depend on the order, so callers always merge the same parts in the same order.
//! [`Best`] and [`TopList`] are maxima under a total order: any order of merging gives the same.

use crate::elementary::{exp, ln};
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Softmax sums relative to the largest logit so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mass {
    /// The largest logit; -inf of nothing; NaN once a logit was NaN, and for ever.
    pub max: f32,
    /// `sum(exp(l - max))`.
    pub sum: f32,
    /// `sum(exp((l - max) / temperature))`, where a temperature is in use.
    pub tempered: f32,
    /// `sum(exp(l - max) * (l - max))`, where the entropy is asked for.
    pub moment: f32,
    /// `sum(exp(x) * x)` of `x = (l - max) / temperature`, where a temperature and the entropy are.
    pub tempered_moment: f32,
}

impl Mass {
    /// Of no logit at all.
    pub const NOTHING: Mass =
        Mass { max: f32::NEG_INFINITY, sum: 0.0, tempered: 0.0, moment: 0.0, tempered_moment: 0.0 };

    /// `count` logits of +inf: all of the mass, evenly.
    pub fn of_infinities(count: usize) -> Mass {
        Mass { max: f32::INFINITY, sum: count as f32, tempered: count as f32, ..Mass::NOTHING }
    }

    /// The same sums relative to a maximum that is at least as large and not NaN.
    pub fn relative_to(self, max: f32, inverse_temperature: f32) -> Mass {
        if self.max == max || self.max == f32::NEG_INFINITY {
            return self;
        }
        let step = self.max - max;
        if step == f32::NEG_INFINITY {
            return Mass::NOTHING;
        }
        let (factor, tempered_step) = (exp(step), step * inverse_temperature);
        let tempered_factor = exp(tempered_step);
        Mass {
            max,
            sum: self.sum * factor,
            tempered: self.tempered * tempered_factor,
            moment: moved_moment(self.sum, self.moment, step, factor),
            tempered_moment: moved_moment(self.tempered, self.tempered_moment, tempered_step, tempered_factor),
        }
    }

    /// The mass of this part and of the next one.
    pub fn merge(self, next: Mass, inverse_temperature: f32) -> Mass {
        if self.max.is_nan() || next.max.is_nan() {
            return Mass { max: f32::NAN, ..Mass::NOTHING };
        }
        let max = if next.max > self.max { next.max } else { self.max };
        let (a, b) = (self.relative_to(max, inverse_temperature), next.relative_to(max, inverse_temperature));
        Mass {
            max,
            sum: a.sum + b.sum,
            tempered: a.tempered + b.tempered,
            moment: a.moment + b.moment,
            tempered_moment: a.tempered_moment + b.tempered_moment,
        }
    }

    /// The mass of all of these parts, merged in their order.
    pub fn fold(parts: &[Mass], inverse_temperature: f32) -> Mass {
        parts.iter().fold(Mass::NOTHING, |mass, part| mass.merge(*part, inverse_temperature))
    }

    /// `log(sum(exp(l)))`: NaN with a NaN logit, -inf of nothing.
    pub fn lse(&self) -> f32 {
        if self.sum > 0.0 { self.max + ln(self.sum) } else { self.max }
    }

    /// The log-probability of a token of this logit under `softmax(l)`.
    pub fn logprob(&self, logit: f32) -> f32 {
        self.logprob_of(logit, self.sum, 1.0)
    }

    /// The log-probability of a token of this logit under `softmax(l / temperature)`.
    pub fn tempered_logprob(&self, logit: f32, inverse_temperature: f32) -> f32 {
        self.logprob_of(logit, self.tempered, inverse_temperature)
    }

    /// Formed from `l - max`, which is exact where it matters, not from a rounded LSE.
    fn logprob_of(&self, logit: f32, sum: f32, inverse_temperature: f32) -> f32 {
        if self.max.is_nan() {
            return f32::NAN;
        }
        if logit == f32::NEG_INFINITY {
            return f32::NEG_INFINITY;
        }
        let gap = if logit == self.max { 0.0 } else { (logit - self.max) * inverse_temperature };
        gap - ln(sum)
    }

    /// Entropy of `softmax(l)` in nats: NaN with a NaN logit, 0 of nothing.
    pub fn entropy(&self) -> f32 {
        if self.max.is_nan() {
            f32::NAN
        } else if self.sum > 0.0 {
            ln(self.sum) - self.moment / self.sum
        } else {
            0.0
        }
    }
}

/// A sum of `exp(x) x` after a step of every x; nothing where the step left nothing, however far it was.
fn moved_moment(sum: f32, moment: f32, step: f32, factor: f32) -> f32 {
    if factor > 0.0 { sum.mul_add(step, moment) * factor } else { 0.0 }
}

/// Number, mean and squared deviations of finite logits, merged as Chan, Golub and LeVeque (1979) do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// How many.
    pub count: u32,
    /// Their mean.
    pub mean: f64,
    /// `sum((l - mean)^2)`.
    pub squares: f64,
}

impl Spread {
    /// The spread of this part and of the next one.
    pub fn merge(self, next: Spread) -> Spread {
        let count = self.count + next.count;
        if count == 0 {
            return self;
        }
        let (share, step) = (f64::from(next.count) / f64::from(count), next.mean - self.mean);
        let between = step * step * f64::from(self.count) * share;
        Spread { count, mean: self.mean + step * share, squares: self.squares + next.squares + between }
    }

    /// The population standard deviation.
    pub fn deviation(&self) -> f64 {
        (self.squares / f64::from(self.count.max(1))).sqrt()
    }
}

/// The token of the largest score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// What is compared: the logit itself, or the logit over the temperature plus noise.
    pub score: f32,
    /// What decides between equal scores that are too large to hold their noise; 0 of every other score.
    pub rest: f32,
    /// The token's logit.
    pub logit: f32,
    /// The token, or `None` where every logit so far is -inf.
    pub token: Option<u32>,
}

impl Best {
    /// Of no token.
    pub const NOTHING: Best = Best { score: f32::NEG_INFINITY, rest: 0.0, logit: f32::NEG_INFINITY, token: None };

    /// The token as a draw sees it: `logit / temperature + noise` is the score.
    pub fn perturbed(logit: f32, inverse_temperature: f32, noise: f32, token: u32) -> Best {
        let score = logit.mul_add(inverse_temperature, noise);
        Best { score, rest: rest(score, logit, inverse_temperature, noise), logit, token: Some(token) }
    }

    /// Whether this one is chosen rather than `other`. Ties go to the lowest id.
    pub fn beats(&self, other: &Best) -> bool {
        let (Some(token), Some(other_token)) = (self.token, other.token) else {
            return self.token.is_some();
        };
        if self.score != other.score {
            return self.score > other.score;
        }
        if self.score.abs() >= NOISELESS && self.logit != other.logit {
            return self.logit > other.logit;
        }
        if self.rest != other.rest {
            return self.rest > other.rest;
        }
        token < other_token
    }

    /// The better of two.
    pub fn merge(self, other: Best) -> Best {
        if other.beats(&self) { other } else { self }
    }
}

/// From here on the float32 score of a draw is too coarse, a multiple of 2^-7, to tell the noise of equal logits apart.
pub const COARSE: f32 = 65_536.0;
/// From here on a score holds nothing of the noise, and different logits are further apart than any two noises.
pub const NOISELESS: f32 = 4_294_967_296.0;

/// Orders draws of the same score as their exact scores are: by what the score was rounded by, and where different
/// logits cannot meet any more, by the noise alone. Infinite logits stay equal.
fn rest(score: f32, logit: f32, inverse_temperature: f32, noise: f32) -> f32 {
    if score.abs() < COARSE || logit.is_infinite() {
        return 0.0;
    }
    if score.abs() >= NOISELESS {
        return noise;
    }
    let product = logit * inverse_temperature;
    let product_rest = logit.mul_add(inverse_temperature, -product);
    (product - score) + noise + product_rest
}

/// A token and its logit in the order of a list: larger logits first, equal ones by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ranked(u64);

impl Ranked {
    /// The list's order as the order of integers: the sign bit flipped or all bits, then the id from the other end.
    /// Negative zero becomes zero, which it equals.
    pub fn new(logit: f32, token: u32) -> Ranked {
        let bits = (logit + 0.0).to_bits();
        let ordered = if bits >> 31 == 0 { bits | 0x8000_0000 } else { !bits };
        Ranked(u64::from(ordered) << 32 | u64::from(!token))
    }

    /// The token.
    pub fn token(self) -> u32 {
        !(self.0 as u32)
    }

    /// Its logit.
    pub fn logit(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered >> 31 == 0 { !ordered } else { ordered & 0x7fff_ffff })
    }
}

/// The `k` largest logits, kept by cutting a longer list back whenever it fills: any `k`, constant work per token.
#[derive(Clone, Debug)]
pub struct TopList {
    k: usize,
    entries: Vec<Ranked>,
    threshold: f32,
}

/// A short list grows at least this far before it is cut.
const SLACK: usize = 256;

impl TopList {
    /// An empty list that will hold `k`. Nothing below `threshold` is of interest.
    pub fn new(k: usize, threshold: f32) -> TopList {
        TopList { k, entries: Vec::new(), threshold }
    }

    /// Only logits at or above it can change the list.
    pub fn threshold(&self) -> f32 {
        self.threshold
    }

    /// Offers a token.
    pub fn offer(&mut self, entry: Ranked) {
        self.entries.push(entry);
        if self.entries.len() >= self.k.saturating_mul(2).max(self.k.saturating_add(SLACK)) {
            self.cut();
        }
    }

    /// Takes in everything that `other` holds.
    pub fn merge(&mut self, other: &TopList) {
        other.entries.iter().for_each(|&entry| self.offer(entry));
        self.cut();
    }

    fn cut(&mut self) {
        if self.entries.len() < self.k {
            return;
        }
        if self.k == 0 {
            self.entries.clear();
            self.threshold = f32::INFINITY;
            return;
        }
        self.entries.select_nth_unstable_by(self.k - 1, descending);
        self.entries.truncate(self.k);
        self.threshold = self.threshold.max(self.entries[self.k - 1].logit());
    }

    /// The list in order.
    pub fn into_sorted(mut self) -> Vec<Ranked> {
        self.cut();
        self.entries.sort_unstable_by(descending);
        self.entries
    }
}

fn descending(a: &Ranked, b: &Ranked) -> Ordering {
    b.cmp(a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mass_of(logits: &[f32]) -> Mass {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let gaps = || logits.iter().filter(|l| **l > f32::NEG_INFINITY).map(move |l| l - max);
        Mass {
            max,
            sum: gaps().map(exp).sum(),
            tempered: gaps().map(|d| exp(d / 2.0)).sum(),
            moment: gaps().map(|d| exp(d) * d).sum(),
            tempered_moment: gaps().map(|d| exp(d / 2.0) * d / 2.0).sum(),
        }
    }

    fn logits() -> impl Strategy<Value = Vec<f32>> {
        let some = prop_oneof![8 => -30f32..30.0, 1 => Just(f32::NEG_INFINITY), 2 => (-3..3i32).prop_map(|x| x as f32)];
        prop::collection::vec(some, 0..60)
    }

    proptest! {
        #[test]
        fn merged_masses_are_those_of_the_whole(a in logits(), b in logits()) {
            let whole = mass_of(&[a.clone(), b.clone()].concat());
            let merged = mass_of(&a).merge(mass_of(&b), 0.5);
            prop_assert_eq!(merged.max, whole.max);
            let pairs = [
                (merged.sum, whole.sum),
                (merged.tempered, whole.tempered),
                (merged.moment, whole.moment),
                (merged.tempered_moment, whole.tempered_moment),
            ];
            for (got, truth) in pairs {
                prop_assert!((got - truth).abs() <= 2e-5 * (1.0 + truth.abs()), "{merged:?} is not {whole:?}");
            }
        }

        #[test]
        fn a_list_is_the_sorted_beginning(a in logits(), b in logits(), k in 0usize..40) {
            let mut parts = [TopList::new(k, f32::NEG_INFINITY), TopList::new(k, f32::NEG_INFINITY)];
            let mut all = Vec::new();
            for (i, &logit) in a.iter().chain(&b).enumerate() {
                parts[usize::from(i >= a.len())].offer(Ranked::new(logit, i as u32));
                all.push((logit, i as u32));
            }
            all.sort_by(|x, y| y.0.total_cmp(&x.0).then(x.1.cmp(&y.1)));
            let [mut first, second] = parts;
            first.merge(&second);
            let got: Vec<_> = first.into_sorted().iter().map(|r| (r.logit(), r.token())).collect();
            prop_assert_eq!(got, &all[..k.min(all.len())]);
        }

        #[test]
        fn the_best_does_not_depend_on_the_order(mut scores in prop::collection::vec((-3i32..3, -3i32..3), 1..20)) {
            let best = |s: &[(i32, i32)], reversed: bool| {
                let mut all: Vec<_> = s.iter().zip(0..).map(|(&(score, logit), i)| Best {
                    score: if score > 1 { f32::INFINITY } else { score as f32 },
                    rest: 0.0,
                    logit: logit as f32,
                    token: Some(i),
                }).collect();
                if reversed { all.reverse() }
                all.into_iter().fold(Best::NOTHING, Best::merge)
            };
            prop_assert_eq!(best(&scores, false), best(&scores, true));
            scores.truncate(1);
            prop_assert_eq!(best(&scores, false).token, Some(0));
        }
    }

    #[test]
    fn scores_too_large_for_their_noise_are_ordered_by_it() {
        let beats = |a: (f32, f32), b: (f32, f32), inverse| {
            // The higher id wins nothing by chance.
            Best::perturbed(a.0, inverse, a.1, 9).beats(&Best::perturbed(b.0, inverse, b.1, 3))
        };
        for inverse in [1.0, 30.0, 1e4, 1e5, 1e6, 1e8, 1e9, 1e12, 1e30, f32::MAX] {
            for logit in [3.0, -20.0, 127.9, 1e6] {
                let noisy = 10.0 + (logit * inverse * 1e-7f32).abs().min(30.0);
                assert!(beats((logit, noisy), (logit, 9.9), inverse), "{logit} at {inverse}");
                assert!(!beats((logit, 9.9), (logit, noisy), inverse), "{logit} at {inverse}");
                let next = logit.next_up();
                let nearer = f64::from(next - logit) * f64::from(inverse) < 10.0;
                assert_eq!(beats((logit, 40.0), (next, 30.0), inverse), nearer, "{logit} at {inverse}");
            }
        }
        assert_eq!(Best::perturbed(20.0, 1.0, 3.0, 0).rest, 0.0);
        assert!(!beats((f32::INFINITY, 9.0), (f32::INFINITY, 1.0), 1.0), "infinite logits are equal");
    }

    #[test]
    fn merged_spreads_are_those_of_the_whole() {
        let spread = |logits: &[f64]| {
            let mean = logits.iter().sum::<f64>() / logits.len().max(1) as f64;
            let squares = logits.iter().map(|l| (l - mean).powi(2)).sum();
            Spread { count: logits.len() as u32, mean, squares }
        };
        let all: Vec<f64> = (0..60).map(|i| f64::from(i * i % 17) - 3.5).collect();
        for cut in [0, 1, 30, 60] {
            let (merged, whole) = (spread(&all[..cut]).merge(spread(&all[cut..])), spread(&all));
            assert_eq!(merged.count, 60);
            assert!((merged.deviation() - whole.deviation()).abs() < 1e-12, "{merged:?} is not {whole:?}");
        }
    }

    #[test]
    fn infinities_and_nan_have_their_place() {
        let some = mass_of(&[1.0, 2.0]);
        assert!(some.merge(Mass { max: f32::NAN, ..Mass::NOTHING }, 1.0).lse().is_nan());
        assert_eq!(Mass::NOTHING.merge(some, 1.0), some);
        assert_eq!(some.merge(Mass::NOTHING, 1.0), some);
        assert_eq!(Mass::NOTHING.lse(), f32::NEG_INFINITY);
        let infinite = some.merge(Mass::of_infinities(2), 1.0).merge(some, 1.0);
        assert_eq!(infinite, Mass::of_infinities(2));
        assert_eq!((infinite.logprob(f32::INFINITY), infinite.logprob(2.0)), (-ln(2.0), f32::NEG_INFINITY));
        assert_eq!(infinite.lse(), f32::INFINITY);
    }

    #[test]
    fn zeros_of_either_sign_are_equal_in_a_list() {
        assert!(Ranked::new(-0.0, 3) > Ranked::new(0.0, 4));
        assert!(Ranked::new(0.0, 3) > Ranked::new(-0.0, 4));
        assert!(Ranked::new(1e-45, 9) > Ranked::new(0.0, 0));
        assert!(Ranked::new(f32::NEG_INFINITY, 0) < Ranked::new(f32::MIN, 9));
    }
}
