//! Products of many rows with many rows, the right operand laid out in panels of sixteen: what lies in the lanes of a
//! vector belongs to sixteen results, so nothing is added up across lanes. The left operand is laid out so too, or is
//! read where it lies.
//!
//! Two orders of summation are served. [`Order::Chain`]: one chain of fused multiply-adds over all steps. And
//! [`Order::Planes`]: that of [`super::dot`], sixteen chains, each over every sixteenth step, added by the tree of
//! [`Lanes::sum`]; a product has the bits here that it has there.

#![allow(clippy::needless_range_loop, reason = "tiles of registers are indexed by row and by vector")]

use super::dot::{Rows, Start};
use crate::arch::element::Element;
use crate::arch::lanes::{LANES, Lanes};
use std::mem::MaybeUninit;

/// Chains of [`Order::Planes`] in the order in which the tree takes them: neighbours are added first.
const TURNS: [usize; LANES] = [0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15];
/// Levels of the tree.
const LEVELS: usize = LANES.ilog2() as usize;

/// How the steps of a panel follow each other, and how their products are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// In order, one chain.
    Chain,
    /// The steps 0, 16, 32 and so on, then 1, 17, 33 and so on; a chain for each of these planes.
    Planes,
}

impl Order {
    /// How many steps a panel has for `columns` of them.
    pub(crate) const fn steps(self, columns: usize) -> usize {
        match self {
            Order::Chain => columns,
            Order::Planes => columns.next_multiple_of(LANES),
        }
    }

    /// Where the panel of `steps` steps has step 0 to 15 of sixteen that begin with `first`: the place of the first,
    /// and how far apart they are.
    const fn places(self, steps: usize, first: usize) -> (usize, usize) {
        match self {
            Order::Chain => (first, 1),
            Order::Planes => (first / LANES, steps / LANES),
        }
    }
}

/// An operand, `[panels, steps, LANES]`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    pub numbers: &'a [f32],
    pub steps: usize,
}

impl Panels<'_> {
    fn count(&self) -> usize {
        self.numbers.len() / (self.steps * LANES).max(1)
    }
}

/// A left operand.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left<'a> {
    Panels(Panels<'a>),
    /// Rows that [`Left::reads`].
    Rows(Rows<'a>),
}

impl Left<'_> {
    /// `count` rows from row `first`, a multiple of [`LANES`].
    ///
    /// # Panics
    /// When they do not exist.
    pub(crate) fn part(&self, first: usize, count: usize) -> Self {
        match self {
            Left::Rows(rows) => Left::Rows(rows.part(first, count)),
            Left::Panels(Panels { numbers, steps }) => {
                assert!(first.is_multiple_of(LANES));
                let numbers = &numbers[first * steps..(first + count.next_multiple_of(LANES)) * steps];
                Left::Panels(Panels { numbers, steps: *steps })
            }
        }
    }

    /// Whether rows can be read where they lie, with a step for each column.
    pub(crate) fn reads(rows: &Rows, order: Order) -> bool {
        matches!(rows.start, Start::F32(_)) && (order == Order::Chain || rows.is_wide())
    }
}

/// One call: `out[i, j] (+)= sum over steps of a[step, i] * b[step, j]`.
#[derive(Debug)]
pub(crate) struct Multiplied<'a, 'o> {
    pub a: Left<'a>,
    pub b: Panels<'a>,
    pub order: Order,
    /// So many of the rows of a are needed; those up to the next multiple of [`LANES`] may be written too.
    pub rows: usize,
    /// A row at each multiple of `stride`.
    pub out: &'o mut [f32],
    pub stride: usize,
    /// Whether to add to the output; else it is overwritten.
    pub add: bool,
}

impl Multiplied<'_, '_> {
    /// That every access of [`multiply`] lies inside its operand.
    pub(crate) fn check(&self) {
        let b = self.b;
        let whole = |panels: Panels| panels.numbers.len().is_multiple_of(panels.steps * LANES);
        let (rows, steps) = match self.a {
            Left::Panels(a) => {
                assert!(whole(a), "panels of a");
                (a.count() * LANES, a.steps)
            }
            Left::Rows(a) => {
                assert!(Left::reads(&a, self.order), "rows of a");
                (a.count, a.columns)
            }
        };
        assert!(steps == b.steps && steps > 0, "steps");
        assert!(self.order == Order::Chain || steps.is_multiple_of(LANES), "planes");
        assert!(whole(b), "panels of b");
        assert!(self.rows <= rows, "rows of a");
        let rows = self.rows.next_multiple_of(LANES);
        let width = b.count() * LANES;
        let reach = rows.checked_sub(1).map_or(0, |last| last * self.stride + width);
        assert!(width <= self.stride && reach <= self.out.len(), "out");
    }
}

/// [`Multiplied`] by tiles of `R` rows, of `REST` at the end of a panel, and of up to `V` vectors. `P` planes are
/// summed at the same time; 0: there are none ([`Order::Chain`]).
///
/// # Safety
/// As [`Lanes`]; `call` was checked.
#[inline(always)]
pub(crate) unsafe fn multiply<L: Lanes, const R: usize, const REST: usize, const V: usize, const P: usize>(
    call: &mut Multiplied,
) {
    const { assert!((LANES % R).is_multiple_of(REST) && V <= 3) };
    let (mut panel, count) = (0, call.b.count());
    while panel < count {
        // Two and two are quicker than three and one.
        let width = if count - panel == V + 1 { V.min(2) } else { V.min(count - panel) };
        // SAFETY: the caller's; so many panels exist.
        unsafe {
            match width {
                1 => strip::<L, R, REST, 1, P>(call, panel),
                2 => strip::<L, R, REST, 2, P>(call, panel),
                _ => strip::<L, R, REST, 3, P>(call, panel),
            }
        }
        panel += width;
    }
}

/// All rows of a with `V` panels of b, which stay in a cache meanwhile.
///
/// # Safety
/// As [`multiply`].
#[inline(always)]
unsafe fn strip<L: Lanes, const R: usize, const REST: usize, const V: usize, const P: usize>(
    call: &mut Multiplied,
    panel: usize,
) {
    let steps = call.b.steps;
    let size = steps * LANES;
    let mut row = 0;
    while row < call.rows {
        // Tiles end where a panel does.
        let lane = row % LANES;
        // SAFETY: the caller's: `lane` and the rows behind it lie in one panel.
        unsafe {
            let b = call.b.numbers.as_ptr().add(panel * size);
            let out = (call.out.as_mut_ptr().add(row * call.stride + panel * LANES), call.stride);
            let whole = lane + R <= LANES;
            match call.a {
                Left::Panels(a) => {
                    let a = InPanel(a.numbers.as_ptr().add(row / LANES * size + lane));
                    if whole {
                        tile::<L, _, R, V, P>(Operands { a, b, steps }, out, call.add);
                    } else {
                        tile::<L, _, REST, V, P>(Operands { a, b, steps }, out, call.add);
                    }
                }
                Left::Rows(a) => {
                    if whole {
                        let a = lying::<R>(&a, row, call.rows);
                        tile::<L, _, R, V, P>(Operands { a, b, steps }, out, call.add);
                    } else {
                        let a = lying::<REST>(&a, row, call.rows);
                        tile::<L, _, REST, V, P>(Operands { a, b, steps }, out, call.add);
                    }
                }
            }
            row += if whole { R } else { REST };
        }
    }
}

/// Where `R` rows from row `first` on begin; the last of `count` stands for those behind it.
#[inline(always)]
fn lying<const R: usize>(rows: &Rows, first: usize, count: usize) -> [*const f32; R] {
    let Start::F32(start) = rows.start else { unreachable!("rows that were checked") };
    let mut begin = [start; R];
    for (r, begin) in begin.iter_mut().enumerate() {
        *begin = start.wrapping_add((first + r).min(count - 1) * rows.stride);
    }
    begin
}

/// Where the operands of a tile begin. The steps of a panel are [`LANES`] apart.
#[derive(Clone, Copy)]
struct Operands<A> {
    a: A,
    b: *const f32,
    steps: usize,
}

/// The rows of the left operand of a tile.
trait Lies: Copy {
    /// How far apart the steps of a chain are.
    const CHAIN: usize;
    /// Where row `r` begins.
    fn row(&self, r: usize) -> *const f32;
    /// Where step 0 of a plane lies behind that, of `count` steps that are [`LANES`] apart.
    fn plane(plane: usize, count: usize) -> usize;
}

/// A row to a lane, from the first on.
#[derive(Clone, Copy)]
struct InPanel(*const f32);

impl Lies for InPanel {
    const CHAIN: usize = LANES;
    #[inline(always)]
    fn row(&self, r: usize) -> *const f32 {
        self.0.wrapping_add(r)
    }
    #[inline(always)]
    fn plane(plane: usize, count: usize) -> usize {
        plane * count * LANES
    }
}

impl<const R: usize> Lies for [*const f32; R] {
    const CHAIN: usize = 1;
    #[inline(always)]
    fn row(&self, r: usize) -> *const f32 {
        self[r]
    }
    #[inline(always)]
    fn plane(plane: usize, _: usize) -> usize {
        plane
    }
}

/// # Safety
/// As [`Lanes`]; the pointers must be valid for all of the tile.
#[inline(always)]
unsafe fn tile<L: Lanes, A: Lies, const R: usize, const V: usize, const P: usize>(
    operands: Operands<A>,
    (out, stride): (*mut f32, usize),
    add: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        let sums = if P == 0 {
            chains::<L, A, R, V, 1>(operands, [(0, 0)], A::CHAIN, operands.steps)[0]
        } else {
            planes::<L, A, R, V, P>(operands)
        };
        for r in 0..R {
            for v in 0..V {
                let place = out.add(r * stride + v * LANES);
                L::store(place, if add { L::add(L::load(place), sums[r][v]) } else { sums[r][v] });
            }
        }
    }
}

/// Sums of a tile that wait for their neighbours in the tree.
#[repr(align(64))]
struct Waiting<const R: usize, const V: usize>([[[[f32; LANES]; V]; R]; LEVELS]);

/// The chains of all planes, `P` of them at a time, added by the tree.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn planes<L: Lanes, A: Lies, const R: usize, const V: usize, const P: usize>(
    operands: Operands<A>,
) -> [[L::F; V]; R] {
    let count = operands.steps / LANES;
    let mut waiting = MaybeUninit::<Waiting<R, V>>::uninit();
    let waiting = waiting.as_mut_ptr().cast::<f32>();
    let (size, mut held) = (R * V * LANES, 0);
    // SAFETY: the caller's. Before a turn there wait as many sums as the turn's index has ones, at most one a level;
    // what is read was written.
    unsafe {
        let mut sums = [[L::splat(0.0); V]; R];
        let turns = LANES / P.max(1);
        for turn in 0..turns {
            let mut firsts = [(0, 0); P];
            for p in 0..P {
                let plane = TURNS[turn * P + p];
                firsts[p] = (A::plane(plane, count), plane * count * LANES);
            }
            let mut found = chains::<L, A, R, V, P>(operands, firsts, LANES, count);
            let mut left = P;
            while left > 1 {
                left /= 2;
                for p in 0..left {
                    for r in 0..R {
                        for v in 0..V {
                            found[p][r][v] = L::add(found[2 * p + 1][r][v], found[2 * p][r][v]);
                        }
                    }
                }
            }
            sums = found[0];
            for _ in 0..turn.trailing_ones() {
                held -= 1;
                for r in 0..R {
                    for v in 0..V {
                        let neighbour = L::load(waiting.add(held * size + (r * V + v) * LANES));
                        sums[r][v] = L::add(sums[r][v], neighbour);
                    }
                }
            }
            if turn + 1 < turns {
                for r in 0..R {
                    for v in 0..V {
                        L::store(waiting.add(held * size + (r * V + v) * LANES), sums[r][v]);
                    }
                }
                held += 1;
            }
        }
        sums
    }
}

/// For each result `P` chains of `count` steps, from each of `firsts` on: behind the beginnings of a, whose steps are
/// `apart`, and of b.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn chains<L: Lanes, A: Lies, const R: usize, const V: usize, const P: usize>(
    operands: Operands<A>,
    firsts: [(usize, usize); P],
    apart: usize,
    count: usize,
) -> [[[L::F; V]; R]; P] {
    let panel = operands.steps * LANES;
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[[L::splat(0.0); V]; R]; P];
        for at in (0..count / 2 * 2).step_by(2) {
            for u in 0..2 {
                for p in 0..P {
                    let (a, b) = (firsts[p].0 + (at + u) * apart, firsts[p].1 + (at + u) * LANES);
                    step::<L, A, R, V>(&mut sums[p], operands.a, a, operands.b.add(b), panel);
                }
            }
        }
        if !count.is_multiple_of(2) {
            for p in 0..P {
                let (a, b) = (firsts[p].0 + (count - 1) * apart, firsts[p].1 + (count - 1) * LANES);
                step::<L, A, R, V>(&mut sums[p], operands.a, a, operands.b.add(b), panel);
            }
        }
        sums
    }
}

/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn step<L: Lanes, A: Lies, const R: usize, const V: usize>(
    sums: &mut [[L::F; V]; R],
    a: A,
    at: usize,
    b: *const f32,
    panel: usize,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut columns = [L::splat(0.0); V];
        for v in 0..V {
            columns[v] = L::load(b.add(v * panel));
        }
        for r in 0..R {
            let factor = L::splat(*a.row(r).add(at));
            for v in 0..V {
                sums[r][v] = L::fma(factor, columns[v], sums[r][v]);
            }
        }
    }
}

/// Lays rows out so that a panel has sixteen of them in its lanes and a step for each column, widened; zeros stand for
/// rows and columns that do not exist.
///
/// # Safety
/// As [`Lanes`]; `out` has panels of so many steps for all rows.
#[inline(always)]
pub(crate) unsafe fn pack_rows<L: Lanes, E: Element>(rows: &Rows, start: *const E, order: Order, out: &mut [f32]) {
    let (columns, steps) = (rows.columns, order.steps(rows.columns));
    for (panel, out) in out.chunks_exact_mut((steps * LANES).max(1)).enumerate() {
        let exist = rows.count.saturating_sub(panel * LANES).min(LANES);
        let start = start.wrapping_add(panel * LANES * rows.stride);
        for first in (0..columns).step_by(LANES) {
            let here = (columns - first).min(LANES);
            // SAFETY: the caller's: rows are read within their columns, and steps that exist are written.
            unsafe {
                let mut square = [L::splat(0.0); LANES];
                for (i, row) in square.iter_mut().enumerate().take(exist) {
                    let from = start.wrapping_add(i * rows.stride + first);
                    *row = if here == LANES { E::load::<L>(from) } else { E::load_part::<L>(from, here) };
                }
                L::transpose(&mut square);
                let (place, apart) = order.places(steps, first);
                let written = if order == Order::Planes { LANES } else { here };
                for (i, column) in square.iter().enumerate().take(written) {
                    L::store(out.as_mut_ptr().add((place + i * apart) * LANES), *column);
                }
            }
        }
    }
}

/// Lays rows out so that a panel has sixteen of their columns in its lanes and a step for each row, widened; zeros
/// stand for columns that do not exist.
///
/// # Safety
/// As [`Lanes`]; `out` has panels of so many steps for all columns.
#[inline(always)]
pub(crate) unsafe fn pack_columns<L: Lanes, E: Element>(rows: &Rows, start: *const E, out: &mut [f32]) {
    let size = rows.count * LANES;
    for k in 0..rows.count {
        for (panel, first) in (0..rows.columns).step_by(LANES).enumerate() {
            let here = (rows.columns - first).min(LANES);
            // SAFETY: the caller's: row k is read within its columns.
            unsafe {
                let from = start.wrapping_add(k * rows.stride + first);
                let numbers = if here == LANES { E::load::<L>(from) } else { E::load_part::<L>(from, here) };
                L::store(out.as_mut_ptr().add(panel * size + k * LANES), numbers);
            }
        }
    }
}
