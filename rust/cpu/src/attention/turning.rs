//! Cosines and sines, computed once for all rows that stand at the same places: those of the heads of a sequence, and
//! often those of the sequences of a batch.

use super::context::Context;
use crate::arch::attention::Turns;
use crate::arch::buffer::Buffer;
use crate::dispatch::Machine;

/// The turns of some rows, and what they follow from.
#[derive(Default)]
struct Table {
    machine: Option<Machine>,
    positions: Vec<f64>,
    inv_freq: Vec<f32>,
    magnitude: f32,
    cos: Buffer,
    sin: Buffer,
}

impl Table {
    /// Whether it is that of these rows, to the bit.
    fn is_of(&self, machine: Machine, positions: &[f64], inv_freq: &[f32], magnitude: f32) -> bool {
        self.machine == Some(machine)
            && self.positions.len() == positions.len()
            && self.inv_freq.len() == inv_freq.len()
            && self.magnitude.to_bits() == magnitude.to_bits()
            && self.inv_freq.iter().zip(inv_freq).all(|(a, b)| a.to_bits() == b.to_bits())
            && self.positions.iter().zip(positions).all(|(a, b)| a.to_bits() == b.to_bits())
    }
}

/// How many tables a forward pass keeps for a side. Each side has its own, and heads that follow each other ask for the
/// same one where a sequence is short: its queries are one block, and its keys one chunk.
pub(super) const TABLES_OF_SIDE: usize = 1;

/// How many tables the backward pass keeps for both sides. They serve four blocks or chunks of a sequence by one
/// rotation, or two by both. Each head begins again with the first of them.
pub(super) const TABLES_OF_BOTH_SIDES: usize = 4;

/// The `N` tables that a thread has computed last.
pub(super) struct Turning<const N: usize> {
    tables: [Table; N],
    oldest: usize,
    wanted: Vec<f64>,
}

impl<const N: usize> Default for Turning<N> {
    fn default() -> Self {
        Turning { tables: std::array::from_fn(|_| Table::default()), oldest: 0, wanted: Vec::new() }
    }
}

impl<const N: usize> Turning<N> {
    /// The turns of rows at `positions` of a sequence; None without rotation.
    pub(super) fn turns(
        &mut self,
        context: &Context,
        sequence: usize,
        positions: impl Iterator<Item = f64>,
    ) -> Option<Turns<'_>> {
        let rotary = context.problem.rotary.as_ref()?;
        let inv_freq = context.inv_freq(sequence);
        self.wanted.clear();
        self.wanted.extend(positions);
        let pairs = self.wanted.len() * inv_freq.len();
        let known =
            self.tables.iter().position(|table| table.is_of(context.machine, &self.wanted, inv_freq, rotary.magnitude));
        let index = known.unwrap_or_else(|| {
            let index = self.oldest;
            self.oldest = (index + 1) % N;
            let Table { machine, positions, inv_freq: frequencies, magnitude, cos, sin } = &mut self.tables[index];
            *machine = None; // until the table is whole
            positions.clone_from(&self.wanted);
            frequencies.clear();
            frequencies.extend_from_slice(inv_freq);
            *magnitude = rotary.magnitude;
            let out = [cos.take(pairs), sin.take(pairs)];
            context.kernels.turn_table(positions, inv_freq, rotary.magnitude, out);
            *machine = Some(context.machine);
            index
        });
        let Table { cos, sin, .. } = &self.tables[index];
        Some(Turns {
            cos: &cos.get()[..pairs],
            sin: &sin.get()[..pairs],
            half: inv_freq.len(),
            interleaved: rotary.interleaved,
        })
    }
}
