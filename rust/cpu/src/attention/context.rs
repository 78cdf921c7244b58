//! A checked problem, and what every part of the algorithm asks of it.

use super::Attention;
use crate::arch::attention::{Chunk, Kernels, KeyBias, Row, State, kernels};
use crate::arch::lanes::LANES;
use crate::{dispatch, threads};
use farspan_core::attention::plan::Workload;
use farspan_core::attention::{KEY_CHUNK, Sequence, Shape, Visible};
use std::ops::Range;

/// The problem as the parts of the algorithm see it.
pub(super) struct Context<'p, 'a> {
    pub problem: &'p Attention<'a>,
    pub shape: Shape,
    pub work: Workload,
    pub machine: dispatch::Machine,
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
pub(super) struct QueryBlock {
    /// Index of the sequence.
    pub sequence: usize,
    pub key_head: usize,
    pub heads: Range<usize>,
    /// Queries, counted from the sequence's first.
    pub queries: Range<usize>,
}

impl QueryBlock {
    pub(super) fn rows(&self) -> usize {
        self.heads.len() * self.queries.len()
    }

    /// (head, query) of a row.
    pub(super) fn row(&self, row: usize) -> (usize, usize) {
        (self.heads.start + row % self.heads.len(), self.queries.start + row / self.heads.len())
    }
}

impl<'p, 'a> Context<'p, 'a> {
    pub(super) fn new(problem: &'p Attention<'a>, shape: Shape, machine: dispatch::Machine) -> Self {
        let work = Workload {
            head_dim: shape.head_dim,
            value_dim: shape.value_dim,
            group: shape.group(),
            far: problem.rotary.is_some_and(|rotary| rotary.far.is_some()),
            parts: shape.key_heads * problem.sequences.len(),
            threads: threads::num_threads(),
        };
        Context { problem, shape, work, machine, kernels: kernels(machine) }
    }

    /// Value dimension in whole vectors.
    pub(super) fn width(&self) -> usize {
        self.shape.value_dim.next_multiple_of(LANES)
    }

    /// Pairs of dimensions that turn.
    pub(super) fn half(&self) -> usize {
        self.problem.half()
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

    /// Factor of the products of a query.
    pub(super) fn query_scale(&self, sequence: &Sequence, head: usize, time: usize) -> f32 {
        let scale = self.problem.query_scale.map_or(1.0, |scale| scale.at([sequence.batch, head, time]));
        scale * self.problem.rules.scale
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

    /// Where the keys `keys` stand.
    pub(super) fn key_positions(
        &self,
        sequence: &Sequence,
        keys: Range<usize>,
        side: Side,
    ) -> impl Iterator<Item = f64> {
        let given = match side {
            Side::Near => self.problem.key_positions,
            Side::Far => self.problem.rotary.and_then(|rotary| rotary.far).map(|far| far.key_positions),
        };
        let (batch, start) = (sequence.key_batch, sequence.key_start);
        keys.map(move |key| given.map_or(key as f64, |positions| positions.at([batch, start + key])))
    }

    /// The same of the keys of a chunk; 0 behind them.
    pub(super) fn chunk_positions(&self, sequence: &Sequence, keys: &Range<usize>) -> [f64; KEY_CHUNK] {
        let mut out = [0.0; KEY_CHUNK];
        let positions = self.key_positions(sequence, keys.clone(), Side::Near);
        out.iter_mut().zip(positions).for_each(|(out, position)| *out = position);
        out
    }

    /// What a sequence's positions are multiplied with; empty without rotation.
    pub(super) fn inv_freq(&self, sequence: usize) -> &'a [f32] {
        let rotary = self.problem.rotary.as_ref().filter(|_| self.half() > 0);
        rotary.map_or(&[], |rotary| rotary.inv_freq.row([sequence, 0]))
    }

    /// A row as a chunk of keys sees it.
    pub(super) fn row(&self, query_block: &QueryBlock, row: usize, keys: &Range<usize>) -> Row<'a> {
        let sequence = self.sequence(query_block.sequence);
        let (head, query) = query_block.row(row);
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
    pub(super) fn first_state(&self, query_block: &QueryBlock, rows: Range<usize>) -> State {
        let mut state = State::EMPTY;
        if let Some(sink) = self.problem.sink {
            for (lane, row) in rows.enumerate() {
                state.maximum[lane] = sink.at([query_block.row(row).0]);
                state.sum[lane] = if state.maximum[lane] == f32::NEG_INFINITY { 0.0 } else { 1.0 };
            }
        }
        state
    }
}
