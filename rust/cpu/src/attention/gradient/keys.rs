//! A chunk of keys and values, packed as the products of the backward pass want them.

use super::Pass;
use crate::arch::attention::{Rows, Spread, Turns};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::attention::context::{QueryBlock, Side};
use crate::attention::packing::{ChunkRows, pack_keys};
use farspan_core::attention::KEY_CHUNK;
use std::ops::Range;

/// Room for the packed keys and values of a chunk.
#[derive(Default)]
pub(super) struct PackedKeys {
    /// Panels `[panel, head_dim, LANES]`, near and far.
    panels: [Buffer; 2],
    /// Rows `[keys, key width]`, near and far.
    rows: [Buffer; 2],
    /// Panels `[panel, value_dim, LANES]`.
    values: Buffer,
    turns: [Buffer; 2],
    spread: Spread,
    /// Which rotations are packed.
    has: [bool; 2],
}

impl PackedKeys {
    /// Packs the values of a chunk; keys follow when a block asks for their rotation.
    pub(super) fn begin(&mut self, pass: &Pass, whole: &QueryBlock, keys: &Range<usize>) {
        self.has = [false; 2];
        let context = &pass.context;
        let dim = context.shape.value_dim;
        let sequence = context.sequence(whole.sequence);
        let rows = ChunkRows::new(context, &context.problem.value, sequence, keys, &mut self.spread).of(whole.key_head);
        let size = dim * LANES;
        let panels = self.values.take(keys.len().div_ceil(LANES) * size);
        for (panel, out) in panels.chunks_exact_mut(size).enumerate() {
            context.kernels.panel(&rows, panel * LANES..((panel + 1) * LANES).min(keys.len()), None, out);
        }
    }

    /// Packs the keys by a rotation, if they are not yet.
    pub(super) fn turn(&mut self, pass: &Pass, whole: &QueryBlock, keys: &Range<usize>, side: Side) {
        if std::mem::replace(&mut self.has[side as usize], true) {
            return;
        }
        let context = &pass.context;
        let (dim, half) = (context.shape.head_dim, context.half());
        let sequence = context.sequence(whole.sequence);
        let rows = ChunkRows::new(context, &context.problem.key, sequence, keys, &mut self.spread).of(whole.key_head);
        let count = keys.len().div_ceil(LANES);
        let panels = self.panels[side as usize].take(count * dim * LANES);
        pack_keys(context, whole.sequence, &rows, keys, 0..count, side, &mut self.turns, panels);
        let mut positions = [0.0; KEY_CHUNK];
        context.key_positions(sequence, keys.clone(), side, &mut positions);
        let [cos, sin] = self.turns.each_mut().map(|room| room.take(half));
        let width = dim.next_multiple_of(LANES);
        let by_row = self.rows[side as usize].take(keys.len() * width);
        for ((row, key), position) in by_row.chunks_exact_mut(width).zip(keys.clone()).zip(positions) {
            let time = sequence.key_start + key;
            let source = Rows::new(&context.problem.key, sequence.key_batch, whole.key_head, time, 1);
            context.kernels.widen(&source, row);
            if let Some(rotary) = &context.problem.rotary {
                context.turn_table(whole.sequence, &[position], [&mut *cos, &mut *sin]);
                let turns = Turns { cos, sin, half, interleaved: rotary.interleaved };
                context.kernels.turn_row(row, turns.cos, turns.sin, turns.interleaved);
            }
        }
    }

    /// The panels of both rotations; empty where they are not packed.
    pub(super) fn panels(&self) -> [&[f32]; 2] {
        std::array::from_fn(|side| if self.has[side] { self.panels[side].get() } else { &[] })
    }

    /// The values' panels.
    pub(super) fn values(&self) -> &[f32] {
        self.values.get()
    }

    /// Rows of keys by a rotation.
    pub(super) fn rows(&self, keys: Range<usize>, width: usize, side: Side) -> &[f32] {
        &self.rows[side as usize].get()[keys.start * width..keys.end * width]
    }
}
