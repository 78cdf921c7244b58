//! The slopes of a loss by its logits: those of a tile, from the logits that are computed again for it.

use super::tiles::{TILE, Tile};
use crate::arch::buffer::Buffer;
use crate::arch::loss::{DEPTH, Kernels, Sloping};
use crate::product::for_each_chunk;
use crate::unembed::pass::Checked;
use farspan_core::loss::{Single, Slope};
use std::cell::RefCell;
use std::ops::Range;

/// In the place of a single token that is none.
pub(super) const NOWHERE: Single = Single { token: usize::MAX, slope: 0.0 };

thread_local! {
    /// Logits of the target, of a tile.
    static TARGETS: RefCell<Buffer> = RefCell::default();
}

/// What a loss says of the logits of each row.
#[derive(Debug)]
pub(super) struct Slopes<'a> {
    /// `[rows]`
    pub rows: Vec<Slope>,
    /// Equally many for each row.
    pub singles: Vec<Single>,
    /// What logits are multiplied with.
    pub inverse_temperature: f32,
    /// One for each token.
    pub class_weight: Option<&'a [f32]>,
    /// The problem whose logits are those of the target.
    pub target: Option<Checked<'a>>,
}

impl Slopes<'_> {
    /// Of no row, at temperature 1.
    pub(super) fn plain() -> Self {
        let (rows, singles) = (Vec::new(), Vec::new());
        Slopes { rows, singles, inverse_temperature: 1.0, class_weight: None, target: None }
    }

    /// The tokens of a row at which something is added.
    fn singles(&self, row: usize) -> &[Single] {
        let each = self.singles.len() / self.rows.len();
        &self.singles[row * each..(row + 1) * each]
    }

    /// Fills a tile: the slopes by products, of some rows by some tokens, and the sums over rows of those by logits.
    pub(super) fn fill(
        &self,
        kernels: &Kernels,
        problem: &Checked,
        rows: Range<usize>,
        tokens: Range<usize>,
        tile: &mut Tile,
    ) {
        TARGETS.with_borrow_mut(|targets| {
            let targets = self.target.as_ref().map(|target| {
                let targets = targets.take(TILE);
                target.for_each_chunk(rows.clone(), tokens.clone(), |row, _, logits, _| {
                    targets[row * DEPTH..][..logits.len()].copy_from_slice(logits);
                });
                &*targets
            });
            tile.sums.fill(0.0);
            let mut chain = [0.0; DEPTH];
            let x = problem.hidden.part(rows.start, rows.len());
            for_each_chunk(&problem.kernels.products, x, problem.weight, tokens, |row, chunk, products| {
                let length = products.len();
                let (place, chain) = (&mut tile.slopes[row * DEPTH..][..length], &mut chain[..length]);
                place.copy_from_slice(products);
                let how = Sloping {
                    rule: problem.rule(chunk.clone()),
                    slope: self.rows[rows.start + row],
                    inverse_temperature: self.inverse_temperature,
                    class_weight: self.class_weight.map(|weights| &weights[chunk.clone()]),
                    target: targets.map(|targets| &targets[row * DEPTH..][..length]),
                };
                kernels.slopes(place, chain, chunk.len(), &how);
                for single in self.singles(rows.start + row).iter().filter(|single| chunk.contains(&single.token)) {
                    let at = single.token - chunk.start;
                    if how.rule.bias.is_none_or(|bias| bias[at] > f32::NEG_INFINITY) {
                        place[at] += single.slope;
                    }
                }
                kernels.chain_on(place, chain, &mut tile.sums[..length]);
            });
        });
    }
}
