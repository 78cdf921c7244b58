//! What is asked: tensors of the device and the rules over them, checked without reading them.

use crate::tensor::Tensor;
use farspan_core::attention::{Rules, Shape, check_shape};
use farspan_core::{Dtype, Error, Result};

/// A query, key, value or output.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Of its elements.
    pub dtype: Dtype,
    /// Where it lies; the last dimension is contiguous.
    pub tensor: Tensor<4>,
}

/// The element type of [`Numbers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberType {
    /// float64; positions only.
    F64,
    /// float32; positions only.
    F32,
    /// int64
    I64,
    /// int32
    I32,
}

/// Positions, lengths or offsets in device memory. Only the kernels read them, so a captured graph takes what is there
/// when it runs; lengths and offsets that do not fit the arrays are held to them.
#[derive(Clone, Copy, Debug)]
pub struct Numbers<const N: usize> {
    /// Of its elements.
    pub kind: NumberType,
    /// Where they lie.
    pub tensor: Tensor<N>,
}

/// Where a ragged batch is cut.
#[derive(Clone, Copy, Debug)]
pub struct Offsets {
    /// `[sequences + 1]`, contiguous: sequence s has the queries `query[s]..query[s + 1]` of the time axis.
    pub query: Numbers<1>,
    /// The same for its keys; None beside a block table, which finds them.
    pub key: Option<Numbers<1>>,
}

/// Rotation of queries and keys inside the tile.
#[derive(Clone, Copy, Debug)]
pub struct Rotary {
    /// `[sequences, r / 2]` of float32: radians per position; a zero stride where all sequences share them.
    pub inv_freq: Tensor<2>,
    /// Factor of cosine and sine.
    pub magnitude: f32,
    /// Pairs are `(2i, 2i + 1)` instead of `(i, i + r / 2)`.
    pub interleaved: bool,
    /// A second rotation beyond a distance.
    pub far: Option<Far>,
}

/// Where `query_position - key_position >= border`, the score uses these positions instead.
#[derive(Clone, Copy, Debug)]
pub struct Far {
    /// First distance that counts as far.
    pub border: f64,
    /// `[batch, query_time]`
    pub query_positions: Numbers<2>,
    /// `[key_batch, key_time]`
    pub key_positions: Numbers<2>,
}

/// Adds `table[head, clamp(floor(query_position - key_position) - minimum, 0, L - 1)]` to the score.
#[derive(Clone, Copy, Debug)]
pub struct DistanceBias {
    /// `[query_heads, L]` of float32: zero stride where heads share it.
    pub table: Tensor<2>,
    /// The distance of the first column.
    pub minimum: i64,
}

/// One call. Batch and time axes are those of the arrays: a ragged batch `[total, heads, dim]` is passed as
/// `[1, heads, total, dim]`. All tables are float32 and broadcast by the caller with zero strides.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    /// `[batch, query_heads, query_time, head_dim]`
    pub query: Matrix,
    /// `[batch, key_heads, key_time, head_dim]`, or with a block table `[pages, key_heads, page_size, head_dim]`.
    pub key: Matrix,
    /// `[batch, key_heads, key_time, value_dim]`, or with a block table `[pages, key_heads, page_size, value_dim]`.
    pub value: Matrix,
    /// `[sequences, blocks]`: key j of a sequence is key `j % page_size` of the page that block `j / page_size` names.
    /// An entry that is no page is held to one.
    pub block_table: Option<Numbers<2>>,
    /// None: a dense batch, a sequence for each entry of the first axis.
    pub offsets: Option<Offsets>,
    /// `[sequences]`, contiguous: only that many first keys exist.
    pub key_lengths: Option<Numbers<1>>,
    /// Visibility, scale, softcap.
    pub rules: Rules,
    /// `[batch, query_heads, query_time]`
    pub query_scale: Option<Tensor<3>>,
    /// `[key_batch, query_heads, key_time]`; the first axis is that of the block table, without one the batch.
    pub key_bias: Option<Tensor<3>>,
    /// Bias by distance.
    pub distance_bias: Option<DistanceBias>,
    /// `[query_heads]`
    pub sink: Option<Tensor<1>>,
    /// `[batch, query_time]`; None: the order.
    pub query_positions: Option<Numbers<2>>,
    /// `[key_batch, key_time]`; None: the order.
    pub key_positions: Option<Numbers<2>>,
    /// Rotation.
    pub rotary: Option<Rotary>,
}

impl Attention {
    /// The sizes, once the arguments are found to fit together.
    pub(super) fn check(&self) -> Result<Shape> {
        let (query, key, value) = (self.query.tensor.shape, self.key.tensor.shape, self.value.tensor.shape);
        let shape = match &self.block_table {
            Some(table) => Shape::paged(query, key, value, table.tensor.shape)?,
            None => Shape::new(query, key, value)?,
        };
        let Shape { batch, query_heads, query_time, key_batch, key_time, head_dim, .. } = shape;
        for (argument, matrix) in [("query", &self.query), ("key", &self.key), ("value", &self.value)] {
            same_dtype(argument, self.query.dtype, matrix.dtype)?;
            contiguous(argument, &matrix.tensor)?;
        }
        fits("query", query_time.saturating_mul(shape.group()), "rows of one key head")?;
        fits("key", key_time, "keys")?;
        let sequences = self.check_sequences(&shape)?;
        if let Some(table) = &self.block_table {
            check_shape("block_table", &[sequences, table.tensor.shape[1]], &table.tensor.shape)?;
            whole_numbers("block_table", table)?;
            fits("key", key[0], "pages")?;
        }
        let table = |argument, tensor: Option<Tensor<3>>, batch, time| match tensor {
            Some(tensor) => check_shape(argument, &[batch, query_heads, time], &tensor.shape),
            None => Ok(()),
        };
        table("query_scale", self.query_scale, batch, query_time)?;
        table("key_bias", self.key_bias, key_batch, key_time)?;
        if let Some(sink) = &self.sink {
            check_shape("sink", &[query_heads], &sink.shape)?;
        }
        if let Some(bias) = &self.distance_bias {
            check_shape("distance_bias", &[query_heads, bias.table.shape[1].max(1)], &bias.table.shape)?;
            contiguous("distance_bias", &bias.table)?;
            fits("distance_bias", bias.table.shape[1], "columns")?;
        }
        let times = |argument, numbers: Option<Numbers<2>>, shape: [usize; 2]| match numbers {
            Some(numbers) => check_shape(argument, &shape, &numbers.tensor.shape),
            None => Ok(()),
        };
        times("query_positions", self.query_positions, [batch, query_time])?;
        times("key_positions", self.key_positions, [key_batch, key_time])?;
        if let Some(rotary) = &self.rotary {
            let half = rotary.inv_freq.shape[1];
            check_shape("inv_freq", &[sequences, half], &rotary.inv_freq.shape)?;
            if 2 * half > head_dim {
                let expected = format!("at most {} frequencies, one for two of {head_dim} dimensions", head_dim / 2);
                return Err(Error::argument("inv_freq", expected, half));
            }
            contiguous("inv_freq", &rotary.inv_freq)?;
            if !rotary.magnitude.is_finite() {
                return Err(Error::argument("magnitude", "a finite float32", rotary.magnitude));
            }
            if let Some(far) = &rotary.far {
                if far.border.is_nan() {
                    return Err(Error::argument("border", "a number", far.border));
                }
                times("far_query_positions", Some(far.query_positions), [batch, query_time])?;
                times("far_key_positions", Some(far.key_positions), [key_batch, key_time])?;
            }
        }
        Ok(shape)
    }

    /// Sequences of the batch.
    pub(super) fn sequences(&self) -> usize {
        match &self.offsets {
            Some(offsets) => offsets.query.tensor.shape[0].saturating_sub(1),
            None => self.query.tensor.shape[0],
        }
    }

    fn check_sequences(&self, shape: &Shape) -> Result<usize> {
        let sequences = self.sequences();
        if let Some(Offsets { query, key }) = &self.offsets {
            if shape.batch != 1 {
                let given = format!("batch {}", shape.batch);
                return Err(Error::argument("query", "a ragged batch [total, heads, dim]", given));
            }
            if key.is_some() == self.block_table.is_some() {
                let given = if key.is_some() { "both" } else { "neither" };
                return Err(Error::argument("key_offsets", "these or a block_table", given));
            }
            for (argument, offsets) in [("query_offsets", Some(query)), ("key_offsets", key.as_ref())] {
                let Some(offsets) = offsets else { continue };
                check_shape(argument, &[sequences + 1], &offsets.tensor.shape)?;
                whole_numbers(argument, offsets)?;
            }
        }
        if let Some(lengths) = &self.key_lengths {
            check_shape("key_lengths", &[sequences], &lengths.tensor.shape)?;
            whole_numbers("key_lengths", lengths)?;
        }
        fits("query", sequences, "sequences")?;
        Ok(sequences)
    }

    /// Refuses results that do not fit the problem.
    pub(super) fn check_results(&self, shape: &Shape, output: &Matrix, lse: Option<&Tensor<3>>) -> Result<()> {
        let Shape { batch, query_heads, query_time, value_dim, .. } = *shape;
        same_dtype("output", self.query.dtype, output.dtype)?;
        check_shape("output", &[batch, query_heads, query_time, value_dim], &output.tensor.shape)?;
        contiguous("output", &output.tensor)?;
        lse.map_or(Ok(()), |lse| check_shape("lse", &[batch, query_heads, query_time], &lse.shape))
    }
}

fn same_dtype(argument: &'static str, expected: Dtype, given: Dtype) -> Result<()> {
    match expected == given {
        true => Ok(()),
        false => Err(Error::Dtype { argument, expected: expected.name().into(), given: given.name().into() }),
    }
}

fn contiguous<const N: usize>(argument: &'static str, tensor: &Tensor<N>) -> Result<()> {
    match tensor.shape[N - 1] <= 1 || tensor.strides[N - 1] == 1 {
        true => Ok(()),
        false => {
            let given = format!("stride {}", tensor.strides[N - 1]);
            Err(Error::argument(argument, "a contiguous last dimension", given))
        }
    }
}

fn whole_numbers<const N: usize>(argument: &'static str, numbers: &Numbers<N>) -> Result<()> {
    contiguous(argument, &numbers.tensor)?;
    match numbers.kind {
        NumberType::I64 | NumberType::I32 => Ok(()),
        NumberType::F64 | NumberType::F32 => {
            let (expected, given) = ("int32 or int64".into(), format!("{:?}", numbers.kind));
            Err(Error::Dtype { argument, expected, given })
        }
    }
}

/// Kernels count in 32 bits.
fn fits(argument: &'static str, count: usize, what: &str) -> Result<()> {
    match count < i32::MAX as usize / 2 {
        true => Ok(()),
        false => Err(Error::argument(argument, format!("fewer than {} {what}", i32::MAX / 2), count)),
    }
}
