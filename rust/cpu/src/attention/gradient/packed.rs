//! Blocks of queries: packed with their upstream gradients for every chunk of keys that meets them, and finished when
//! the last one has.

use super::Pass;
use crate::ViewMut;
use crate::arch::attention::{Known, MAX_DIM, Rows};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::attention::Output;
use crate::attention::context::{QueryBlock, Side};
use crate::attention::packing::{TileRows, tiles, turned_queries};
use crate::attention::visibility::span;

/// A block of queries with everything that chunks of keys ask of it.
pub(super) struct PackedQueries {
    pub tiles: Vec<TileRows>,
    /// Smallest and largest position.
    pub span: (f64, f64),
    pub known: Vec<Known>,
    /// For each rotation: tiles `[head_dim, height]`, one behind the other, and rows `[rows, key width]`.
    query: [(Buffer, Buffer); 2],
    /// The same of the gradients of the output.
    upstream: (Buffer, Buffer),
    head_dim: usize,
    value_dim: usize,
}

impl PackedQueries {
    pub(super) fn new(pass: &Pass, query_block: &QueryBlock) -> Self {
        let context = &pass.context;
        let (rows, head_dim, value_dim) = (query_block.rows(), context.shape.head_dim, context.shape.value_dim);
        let tiles: Vec<TileRows> = tiles(rows, context.kernels.rows).collect();
        let mut packed = PackedQueries {
            span: span(context, query_block, 0..rows),
            known: Vec::with_capacity(rows),
            query: Default::default(),
            upstream: Default::default(),
            head_dim,
            value_dim,
            tiles,
        };
        for side in context.sides() {
            let (tiled, by_row) = &mut packed.query[*side as usize];
            let mut place = Places::new(&packed.tiles, head_dim, rows, tiled, by_row);
            turned_queries(context, query_block, 0..rows, *side, |row, numbers| place.put(row, numbers));
        }
        let (tiled, by_row) = &mut packed.upstream;
        let mut place = Places::new(&packed.tiles, value_dim, rows, tiled, by_row);
        let mut room = [0.0; MAX_DIM];
        for row in 0..rows {
            let numbers = &mut room[..value_dim.next_multiple_of(LANES)];
            packed.known.push(known(pass, query_block, row, numbers));
            place.put(row, numbers);
        }
        packed
    }

    /// The queries of a tile by a rotation.
    pub(super) fn query_tile(&self, tile_rows: &TileRows, side: Side) -> &[f32] {
        part(&self.query[side as usize].0, tile_rows.first, tile_rows.height, self.head_dim)
    }

    /// The gradients of a tile's outputs.
    pub(super) fn upstream_tile(&self, tile_rows: &TileRows) -> &[f32] {
        part(&self.upstream.0, tile_rows.first, tile_rows.height, self.value_dim)
    }

    /// Queries as rows.
    pub(super) fn query_rows(&self, first: usize, rows: usize, side: Side) -> &[f32] {
        part(&self.query[side as usize].1, first, rows, self.head_dim.next_multiple_of(LANES))
    }

    /// Gradients of outputs as rows.
    pub(super) fn upstream_rows(&self, first: usize, rows: usize) -> &[f32] {
        part(&self.upstream.1, first, rows, self.value_dim.next_multiple_of(LANES))
    }
}

fn part(buffer: &Buffer, first: usize, rows: usize, size: usize) -> &[f32] {
    &buffer.get()[first * size..(first + rows) * size]
}

/// Where the rows of a block go, in both layouts.
struct Places<'p> {
    tiles: &'p [TileRows],
    dim: usize,
    tiled: &'p mut [f32],
    by_row: &'p mut [f32],
}

impl<'p> Places<'p> {
    fn new(tiles: &'p [TileRows], dim: usize, rows: usize, tiled: &'p mut Buffer, by_row: &'p mut Buffer) -> Self {
        let height: usize = tiles.iter().map(|tile_rows| tile_rows.height).sum();
        let (tiled, by_row) = (tiled.take(height * dim), by_row.take(rows * dim.next_multiple_of(LANES)));
        tiled.fill(0.0);
        Places { tiles, dim, tiled, by_row }
    }

    fn put(&mut self, row: usize, numbers: &[f32]) {
        let width = numbers.len();
        self.by_row[row * width..(row + 1) * width].copy_from_slice(numbers);
        // All tiles but the last are full.
        let TileRows { first, height, .. } = self.tiles[row / self.tiles[0].rows];
        let tile = &mut self.tiled[first * self.dim..(first + height) * self.dim];
        for (column, x) in tile.chunks_exact_mut(height).zip(numbers) {
            column[row - first] = *x;
        }
    }
}

/// What is known of a row of a block; `upstream` gets the gradient of its output, whole vectors of it.
pub(super) fn known(pass: &Pass, query_block: &QueryBlock, row: usize, upstream: &mut [f32]) -> Known {
    let Pass { context, call, .. } = pass;
    let sequence = context.sequence(query_block.sequence);
    let (head, query) = query_block.row(row);
    let time = sequence.query_start + query;
    let mut room = [0.0; MAX_DIM];
    let output = &mut room[..upstream.len()];
    context.kernels.widen(&Rows::new(&call.output, sequence.batch, head, time, 1), output);
    context.kernels.widen(&Rows::new(&call.output_gradient, sequence.batch, head, time, 1), upstream);
    let of_lse = call.lse_gradient.map_or(0.0, |gradient| gradient.at([sequence.batch, head, time]));
    Known { lse: call.lse.at([sequence.batch, head, time]), share: context.kernels.dot(upstream, output) - of_lse }
}

/// Turns the sums of a block's rows back, adds them and writes what is asked for.
pub(super) fn finish(
    pass: &Pass,
    query_block: &QueryBlock,
    sums: [Vec<f32>; 2],
    query_gradient: &mut Option<Output>,
    scale_gradient: &mut Option<ViewMut<f32, 3>>,
) {
    let context = &pass.context;
    let sequence = context.sequence(query_block.sequence);
    let width = context.shape.head_dim.next_multiple_of(LANES);
    let mut room = [[0.0; MAX_DIM]; 2];
    let [gradient, other] = room.each_mut().map(|room| &mut room[..width]);
    for row in 0..query_block.rows() {
        let (head, query) = query_block.row(row);
        gradient.fill(0.0);
        for (side, sums) in [Side::Near, Side::Far].into_iter().zip(&sums) {
            if !sums.is_empty() {
                other.copy_from_slice(&sums[row * width..(row + 1) * width]);
                let position = context.query_position(sequence, query, side);
                pass.turn_back(query_block.sequence, position, other);
                gradient.iter_mut().zip(&*other).for_each(|(sum, x)| *sum += x);
            }
        }
        let index = [0, head - query_block.heads.start, query - query_block.queries.start, 0];
        let time = sequence.query_start + query;
        if let Some(out) = query_gradient {
            context.kernels.finish(gradient, context.query_scale(sequence, head, time), out.row(index));
        }
        if let Some(out) = scale_gradient.as_mut().filter(|_| gradient.iter().any(|x| *x != 0.0)) {
            context.kernels.widen(&Rows::new(&context.problem.query, sequence.batch, head, time, 1), other);
            let slope = context.kernels.dot(gradient, other) * context.problem.rules.scale;
            out.row_mut([0, index[1], 0])[index[2]] = slope;
        }
    }
}

impl Pass<'_, '_> {
    /// The transposed rotation of a row at a position of a sequence.
    pub(super) fn turn_back(&self, sequence: usize, position: f64, row: &mut [f32]) {
        let Some(rotary) = &self.context.problem.rotary else { return };
        let half = self.context.half();
        let mut room = [[0.0; MAX_DIM / 2]; 2];
        let [cos, sin] = room.each_mut().map(|room| &mut room[..half]);
        self.context.turn_table(sequence, &[position], [cos, sin]);
        sin.iter_mut().for_each(|x| *x = -*x);
        self.context.kernels.turn_row(row, cos, sin, rotary.interleaved);
    }
}
