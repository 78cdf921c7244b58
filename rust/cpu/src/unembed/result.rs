//! Where draws are written, and how a row is decided once its largest logits are known.

use super::plan::Warm;
use super::{SampleOut, UNRANKED};
use farspan_core::merge::{Mass, Ranked};
use farspan_core::sampler::{Cuts, Kept, Summary, Totals, Undecided, cut, scaled};
use farspan_core::unembed::{FLAG_EMPTY, FLAG_NAN};

/// The outputs of a call.
pub(super) struct Results<'o> {
    pub out: SampleOut<'o>,
    pub samples: usize,
    pub top: usize,
}

/// One token that was drawn.
pub(super) struct Drawn {
    pub token: u32,
    pub logit: f32,
    pub logprob: f32,
    /// Unknown when the token lies behind the list of the largest.
    pub rank: Option<usize>,
}

impl Results<'_> {
    /// Writes what concerns the whole row, and whatever a row without a draw gets; true when it is one.
    pub(super) fn row(&mut self, row: usize, mass: &Mass, size: usize) -> bool {
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

    /// Writes how many tokens the cuts left, and their probability.
    pub(super) fn kept(&mut self, row: usize, count: usize, mass: f32) {
        self.out.kept[row] = count as i64;
        self.out.kept_mass[row] = mass;
    }

    /// Writes one draw.
    pub(super) fn drawn(&mut self, row: usize, sample: usize, mass: &Mass, drawn: Drawn) {
        let at = row * self.samples + sample;
        self.out.token[at] = drawn.token.into();
        self.out.logprob[at] = drawn.logprob;
        self.out.raw_logprob[at] = mass.logprob(drawn.logit);
        self.out.rank[at] = drawn.rank.map_or(UNRANKED, |rank| rank as i64);
        self.out.logit[at] = drawn.logit;
    }

    /// Where the row's most likely tokens go.
    pub(super) fn top_lists(&mut self, row: usize) -> (&mut [i64], &mut [f32]) {
        let places = row * self.top..(row + 1) * self.top;
        (&mut self.out.top_token[places.clone()], &mut self.out.top_logprob[places])
    }

    /// Applies the cuts of a row and draws from what they leave; or the head of its logits does not decide them.
    pub(super) fn cut(
        &mut self,
        row: usize,
        warm: &Warm,
        cuts: &Cuts,
        summary: &Summary,
        mass: &Mass,
    ) -> Result<(), Undecided> {
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
}
