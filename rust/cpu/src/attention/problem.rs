//! A checked problem, and what every part of the algorithm asks of it.

use super::{Attention, Input, Output};
use crate::arch::attention::{Chunk, Kernels, KeyBias, Row, State, kernels};
use crate::arch::lanes::LANES;
use crate::{View, ViewMut, dispatch, each};
use farspan_core::attention::plan::Work;
use farspan_core::attention::{KEY_CHUNK, Sequence, Shape, Visible, check_shape};
use farspan_core::{Dtype, Error, Result};
use std::ops::Range;

/// Refuses arguments that do not fit together.
pub(super) fn check(problem: &Attention, output: &Output, lse: Option<&ViewMut<f32, 3>>) -> Result<Shape> {
    let (query, dtype) = described("query", &problem.query)?;
    let same_dtype = |argument, given: Dtype| match given == dtype {
        true => Ok(()),
        false => Err(Error::Dtype { argument, expected: dtype.name().into(), given: given.name().into() }),
    };
    let (key, key_dtype) = described("key", &problem.key)?;
    same_dtype("key", key_dtype)?;
    let (value, value_dtype) = described("value", &problem.value)?;
    same_dtype("value", value_dtype)?;
    let shape = match &problem.block_table {
        Some(table) => Shape::paged(query, key, value, table.shape())?,
        None => Shape::new(query, key, value)?,
    };
    let Shape { batch, query_heads, query_time, key_batch, key_time, head_dim, value_dim, .. } = shape;
    same_dtype("output", output.dtype())?;
    check_shape("output", &[batch, query_heads, query_time, value_dim], &each!(view in output => view.shape()))?;
    if let Some(lse) = lse {
        check_shape("lse", &[batch, query_heads, query_time], &lse.shape())?;
    }
    if let Some(table) = &problem.block_table {
        check_shape("block_table", &[problem.sequences.len(), table.shape()[1]], &table.shape())?;
    }
    check_sequences(&shape, problem.sequences)?;
    if let Some(table) = &problem.block_table {
        check_pages(table, key[2], key[0], problem.sequences)?;
    }
    let times = |argument, view: Option<View<f64, 2>>, shape: [usize; 2]| {
        view.map_or(Ok(()), |view| {
            check_shape(argument, &shape, &view.shape())?;
            check_finite(argument, &view)
        })
    };
    if let Some(scale) = problem.query_scale {
        check_shape("query_scale", &[batch, query_heads, query_time], &scale.shape())?;
    }
    if let Some(bias) = problem.key_bias {
        check_shape("key_bias", &[key_batch, query_heads, key_time], &bias.shape())?;
    }
    if let Some(sink) = problem.sink {
        check_shape("sink", &[query_heads], &sink.shape())?;
    }
    if let Some(bias) = &problem.distance_bias {
        let length = bias.table.shape()[1].max(1);
        check_shape("distance_bias", &[query_heads, length], &bias.table.shape())?;
        contiguous("distance_bias", bias.table.is_contiguous())?;
    }
    times("query_positions", problem.query_positions, [batch, query_time])?;
    times("key_positions", problem.key_positions, [key_batch, key_time])?;
    if let Some(rotary) = &problem.rotary {
        let half = rotary.inv_freq.shape()[1];
        check_shape("inv_freq", &[problem.sequences.len(), half], &rotary.inv_freq.shape())?;
        if 2 * half > head_dim {
            let expected = format!("at most {} frequencies, one for two of {head_dim} dimensions", head_dim / 2);
            return Err(Error::argument("inv_freq", expected, half));
        }
        contiguous("inv_freq", rotary.inv_freq.is_contiguous())?;
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

fn described(argument: &'static str, input: &Input) -> Result<([usize; 4], Dtype)> {
    contiguous(argument, each!(view in input => view.is_contiguous()))?;
    Ok((input.shape(), input.dtype()))
}

fn contiguous(argument: &'static str, is_contiguous: bool) -> Result<()> {
    match is_contiguous {
        true => Ok(()),
        false => Err(Error::argument(argument, "a contiguous last dimension", "stride 0")),
    }
}

fn check_finite(argument: &'static str, positions: &View<f64, 2>) -> Result<()> {
    let [batch, time] = positions.shape();
    let distinct = if positions.strides()[0] == 0 { batch.min(1) } else { batch };
    for b in 0..distinct {
        let bad = match positions.is_contiguous() {
            true if time > 0 => positions.row([b, 0]).iter().copied().find(|p| !p.is_finite()),
            _ => (0..time.min(1)).map(|t| positions.at([b, t])).find(|p| !p.is_finite()),
        };
        if let Some(bad) = bad {
            return Err(Error::argument(argument, "finite positions", bad));
        }
    }
    Ok(())
}

/// Each sequence must be one batch entry, or a stretch of the time axis behind the one before it.
fn check_sequences(shape: &Shape, sequences: &[Sequence]) -> Result<()> {
    let dense = sequences.len() == shape.batch
        && sequences
            .iter()
            .enumerate()
            .all(|(b, s)| s.batch == b && s.query_start == 0 && s.queries == shape.query_time);
    let mut end = 0;
    let ragged = shape.batch == 1
        && sequences
            .iter()
            .all(|s| s.batch == 0 && s.query_start == std::mem::replace(&mut end, s.query_start + s.queries))
        && end == shape.query_time;
    let exist = sequences.iter().all(|s| {
        s.key_batch < shape.key_batch && s.key_start.checked_add(s.keys).is_some_and(|end| end <= shape.key_time)
    });
    if (dense || ragged) && exist {
        return Ok(());
    }
    Err(Error::argument("sequences", "what the functions of farspan_core give", format!("{sequences:?}")))
}

/// The entries of a block table that name existing keys must be pages; the others are not looked at.
fn check_pages(table: &View<i64, 2>, page_size: usize, pages: usize, sequences: &[Sequence]) -> Result<()> {
    for (row, sequence) in sequences.iter().enumerate() {
        for block in 0..sequence.keys.div_ceil(page_size.max(1)) {
            let page = table.at([sequence.key_batch, block]);
            if usize::try_from(page).is_ok_and(|page| page < pages) {
                continue;
            }
            let expected = format!("pages 0 to {} where keys exist", pages - 1);
            return Err(Error::argument("block_table", expected, format!("{page} as block {block} of row {row}")));
        }
    }
    Ok(())
}

/// The problem as the parts of the algorithm see it.
pub(super) struct Context<'a> {
    pub problem: &'a Attention<'a>,
    pub shape: Shape,
    pub work: Work,
    pub kernels: Kernels,
}

/// One of the two rotations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Near,
    Far,
}

/// Some heads, which share a key head, of some queries of a sequence. Its rows are the queries in order, and for each
/// query the heads.
#[derive(Clone, Debug)]
pub(super) struct Share {
    /// Index of the sequence.
    pub sequence: usize,
    pub key_head: usize,
    pub heads: Range<usize>,
    /// Queries, counted from the sequence's first.
    pub queries: Range<usize>,
}

impl Share {
    pub(super) fn rows(&self) -> usize {
        self.heads.len() * self.queries.len()
    }

    /// (head, query) of a row.
    pub(super) fn row(&self, row: usize) -> (usize, usize) {
        (self.heads.start + row % self.heads.len(), self.queries.start + row / self.heads.len())
    }
}

impl<'a> Context<'a> {
    pub(super) fn new(problem: &'a Attention<'a>, shape: Shape, work: Work, machine: dispatch::Machine) -> Self {
        Context { problem, shape, work, kernels: kernels(machine) }
    }

    /// Value dimension in whole vectors.
    pub(super) fn width(&self) -> usize {
        self.shape.value_dim.next_multiple_of(LANES)
    }

    /// Pairs of dimensions that turn.
    pub(super) fn half(&self) -> usize {
        self.problem.rotary.map_or(0, |rotary| rotary.inv_freq.shape()[1])
    }

    /// The border distance, if there is one.
    pub(super) fn border(&self) -> Option<f64> {
        self.problem.rotary.and_then(|rotary| rotary.far).map(|far| far.border)
    }

    /// The rotations that the problem has.
    pub(super) fn sides(&self) -> &'static [Side] {
        if self.border().is_some() { &[Side::Near, Side::Far] } else { &[Side::Near] }
    }

    pub(super) fn sequence(&self, index: usize) -> &'a Sequence {
        &self.problem.sequences[index]
    }

    /// The keys that a query sees.
    pub(super) fn visible(&self, sequence: &Sequence, query: usize) -> Visible {
        self.problem.rules.visible(sequence.query_order(query), sequence.keys)
    }

    /// The keys of chunk `chunk` of a sequence.
    pub(super) fn chunk_keys(&self, sequence: &Sequence, chunk: usize) -> Range<usize> {
        chunk * KEY_CHUNK..((chunk + 1) * KEY_CHUNK).min(sequence.keys)
    }

    /// Where a query stands.
    pub(super) fn query_position(&self, sequence: &Sequence, query: usize, side: Side) -> f64 {
        let given = match side {
            Side::Near => self.problem.query_positions,
            Side::Far => self.problem.rotary.and_then(|rotary| rotary.far).map(|far| far.query_positions),
        };
        match given {
            Some(positions) => positions.at([sequence.batch, sequence.query_start + query]),
            None => sequence.query_order(query) as f64,
        }
    }

    /// Where the keys `keys` stand; what lies behind in `out` stays.
    pub(super) fn key_positions(
        &self,
        sequence: &Sequence,
        keys: Range<usize>,
        side: Side,
        out: &mut [f64; KEY_CHUNK],
    ) {
        let given = match side {
            Side::Near => self.problem.key_positions,
            Side::Far => self.problem.rotary.and_then(|rotary| rotary.far).map(|far| far.key_positions),
        };
        for (position, key) in out.iter_mut().zip(keys) {
            *position = match given {
                Some(positions) => positions.at([sequence.key_batch, sequence.key_start + key]),
                None => key as f64,
            };
        }
    }

    /// Cosines and sines of a sequence's positions.
    pub(super) fn turn_table(&self, sequence: usize, positions: &[f64], out: [&mut [f32]; 2]) {
        if let Some(rotary) = &self.problem.rotary {
            let inv_freq = if self.half() == 0 { &[] } else { rotary.inv_freq.row([sequence, 0]) };
            self.kernels.turn_table(positions, inv_freq, rotary.magnitude, out);
        }
    }

    /// A row as a chunk of keys sees it.
    pub(super) fn row(&self, share: &Share, row: usize, keys: &Range<usize>) -> Row<'a> {
        let sequence = self.sequence(share.sequence);
        let (head, query) = share.row(row);
        let visible = self.visible(sequence, query);
        let inside = |bound: usize| bound.clamp(keys.start, keys.end) - keys.start;
        let bias = self.problem.key_bias.map_or(KeyBias::None, |bias| {
            let first = [sequence.key_batch, head, sequence.key_start + keys.start];
            match bias.is_contiguous() {
                true => KeyBias::Each(&bias.row(first)[..keys.len()]),
                false => KeyBias::Same(bias.at(first)),
            }
        });
        Row {
            visible: Visible { start: inside(visible.start), end: inside(visible.end), first: inside(visible.first) },
            position: self.query_position(sequence, query, Side::Near),
            bias,
            table: self.problem.distance_bias.as_ref().map_or(&[], |bias| bias.table.row([head, 0])),
        }
    }

    /// What rows of a chunk share.
    pub(super) fn chunk<'c>(&self, keys: &Range<usize>, positions: &'c [f64; KEY_CHUNK]) -> Chunk<'c> {
        Chunk {
            keys: keys.len(),
            positions,
            minimum: self.problem.distance_bias.as_ref().map_or(0.0, |bias| bias.minimum as f64),
            softcap: self.problem.rules.softcap,
            border: self.border().unwrap_or(f64::INFINITY),
        }
    }

    /// The state of rows that have seen their sinks only.
    pub(super) fn first_state(&self, share: &Share, rows: Range<usize>) -> State {
        let mut state = State::EMPTY;
        if let Some(sink) = self.problem.sink {
            for (lane, row) in rows.enumerate() {
                state.maximum[lane] = sink.at([share.row(row).0]);
                state.sum[lane] = if state.maximum[lane] == f32::NEG_INFINITY { 0.0 } else { 1.0 };
            }
        }
        state
    }
}
