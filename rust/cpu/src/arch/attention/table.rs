//! Each kernel compiled for each machine, behind functions that check what they are given.

use super::gradient::{self, Collected, KeyPanels, PITCH, QueryTile, Slopes};
use super::pack::{self, Ahead, Turns};
use super::scores::State;
use super::source::{Rows, RowsMut};
use super::statistics::{self, Moments, Orders};
use super::stream::{self, Partial, Room, Streamed};
use super::tile::{self, PackedKeys, Scores, Tile};
use super::{CHUNK, MAX_DIM, Machine};
use crate::arch::element::each_element;
use crate::arch::lanes::LANES;
use crate::arch::portable::Portable;
use std::ops::Range;

type TurnTable = unsafe fn(&[f64], &[f32], f32, &mut [f32], &mut [f32]);
type LayRows = unsafe fn(&Rows, Option<Turns>, Option<&[f32]>, &mut [f32]);
type Attend = unsafe fn(&Tile, &PackedKeys, &[f32], Range<usize>, &mut Scores, &mut State, &mut [f32]);
type Observe = unsafe fn(&Tile, &PackedKeys, Range<usize>, &Orders, &mut Scores, &mut Moments);
type Stream = unsafe fn(&[Tile], &Streamed, Range<usize>, &mut Room, &mut [f32], &mut [Partial]);
type Differentiate = unsafe fn(&QueryTile, &KeyPanels, Range<usize>, Slopes, &mut [Collected]);

/// The functions of one machine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels {
    /// Rows of a full tile.
    pub tile_rows: usize,
    turn_table: TurnTable,
    rows: LayRows,
    turn_back: unsafe fn(&mut [f32], usize, &Turns),
    tile: unsafe fn(&[f32], usize, usize, &mut [f32]),
    panel: unsafe fn(&Rows, Range<usize>, Option<Turns>, &mut [f32]),
    values: unsafe fn(&Rows, &mut [f32]),
    attend: Attend,
    observe: Observe,
    stream: Stream,
    fold: unsafe fn(&mut State, &State, &mut [f32], &[f32], usize),
    rows_of_panel: unsafe fn(&[f32], &mut [f32]),
    finish: unsafe fn(&[f32], usize, &[f32], RowsMut),
    differentiate: Differentiate,
    gather: unsafe fn(&[f32], &[f32], usize, usize, &mut [f32]),
    spread: unsafe fn(&[f32], &[f32], usize, usize, &mut [f32]),
    row_dots: unsafe fn(&[f32], &[f32], &mut [f32]),
}

impl Kernels {
    /// Cosines and sines of `positions` times `inv_freq`, `[positions, inv_freq]` each.
    pub(crate) fn turn_table(&self, positions: &[f64], inv_freq: &[f32], magnitude: f32, out: [&mut [f32]; 2]) {
        let [cos, sin] = out;
        assert!(cos.len() == positions.len() * inv_freq.len() && sin.len() == cos.len());
        // SAFETY: the table is made for a machine that is available.
        unsafe { (self.turn_table)(positions, inv_freq, magnitude, cos, sin) }
    }

    /// All rows in float32 one behind the other, each with zeros up to the next multiple of sixteen; turned, and then
    /// scaled, where turns and scales are given.
    pub(crate) fn rows(&self, rows: &Rows, turns: Option<Turns>, scales: Option<&[f32]>, out: &mut [f32]) {
        assert!(out.len() == rows.rows * rows.width());
        assert!(turns.is_none_or(|turns| turns.fit(rows.rows, rows.dim)));
        assert!(scales.is_none_or(|scales| scales.len() == rows.rows));
        // SAFETY: as above; the rows exist, turns and scales are theirs, and `out` has room.
        unsafe { (self.rows)(rows, turns, scales, out) }
    }

    /// Turns rows that begin `stride` numbers apart the other way.
    pub(crate) fn turn_back(&self, rows: &mut [f32], stride: usize, turns: &Turns) {
        let count = turns.cos.len() / turns.half.max(1);
        let width = (2 * turns.half).next_multiple_of(LANES);
        assert!(turns.fit(count, stride) && count.saturating_sub(1) * stride + width <= rows.len());
        // SAFETY: as above; the turns are those of the rows.
        unsafe { (self.turn_back)(rows, stride, turns) }
    }

    /// Rows of whole vectors, one behind the other, as columns `[dim, height]`; rows that do not exist are 0.
    pub(crate) fn tile(&self, rows: &[f32], dim: usize, out: &mut [f32]) {
        let (width, height) = (dim.next_multiple_of(LANES), out.len().checked_div(dim).unwrap_or(0));
        assert!(rows.len().is_multiple_of(width) && out.len() == height * dim);
        assert!(!rows.is_empty() && rows.len() / width <= height && height <= LANES);
        // SAFETY: as above; so many rows exist, and `out` has room.
        unsafe { (self.tile)(rows, dim, height, out) }
    }

    /// Up to sixteen keys as columns `[dim, LANES]`; `turns` are those of these keys.
    pub(crate) fn panel(&self, rows: &Rows, which: Range<usize>, turns: Option<Turns>, out: &mut [f32]) {
        assert!(which.end <= rows.rows && which.len() <= LANES && rows.dim <= MAX_DIM);
        assert!(out.len() == rows.dim * LANES);
        assert!(turns.is_none_or(|turns| turns.fit(which.len(), rows.dim)));
        // SAFETY: as above; the rows exist, the turns are theirs and `out` has room.
        unsafe { (self.panel)(rows, which, turns, out) }
    }

    /// A chunk's values as panels `[panel, CHUNK, LANES]`.
    pub(crate) fn values(&self, rows: &Rows, out: &mut [f32]) {
        assert!(rows.rows <= CHUNK && out.len() == rows.dim.next_multiple_of(LANES) * CHUNK);
        // SAFETY: as above; the rows exist and `out` has room.
        unsafe { (self.values)(rows, out) }
    }

    /// Takes panels of a packed chunk into a tile's state and its output `[height, value width]`; `values` are panels
    /// `[panel, CHUNK, LANES]`.
    #[expect(clippy::too_many_arguments, reason = "what meets what, through what, and where it goes")]
    pub(crate) fn attend(
        &self,
        tile: &Tile,
        keys: &PackedKeys,
        values: &[f32],
        panels: Range<usize>,
        room: &mut Scores,
        state: &mut State,
        output: &mut [f32],
    ) {
        tile::check(tile, keys, values, &panels, output);
        assert!(tile.height <= self.tile_rows);
        // SAFETY: as above, and the check.
        unsafe { (self.attend)(tile, keys, values, panels, room, state, output) }
    }

    /// Takes panels of a packed chunk into a tile's moments.
    pub(crate) fn observe(
        &self,
        tile: &Tile,
        keys: &PackedKeys,
        panels: Range<usize>,
        orders: &Orders,
        room: &mut Scores,
        moments: &mut Moments,
    ) {
        tile::check_keys(tile, keys, &panels);
        assert!(tile.height <= self.tile_rows);
        // SAFETY: as above, and the check.
        unsafe { (self.observe)(tile, keys, panels, orders, room, moments) }
    }

    /// What panels of a chunk that is read in place give for a few tiles; `scores` is room for `[2, rows, CHUNK]`.
    pub(crate) fn stream(
        &self,
        tiles: &[Tile],
        streamed: &Streamed,
        panels: Range<usize>,
        room: &mut Room,
        scores: &mut [f32],
        out: &mut [Partial],
    ) {
        stream::check(tiles, streamed, &panels, scores, out);
        assert!(tiles.iter().all(|tile| tile.height <= self.tile_rows));
        // SAFETY: as above, and the check.
        unsafe { (self.stream)(tiles, streamed, panels, room, scores, out) }
    }

    /// Takes what a chunk gave for a tile of `height` rows into the tile's state and output.
    pub(crate) fn fold(&self, state: &mut State, part: &State, output: &mut [f32], sums: &[f32], height: usize) {
        assert!(height <= LANES && output.len() == sums.len() && output.len().is_multiple_of(height * LANES));
        // SAFETY: as above; rows have whole vectors.
        unsafe { (self.fold)(state, part, output, sums, height) }
    }

    /// The columns `[dim, LANES]` of a panel as sixteen rows one behind the other, each with zeros up to the next
    /// multiple of sixteen.
    pub(crate) fn rows_of_panel(&self, columns: &[f32], out: &mut [f32]) {
        assert!(columns.len().is_multiple_of(LANES));
        assert!(out.len() == (columns.len() / LANES).next_multiple_of(LANES) * LANES);
        // SAFETY: as above; both have sixteen rows.
        unsafe { (self.rows_of_panel)(columns, out) }
    }

    /// `sums * factor` as rows of the output, of which each has its factor. The sums of a row begin `apart` numbers
    /// behind those of the row before.
    pub(crate) fn finish(&self, sums: &[f32], apart: usize, factors: &[f32], out: RowsMut) {
        assert!(factors.len() == out.rows);
        let width = out.dim.next_multiple_of(LANES);
        assert!(out.rows == 0 || (out.rows - 1) * apart + width <= sums.len());
        // SAFETY: as above; every row has sums in whole vectors.
        unsafe { (self.finish)(sums, apart, factors, out) }
    }

    /// Weights and slopes of a tile with panels of a packed chunk; `collected` has an entry for each head.
    pub(crate) fn differentiate(
        &self,
        tile: &QueryTile,
        packed: &KeyPanels,
        panels: Range<usize>,
        out: Slopes,
        collected: &mut [Collected],
    ) {
        gradient::check(tile, packed, &panels, &out, collected);
        assert!(tile.height <= self.tile_rows);
        // SAFETY: as above, and the check.
        unsafe { (self.differentiate)(tile, packed, panels, out, collected) }
    }

    /// Adds to the sums `[dim, LANES]` of the sixteen keys of panel `panel` the rows `[count, width]`, from dimension
    /// `first` on, weighted by the key's column of the rows of `slopes`.
    pub(crate) fn gather(
        &self,
        slopes: &[f32],
        panel: usize,
        (rows, first): (&[f32], usize),
        count: usize,
        sums: &mut [f32],
    ) {
        assert!(count > 0 && rows.len().is_multiple_of(count * LANES) && sums.len().is_multiple_of(LANES));
        assert!(first + sums.len() / LANES <= rows.len() / count);
        assert!(slopes.len() >= count * PITCH && (panel + 1) * LANES <= PITCH);
        // SAFETY: as above; rows have whole vectors, and every row of slopes has the panel.
        unsafe { (self.gather)(&slopes[panel * LANES..], rows, count, first, sums) }
    }

    /// For each row of a tile of `height` the sum of the rows of `keys`, `dim` numbers each and zeros up to the next
    /// multiple of sixteen, weighted by its row of `slopes`, in which the keys' entries begin at `first`.
    pub(crate) fn spread(
        &self,
        slopes: &[f32],
        first: usize,
        keys: &[f32],
        dim: usize,
        height: usize,
        out: &mut [f32],
    ) {
        let width = dim.next_multiple_of(LANES);
        assert!(width > 0 && keys.len().is_multiple_of(width) && out.len() == width * height);
        assert!(slopes.len() == height * PITCH && first + keys.len() / width <= PITCH && height <= self.tile_rows);
        // SAFETY: as above; rows have whole vectors, and every row of slopes has the keys.
        unsafe { (self.spread)(&slopes[first..], keys, dim, height, out) }
    }

    /// The dot product of each row of `a` with that of `b`, rows of whole vectors; one for each entry of `out`.
    pub(crate) fn row_dots(&self, a: &[f32], b: &[f32], out: &mut [f32]) {
        assert!(a.len() == b.len() && !out.is_empty() && a.len().is_multiple_of(out.len() * LANES));
        // SAFETY: as above; rows have whole vectors.
        unsafe { (self.row_dots)(a, b, out) }
    }
}

/// Compiles the kernels for one machine.
macro_rules! compile {
    ($module:ident, $machine:ty $(, $feature:literal)?) => {
        mod $module {
            use super::*;

            $(#[target_feature(enable = $feature)])?
            #[rustfmt::skip]
            unsafe fn turn_table(
                positions: &[f64], inv_freq: &[f32], magnitude: f32, cos: &mut [f32], sin: &mut [f32],
            ) {
                pack::turn_table(positions, inv_freq, magnitude, cos, sin);
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn rows(rows: &Rows, turns: Option<Turns>, scales: Option<&[f32]>, out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { pack::rows::<$machine>(rows, turns, scales, out.as_mut_ptr()) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn turn_back(rows: &mut [f32], stride: usize, turns: &Turns) {
                // SAFETY: the caller's.
                unsafe { pack::turn_rows::<$machine>(rows.as_mut_ptr(), stride, turns, true) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn tile(rows: &[f32], dim: usize, height: usize, out: &mut [f32]) {
                let count = rows.len() / dim.next_multiple_of(LANES);
                // SAFETY: the caller's.
                unsafe { pack::tile::<$machine>(rows.as_ptr(), count, dim, height, out.as_mut_ptr()) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn panel(rows: &Rows, which: Range<usize>, turns: Option<Turns>, out: &mut [f32]) {
                let ahead = Ahead::beside(rows, which.start);
                // SAFETY: the caller's.
                unsafe { pack::panel::<$machine>(rows, which, turns, out.as_mut_ptr(), &ahead) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn values(rows: &Rows, out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe {
                    each_element!(E, start in rows.start => {
                        pack::values::<$machine, E>(start.cast(), rows, out.as_mut_ptr())
                    })
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn attend(
                tile: &Tile,
                keys: &PackedKeys,
                values: &[f32],
                panels: Range<usize>,
                room: &mut Scores,
                state: &mut State,
                output: &mut [f32],
            ) {
                // SAFETY: the caller's.
                unsafe { tile::attend::<$machine>(tile, keys, values, panels, room, state, output) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn observe(
                tile: &Tile,
                keys: &PackedKeys,
                panels: Range<usize>,
                orders: &Orders,
                room: &mut Scores,
                moments: &mut Moments,
            ) {
                // SAFETY: the caller's.
                unsafe { statistics::observe::<$machine>(tile, keys, panels, orders, room, moments) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn stream(
                tiles: &[Tile],
                streamed: &Streamed,
                panels: Range<usize>,
                room: &mut Room,
                scores: &mut [f32],
                out: &mut [Partial],
            ) {
                // SAFETY: the caller's.
                unsafe { stream::stream::<$machine>(tiles, streamed, panels, room, scores, out) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn fold(state: &mut State, part: &State, output: &mut [f32], sums: &[f32], height: usize) {
                // SAFETY: the caller's.
                unsafe { tile::fold::<$machine>(state, part, output, sums, height) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn rows_of_panel(columns: &[f32], out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { pack::rows_of_panel::<$machine>(columns.as_ptr(), columns.len() / LANES, out.as_mut_ptr()) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn finish(sums: &[f32], apart: usize, factors: &[f32], out: RowsMut) {
                // SAFETY: the caller's.
                unsafe {
                    each_element!(E, start in out.start => {
                        pack::finish::<$machine, E>(sums.as_ptr(), apart, factors, &out, start.cast())
                    })
                }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn differentiate(
                tile: &QueryTile,
                packed: &KeyPanels,
                panels: Range<usize>,
                out: Slopes,
                collected: &mut [Collected],
            ) {
                // SAFETY: the caller's.
                unsafe { gradient::differentiate::<$machine>(tile, packed, panels, out, collected) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn gather(slopes: &[f32], rows: &[f32], count: usize, first: usize, sums: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { gradient::gather::<$machine>(slopes, rows, count, first, sums) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn spread(slopes: &[f32], keys: &[f32], dim: usize, height: usize, out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { gradient::spread::<$machine>(slopes, keys, dim, height, out) }
            }

            $(#[target_feature(enable = $feature)])?
            unsafe fn row_dots(a: &[f32], b: &[f32], out: &mut [f32]) {
                // SAFETY: the caller's.
                unsafe { gradient::row_dots::<$machine>(a, b, out) }
            }

            pub(super) const KERNELS: Kernels = Kernels {
                tile_rows: <$machine as Machine>::ROWS,
                turn_table,
                rows,
                turn_back,
                tile,
                panel,
                values,
                attend,
                observe,
                stream,
                fold,
                rows_of_panel,
                finish,
                differentiate,
                gather,
                spread,
                row_dots,
            };
        }
    };
}

compile!(portable, Portable);
#[cfg(target_arch = "x86_64")]
compile!(avx2, crate::arch::avx2::Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
compile!(avx512, crate::arch::avx512::Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx2,fma,f16c");

kernels_by_machine!();
