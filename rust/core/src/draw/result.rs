//! Where draws are written, and how a row is decided once it has been read.

use super::decide::RowStatistics;
use super::plan::{Plan, Warm};
use crate::error::Error;
use crate::merge::{Mass, Ranked};
use crate::sampler::{Cuts, Kept, Summary, Totals, Undecided, cut, scaled};
use crate::unembed::{FLAG_EMPTY, FLAG_NAN};

/// `SampleOut::rank` of a token that lies behind the largest logits, which are all that a reading keeps in order.
pub const UNRANKED: i64 = -2;

macro_rules! fields {
    ($(#[$doc:meta] $name:ident: $kind:ty, $each:ident;)*) => {
        /// Where greedy and sampled tokens are written: `[rows]`, or `[rows, samples]` where it says so.
        #[derive(Debug)]
        pub struct SampleOut<'a> {
            $(#[$doc] pub $name: &'a mut [$kind],)*
        }

        /// Owned memory for a [`SampleOut`].
        #[derive(Clone, Debug, Default, PartialEq)]
        #[expect(missing_docs, reason = "the fields of `SampleOut`")]
        pub struct Samples {
            $(pub $name: Vec<$kind>,)*
        }

        impl Samples {
            /// Room for `samples` draws and a list of `top` for each of `rows`.
            pub fn new(rows: usize, samples: usize, top: usize) -> Self {
                let sizes = Sizes { one: 1, samples, top };
                Samples { $($name: vec![Default::default(); rows * sizes.$each],)* }
            }

            /// The room, to be written.
            pub fn out(&mut self) -> SampleOut<'_> {
                SampleOut { $($name: &mut self.$name,)* }
            }
        }

        impl<'a> SampleOut<'a> {
            /// The fields' names.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// The first rows and the others.
            fn split(self, rows: usize, sizes: &Sizes) -> (SampleOut<'a>, SampleOut<'a>) {
                $(let $name = self.$name.split_at_mut(rows * sizes.$each);)*
                (SampleOut { $($name: $name.0,)* }, SampleOut { $($name: $name.1,)* })
            }

            fn borrow(&mut self) -> SampleOut<'_> {
                SampleOut { $($name: &mut *self.$name,)* }
            }

            fn check(&self, rows: usize, samples: usize, top: usize) -> Result<(), Error> {
                let sizes = Sizes { one: 1, samples, top };
                $(check_size(stringify!($name), rows, sizes.$each, self.$name.len())?;)*
                Ok(())
            }
        }
    };
}

/// How many entries a row has.
struct Sizes {
    one: usize,
    samples: usize,
    top: usize,
}

fields! {
    /// `[rows, samples]`: the chosen token; -1 where the flag is not 0.
    token: i64, samples;
    /// `[rows, samples]`: its log-probability under the distribution it was drawn from.
    logprob: f32, samples;
    /// `[rows, samples]`: its log-probability under `softmax(l)`.
    raw_logprob: f32, samples;
    /// `log(sum(exp(l)))`.
    lse: f32, one;
    /// 0, [`FLAG_NAN`] or [`FLAG_EMPTY`].
    flag: i32, one;
    /// `[rows, samples]`: how many tokens have a larger logit, or an equal one and a lower id, or [`UNRANKED`].
    rank: i64, samples;
    /// `[rows, samples]`: the chosen token's logit.
    logit: f32, samples;
    /// How many tokens the cuts left.
    kept: i64, one;
    /// Their probability at the temperature, before renormalising.
    kept_mass: f32, one;
    /// Entropy of `softmax(l)` in nats.
    entropy: f32, one;
    /// `[rows, top]`: the most likely tokens.
    top_token: i64, top;
    /// `[rows, top]`: their log-probabilities under `softmax(l)`.
    top_logprob: f32, top;
}

fn check_size(argument: &'static str, rows: usize, each: usize, given: usize) -> Result<(), Error> {
    match rows.checked_mul(each) == Some(given) {
        true => Ok(()),
        false => Err(Error::argument(argument, format!("{each} for each of {rows} rows"), given)),
    }
}

/// The outputs of a call.
#[derive(Debug)]
pub struct Results<'o> {
    out: SampleOut<'o>,
    samples: usize,
    top: usize,
}

/// Writes a row's most likely tokens and their log-probabilities: -1 and NaN in a row with NaN.
pub fn write_list(list: &[Ranked], mass: &Mass, tokens: &mut [i64], logprobs: &mut [f32]) {
    for (place, (token, logprob)) in tokens.iter_mut().zip(logprobs).enumerate() {
        (*token, *logprob) = match list.get(place) {
            Some(entry) if !mass.max.is_nan() => (entry.token().into(), mass.logprob(entry.logit())),
            _ => (-1, f32::NAN),
        };
    }
}

/// One token that was drawn.
struct Drawn {
    token: u32,
    logit: f32,
    logprob: f32,
    /// Unknown when the token lies behind the list of the largest.
    rank: Option<usize>,
}

impl<'o> Results<'o> {
    /// Outputs of the right sizes.
    pub fn new(out: SampleOut<'o>, rows: usize, samples: usize, top: usize) -> Result<Self, Error> {
        out.check(rows, samples, top)?;
        Ok(Results { out, samples, top })
    }

    /// The same outputs for a while.
    pub(super) fn borrow(&mut self) -> Results<'_> {
        Results { out: self.out.borrow(), samples: self.samples, top: self.top }
    }

    /// The results of every `rows` rows by themselves, with the first row of each part: for threads.
    pub fn parts(&mut self, rows: usize) -> Vec<(usize, Results<'_>)> {
        let (samples, top) = (self.samples, self.top);
        let (mut rest, mut parts, mut first) = (self.out.borrow(), Vec::new(), 0);
        while !rest.lse.is_empty() {
            let count = rows.clamp(1, rest.lse.len());
            let (out, behind) = rest.split(count, &Sizes { one: 1, samples, top });
            parts.push((first, Results { out, samples, top }));
            (rest, first) = (behind, first + count);
        }
        parts
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.out.lse.len()
    }

    /// Draws for each row.
    pub fn samples(&self) -> usize {
        self.samples
    }

    /// Writes the results of a row; or the largest of its logits do not decide its cuts.
    pub fn row(&mut self, row: usize, plan: &Plan, statistics: &RowStatistics) -> Result<(), Undecided> {
        let mass = statistics.mass(plan.inverse_temperature());
        let flagged = self.shared(row, &mass, statistics.size);
        let listed = row * self.top..(row + 1) * self.top;
        let (tokens, logprobs) = (&mut self.out.top_token[listed.clone()], &mut self.out.top_logprob[listed]);
        write_list(&statistics.list, &mass, tokens, logprobs);
        if flagged {
            return Ok(());
        }
        match (&plan.warm, &plan.cuts) {
            (None, _) => self.greedy(row, &mass, statistics),
            (Some(warm), None) => self.free(row, &mass, warm, statistics),
            (Some(warm), Some(cuts)) => {
                let plain = Totals { mass: f64::from(mass.sum), energy: f64::from(mass.moment) };
                let summary = Summary {
                    head: &statistics.list
                        [..statistics.list.partition_point(|entry| entry.logit() > f32::NEG_INFINITY)],
                    size: statistics.size as usize,
                    plain,
                    warm: match warm.inverse {
                        1.0 => plain,
                        _ => Totals { mass: f64::from(mass.tempered), energy: f64::from(mass.tempered_moment) },
                    },
                    deviation: statistics.deviation(),
                };
                return self.cut(row, warm, cuts, &summary, &mass);
            }
        }
        Ok(())
    }

    /// Writes the results of a row whose cuts [`Results::row`] left undecided, and of which every logit is listed now.
    pub fn whole_row(&mut self, row: usize, plan: &Plan, statistics: &RowStatistics) {
        let (Some(warm), Some(cuts)) = (&plan.warm, &plan.cuts) else { return };
        let Some(max) = statistics.list.first().map(|entry| entry.logit()) else { return };
        let summary = Summary {
            head: &statistics.list,
            size: statistics.list.len(),
            plain: Totals::of(&statistics.list, max, 1.0),
            warm: Totals::of(&statistics.list, max, warm.temperature),
            deviation: 0.0, // taken from the entries: they are all there
        };
        let decided = self.cut(row, warm, cuts, &summary, &statistics.mass(warm.inverse));
        debug_assert!(decided.is_ok(), "a whole row decides every cut");
    }

    /// Writes what concerns the whole row, and whatever a row without a draw gets; true when it is one.
    fn shared(&mut self, row: usize, mass: &Mass, size: u64) -> bool {
        let flag = match size {
            _ if mass.max.is_nan() => FLAG_NAN,
            0 => FLAG_EMPTY,
            _ => 0,
        };
        self.out.lse[row] = mass.lse();
        self.out.entropy[row] = mass.entropy();
        self.out.flag[row] = flag;
        if flag != 0 {
            let nothing = mass.lse();
            for at in row * self.samples..(row + 1) * self.samples {
                (self.out.token[at], self.out.rank[at]) = (-1, -1);
                (self.out.logprob[at], self.out.raw_logprob[at], self.out.logit[at]) = (nothing, nothing, nothing);
            }
            self.kept(row, 0, if flag == FLAG_NAN { f32::NAN } else { 0.0 });
        }
        flag != 0
    }

    fn greedy(&mut self, row: usize, mass: &Mass, statistics: &RowStatistics) {
        let Some(largest) = statistics.list.first() else { return };
        for sample in 0..self.samples {
            let drawn = Drawn { token: largest.token(), logit: largest.logit(), logprob: 0.0, rank: Some(0) };
            self.drawn(row, sample, mass, drawn);
        }
        self.kept(row, 1, 1.0);
    }

    /// Nothing is cut: the draws were found on the way.
    fn free(&mut self, row: usize, mass: &Mass, warm: &Warm, statistics: &RowStatistics) {
        self.kept(row, statistics.size as usize, 1.0);
        for (sample, best) in statistics.best.iter().take(self.samples).enumerate() {
            let Some(token) = best.token else { continue };
            let logprob = match warm.inverse {
                1.0 => mass.logprob(best.logit),
                inverse => mass.tempered_logprob(best.logit, inverse),
            };
            let rank = statistics.list.binary_search_by(|entry| Ranked::new(best.logit, token).cmp(entry)).ok();
            self.drawn(row, sample, mass, Drawn { token, logit: best.logit, logprob, rank });
        }
    }

    /// Applies the cuts of a row and draws from what they leave; or the head of its logits does not decide them.
    fn cut(&mut self, row: usize, warm: &Warm, cuts: &Cuts, summary: &Summary, mass: &Mass) -> Result<(), Undecided> {
        // Samples differ in their coins, if at all: at most two sets are kept.
        let mut sets: [Option<Vec<Ranked>>; 2] = [None, None];
        for sample in 0..self.samples {
            let coin = warm.coin(sample, cuts);
            if sets[usize::from(coin)].is_none() {
                sets[usize::from(coin)] = Some(match cut(summary, cuts, warm.temperature, coin)? {
                    Kept::Some(entries) => entries,
                    Kept::All if summary.head.len() == summary.size => summary.head.to_vec(),
                    Kept::All => return Err(Undecided),
                });
            }
        }
        let max = summary.head[0].logit();
        for sample in 0..self.samples {
            let Some(kept) = &sets[usize::from(warm.coin(sample, cuts))] else { continue };
            let kept_mass = Totals::of(kept, max, warm.temperature).mass;
            if sample == 0 {
                let share = if kept.len() == summary.size { 1.0 } else { (kept_mass / summary.warm.mass).min(1.0) };
                self.kept(row, kept.len(), share as f32);
            }
            let best = warm.best_of(sample, kept);
            let Some(token) = best.token else { continue };
            let logprob = (scaled(best.logit, max, warm.temperature) - kept_mass.ln()) as f32;
            let rank = summary.head.binary_search_by(|entry| Ranked::new(best.logit, token).cmp(entry)).ok();
            self.drawn(row, sample, mass, Drawn { token, logit: best.logit, logprob, rank });
        }
        Ok(())
    }

    /// Writes how many tokens the cuts left, and their probability.
    fn kept(&mut self, row: usize, count: usize, mass: f32) {
        self.out.kept[row] = count as i64;
        self.out.kept_mass[row] = mass;
    }

    /// Writes one draw.
    fn drawn(&mut self, row: usize, sample: usize, mass: &Mass, drawn: Drawn) {
        let at = row * self.samples + sample;
        self.out.token[at] = drawn.token.into();
        self.out.logprob[at] = drawn.logprob;
        self.out.raw_logprob[at] = mass.logprob(drawn.logit);
        self.out.rank[at] = drawn.rank.map_or(UNRANKED, |rank| rank as i64);
        self.out.logit[at] = drawn.logit;
    }
}

#[cfg(test)]
mod tests {
    use super::{Results, Samples};

    #[test]
    fn parts_are_the_rows_of_the_whole() {
        for (rows, each) in [(0, 4), (1, 4), (4, 4), (9, 4), (5, 1), (3, 0), (6, 100)] {
            let (samples, top) = (2, 3);
            let mut owned = Samples::new(rows, samples, top);
            let mut results = Results::new(owned.out(), rows, samples, top).unwrap();
            let mut next = 0;
            for (first, mut part) in results.parts(each) {
                assert_eq!(first, next);
                next += part.rows();
                assert!((1..=each.max(1)).contains(&part.rows()));
                for row in 0..part.rows() {
                    part.kept(row, first + row, 0.0);
                    part.out.token[row * samples + 1] = (first + row) as i64;
                    part.out.top_logprob[row * top + 2] = (first + row) as f32;
                }
            }
            assert_eq!((next, results.rows()), (rows, rows));
            for row in 0..rows {
                assert_eq!((owned.kept[row], owned.token[row * samples + 1]), (row as i64, row as i64));
                assert_eq!(owned.top_logprob[row * top + 2], row as f32);
            }
        }
    }
}
