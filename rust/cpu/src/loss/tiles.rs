//! How the slopes of a stretch of tokens lie, and how they are laid out for products.

use crate::arch::loss::DEPTH;
use std::ops::Range;

/// Rows of a tile: a whole number of tiles of registers on every machine, and few enough to share a cache with their
/// slopes.
pub(super) const TILE_ROWS: usize = 96;
const _: () = assert!(DEPTH.is_multiple_of(TILE_ROWS));
/// Slopes of a tile: of its rows by the tokens of a block.
pub(super) const TILE: usize = TILE_ROWS * DEPTH;
/// Numbers of a tile.
pub(super) const TILE_SIZE: usize = TILE + DEPTH;

/// The slopes of a block of rows by a block of [`DEPTH`] tokens.
#[derive(Debug)]
pub(super) struct Tile<'a> {
    /// `[TILE_ROWS, DEPTH]`, by products.
    pub slopes: &'a mut [f32],
    /// `[DEPTH]`: sums over the rows of the slopes by logits.
    pub sums: &'a mut [f32],
}

impl<'a> Tile<'a> {
    pub(super) fn new(memory: &'a mut [f32]) -> Self {
        let (slopes, sums) = memory.split_at_mut(TILE);
        Tile { slopes, sums }
    }
}

/// Tiles of a stretch of tokens, `[blocks of tokens, blocks of rows]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tiles<'a> {
    pub memory: &'a [f32],
    pub row_blocks: usize,
}

impl<'a> Tiles<'a> {
    fn tile(&self, token_block: usize, row_block: usize) -> &'a [f32] {
        &self.memory[(token_block * self.row_blocks + row_block) * TILE_SIZE..][..TILE_SIZE]
    }

    /// The slopes of a tile's first rows by its first `depth` tokens, `[tiles, depth, height]`: what a product over
    /// tokens takes. Rows are rounded up to a whole number of tiles of `height`.
    pub(super) fn by_token(
        &self,
        (token_block, row_block): (usize, usize),
        (rows, depth): (usize, usize),
        height: usize,
        out: &mut [f32],
    ) -> usize {
        let (tile, count) = (self.tile(token_block, row_block), rows.div_ceil(height));
        for (group, out) in out.chunks_exact_mut(depth * height).take(count).enumerate() {
            for i in 0..height {
                let row = &tile[(group * height + i) * DEPTH..][..depth];
                out[i..].iter_mut().step_by(height).zip(row).for_each(|(place, slope)| *place = *slope);
            }
        }
        count * depth * height
    }

    /// The slopes of up to [`DEPTH`] rows by some of a block's tokens, `[tiles, rows, height]`: what a product over
    /// rows takes. Tokens are rounded up to a whole number of tiles of `height`.
    pub(super) fn by_row(
        &self,
        token_block: usize,
        rows: Range<usize>,
        tokens: Range<usize>,
        height: usize,
        out: &mut [f32],
    ) -> usize {
        let (depth, count) = (rows.len(), tokens.len().div_ceil(height));
        for (k, row) in rows.enumerate() {
            let tile = self.tile(token_block, row / TILE_ROWS);
            let slopes = &tile[row % TILE_ROWS * DEPTH + tokens.start..][..count * height];
            for (group, slopes) in slopes.chunks_exact(height).enumerate() {
                out[(group * depth + k) * height..][..height].copy_from_slice(slopes);
            }
        }
        count * depth * height
    }

    /// The sums over all rows of the slopes by the logits of some of a block's tokens, rows in order.
    pub(super) fn add_sums(&self, token_block: usize, tokens: Range<usize>, out: &mut [f32]) {
        for row_block in 0..self.row_blocks {
            let sums = &self.tile(token_block, row_block)[TILE..][tokens.clone()];
            out.iter_mut().zip(sums).for_each(|(place, sum)| *place += sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_are_laid_out_for_products_over_tokens_and_over_rows() {
        let (rows, row_blocks) = (TILE_ROWS + 5, 2);
        let mut memory = vec![0.0; 2 * row_blocks * TILE_SIZE];
        let slope = |row: usize, token: usize| (row * 1000 + token) as f32;
        for row in 0..rows {
            for token in 0..DEPTH {
                let tile = row_blocks + row / TILE_ROWS;
                memory[tile * TILE_SIZE + row % TILE_ROWS * DEPTH + token] = slope(row, token);
            }
        }
        let tiles = Tiles { memory: &memory, row_blocks };
        let (height, depth) = (6, 50);
        let mut out = vec![-1.0; TILE];
        assert_eq!(tiles.by_token((1, 1), (5, depth), height, &mut out), depth * height);
        assert!((0..5).all(|i| (0..depth).all(|k| out[k * height + i] == slope(TILE_ROWS + i, k))));
        assert_eq!(tiles.by_row(1, 0..rows, 96..192, height, &mut vec![0.0; 16 * rows * height]), 16 * rows * height);
        let mut out = vec![-1.0; 16 * rows * height];
        tiles.by_row(1, 0..rows, 96..192, height, &mut out);
        let at = |token: usize, row: usize| out[(token / height * rows + row) * height + token % height];
        assert!((0..96).all(|token| (0..rows).all(|row| at(token, row) == slope(row, 96 + token))));
    }
}
