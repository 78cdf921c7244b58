//! The cross-entropy: which tokens count, with which weights, and what becomes of a row.

use super::{Lse, Single, Slope};
use crate::error::{Error, Result};
use crate::merge::Mass;
use crate::unembed::{Tokens, check_rows};

/// How the losses of rows become a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduction {
    /// Their sum over the sum of the counted targets' class weights; NaN of none.
    Mean,
    /// Their sum.
    Sum,
    /// Each for itself.
    None,
}

impl Reduction {
    /// The reduction of this name.
    pub fn from_name(name: &str) -> Result<Reduction> {
        match name {
            "mean" => Ok(Reduction::Mean),
            "sum" => Ok(Reduction::Sum),
            "none" => Ok(Reduction::None),
            other => Err(Error::argument("reduction", "\"mean\", \"sum\" or \"none\"", other)),
        }
    }
}

/// The settings of a cross-entropy. With `w` the class weight of a row's target, 1 without, a counted row loses
///
/// `(1 - label_smoothing) * w * -logprob[target] + label_smoothing / vocab * sum(class_weight * -logprob)
///  + z_loss * w * lse^2`.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropy<'a> {
    /// `[rows]`
    pub targets: &'a [i64],
    /// Rows with this target do not count.
    pub ignore_index: i64,
    /// How much of the target's share goes to all tokens that exist: 0 to 1.
    pub label_smoothing: f64,
    /// `[vocab]`
    pub class_weight: Option<&'a [f32]>,
    /// Factor of the squared lse. Finite.
    pub z_loss: f64,
    /// What becomes of the rows' losses.
    pub reduction: Reduction,
}

/// That the factors of a cross-entropy are in their ranges.
pub fn check_factors(label_smoothing: f64, z_loss: f64) -> Result<()> {
    if !(0.0..=1.0).contains(&label_smoothing) {
        return Err(Error::argument("label_smoothing", "a number from 0 to 1", label_smoothing));
    }
    if !z_loss.is_finite() {
        return Err(Error::argument("z_loss", "a finite number", z_loss));
    }
    Ok(())
}

/// That there are class weights for all tokens, or none.
pub fn check_class_weight(given: Option<usize>, tokens: &Tokens) -> Result<()> {
    match given {
        Some(given) if given != tokens.vocab => {
            let expected = format!("shape [{}], one per token", tokens.vocab);
            Err(Error::argument("class_weight", expected, format!("[{given}]")))
        }
        _ => Ok(()),
    }
}

impl CrossEntropy<'_> {
    /// That the settings fit each other and the problem.
    pub fn check(&self, rows: usize, tokens: &Tokens) -> Result<()> {
        check_rows("targets", rows, self.targets.len())?;
        let exists = |target: i64| usize::try_from(target).is_ok_and(|target| target < tokens.valid_vocab);
        if let Some(wrong) = self.targets.iter().find(|&&target| target != self.ignore_index && !exists(target)) {
            let expected = format!("token ids from 0 to {} exclusive, or {}", tokens.valid_vocab, self.ignore_index);
            return Err(Error::argument("targets", expected, wrong));
        }
        check_factors(self.label_smoothing, self.z_loss)?;
        check_class_weight(self.class_weight.map(<[f32]>::len), tokens)
    }

    /// The rows that count, in order.
    pub fn counted(&self) -> Vec<usize> {
        (0..self.targets.len()).filter(|&row| self.targets[row] != self.ignore_index).collect()
    }

    /// The class weight of a counted row's target.
    fn weight(&self, row: usize) -> f64 {
        self.class_weight.map_or(1.0, |weights| f64::from(weights[self.targets[row] as usize]))
    }

    /// What is the same for every row of a problem with `valid_vocab` tokens.
    pub fn weighing(&self, valid_vocab: usize) -> Weighing<'_> {
        let counted = self.counted();
        let all_classes = match self.class_weight {
            Some(weights) => weights[..valid_vocab].iter().map(|&weight| f64::from(weight)).sum(),
            None => valid_vocab as f64,
        };
        let divisor = match self.reduction {
            Reduction::Mean => counted.iter().map(|&row| self.weight(row)).sum(),
            Reduction::Sum | Reduction::None => 1.0,
        };
        let smoothing = if valid_vocab == 0 { 0.0 } else { self.label_smoothing / valid_vocab as f64 };
        Weighing { settings: self, smoothing, all_classes, divisor }
    }
}

/// A cross-entropy with the sums that its rows share.
#[derive(Clone, Copy, Debug)]
pub struct Weighing<'a> {
    settings: &'a CrossEntropy<'a>,
    /// What each token gets of the target's share.
    smoothing: f64,
    /// The sum of the class weights of the tokens that exist.
    all_classes: f64,
    /// What a sum of losses is divided by.
    divisor: f64,
}

impl Weighing<'_> {
    /// Whether [`Weighing::loss`] needs the sum of the logits.
    pub fn smooths(&self) -> bool {
        self.smoothing > 0.0
    }

    /// What a counted row loses. `weighted_sum` is the sum over tokens of class weight times logit.
    pub fn loss(&self, row: usize, mass: &Mass, target_logit: f32, weighted_sum: f64) -> f64 {
        let CrossEntropy { label_smoothing, z_loss, .. } = *self.settings;
        let (weight, lse) = (self.settings.weight(row), Lse::new(mass.max, mass.sum).whole());
        let mut loss = 0.0;
        if label_smoothing < 1.0 {
            loss -= (1.0 - label_smoothing) * weight * f64::from(mass.logprob(target_logit));
        }
        if self.smooths() {
            loss += self.smoothing * (self.all_classes * lse - weighted_sum);
        }
        if z_loss != 0.0 {
            loss += z_loss * weight * lse * lse;
        }
        loss
    }

    /// The result of these losses, of counted rows, in order.
    pub fn reduced(&self, losses: impl Iterator<Item = f64>) -> f32 {
        (losses.sum::<f64>() / self.divisor) as f32
    }

    /// The slope of a counted row whose result has the slope `upstream`.
    pub fn slope(&self, row: usize, lse: Lse, upstream: f32) -> (Slope, Single) {
        let CrossEntropy { label_smoothing, z_loss, .. } = *self.settings;
        let (upstream, weight) = (f64::from(upstream) / self.divisor, self.settings.weight(row));
        let at_target = (1.0 - label_smoothing) * weight;
        let constant = at_target + self.smoothing * self.all_classes + 2.0 * z_loss * weight * lse.whole();
        let slope = Slope {
            lse,
            constant: (upstream * constant) as f32,
            per_class: (upstream * self.smoothing) as f32,
            ..Slope::default()
        };
        let token = self.settings.targets[row] as usize;
        (slope, Single { token, slope: -(upstream * at_target) as f32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: Tokens = Tokens { first: 0, count: 4, vocab: 5, valid_vocab: 4 };

    fn settings<'a>(targets: &'a [i64], class_weight: Option<&'a [f32]>) -> CrossEntropy<'a> {
        CrossEntropy {
            targets,
            ignore_index: -100,
            label_smoothing: 0.0,
            class_weight,
            z_loss: 0.0,
            reduction: Reduction::Mean,
        }
    }

    #[test]
    fn targets_are_tokens_that_exist_or_ignored() {
        assert!(settings(&[0, 3, -100], None).check(3, &TOKENS).is_ok());
        for wrong in [4, -1] {
            let refused = settings(&[0, wrong, 1], None).check(3, &TOKENS).unwrap_err();
            assert!(refused.to_string().starts_with("targets: "), "{refused}");
        }
        let ignored = CrossEntropy { ignore_index: 7, ..settings(&[7, 7], None) };
        assert!(ignored.check(2, &TOKENS).is_ok());
        assert_eq!(ignored.counted(), [0usize; 0]);
    }

    #[test]
    fn class_weights_cover_the_whole_vocabulary() {
        let refused = settings(&[0], Some(&[1.0; 4])).check(1, &TOKENS).unwrap_err();
        assert!(refused.to_string().starts_with("class_weight: "), "{refused}");
        assert!(settings(&[0], Some(&[1.0; 5])).check(1, &TOKENS).is_ok());
    }

    #[test]
    fn a_mean_is_over_the_weights_of_counted_targets() {
        let weights = [1.0, 2.0, 0.5, 1.0, 100.0];
        let settings = settings(&[1, -100, 2], Some(&weights));
        let weighing = settings.weighing(4);
        assert_eq!(weighing.reduced([5.0, 2.5].into_iter()), 3.0);
        let (slope, single) = weighing.slope(2, Lse::default(), 5.0);
        assert_eq!((slope.constant, single), (1.0, Single { token: 2, slope: -1.0 }));
    }

    #[test]
    fn smoothing_is_over_the_tokens_that_exist() {
        let mut settings = settings(&[1], None);
        settings.label_smoothing = 0.5;
        let (slope, single) = settings.weighing(4).slope(0, Lse::default(), 1.0);
        assert_eq!((slope.constant, slope.per_class, single.slope), (1.0, 0.125, -0.5));
    }

    #[test]
    fn nothing_counted_is_no_mean() {
        let mut settings = settings(&[-100], None);
        assert!(settings.weighing(4).reduced(std::iter::empty()).is_nan());
        settings.reduction = Reduction::Sum;
        assert_eq!(settings.weighing(4).reduced(std::iter::empty()), 0.0);
    }
}
