//! What is asked, as tensors of the device: how they are held, and what only a device refuses. Nothing is read.

use crate::tensor::{FloatTensor, Tensor};
use farspan_core::array::{Array, check_contiguous};
use farspan_core::attention::problem::{self, Arrays};
use farspan_core::attention::{Shape, check_shape};
use farspan_core::{Error, Result};

/// A query, key, value or output.
pub type Large = FloatTensor<4>;

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

/// The sequences of a call. Only the kernels read them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sequences {
    /// None: a dense batch, a sequence for each entry of the first axis.
    pub offsets: Option<Offsets>,
    /// `[sequences]`, contiguous: only that many first keys exist.
    pub key_lengths: Option<Numbers<1>>,
}

/// Arrays in device memory. An entry of a block table that is no page is held to one.
#[derive(Clone, Copy, Debug)]
pub struct Tensors;

impl Arrays for Tensors {
    type Large = Large;
    type Table<const N: usize> = Tensor<N>;
    type Positions = Numbers<2>;
    type Pages = Numbers<2>;
    type Sequences = Sequences;
}

/// One call on a device.
pub type Attention = problem::Problem<Tensors>;
/// Its rotation.
pub type Rotary = problem::Rotary<Tensors>;
/// Its second rotation.
pub type Far = problem::Far<Tensors>;
/// Its bias by distance.
pub type DistanceBias = problem::DistanceBias<Tensors>;

impl<const N: usize> Array<N> for Numbers<N> {
    fn shape(&self) -> [usize; N] {
        self.tensor.shape
    }

    fn last_stride(&self) -> i64 {
        self.tensor.last_stride()
    }
}

impl problem::Sequences for Sequences {
    fn count(&self, batch: usize) -> usize {
        self.offsets.map_or(batch, |offsets| offsets.query.tensor.shape[0].saturating_sub(1))
    }

    fn check(&self, shape: &Shape, has_block_table: bool) -> Result<()> {
        let count = self.count(shape.batch);
        if let Some(Offsets { query, key }) = &self.offsets {
            if shape.batch != 1 {
                let given = format!("batch {}", shape.batch);
                return Err(Error::argument("query", "a ragged batch [total, heads, dim]", given));
            }
            if key.is_some() == has_block_table {
                let given = if key.is_some() { "both" } else { "neither" };
                return Err(Error::argument("key_offsets", "these or a block_table", given));
            }
            for (argument, offsets) in [("query_offsets", Some(query)), ("key_offsets", key.as_ref())] {
                let Some(offsets) = offsets else { continue };
                check_shape(argument, &[count + 1], &offsets.tensor.shape)?;
                whole_numbers(argument, offsets)?;
            }
        }
        if let Some(lengths) = &self.key_lengths {
            check_shape("key_lengths", &[count], &lengths.tensor.shape)?;
            whole_numbers("key_lengths", lengths)?;
        }
        Ok(())
    }
}

/// The sizes, once the arguments are found to fit together, and kernels to be able to count them.
pub(super) fn check(problem: &Attention) -> Result<Shape> {
    let shape = problem.check()?;
    fits("query", shape.query_time.saturating_mul(shape.group()), "rows of one key head")?;
    fits("query", problem.sequence_count(), "sequences")?;
    fits("key", shape.key_time, "keys")?;
    if let Some(table) = &problem.block_table {
        whole_numbers("block_table", table)?;
        fits("key", problem.key.tensor.shape[0], "pages")?;
    }
    if let Some(DistanceBias { table, .. }) = &problem.distance_bias {
        fits("distance_bias", table.shape[1], "columns")?;
    }
    Ok(shape)
}

/// Refuses results that do not fit the problem.
pub(super) fn check_results(problem: &Attention, shape: &Shape, output: &Large, lse: Option<&Tensor<3>>) -> Result<()> {
    problem.check_results(shape, output.dtype, output.tensor.shape, lse.map(|lse| lse.shape))?;
    check_contiguous("output", output)
}

fn whole_numbers<const N: usize>(argument: &'static str, numbers: &Numbers<N>) -> Result<()> {
    check_contiguous(argument, numbers)?;
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
