//! A chunk of keys and values, packed as the products of the backward pass want them.

use super::Pass;
use crate::arch::attention::Spread;
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::attention::context::{QueryBlock, Side};
use crate::attention::packing::{ChunkRows, key_turns};
use crate::attention::turning::{TABLES_OF_BOTH_SIDES, Turning};
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
    turning: Turning<TABLES_OF_BOTH_SIDES>,
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
        let dim = context.shape.head_dim;
        let sequence = context.sequence(whole.sequence);
        let source = ChunkRows::new(context, &context.problem.key, sequence, keys, &mut self.spread).of(whole.key_head);
        let rows = self.rows[side as usize].take(keys.len() * source.width());
        let turns = key_turns(context, whole.sequence, keys, side, &mut self.turning);
        context.kernels.rows(&source, turns, None, rows);
        let panels = self.panels[side as usize].take(keys.len().div_ceil(LANES) * dim * LANES);
        for (rows, panel) in rows.chunks(LANES * source.width()).zip(panels.chunks_exact_mut(dim * LANES)) {
            context.kernels.tile(rows, dim, panel);
        }
    }

    /// Turns sums of rows of turned keys back.
    pub(super) fn turn_back(
        &mut self,
        pass: &Pass,
        whole: &QueryBlock,
        keys: &Range<usize>,
        side: Side,
        sums: &mut [f32],
    ) {
        if let Some(turns) = key_turns(&pass.context, whole.sequence, keys, side, &mut self.turning) {
            pass.context.kernels.turn_back(sums, sums.len() / keys.len(), &turns);
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
