//! What is asked: tensors of the device and the rules over them, checked without reading them.

use super::params::{DrawsAt, HIDDEN_ALIGNED, RowsAt, Setting, UnembedParams, WEIGHT_ALIGNED};
use super::plan::Tokens;
use crate::tensor::Tensor;
use farspan_core::unembed::{Rules as CoreRules, Shard, check_rows, check_rules};
use farspan_core::{Dtype, Error, Result};

/// A tensor of one of the floating element types.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Of its elements.
    pub dtype: Dtype,
    /// Where it lies; the last dimension is contiguous.
    pub tensor: Tensor<2>,
}

/// How a product becomes a logit: [`farspan_core::unembed::Rules`], the bias in device memory.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Factor of the dot product.
    pub scale: f32,
    /// Bound that the scaled product approaches.
    pub softcap: Option<f32>,
    /// `[tokens]` of float32, contiguous: one for each row of the weight.
    pub bias: Option<Tensor<1>>,
    /// How many tokens of the vocabulary exist.
    pub valid_vocab: Option<usize>,
}

impl Default for Rules {
    fn default() -> Self {
        Rules { scale: 1.0, softcap: None, bias: None, valid_vocab: None }
    }
}

/// `hidden [rows, dim]` against `weight [tokens, dim]`.
#[derive(Clone, Copy, Debug)]
pub struct Problem {
    /// The hidden states.
    pub hidden: Matrix,
    /// The unembedding, or a part of it.
    pub weight: Matrix,
    /// From products to logits.
    pub rules: Rules,
    /// Which part of the vocabulary the weight is; `None`: all of it.
    pub shard: Option<Shard>,
}

/// The settings of a draw, in device memory: `[rows]` each, stride 0 for one number that serves all rows. Only the
/// kernels read them, so a captured graph takes what is there when it runs.
#[derive(Clone, Copy, Debug)]
pub struct Draws {
    /// int64, taken by its bits.
    pub seed: Tensor<1>,
    /// int64, of which the low 32 bits count.
    pub position: Tensor<1>,
    /// As the position.
    pub stream: Tensor<1>,
    /// float32; what is not above 0 is greedy.
    pub temperature: Tensor<1>,
}

impl Draws {
    /// One setting of each kind per row.
    pub(super) fn check(&self, rows: usize) -> Result<()> {
        check_rows("seed", rows, self.seed.shape[0])?;
        check_rows("position", rows, self.position.shape[0])?;
        check_rows("stream", rows, self.stream.shape[0])?;
        check_rows("temperature", rows, self.temperature.shape[0])
    }

    pub(super) fn at(&self) -> DrawsAt {
        DrawsAt {
            seed: setting(&self.seed),
            position: setting(&self.position),
            stream: setting(&self.stream),
            temperature: setting(&self.temperature),
        }
    }
}

pub(super) fn setting(tensor: &Tensor<1>) -> Setting {
    Setting { first: tensor.pointer, stride: if tensor.shape[0] < 2 { 0 } else { tensor.strides[0] } }
}

/// A problem whose shapes fit.
pub(super) struct Checked {
    pub dtype: Dtype,
    pub rows: usize,
    pub tokens: Tokens,
    /// How many tokens of the whole vocabulary exist.
    pub exist: usize,
    /// What every launch of the pass has in common.
    pub params: UnembedParams,
}

impl Problem {
    pub(super) fn check(&self) -> Result<Checked> {
        let (hidden, weight) = (&self.hidden, &self.weight);
        if hidden.dtype != weight.dtype {
            let (expected, given) = (format!("{}, as hidden", hidden.dtype.name()), weight.dtype.name().into());
            return Err(Error::Dtype { argument: "weight", expected, given });
        }
        let [held, dim] = weight.tensor.shape;
        let shard = self.shard.unwrap_or(Shard { first: 0, vocab: held });
        let Rules { scale, softcap, bias, valid_vocab } = self.rules;
        let core = CoreRules { scale, softcap, bias: None, valid_vocab };
        let exist = check_rules(hidden.tensor.shape, weight.tensor.shape, &core, shard)?;
        if let Some(bias) = bias
            && bias.shape[0] != held
        {
            return Err(Error::argument(
                "bias",
                format!("shape [{held}], one per token"),
                format!("[{}]", bias.shape[0]),
            ));
        }
        if let Some(bias) = bias {
            check_contiguous("bias", bias.shape[0], bias.strides[0])?;
        }
        let (hidden_at, hidden_aligned) = rows_at("hidden", hidden)?;
        let (weight_at, weight_aligned) = rows_at("weight", weight)?;
        for (argument, count) in [("hidden", hidden.tensor.shape[0]), ("hidden", dim)] {
            if i32::try_from(count).is_err() {
                return Err(Error::argument(argument, format!("at most {} rows and columns", i32::MAX), count));
            }
        }
        let valid = exist.clamp(shard.first, shard.first + held) - shard.first;
        let params = UnembedParams {
            hidden: hidden_at,
            weight: weight_at,
            bias: bias.map_or(0, |bias| bias.pointer),
            repeat: 1,
            dim: dim as i32,
            hidden_rows: hidden.tensor.shape[0] as i32,
            first_token: shard.first as u32,
            valid: valid as i32,
            scale,
            softcap: softcap.unwrap_or(0.0),
            flags: (u32::from(hidden_aligned) * HIDDEN_ALIGNED) | (u32::from(weight_aligned) * WEIGHT_ALIGNED),
            ..UnembedParams::default()
        };
        let tokens = Tokens { first: shard.first, count: valid };
        Ok(Checked { dtype: hidden.dtype, rows: hidden.tensor.shape[0], tokens, exist, params })
    }
}

fn check_contiguous(argument: &'static str, count: usize, stride: i64) -> Result<()> {
    if count < 2 || stride == 1 {
        return Ok(());
    }
    Err(Error::argument(argument, "a contiguous last dimension", format!("stride {stride} elements")))
}

/// Where the rows of a matrix begin, and whether each does at a multiple of 16 bytes.
fn rows_at(argument: &'static str, matrix: &Matrix) -> Result<(RowsAt, bool)> {
    let Tensor { pointer, shape, strides } = matrix.tensor;
    if !shape.contains(&0) {
        check_contiguous(argument, shape[1], strides[1])?;
    }
    let stride = if shape[0] < 2 { 0 } else { strides[0] };
    if stride < 0 {
        return Err(Error::argument(argument, "strides >= 0", format!("{strides:?}")));
    }
    let stride = stride * matrix.dtype.size() as i64;
    Ok((RowsAt { first: pointer, stride }, pointer % 16 == 0 && stride % 16 == 0))
}
