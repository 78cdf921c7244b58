//! One call of attention over the arrays of any backend, and every check that needs none of their elements.

use super::{Rules, Sequence, Shape, check_shape};
use crate::array::{Array, FloatArray, check_contiguous};
use crate::{Dtype, Error, Result};
use std::fmt::Debug;
use std::mem;

/// Which queries meet which keys, as far as a backend knows it before it computes.
pub trait Sequences: Copy + Debug {
    /// How many sequences there are, where a dense batch has `batch` of them.
    fn count(&self, batch: usize) -> usize;

    /// Refuses sequences that are not in arrays of this shape.
    fn check(&self, shape: &Shape, has_block_table: bool) -> Result<()>;
}

/// Sequences that have been read, in the order of `dense_sequences` and its siblings.
impl Sequences for &[Sequence] {
    fn count(&self, _batch: usize) -> usize {
        self.len()
    }

    /// Each must be one batch entry, or a stretch of the time axis behind the one before it.
    fn check(&self, shape: &Shape, _has_block_table: bool) -> Result<()> {
        let is_entry = |(b, s): (usize, &Sequence)| s.batch == b && s.query_start == 0 && s.queries == shape.query_time;
        let dense = self.len() == shape.batch && self.iter().enumerate().all(is_entry);
        let mut end = 0;
        let ragged = shape.batch == 1
            && self.iter().all(|s| s.batch == 0 && s.query_start == mem::replace(&mut end, s.query_start + s.queries))
            && end == shape.query_time;
        let exist = self.iter().all(|s| {
            s.key_batch < shape.key_batch && s.key_start.checked_add(s.keys).is_some_and(|end| end <= shape.key_time)
        });
        match (dense || ragged) && exist {
            true => Ok(()),
            false => Err(Error::argument("sequences", "what the functions of farspan_core give", format!("{self:?}"))),
        }
    }
}

/// How a backend holds the arrays of a [`Problem`].
pub trait Arrays: Copy + Debug {
    /// Query, key and value.
    type Large: FloatArray<4>;
    /// float32 numbers; all but the distances and frequencies may have any strides.
    type Table<const N: usize>: Array<N>;
    /// Positions `[batch, time]`.
    type Positions: Array<2>;
    /// A block table.
    type Pages: Array<2>;
    /// The sequences of the batch.
    type Sequences: Sequences;
}

/// Rotation of queries and keys.
#[derive(Clone, Copy, Debug)]
pub struct Rotary<A: Arrays> {
    /// `[sequences, r / 2]`: radians per position; a zero stride where all sequences share them.
    pub inv_freq: A::Table<2>,
    /// Factor of cosine and sine.
    pub magnitude: f32,
    /// Pairs are `(2i, 2i + 1)` instead of `(i, i + r / 2)`.
    pub interleaved: bool,
    /// A second rotation beyond a distance.
    pub far: Option<Far<A>>,
}

/// Where `query_position - key_position >= border`, the score uses these positions instead.
#[derive(Clone, Copy, Debug)]
pub struct Far<A: Arrays> {
    /// First distance that counts as far.
    pub border: f64,
    /// `[batch, query_time]`
    pub query_positions: A::Positions,
    /// `[key_batch, key_time]`
    pub key_positions: A::Positions,
}

/// Adds `table[head, clamp(floor(query_position - key_position) - minimum, 0, L - 1)]` to the score.
#[derive(Clone, Copy, Debug)]
pub struct DistanceBias<A: Arrays> {
    /// `[query_heads, L]`: zero stride where heads share it.
    pub table: A::Table<2>,
    /// The distance of the first column.
    pub minimum: i64,
}

/// One call. Batch and time axes are those of the arrays: a ragged batch `[total, heads, dim]` is passed as
/// `[1, heads, total, dim]`. All tables are broadcast by the caller with zero strides.
#[derive(Clone, Copy, Debug)]
pub struct Problem<A: Arrays> {
    /// `[batch, query_heads, query_time, head_dim]`
    pub query: A::Large,
    /// `[batch, key_heads, key_time, head_dim]`, or with a block table `[pages, key_heads, page_size, head_dim]`.
    pub key: A::Large,
    /// `[batch, key_heads, key_time, value_dim]`, or with a block table `[pages, key_heads, page_size, value_dim]`.
    pub value: A::Large,
    /// `[sequences, blocks]`: key j of a sequence is key `j % page_size` of the page that block `j / page_size` names.
    pub block_table: Option<A::Pages>,
    /// Which queries meet which keys.
    pub sequences: A::Sequences,
    /// Visibility, scale, softcap.
    pub rules: Rules,
    /// `[batch, query_heads, query_time]`
    pub query_scale: Option<A::Table<3>>,
    /// `[key_batch, query_heads, key_time]`; the first axis is that of the block table, without one the batch.
    pub key_bias: Option<A::Table<3>>,
    /// Bias by distance.
    pub distance_bias: Option<DistanceBias<A>>,
    /// `[query_heads]`
    pub sink: Option<A::Table<1>>,
    /// `[batch, query_time]`; None: the order.
    pub query_positions: Option<A::Positions>,
    /// `[key_batch, key_time]`; None: the order.
    pub key_positions: Option<A::Positions>,
    /// Rotation.
    pub rotary: Option<Rotary<A>>,
}

impl<A: Arrays> Problem<A> {
    /// The sizes, once the arguments are found to fit together.
    pub fn check(&self) -> Result<Shape> {
        for (argument, array) in [("query", &self.query), ("key", &self.key), ("value", &self.value)] {
            check_dtype(argument, self.query.dtype(), array.dtype())?;
            check_contiguous(argument, array)?;
        }
        let table = self.block_table.as_ref().map(Array::shape);
        let shape = Shape::of(self.query.shape(), self.key.shape(), self.value.shape(), table)?;
        if let Some(table) = &self.block_table {
            check_shape("block_table", &[self.sequence_count(), table.shape()[1]], &table.shape())?;
        }
        self.sequences.check(&shape, self.block_table.is_some())?;
        self.check_tables(&shape)?;
        self.check_positions(&shape)?;
        Ok(shape)
    }

    /// Refuses results that do not fit: the element type and shape of the output, the shape of the LSE.
    pub fn check_results(
        &self,
        shape: &Shape,
        dtype: Dtype,
        output: [usize; 4],
        lse: Option<[usize; 3]>,
    ) -> Result<()> {
        let Shape { batch, query_heads, query_time, value_dim, .. } = *shape;
        check_dtype("output", self.query.dtype(), dtype)?;
        check_shape("output", &[batch, query_heads, query_time, value_dim], &output)?;
        lse.map_or(Ok(()), |lse| check_shape("lse", &[batch, query_heads, query_time], &lse))
    }

    /// Sequences of the batch.
    pub fn sequence_count(&self) -> usize {
        self.sequences.count(self.query.shape()[0])
    }

    /// Pairs of dimensions that turn.
    pub fn half(&self) -> usize {
        self.rotary.map_or(0, |rotary| rotary.inv_freq.shape()[1])
    }

    fn check_tables(&self, shape: &Shape) -> Result<()> {
        let Shape { batch, query_heads, query_time, key_batch, key_time, head_dim, .. } = *shape;
        if let Some(scale) = &self.query_scale {
            check_shape("query_scale", &[batch, query_heads, query_time], &scale.shape())?;
        }
        if let Some(bias) = &self.key_bias {
            check_shape("key_bias", &[key_batch, query_heads, key_time], &bias.shape())?;
        }
        if let Some(sink) = &self.sink {
            check_shape("sink", &[query_heads], &sink.shape())?;
        }
        if let Some(DistanceBias { table, .. }) = &self.distance_bias {
            check_shape("distance_bias", &[query_heads, table.shape()[1].max(1)], &table.shape())?;
            check_contiguous("distance_bias", table)?;
        }
        let Some(Rotary { inv_freq, magnitude, .. }) = &self.rotary else { return Ok(()) };
        let half = self.half();
        check_shape("inv_freq", &[self.sequence_count(), half], &inv_freq.shape())?;
        if 2 * half > head_dim {
            let expected = format!("at most {} frequencies, one for two of {head_dim} dimensions", head_dim / 2);
            return Err(Error::argument("inv_freq", expected, half));
        }
        check_contiguous("inv_freq", inv_freq)?;
        match magnitude.is_finite() {
            true => Ok(()),
            false => Err(Error::argument("magnitude", "a finite float32", magnitude)),
        }
    }

    fn check_positions(&self, shape: &Shape) -> Result<()> {
        let Shape { batch, query_time, key_batch, key_time, .. } = *shape;
        let far = self.rotary.and_then(|rotary| rotary.far);
        if let Some(far) = far.filter(|far| far.border.is_nan()) {
            return Err(Error::argument("border", "a number", far.border));
        }
        for (argument, positions) in
            [("query_positions", self.query_positions), ("far_query_positions", far.map(|far| far.query_positions))]
        {
            positions.map_or(Ok(()), |given| check_shape(argument, &[batch, query_time], &given.shape()))?;
        }
        for (argument, positions) in
            [("key_positions", self.key_positions), ("far_key_positions", far.map(|far| far.key_positions))]
        {
            positions.map_or(Ok(()), |given| check_shape(argument, &[key_batch, key_time], &given.shape()))?;
        }
        Ok(())
    }
}

/// A call whose gradients are asked for: what it was, what it gave, and the gradients of what it gave.
#[derive(Clone, Copy, Debug)]
pub struct Backward<A: Arrays> {
    /// The call.
    pub problem: Problem<A>,
    /// Its output `[batch, query_heads, query_time, value_dim]`.
    pub output: A::Large,
    /// Its LSE `[batch, query_heads, query_time]`.
    pub lse: A::Table<3>,
    /// Gradient of the output.
    pub output_gradient: A::Large,
    /// Gradient of the LSE; None: zero.
    pub lse_gradient: Option<A::Table<3>>,
}

impl<A: Arrays> Backward<A> {
    /// The sizes, once the arguments are found to fit together.
    pub fn check(&self) -> Result<Shape> {
        let shape = self.problem.check()?;
        if self.problem.block_table.is_some() {
            let expected = "keys that lie in an array: no gradient is known of keys in pages";
            return Err(Error::backend("block_table", expected, "a block table"));
        }
        let rows = [shape.batch, shape.query_heads, shape.query_time];
        let output = [rows[0], rows[1], rows[2], shape.value_dim];
        for (argument, array) in [("output", &self.output), ("output_gradient", &self.output_gradient)] {
            check_dtype(argument, self.problem.query.dtype(), array.dtype())?;
            check_shape(argument, &output, &array.shape())?;
            check_contiguous(argument, array)?;
        }
        check_shape("lse", &rows, &self.lse.shape())?;
        self.lse_gradient.map_or(Ok(()), |gradient| check_shape("lse_gradient", &rows, &gradient.shape()))?;
        Ok(shape)
    }

    /// Refuses a gradient of a large input that is not of its element type and shape.
    pub fn check_large(&self, argument: &'static str, of: &A::Large, dtype: Dtype, shape: [usize; 4]) -> Result<()> {
        check_dtype(argument, of.dtype(), dtype)?;
        check_shape(argument, &of.shape(), &shape)
    }
}

/// Shapes of the gradients of what was broadcast; None where nobody asks. Each size is that of the argument, or 1 where
/// it was repeated.
#[derive(Clone, Copy, Debug, Default)]
pub struct SmallShapes {
    /// `[batch, query_heads, query_time]`
    pub query_scale: Option<[usize; 3]>,
    /// `[batch, query_heads, key_time]`
    pub key_bias: Option<[usize; 3]>,
    /// `[query_heads or 1, L]`
    pub distance_bias: Option<[usize; 2]>,
    /// `[query_heads or 1]`
    pub sink: Option<[usize; 1]>,
}

impl<A: Arrays> Backward<A> {
    /// Refuses gradients of what the call did not have, or of other shapes.
    pub fn check_small(&self, shape: &Shape, given: &SmallShapes) -> Result<()> {
        let Shape { batch, query_heads, query_time, key_batch, key_time, .. } = *shape;
        let problem = &self.problem;
        let missing = |argument| Error::argument(argument, "an argument of the call", "None");
        if let Some(given) = given.query_scale {
            problem.query_scale.ok_or_else(|| missing("query_scale"))?;
            check_repeated("query_scale", [batch, query_heads, query_time], given)?;
        }
        if let Some(given) = given.key_bias {
            problem.key_bias.ok_or_else(|| missing("key_bias"))?;
            check_repeated("key_bias", [key_batch, query_heads, key_time], given)?;
        }
        if let Some(given) = given.distance_bias {
            let bias = problem.distance_bias.ok_or_else(|| missing("distance_bias"))?;
            check_repeated("distance_bias", [query_heads], [given[0]])?;
            check_shape("distance_bias", &bias.table.shape()[1..], &given[1..])?;
        }
        if let Some(given) = given.sink {
            problem.sink.ok_or_else(|| missing("sink"))?;
            check_repeated("sink", [query_heads], given)?;
        }
        Ok(())
    }
}

/// Refuses a gradient that is not of the shape that was broadcast to `whole`: of its sizes, or 1 where it was repeated.
fn check_repeated<const N: usize>(argument: &'static str, whole: [usize; N], given: [usize; N]) -> Result<()> {
    match (0..N).all(|i| given[i] == whole[i] || given[i] == 1) {
        true => Ok(()),
        false => Err(Error::argument(argument, format!("what broadcasts to {whole:?}"), format!("shape {given:?}"))),
    }
}

fn check_dtype(argument: &'static str, expected: Dtype, given: Dtype) -> Result<()> {
    match expected == given {
        true => Ok(()),
        false => Err(Error::Dtype { argument, expected: expected.name().into(), given: given.name().into() }),
    }
}
