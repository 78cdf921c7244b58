//! One chunk of keys against every block of queries that sees some of it.

use super::Pass;
use super::job::{Block, Job, KeyTask};
use super::keys::PackedKeys;
use super::packed::{BlockRoom, PackedQueries};
use crate::arch::attention::{Chunk, Collected, Distance, KeyPanels, PITCH, QueryTile, Row, RowsMut, Slopes};
use crate::arch::buffer::Buffer;
use crate::arch::lanes::LANES;
use crate::attention::context::{Context, QueryBlock, Side};
use crate::attention::visibility::{distance, extent, hull, needs, span, union};
use farspan_core::attention::plan::GRADIENT_KEYS;
use std::ops::Range;

/// What a thread keeps between chunks.
#[derive(Default)]
pub(super) struct Scratch {
    keys: PackedKeys,
    queries: BlockRoom,
    /// Weights, slopes, and slopes of the far keys where a block has both: rows [`PITCH`] apart.
    weights: Buffer,
    slopes: [Buffer; 2],
    /// Sums over queries, panels `[panel, dim, LANES]`: of turned queries, near and far, and of upstream gradients.
    of_queries: [Buffer; 2],
    of_upstream: Buffer,
    /// The same as rows.
    key_rows: [Buffer; 2],
    value_rows: Buffer,
    /// Sums over the chunk's keys, for the rows of a block.
    of_keys: Buffer,
    /// `[heads, keys]`
    biases: Vec<f32>,
    /// `[heads, columns]`
    table: Vec<f64>,
}

impl Scratch {
    /// The chunk's share of the tables' gradient.
    pub(super) fn take_table(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.table)
    }
}

/// A block of queries as a chunk meets it.
struct Meeting<'m> {
    packed: &'m PackedQueries,
    /// The panels that each tile sees.
    panels: Vec<Option<Range<usize>>>,
    /// The rotations that count, each with the slopes of its keys.
    sides: &'m [(Side, usize)],
}

/// Adds a chunk's share to the sums of the blocks, and writes what belongs to its keys.
pub(super) fn run(pass: &Pass, job: &Job, task: &mut KeyTask, scratch: &mut Scratch) {
    let context = &pass.context;
    let sequence = context.sequence(job.whole.sequence);
    let keys = task.keys.clone();
    let positions = context.chunk_positions(sequence, &keys);
    let key_span = extent(positions[..keys.len()].iter().copied());
    let chunk = context.chunk(&keys, &positions);
    scratch.keys.begin(pass, &job.whole, &keys);
    scratch.clear(pass, &job.whole, keys.len());
    for block in &job.blocks {
        let query_block = &block.query_block;
        let Some(panels) = hull(&union(context, query_block, query_block.queries.clone()), &keys) else { continue };
        let packed = block.packed(pass, &mut scratch.queries);
        let block_distance = distance(context, packed.span, key_span);
        for side in [Side::Near, Side::Far] {
            if needs(block_distance, side) {
                scratch.keys.turn(pass, &job.whole, &keys, side);
            }
        }
        let sides: &[(Side, usize)] = match block_distance {
            Distance::Near => &[(Side::Near, 0)],
            Distance::Far => &[(Side::Far, 0)],
            Distance::Mixed => &[(Side::Near, 0), (Side::Far, 1)],
        };
        let panels_of = |first: usize, rows: usize| {
            let (first, last) = (query_block.row(first).1, query_block.row(first + rows - 1).1);
            hull(&union(context, query_block, first..last + 1), &keys)
        };
        let tiles = packed.tiles.iter().map(|tile_rows| panels_of(tile_rows.first, tile_rows.rows)).collect();
        let meeting = Meeting { packed, panels: tiles, sides };
        scratch.differentiate(pass, query_block, &meeting, &chunk, &keys, (block_distance, key_span));
        scratch.gather(pass, &meeting, panels);
        if pass.asked.along_keys() {
            scratch.give(pass, block, task.index, &meeting, &keys);
        }
    }
    scratch.write(pass, job, task);
}

impl Scratch {
    /// Zeros for every sum of a chunk.
    fn clear(&mut self, pass: &Pass, whole: &QueryBlock, keys: usize) {
        let (shape, heads) = (&pass.context.shape, whole.heads.len());
        let rows = keys.next_multiple_of(LANES);
        if pass.asked.key {
            for side in pass.context.sides() {
                self.of_queries[*side as usize].take(rows * pass.key_dims.len()).fill(0.0);
            }
        }
        if pass.asked.value {
            self.of_upstream.take(rows * shape.value_dim).fill(0.0);
        }
        self.biases.clear();
        self.biases.resize(if pass.asked.key_bias { heads * keys } else { 0 }, 0.0);
        let columns = pass.context.problem.distance_bias.map_or(0, |bias| bias.table.shape()[1]);
        self.table.clear();
        self.table.resize(if pass.asked.distance_bias { heads * columns } else { 0 }, 0.0);
    }

    /// Weights and slopes of a block.
    fn differentiate(
        &mut self,
        pass: &Pass,
        query_block: &QueryBlock,
        meeting: &Meeting,
        chunk: &Chunk,
        keys: &Range<usize>,
        (block_distance, key_span): (Distance, (f64, f64)),
    ) {
        let context = &pass.context;
        let packed_keys = KeyPanels {
            chunk,
            keys: self.keys.panels(),
            values: self.keys.values(),
            head_dim: context.shape.head_dim,
            value_dim: context.shape.value_dim,
        };
        let heads = query_block.heads.len();
        let mut collected: Vec<Collected> = (0..heads).map(|_| Collected::default()).collect();
        for (of_head, bias) in collected.iter_mut().zip(self.biases.chunks_exact_mut(keys.len())) {
            of_head.bias = Some(bias);
        }
        let columns = self.table.len() / heads;
        for (of_head, table) in collected.iter_mut().zip(self.table.chunks_exact_mut(columns.max(1))) {
            of_head.table = Some(table);
        }
        let size: usize = meeting.packed.tiles.iter().map(|tile_rows| tile_rows.height * PITCH).sum();
        let weights = self.weights.take(size);
        let [slopes, far] = &mut self.slopes;
        let slopes = slopes.take(size);
        let mut far = (block_distance == Distance::Mixed).then(|| far.take(size));
        let mut rows: Vec<Row> = Vec::with_capacity(context.kernels.tile_rows);
        for (tile_rows, panels) in meeting.packed.tiles.iter().zip(&meeting.panels) {
            let Some(panels) = panels else { continue };
            let of_tile = tile_rows.first..tile_rows.first + tile_rows.rows;
            rows.clear();
            rows.extend(of_tile.clone().map(|row| context.row(query_block, row, keys)));
            let tile_distance = match block_distance {
                Distance::Mixed => distance(context, span(context, query_block, of_tile), key_span),
                whole => whole,
            };
            let query =
                |side| if needs(tile_distance, side) { meeting.packed.query_tile(tile_rows, side) } else { &[] };
            let tile = QueryTile {
                rows: &rows,
                first: tile_rows.first,
                known: &meeting.packed.known[tile_rows.first..tile_rows.first + tile_rows.rows],
                height: tile_rows.height,
                query: [query(Side::Near), query(Side::Far)],
                upstream: meeting.packed.upstream_tile(tile_rows),
                distance: tile_distance,
            };
            let place = tile_rows.first * PITCH..(tile_rows.first + tile_rows.height) * PITCH;
            let out = Slopes {
                weights: &mut weights[place.clone()],
                slopes: &mut slopes[place.clone()],
                far: far.as_mut().map(|far| &mut far[place]),
            };
            context.kernels.differentiate(&tile, &packed_keys, panels.clone(), out, &mut collected);
        }
    }

    /// Adds a block's rows to the sums of the chunk's keys.
    fn gather(&mut self, pass: &Pass, meeting: &Meeting, panels: Range<usize>) {
        let Meeting { packed, panels: of_tiles, sides } = meeting;
        let shape = &pass.context.shape;
        let kernels = &pass.context.kernels;
        for panel in panels {
            let sees = |of_tile: &Option<Range<usize>>| of_tile.as_ref().is_some_and(|seen| seen.contains(&panel));
            let place = |dim: usize| panel * LANES * dim..(panel + 1) * LANES * dim;
            let mut tile = 0;
            while let Some(skip) = of_tiles[tile..].iter().position(sees) {
                let start = tile + skip;
                tile =
                    of_tiles[start..].iter().position(|of_tile| !sees(of_tile)).map_or(of_tiles.len(), |n| start + n);
                let first = packed.tiles[start].first;
                let count = packed.tiles[tile - 1].first + packed.tiles[tile - 1].rows - first;
                if pass.asked.value {
                    let sums = &mut self.of_upstream.get_mut()[place(shape.value_dim)];
                    let rows = packed.upstream_rows(first, count);
                    kernels.gather(&self.weights.get()[first * PITCH..], panel, (rows, 0), count, sums);
                }
                for (side, slopes) in sides.iter().filter(|_| pass.asked.key) {
                    let sums = &mut self.of_queries[*side as usize].get_mut()[place(pass.key_dims.len())];
                    let rows = (packed.query_rows(first, count, *side), pass.key_dims.start);
                    kernels.gather(&self.slopes[*slopes].get()[first * PITCH..], panel, rows, count, sums);
                }
            }
        }
    }

    /// Sums over the chunk's keys, and adds them to those of a block when it is the chunk's turn.
    fn give(&mut self, pass: &Pass, block: &Block, chunk: usize, meeting: &Meeting, keys: &Range<usize>) {
        let dim = pass.context.shape.head_dim;
        let width = dim.next_multiple_of(LANES);
        let Meeting { packed, panels: of_tiles, sides } = meeting;
        let height: usize = packed.tiles.iter().map(|tile_rows| tile_rows.height).sum();
        let of_keys = self.of_keys.take(2 * height * width);
        for ((side, slopes), sums) in sides.iter().zip(of_keys.chunks_exact_mut(height * width)) {
            for (tile_rows, panels) in packed.tiles.iter().zip(of_tiles) {
                let sums = &mut sums[tile_rows.first * width..(tile_rows.first + tile_rows.height) * width];
                let Some(panels) = panels else {
                    sums.fill(0.0);
                    continue;
                };
                let seen = panels.start * LANES..(panels.end * LANES).min(keys.len());
                let place = tile_rows.first * PITCH..(tile_rows.first + tile_rows.height) * PITCH;
                let rows = self.keys.rows(seen.clone(), width, *side);
                let slopes = &self.slopes[*slopes].get()[place];
                pass.context.kernels.spread(slopes, seen.start, rows, dim, tile_rows.height, sums);
            }
        }
        let rows = block.query_block.rows() * width;
        block.in_turn(pass, chunk, &mut self.queries, |sums| {
            for ((side, _), part) in sides.iter().zip(of_keys.chunks_exact(height * width)) {
                let total = &mut sums.of_keys[*side as usize];
                total.resize(rows, 0.0);
                total.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
            }
        });
    }

    /// Writes the gradients of the chunk's keys and values, and of their biases.
    fn write(&mut self, pass: &Pass, job: &Job, task: &mut KeyTask) {
        let context = &pass.context;
        let key_width = pass.key_dims.len().next_multiple_of(LANES);
        let keys = task.keys.len();
        let unscaled = &[1.0; GRADIENT_KEYS][..keys];
        if let Some(out) = &mut task.parts.value {
            let rows = rows_of_panels(context, &self.of_upstream, context.shape.value_dim, keys, &mut self.value_rows);
            context.kernels.finish(rows, context.width(), unscaled, RowsMut::new(out, [0; 3], keys));
        }
        if let Some(out) = &mut task.parts.key {
            for side in context.sides().iter().copied() {
                let (sums, room) = (&self.of_queries[side as usize], &mut self.key_rows[side as usize]);
                let rows = rows_of_panels(context, sums, pass.key_dims.len(), keys, room);
                if pass.key_dims.start == 0 {
                    self.keys.turn_back(pass, &job.whole, &task.keys, side, rows);
                }
            }
            let [near, far] = &mut self.key_rows;
            let near = &mut near.get_mut()[..keys * key_width];
            if context.sides().contains(&Side::Far) {
                near.iter_mut().zip(far.get()).for_each(|(sum, x)| *sum += x);
            }
            context.kernels.finish(near, key_width, unscaled, RowsMut::new(out, [0; 3], keys));
        }
        if let Some(out) = &mut task.parts.bias {
            for (head, sums) in self.biases.chunks_exact(task.keys.len()).enumerate() {
                out.row_mut([0, head, 0]).copy_from_slice(sums);
            }
        }
    }
}

/// Sums of `keys` keys, panels `[panel, dim, LANES]`, as rows of whole vectors.
fn rows_of_panels<'r>(
    context: &Context,
    panels: &Buffer,
    dim: usize,
    keys: usize,
    room: &'r mut Buffer,
) -> &'r mut [f32] {
    let width = dim.next_multiple_of(LANES);
    let rows = room.take(keys.next_multiple_of(LANES) * width);
    for (panel, rows) in panels.get().chunks_exact(dim * LANES).zip(rows.chunks_exact_mut(width * LANES)) {
        context.kernels.rows_of_panel(panel, rows);
    }
    &mut rows[..keys * width]
}
