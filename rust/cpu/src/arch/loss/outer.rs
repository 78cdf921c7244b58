//! Products that run over rows: `out[i] += sum over k of a[k][i] * b[k]`, with whole rows `b[k]`.
//!
//! Each number is one chain of fused multiply-adds over the rows of a block, in order, which is then added to what
//! stands in the output. So it depends on nothing but where blocks begin: neither on the tile nor on the machine.

#![allow(clippy::needless_range_loop, reason = "tiles of registers are indexed by row and by vector")]

use crate::arch::element::Element;
use crate::arch::lanes::{LANES, Lanes};
use crate::arch::product::Rows;

/// The most rows of a block: a chain of sums is no longer. No larger block of a wide matrix stays in a cache.
pub(crate) const DEPTH: usize = 384;
/// Rows that are laid out together, so that reads and writes are both of neighbours.
const STRIP: usize = 16;

/// One call: `out[i, ..] (+)= sum over k of a[k][i] * b[k, ..]`, for as many rows i as a whole number of tiles has.
#[derive(Debug)]
pub(crate) struct Outer<'a, 'o> {
    /// `[tiles, depth, rows of a tile]`
    pub a: &'a [f32],
    /// `[panels, DEPTH, LANES]`, as [`pack`] lays them out.
    pub b: &'a [f32],
    /// How many rows b has.
    pub depth: usize,
    /// `[rows, panels * LANES]`, a row at each multiple of `stride`.
    pub out: &'o mut [f32],
    pub stride: usize,
    /// Whether to add to the output; else it is overwritten.
    pub add: bool,
}

impl Outer<'_, '_> {
    /// That every access lies inside its operand; gives how many tiles there are.
    pub(crate) fn check(&self, rows: usize, columns: usize) -> usize {
        assert!(self.depth <= DEPTH && self.b.len().is_multiple_of(DEPTH * columns), "panels of b");
        let (tile, width) = (self.depth * rows, self.b.len() / DEPTH);
        if tile == 0 {
            return 0;
        }
        assert!(self.a.len().is_multiple_of(tile), "tiles of a");
        let tiles = self.a.len() / tile;
        let reach = (tiles * rows).checked_sub(1).map_or(0, |last| last * self.stride + width);
        assert!(width <= self.stride && reach <= self.out.len(), "out");
        tiles
    }
}

/// [`Outer`] by tiles of `R` rows and `V` vectors.
///
/// # Safety
/// As [`Lanes`]; `call` was checked for these tiles and has as many as `tiles`.
#[inline(always)]
pub(crate) unsafe fn outer<L: Lanes, const R: usize, const V: usize>(call: &mut Outer, tiles: usize) {
    let panels = call.b.len() / (DEPTH * LANES);
    for panel in (0..panels).step_by(V) {
        for t in 0..tiles {
            // SAFETY: the caller's.
            unsafe {
                let a = call.a.as_ptr().add(t * call.depth * R);
                let b = call.b.as_ptr().add(panel * DEPTH * LANES);
                let out = call.out.as_mut_ptr().add(t * R * call.stride + panel * LANES);
                tile::<L, R, V>(a, b, call.depth, (out, call.stride), call.add);
            }
        }
    }
}

/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of the tile.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const V: usize>(
    mut a: *const f32,
    mut b: *const f32,
    depth: usize,
    (out, stride): (*mut f32, usize),
    add: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[L::splat(0.0); V]; R];
        for _ in 0..depth / 4 {
            for u in 0..4 {
                step::<L, R, V>(&mut sums, a.add(u * R), b.add(u * LANES));
            }
            (a, b) = (a.add(4 * R), b.add(4 * LANES));
        }
        for u in 0..depth % 4 {
            step::<L, R, V>(&mut sums, a.add(u * R), b.add(u * LANES));
        }
        for r in 0..R {
            for v in 0..V {
                let place = out.add(r * stride + v * LANES);
                L::store(place, if add { L::add(L::load(place), sums[r][v]) } else { sums[r][v] });
            }
        }
    }
}

/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn step<L: Lanes, const R: usize, const V: usize>(sums: &mut [[L::F; V]; R], a: *const f32, b: *const f32) {
    // SAFETY: the caller's.
    unsafe {
        let mut columns = [L::splat(0.0); V];
        for v in 0..V {
            columns[v] = L::load(b.add(v * DEPTH * LANES));
        }
        for r in 0..R {
            let factor = L::splat(*a.add(r));
            for v in 0..V {
                sums[r][v] = L::fma(factor, columns[v], sums[r][v]);
            }
        }
    }
}

/// Lays rows out in panels of sixteen columns, `[panels, DEPTH, LANES]`, widened, zeros behind the last column. A row
/// whose bias is -inf becomes zeros, whatever it holds: it has no part in a product.
///
/// # Safety
/// As [`Lanes`]; `out` has panels for all columns, and rows and biases are at most [`DEPTH`] and equally many.
#[inline(always)]
pub(crate) unsafe fn pack<L: Lanes, E: Element>(rows: &Rows, start: *const E, bias: Option<&[f32]>, out: &mut [f32]) {
    let (columns, panels) = (rows.columns(), out.len() / (DEPTH * LANES));
    for first in (0..rows.count()).step_by(STRIP) {
        let strip = first..rows.count().min(first + STRIP);
        for panel in 0..panels {
            let here = columns.saturating_sub(panel * LANES).min(LANES);
            for k in strip.clone() {
                let absent = here == 0 || bias.is_some_and(|bias| bias[k] == f32::NEG_INFINITY);
                // SAFETY: the caller's: row k exists and is read within its columns.
                unsafe {
                    let from = start.wrapping_add(k * rows.stride + panel * LANES);
                    let numbers = match here {
                        _ if absent => L::splat(0.0),
                        LANES => E::load::<L>(from),
                        _ => E::load_part::<L>(from, here),
                    };
                    L::store(out.as_mut_ptr().add((panel * DEPTH + k) * LANES), numbers);
                }
            }
        }
    }
}
