//! The walk behind every gradient: stretches of tokens in order, all rows of each.
//!
//! A stretch is done in two steps. First the slopes of all rows by its tokens are computed, tile by tile, from logits
//! that are computed again; no more of them is ever held. Then they are multiplied with the weights of the stretch,
//! which adds to the gradient of hidden, and with the hidden states, which gives the gradient of these weights. Both
//! products share one computation of the slopes, and threads share out the blocks of either.
//!
//! Every number is a sum of sums over blocks of [`DEPTH`] tokens, or rows, in order. Where stretches begin, which
//! thread does what and which rows are beside a row shows in none of them.

use super::Gradients;
use super::slopes::Slopes;
use super::tiles::{TILE, TILE_ROWS, TILE_SIZE, Tile, Tiles};
use crate::arch::buffer::Buffer;
use crate::arch::loss::{DEPTH, Kernels, Outer, kernels};
use crate::arch::product::Kernels as Products;
use crate::matrix::MatrixMut;
use crate::typed::RowMut;
use crate::unembed::pass::Checked;
use crate::{dispatch, each, threads};
use farspan_core::Result;
use rayon::prelude::*;
use std::cell::RefCell;
use std::ops::Range;

/// Slopes and weights that are held at the same time, in numbers, unless one block of tokens has more.
const HELD: usize = 2 << 20;
/// Tasks for each thread, so that an uneven machine still finishes together.
const TASKS_A_THREAD: usize = 2;

#[derive(Default)]
struct Scratch {
    packed: Buffer,
    sums: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Writes the gradients of a loss. The problem's row i is row `places[i]` of the gradient of hidden, whose other rows
/// are 0.
pub(super) fn walk(problem: &Checked, slopes: &Slopes, places: &[usize], out: Gradients) -> Result<()> {
    let Gradients { hidden, weight, bias } = out;
    let walk = Walk::new(problem, slopes)?;
    let mut sums = hidden.as_ref().map(|_| Sums::new(&walk));
    let mut pieces = pieces(weight, bias);
    threads::run(|| {
        walk.run(sums.as_mut(), &mut pieces);
        if let (Some(sums), Some(hidden)) = (&sums, hidden) {
            sums.write(&walk, places, hidden);
        }
    })
}

/// The gradients of weight and bias, of so many tokens as a tile has rows.
struct Piece<'o> {
    weight: Vec<RowMut<'o>>,
    bias: &'o mut [f32],
}

/// What tasks write, in the order of tokens; nothing where neither is asked for.
fn pieces<'o>(weight: Option<MatrixMut<'o>>, bias: Option<&'o mut [f32]>) -> Vec<Piece<'o>> {
    let rows = weight.map(rows_of).unwrap_or_default();
    let bias = bias.unwrap_or_default();
    let count = rows.len().max(bias.len()).div_ceil(TILE_ROWS);
    let (mut rows, mut biases) = (rows.into_iter(), bias.chunks_mut(TILE_ROWS));
    let piece = |_| Piece { weight: rows.by_ref().take(TILE_ROWS).collect(), bias: biases.next().unwrap_or_default() };
    (0..count).map(piece).collect()
}

/// The rows of a matrix without gaps.
fn rows_of(matrix: MatrixMut) -> Vec<RowMut> {
    each!(array as wrap in matrix => {
        let columns = array.ncols();
        let rows = array.nrows();
        match array.into_slice() {
            Some(numbers) if columns > 0 => numbers.chunks_exact_mut(columns).map(wrap).collect(),
            _ => (0..rows).map(|_| wrap(&mut [])).collect(),
        }
    })
}

struct Walk<'a> {
    problem: &'a Checked<'a>,
    slopes: &'a Slopes<'a>,
    kernels: Kernels,
    products: Products,
    rows: usize,
    tokens: usize,
    /// Columns of panels.
    width: usize,
    row_blocks: usize,
}

impl<'a> Walk<'a> {
    fn new(problem: &'a Checked<'a>, slopes: &'a Slopes<'a>) -> Result<Self> {
        let kernels = kernels(dispatch::machine()?);
        let (rows, tokens) = (problem.hidden.count(), problem.tokens.count);
        Ok(Walk {
            problem,
            slopes,
            kernels,
            products: problem.kernels.products,
            rows,
            tokens,
            width: kernels.width(problem.hidden.columns()),
            row_blocks: rows.div_ceil(TILE_ROWS),
        })
    }

    fn run(&self, mut sums: Option<&mut Sums>, pieces: &mut [Piece]) {
        let exist = if self.rows == 0 { 0 } else { self.tokens.div_ceil(TILE_ROWS).min(pieces.len()) };
        let (pieces, nothing) = pieces.split_at_mut(exist);
        nothing.par_iter_mut().for_each(Piece::clear);
        if self.rows == 0 || self.tokens == 0 || sums.is_none() && pieces.is_empty() {
            return;
        }
        let hidden = if pieces.iter().all(|piece| piece.weight.is_empty()) { Vec::new() } else { self.hidden() };
        let panels = if sums.is_some() { DEPTH * self.width } else { 0 };
        let (blocks, tiles) = (self.tokens.div_ceil(DEPTH), self.row_blocks * TILE_SIZE);
        let held = (HELD / (tiles + panels)).clamp(1, blocks);
        let (mut memory, mut weight) = (vec![0.0; held * tiles], vec![0.0; held * panels]);
        for first in (0..blocks).step_by(held) {
            let stretch = first..blocks.min(first + held);
            let tiles = &mut memory[..stretch.len() * tiles];
            rayon::join(|| self.fill(first, tiles), || self.pack(first, stretch.len(), panels, &mut weight));
            let tiles = Tiles { memory: tiles, row_blocks: self.row_blocks };
            let each = DEPTH / TILE_ROWS;
            let here = pieces.len().min(stretch.start * each)..pieces.len().min(stretch.end * each);
            rayon::join(
                || sums.iter_mut().for_each(|sums| sums.add(self, stretch.clone(), &tiles, &weight)),
                || {
                    let pieces = pieces[here].par_iter_mut().enumerate();
                    pieces.for_each(|(i, piece)| self.finish(first, i, &tiles, &hidden, piece));
                },
            );
        }
    }

    /// The tokens of a block.
    fn tokens(&self, block: usize) -> Range<usize> {
        block * DEPTH..self.tokens.min((block + 1) * DEPTH)
    }

    /// The rows of a block of tiles.
    fn rows(&self, block: usize) -> Range<usize> {
        block * TILE_ROWS..self.rows.min((block + 1) * TILE_ROWS)
    }

    /// All hidden states in panels, block by block of [`DEPTH`] rows.
    fn hidden(&self) -> Vec<f32> {
        let mut panels = vec![0.0; self.rows.div_ceil(DEPTH) * DEPTH * self.width];
        panels.par_chunks_mut(DEPTH * self.width).enumerate().for_each(|(block, panels)| {
            let first = block * DEPTH;
            let rows = self.problem.hidden.part(first, DEPTH.min(self.rows - first));
            self.kernels.pack(&rows, None, panels);
        });
        panels
    }

    /// Fills the tiles of a stretch.
    fn fill(&self, first: usize, tiles: &mut [f32]) {
        tiles.par_chunks_mut(TILE_SIZE).enumerate().for_each(|(i, tile)| {
            let (rows, tokens) = (self.rows(i % self.row_blocks), self.tokens(first + i / self.row_blocks));
            self.slopes.fill(&self.kernels, self.problem, rows, tokens, &mut Tile::new(tile));
        });
    }

    /// Lays out the weights of a stretch in panels.
    fn pack(&self, first: usize, blocks: usize, size: usize, panels: &mut [f32]) {
        panels.par_chunks_mut(size.max(1)).take(blocks).enumerate().for_each(|(i, panels)| {
            let tokens = self.tokens(first + i);
            let rows = self.problem.weight.part(tokens.start, tokens.len());
            self.kernels.pack(&rows, self.problem.rule(tokens).bias, panels);
        });
    }

    /// The gradients of piece i of a stretch, from those of its tiles and from all hidden states.
    fn finish(&self, first: usize, i: usize, tiles: &Tiles, hidden: &[f32], piece: &mut Piece) {
        let each = DEPTH / TILE_ROWS;
        let (block, start) = (i / each, i % each * TILE_ROWS);
        let end = self.tokens(first + block).len().min(start + TILE_ROWS);
        piece.bias.fill(0.0);
        let count = piece.bias.len().min(end - start);
        tiles.add_sums(block, start..start + count, &mut piece.bias[..count]);
        if piece.weight.is_empty() {
            return;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let (packed, sums) = (scratch.packed.take(TILE), scratch.sums.take(TILE_ROWS * self.width));
            for (depth, b) in hidden.chunks_exact(DEPTH * self.width).enumerate() {
                let rows = depth * DEPTH..self.rows.min((depth + 1) * DEPTH);
                let height = self.kernels.tile_rows;
                let length = tiles.by_row(block, rows.clone(), start..end, height, packed);
                self.kernels.outer(Outer {
                    a: &packed[..length],
                    b,
                    depth: rows.len(),
                    out: sums,
                    stride: self.width,
                    add: depth > 0,
                });
            }
            let (exist, nothing) = piece.weight.split_at_mut(end - start);
            for (row, sums) in exist.iter_mut().zip(sums.chunks_exact(self.width)) {
                store(&self.products, sums, row);
            }
            nothing.iter_mut().for_each(clear);
        });
    }
}

impl Piece<'_> {
    fn clear(&mut self) {
        self.weight.iter_mut().for_each(clear);
        self.bias.fill(0.0);
    }
}

/// The gradient of hidden while it is summed: `[blocks of rows, parts, TILE_ROWS, columns of a part]`. Parts keep
/// threads busy where rows are few.
struct Sums {
    numbers: Vec<f32>,
    columns: usize,
    parts: usize,
}

impl Sums {
    fn new(walk: &Walk) -> Self {
        let wanted = (TASKS_A_THREAD * threads::num_threads()).div_ceil(walk.row_blocks.max(1));
        let tile = walk.kernels.tile_columns;
        let columns = (walk.width / tile).div_ceil(wanted) * tile;
        let parts = walk.width.div_ceil(columns);
        Sums { numbers: vec![0.0; walk.row_blocks * parts * TILE_ROWS * columns], columns, parts }
    }

    /// Adds what the tokens of a stretch add; `weight` are their weights in panels.
    fn add(&mut self, walk: &Walk, stretch: Range<usize>, tiles: &Tiles, weight: &[f32]) {
        let Sums { columns, parts, .. } = *self;
        self.numbers.par_chunks_mut(TILE_ROWS * columns).enumerate().for_each(|(i, sums)| {
            let (row_block, first) = (i / parts, i % parts * columns);
            let panels = DEPTH * first..DEPTH * walk.width.min(first + columns);
            let rows = walk.rows(row_block).len();
            SCRATCH.with_borrow_mut(|scratch| {
                let packed = scratch.packed.take(TILE);
                for (block, weight) in weight.chunks_exact(DEPTH * walk.width).take(stretch.len()).enumerate() {
                    let depth = walk.tokens(stretch.start + block).len();
                    let height = walk.kernels.tile_rows;
                    let length = tiles.by_token((block, row_block), (rows, depth), height, packed);
                    let (a, b) = (&packed[..length], &weight[panels.clone()]);
                    walk.kernels.outer(Outer { a, b, depth, out: sums, stride: columns, add: true });
                }
            });
        });
    }

    /// Rounds the sums of row i to row `places[i]` of the gradient; its other rows are 0.
    fn write(&self, walk: &Walk, places: &[usize], hidden: MatrixMut) {
        let mut rows = rows_of(hidden);
        let mut row = vec![0.0; self.parts * self.columns];
        let mut done = 0;
        for (place, out) in rows.iter_mut().enumerate() {
            if places.get(done) != Some(&place) {
                clear(out);
                continue;
            }
            let (block, at) = (done / TILE_ROWS, done % TILE_ROWS);
            for (part, row) in row.chunks_exact_mut(self.columns).enumerate() {
                let first = ((block * self.parts + part) * TILE_ROWS + at) * self.columns;
                row.copy_from_slice(&self.numbers[first..][..self.columns]);
            }
            store(&walk.products, &row, out);
            done += 1;
        }
    }
}

fn store(products: &Products, numbers: &[f32], row: &mut RowMut) {
    let length = row.len();
    products.store(numbers, row.part(0, length));
}

fn clear(row: &mut RowMut) {
    each!(row in row => row.fill(Default::default()));
}
