//! Losses over a vocabulary, and their gradients, without ever holding the logits.
//!
//! A loss is a pass over the vocabulary, as the unembedding's operations are. Its gradient computes the logits again,
//! tile by tile, and makes of each tile the slopes of the loss by its logits ([`slopes`]). From these follow the
//! gradients of hidden and weight ([`walk`]). Sums are float32 in a fixed order: no result depends on the number of
//! threads, and a row's loss and the gradient of its hidden state do not depend on the other rows.

mod entropy;
mod pairs;
mod slopes;
mod tiles;
mod walk;

use crate::each;
use crate::matrix::{Matrix, MatrixMut};
use crate::typed::Typed;
use crate::unembed::Problem;
use crate::unembed::pass::{self, Checked};
use farspan_core::loss::{CrossEntropy, Lse, Pair, Reduction, ScoreSlopes, Scored, check_temperature, target_name};
use farspan_core::unembed::{Tokens, check_rows};
use farspan_core::{Error, Result};
use ndarray::{Array2, Axis};
use slopes::Slopes;

/// Where gradients are written, each as large as what it is the gradient of.
#[derive(Debug, Default)]
pub struct Gradients<'a> {
    /// Of hidden, in its element type.
    pub hidden: Option<MatrixMut<'a>>,
    /// Of weight, in its element type.
    pub weight: Option<MatrixMut<'a>>,
    /// Of bias.
    pub bias: Option<&'a mut [f32]>,
}

impl Gradients<'_> {
    fn check(&self, problem: &Problem) -> Result<()> {
        let like = |name, given: Option<&MatrixMut>, wanted: &Matrix| match given {
            Some(given) if (given.shape(), given.dtype()) != (wanted.shape(), wanted.dtype()) => {
                Err(Error::argument(name, format!("shape {:?}", wanted.shape()), format!("{:?}", given.shape())))
            }
            Some(given) if !each!(array in given => array.is_standard_layout()) => {
                Err(Error::argument(name, "rows without gaps", "a strided array"))
            }
            _ => Ok(()),
        };
        like("the gradient of hidden", self.hidden.as_ref(), &problem.hidden)?;
        like("the gradient of weight", self.weight.as_ref(), &problem.weight)?;
        match &self.bias {
            Some(bias) => check_rows("the gradient of bias", problem.weight.shape()[0], bias.len()),
            None => Ok(()),
        }
    }
}

/// Some rows of a matrix, one behind the other.
type Picked = Typed<Array2<f32>, Array2<u16>>;

/// The rows of hidden that count: all of them where they lie, or a copy.
fn picked(hidden: &Matrix, rows: &[usize]) -> Option<Picked> {
    (rows.len() < hidden.shape()[0]).then(|| crate::map!(array in hidden => array.select(Axis(0), rows)))
}

/// The problem of the rows that were picked.
fn of_rows<'a>(problem: &Problem<'a>, rows: &'a Option<Picked>) -> Problem<'a> {
    let hidden = match rows {
        Some(rows) => crate::map!(array in rows => array.view()),
        None => problem.hidden,
    };
    Problem { hidden, ..*problem }
}

fn whole_vocabulary(problem: &Problem) -> Result<Tokens> {
    match problem.shard {
        None => problem.check(),
        Some(_) => Err(Error::argument("shard", "the whole vocabulary", "a part of it")),
    }
}

/// The two parts of an [`Lse`] of each row, `[rows]`.
#[derive(Clone, Copy, Debug)]
pub struct Lses<N> {
    /// The largest logit.
    pub max: N,
    /// The logarithm of the sum.
    pub log_sum: N,
}

impl<N: std::ops::Deref<Target = [f32]>> Lses<N> {
    fn check(&self, rows: usize) -> Result<()> {
        check_rows("max", rows, self.max.len())?;
        check_rows("log_sum", rows, self.log_sum.len())
    }

    fn at(&self, row: usize) -> Lse {
        Lse { max: self.max[row], log_sum: self.log_sum[row] }
    }
}

impl Lses<&mut [f32]> {
    fn set(&mut self, row: usize, lse: Lse) {
        (self.max[row], self.log_sum[row]) = (lse.max, lse.log_sum);
    }
}

/// The cross-entropy of `settings.targets`: `loss` has one entry, or one for each row where nothing is reduced. `lse`
/// is kept for the gradient; of rows that do not count it is 0.
pub fn linear_cross_entropy(
    problem: &Problem,
    settings: &CrossEntropy,
    loss: &mut [f32],
    mut lse: Lses<&mut [f32]>,
) -> Result<()> {
    let tokens = whole_vocabulary(problem)?;
    let rows = problem.hidden.shape()[0];
    settings.check(rows, &tokens)?;
    check_rows("loss", if settings.reduction == Reduction::None { rows } else { 1 }, loss.len())?;
    lse.check(rows)?;
    let counted = settings.counted();
    let hidden = picked(&problem.hidden, &counted);
    let problem = Checked::new(&of_rows(problem, &hidden))?;
    let weighing = settings.weighing(tokens.valid_vocab);
    lse.max.fill(0.0);
    lse.log_sum.fill(0.0);
    let mut epilogue = entropy::Entropy::new(settings, &weighing, &counted, &mut lse)?;
    pass::run(&problem, &mut epilogue)?;
    let losses = epilogue.losses;
    if settings.reduction == Reduction::None {
        loss.fill(0.0);
        counted.iter().zip(losses).for_each(|(&row, of_row)| loss[row] = of_row as f32);
    } else {
        loss[0] = weighing.reduced(losses.into_iter());
    }
    Ok(())
}

/// The gradients of [`linear_cross_entropy`], given its `lse` and the slopes `upstream` of a result by its loss.
pub fn linear_cross_entropy_gradient(
    problem: &Problem,
    settings: &CrossEntropy,
    lse: Lses<&[f32]>,
    upstream: &[f32],
    out: Gradients,
) -> Result<()> {
    let tokens = whole_vocabulary(problem)?;
    let rows = problem.hidden.shape()[0];
    settings.check(rows, &tokens)?;
    out.check(problem)?;
    lse.check(rows)?;
    check_rows("the slope of loss", if settings.reduction == Reduction::None { rows } else { 1 }, upstream.len())?;
    let counted = settings.counted();
    let hidden = picked(&problem.hidden, &counted);
    let problem = Checked::new(&of_rows(problem, &hidden))?;
    let weighing = settings.weighing(tokens.valid_vocab);
    let each = counted.iter().map(|&row| {
        let upstream = upstream[if settings.reduction == Reduction::None { row } else { 0 }];
        weighing.slope(row, lse.at(row), upstream)
    });
    let (rows, singles) = each.unzip();
    let slopes = Slopes { rows, singles, class_weight: settings.class_weight, ..Slopes::plain() };
    walk::walk(&problem, &slopes, &counted, out)
}

/// The gradients of `score`, given what it gave and the slopes of a result by each of its fields.
pub fn score_gradient(problem: &Problem, scored: &Scored, upstream: &ScoreSlopes, out: Gradients) -> Result<()> {
    let tokens = whole_vocabulary(problem)?;
    let rows = problem.hidden.shape()[0];
    scored.check(upstream, rows, tokens.valid_vocab)?;
    out.check(problem)?;
    let problem = Checked::new(problem)?;
    let mut slopes = Slopes::plain();
    for row in 0..rows {
        let (slope, singles) = scored.slope(upstream, row);
        slopes.rows.push(slope);
        slopes.singles.extend(singles);
        slopes.singles.resize((row + 1) * (1 + scored.top_token.len() / rows), slopes::NOWHERE);
    }
    walk::walk(&problem, &slopes, &(0..rows).collect::<Vec<_>>(), out)
}

/// Both sides of a divergence: their rows and tokens are the same.
#[derive(Clone, Copy, Debug)]
pub struct Sides<'p, 'a> {
    /// The model, which has the gradients.
    pub model: &'p Problem<'a>,
    /// What it is to be like.
    pub target: &'p Problem<'a>,
    /// What the logits of both are divided by; above 0.
    pub temperature: f32,
}

impl<'a> Sides<'_, 'a> {
    fn check(&self) -> Result<(Checked<'a>, Checked<'a>)> {
        check_temperature(self.temperature)?;
        let of_target = |error: Error| error.renamed(target_name);
        let (model, target) = (whole_vocabulary(self.model)?, whole_vocabulary(self.target).map_err(of_target)?);
        let (rows, target_rows) = (self.model.hidden.shape()[0], self.target.hidden.shape()[0]);
        check_rows("target_hidden", rows, target_rows)?;
        if model != target {
            let (expected, given) = (format!("{} tokens, as weight", model.vocab), target.vocab);
            return Err(Error::argument("target_weight", expected, given));
        }
        Ok((Checked::new(self.model)?, Checked::new(self.target).map_err(of_target)?))
    }

    fn inverse_temperature(&self) -> f32 {
        self.temperature.recip()
    }
}

/// `KL(target || model)` of each row, in nats. The two lse are kept for the gradient, that of the model first.
pub fn divergence(sides: &Sides, divergence: &mut [f32], mut lse: [Lses<&mut [f32]>; 2]) -> Result<()> {
    let (model, target) = sides.check()?;
    let rows = model.hidden.count();
    check_rows("divergence", rows, divergence.len())?;
    lse.iter().try_for_each(|lse| lse.check(rows))?;
    pairs::run(&model, &target, sides.inverse_temperature(), |row, pair| {
        divergence[row] = pair.divergence();
        lse[0].set(row, pair.lse());
        lse[1].set(row, pair.target_lse());
    })
}

/// The gradients of [`divergence`] by the model, given both lse and the slopes `upstream` of a result by each row's
/// divergence.
pub fn divergence_gradient(sides: &Sides, lse: [Lses<&[f32]>; 2], upstream: &[f32], out: Gradients) -> Result<()> {
    let (model, target) = sides.check()?;
    let rows = model.hidden.count();
    out.check(sides.model)?;
    check_rows("the slope of divergence", rows, upstream.len())?;
    lse.iter().try_for_each(|lse| lse.check(rows))?;
    let inverse_temperature = sides.inverse_temperature();
    let of_row = |row| Pair::slope(lse[0].at(row), lse[1].at(row), inverse_temperature, upstream[row]);
    let slopes =
        Slopes { rows: (0..rows).map(of_row).collect(), inverse_temperature, target: Some(target), ..Slopes::plain() };
    walk::walk(&model, &slopes, &(0..rows).collect::<Vec<_>>(), out)
}
