//! The slope of what `score` gives by the logits.

use super::{Lse, Single, Slope};
use crate::error::{Error, Result};
use crate::unembed::{check_rows, check_targets};

/// What `score` gave, and for which targets.
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// `[rows]`
    pub targets: &'a [i64],
    /// `[rows]`
    pub entropy: &'a [f32],
    /// `[rows]`
    pub lse: &'a [f32],
    /// `[rows, top]`; -1 in a row with NaN.
    pub top_token: &'a [i64],
}

/// The slopes of a result by what `score` gave.
#[derive(Clone, Copy, Debug)]
pub struct ScoreSlopes<'a> {
    /// `[rows]`, as the following two.
    pub logprob: &'a [f32],
    /// By the entropy.
    pub entropy: &'a [f32],
    /// By the lse.
    pub lse: &'a [f32],
    /// `[rows, top]`: by the log-probabilities that are listed.
    pub top_logprob: &'a [f32],
}

impl Scored<'_> {
    /// That all numbers are there, for `rows` rows of `valid_vocab` tokens.
    pub fn check(&self, slopes: &ScoreSlopes, rows: usize, valid_vocab: usize) -> Result<()> {
        check_targets(self.targets, rows, valid_vocab)?;
        for (name, given) in [
            ("entropy", self.entropy.len()),
            ("lse", self.lse.len()),
            ("the slope of logprob", slopes.logprob.len()),
            ("the slope of entropy", slopes.entropy.len()),
            ("the slope of lse", slopes.lse.len()),
        ] {
            check_rows(name, rows, given)?;
        }
        let lists = self.top_token.len();
        if slopes.top_logprob.len() != lists || !lists.is_multiple_of(rows.max(1)) {
            let expected = format!("as many as tokens, {lists}");
            return Err(Error::argument("the slope of top_logprob", expected, slopes.top_logprob.len()));
        }
        match self.top_token.iter().find(|&&token| token >= valid_vocab as i64) {
            None => Ok(()),
            Some(wrong) => Err(Error::argument("top_token", format!("ids below {valid_vocab}"), wrong)),
        }
    }

    /// The slope of a row, and more at its target and at the tokens of its list.
    pub fn slope(&self, slopes: &ScoreSlopes, row: usize) -> (Slope, impl Iterator<Item = Single>) {
        let top = self.top_token.len() / self.targets.len().max(1);
        let list = row * top..(row + 1) * top;
        let of_list = &slopes.top_logprob[list.clone()];
        let (by_logprob, by_entropy) = (f64::from(slopes.logprob[row]), f64::from(slopes.entropy[row]));
        let listed: f64 = of_list.iter().map(|&slope| f64::from(slope)).sum();
        let constant = f64::from(slopes.lse[row]) - by_logprob - listed - by_entropy * f64::from(self.entropy[row]);
        let slope = Slope {
            lse: Lse { max: self.lse[row], log_sum: 0.0 },
            constant: constant as f32,
            per_gap: -slopes.entropy[row],
            ..Slope::default()
        };
        let target = Single { token: self.targets[row] as usize, slope: slopes.logprob[row] };
        let list = self.top_token[list].iter().zip(of_list);
        let list = list.filter_map(|(&token, &slope)| Some(Single { token: usize::try_from(token).ok()?, slope }));
        (slope, std::iter::once(target).chain(list))
    }
}
