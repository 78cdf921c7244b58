//! Blocks of queries: packed with their upstream gradients for every chunk of keys that meets them, and finished when
//! the last one has.

use super::Pass;
use super::cut::QueryParts;
use crate::arch::attention::{Known, MAX_DIM, Rows, RowsMut};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::attention::context::{Context, QueryBlock, Side};
use crate::attention::packing::{TileRows, query_scales, query_turns, runs, tiles, turned_queries, widened_rows};
use crate::attention::turning::{TABLES_OF_BOTH_SIDES, Turning};
use crate::attention::visibility::span;
use std::ops::Range;

/// What a thread keeps between blocks: turns of their queries, their outputs, and what [`known`] needs room for.
#[derive(Default)]
pub(super) struct BlockRoom {
    turning: Turning<TABLES_OF_BOTH_SIDES>,
    output: Buffer,
    shares: Buffer,
}

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
    pub(super) fn new(pass: &Pass, query_block: &QueryBlock, room: &mut BlockRoom) -> Self {
        let context = &pass.context;
        let (rows, head_dim, value_dim) = (query_block.rows(), context.shape.head_dim, context.shape.value_dim);
        let tiles: Vec<TileRows> = tiles(rows, context.kernels.tile_rows).collect();
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
            let by_row = by_row.take(rows * head_dim.next_multiple_of(LANES));
            let turns = query_turns(context, query_block, *side, &mut room.turning);
            turned_queries(context, query_block, 0..rows, turns, by_row);
            tile(context, &packed.tiles, head_dim, by_row, tiled);
        }
        let (tiled, by_row) = &mut packed.upstream;
        let by_row = by_row.take(rows * context.width());
        let output = room.output.take(rows * context.width());
        packed.known.extend(known(pass, query_block, 0..rows, by_row, output, room.shares.take(rows)));
        tile(context, &packed.tiles, value_dim, by_row, tiled);
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

/// Lays the rows of a block out as tiles `[dim, height]`, one behind the other.
fn tile(context: &Context, tiles: &[TileRows], dim: usize, by_row: &[f32], tiled: &mut Buffer) {
    let height: usize = tiles.iter().map(|tile_rows| tile_rows.height).sum();
    let (width, tiled) = (dim.next_multiple_of(LANES), tiled.take(height * dim));
    for TileRows { first, rows, height } in tiles.iter().copied() {
        let out = &mut tiled[first * dim..(first + height) * dim];
        context.kernels.tile(&by_row[first * width..(first + rows) * width], dim, out);
    }
}

/// What is known of the rows `rows` of a block; `upstream` gets the gradients of their outputs, whole vectors of them,
/// `output` the outputs, and `shares` the dot products of both.
pub(super) fn known<'k>(
    pass: &'k Pass,
    query_block: &'k QueryBlock,
    rows: Range<usize>,
    upstream: &'k mut [f32],
    output: &'k mut [f32],
    shares: &'k mut [f32],
) -> impl Iterator<Item = Known> {
    let Pass { context, call, .. } = pass;
    widened_rows(context, query_block, &call.output, rows.clone(), output);
    widened_rows(context, query_block, &call.output_gradient, rows.clone(), upstream);
    let sequence = context.sequence(query_block.sequence);
    context.kernels.row_dots(upstream, output, shares);
    rows.zip(shares).map(move |(row, share)| {
        let (head, query) = query_block.row(row);
        let index = [sequence.batch, head, sequence.query_start + query];
        let of_lse = call.lse_gradient.map_or(0.0, |gradient| gradient.at(index));
        Known { lse: call.lse.at(index), share: *share - of_lse }
    })
}

/// Turns the sums of a block's rows back, adds them and writes what is asked for.
pub(super) fn finish(
    pass: &Pass,
    query_block: &QueryBlock,
    room: &mut BlockRoom,
    mut sums: [Vec<f32>; 2],
    parts: &mut QueryParts,
) {
    let context = &pass.context;
    let sequence = context.sequence(query_block.sequence);
    let (width, group) = (context.shape.head_dim.next_multiple_of(LANES), query_block.heads.len());
    for (side, sums) in [Side::Near, Side::Far].into_iter().zip(&mut sums).filter(|(_, sums)| !sums.is_empty()) {
        let Some(turns) = query_turns(context, query_block, side, &mut room.turning) else { continue };
        for head in 0..group {
            context.kernels.turn_back(&mut sums[head * width..], group * width, &turns);
        }
    }
    let [near, far] = sums;
    let total = match (near.is_empty(), far.is_empty()) {
        (true, _) => far,
        (false, true) => near,
        (false, false) => near.into_iter().zip(far).map(|(near, far)| near + far).collect(),
    };
    if let Some(out) = &mut parts.query {
        runs(query_block, 0..query_block.rows(), |query, head, place| {
            let scales = query_scales(context, sequence, head, query, place.len());
            let start = [0, head - query_block.heads.start, query - query_block.queries.start];
            let (sums, out) = (&total[place.start * width..place.end * width], RowsMut::new(out, start, place.len()));
            context.kernels.finish(sums, width, &scales[..place.len()], out);
        });
    }
    let Some(out) = &mut parts.scale else { return };
    let mut query_room = [0.0; MAX_DIM];
    for (row, gradient) in total.chunks_exact(width).enumerate().filter(|(_, row)| row.iter().any(|x| *x != 0.0)) {
        let (head, query) = query_block.row(row);
        let source = Rows::new(&context.problem.query, sequence.batch, head, sequence.query_start + query, 1);
        let (query_row, slope) = (&mut query_room[..width], &mut [0.0]);
        context.kernels.rows(&source, None, None, query_row);
        context.kernels.row_dots(gradient, query_row, slope);
        let of_head = out.row_mut([0, head - query_block.heads.start, 0]);
        of_head[query - query_block.queries.start] = slope[0] * context.problem.rules.scale;
    }
}
