//! What is asked: tensors of the device and the rules over them, checked without reading them.

use super::params::{DrawsAt, HIDDEN_ALIGNED, RowsAt, Setting, UnembedParams, WEIGHT_ALIGNED};
use crate::tensor::{FloatTensor, Tensor};
use farspan_core::array::Array;
use farspan_core::unembed::Tokens;
use farspan_core::{Dtype, Error, Result};

/// Hidden states, or an unembedding.
pub type Matrix = FloatTensor<2>;

/// What is read: arrays of the device, the bias contiguous.
pub type Problem = farspan_core::unembed::Problem<Matrix, Tensor<1>>;

/// The settings of a draw: seeds int64, taken by their bits; positions and streams int64, of which the low 32 bits
/// count; temperatures float32, of which those that are not above 0 are greedy. Only the kernels read those that lie in
/// device memory, so a captured graph takes what is there when it runs.
pub type Draws = farspan_core::unembed::Draws<PerRow, PerRow, PerRow>;

/// A number for each row.
#[derive(Clone, Copy, Debug)]
pub enum PerRow {
    /// In device memory. Stride 0 has one number serve all rows.
    Each(Tensor<1>),
    /// The bits of one number for so many rows, which a launch carries with it.
    All(u64, usize),
}

impl PerRow {
    /// One int64 for all rows.
    pub fn integer(value: i64, rows: usize) -> PerRow {
        PerRow::All(value.cast_unsigned(), rows)
    }

    /// One float32 for all rows.
    pub fn number(value: f32, rows: usize) -> PerRow {
        PerRow::All(value.to_bits().into(), rows)
    }

    fn at(&self) -> Setting {
        match self {
            PerRow::Each(tensor) => setting(tensor),
            PerRow::All(bits, _) => Setting { first: 0, stride: bits.cast_signed() },
        }
    }
}

impl Array<1> for PerRow {
    fn shape(&self) -> [usize; 1] {
        match self {
            PerRow::Each(tensor) => tensor.shape,
            PerRow::All(_, rows) => [*rows],
        }
    }

    fn last_stride(&self) -> i64 {
        match self {
            PerRow::Each(tensor) => tensor.last_stride(),
            PerRow::All(..) => 0,
        }
    }
}

/// The settings as the kernels take them.
pub(super) fn draws_at(draws: &Draws) -> DrawsAt {
    DrawsAt {
        seed: draws.seed.at(),
        position: draws.position.at(),
        stream: draws.stream.at(),
        temperature: draws.temperature.at(),
    }
}

pub(crate) fn setting(tensor: &Tensor<1>) -> Setting {
    let same = tensor.pointer == 0 || tensor.shape[0] < 2;
    Setting { first: tensor.pointer, stride: if same { 0 } else { tensor.strides[0] } }
}

/// A problem whose arrays fit each other and can be read.
pub(crate) struct Checked {
    pub dtype: Dtype,
    pub rows: usize,
    pub tokens: Tokens,
    /// What every launch of the pass has in common.
    pub params: UnembedParams,
}

impl Checked {
    pub(crate) fn new(problem: &Problem) -> Result<Checked> {
        let tokens = problem.check()?;
        let (hidden, weight, rules) = (&problem.hidden, &problem.weight, &problem.rules);
        if let Some(bias) = rules.bias {
            check_contiguous("bias", bias.shape[0], bias.strides[0])?;
        }
        let (hidden_at, hidden_aligned) = rows_at("hidden", hidden)?;
        let (weight_at, weight_aligned) = rows_at("weight", weight)?;
        let [rows, dim] = hidden.tensor.shape;
        for count in [rows, dim] {
            if i32::try_from(count).is_err() {
                return Err(Error::argument("hidden", format!("at most {} rows and columns", i32::MAX), count));
            }
        }
        let params = UnembedParams {
            hidden: hidden_at,
            weight: weight_at,
            bias: rules.bias.map_or(0, |bias| bias.pointer),
            repeat: 1,
            dim: dim as i32,
            hidden_rows: rows as i32,
            first_token: tokens.first as u32,
            valid: tokens.count as i32,
            scale: rules.scale,
            softcap: rules.softcap.unwrap_or(0.0),
            flags: (u32::from(hidden_aligned) * HIDDEN_ALIGNED) | (u32::from(weight_aligned) * WEIGHT_ALIGNED),
            ..UnembedParams::default()
        };
        Ok(Checked { dtype: hidden.dtype, rows, tokens, params })
    }
}

pub(crate) fn check_contiguous(argument: &'static str, count: usize, stride: i64) -> Result<()> {
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
