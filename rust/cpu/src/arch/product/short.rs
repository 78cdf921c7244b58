//! Products of short rows with rows that are laid out in panels: sixteen results in the lanes of a vector, each summed
//! in the order of [`super::dot`] as all of its terms fit into registers.

use super::dot::Padded;
use super::panels::Panels;
use crate::arch::element::{Element, each_element};
use crate::arch::lanes::{LANES, Lanes};
use crate::typed::RowMut;

/// One call: `out[r, t] = dot(x[r], weight[t]) + bias[t]`.
#[derive(Debug)]
pub(crate) struct Short<'a, 'o, 'p> {
    pub x: Padded<'a>,
    /// In [`super::Order::Planes`].
    pub weight: Panels<'a>,
    /// A number for each result of a row; none where it is empty.
    pub bias: &'a [f32],
    /// Rows of equal length.
    pub out: &'o mut [RowMut<'p>],
}

impl Short<'_, '_, '_> {
    /// That every access of [`short`] lies inside its operand.
    pub(crate) fn check(&self) {
        let Panels { numbers, steps } = self.weight;
        assert!(steps > 0 && steps.is_multiple_of(LANES) && steps <= self.x.width(), "columns");
        assert!(self.out.len() <= self.x.count(), "rows of x");
        for row in self.out.iter() {
            assert!(row.len() == self.out[0].len(), "rows of one length");
            assert!(numbers.len() >= row.len().next_multiple_of(LANES) * steps, "weight");
            assert!(self.bias.is_empty() || self.bias.len() == row.len(), "bias");
        }
    }
}

/// A row and a panel.
#[derive(Clone, Copy)]
struct Pair {
    x: *const f32,
    w: *const f32,
    /// Terms of a chain.
    count: usize,
}

impl Pair {
    /// The chain of column `k`, and of every sixteenth behind it.
    ///
    /// # Safety
    /// As [`short`].
    #[inline(always)]
    unsafe fn chain<L: Lanes>(self, k: usize) -> L::F {
        // SAFETY: the caller's.
        unsafe {
            let w = self.w.add(k * self.count * LANES);
            let mut sum = L::fma(L::splat(*self.x.add(k)), L::load(w), L::splat(0.0));
            for at in 1..self.count {
                sum = L::fma(L::splat(*self.x.add(k + at * LANES)), L::load(w.add(at * LANES)), sum);
            }
            sum
        }
    }

    /// Two chains that are so far apart.
    ///
    /// # Safety
    /// As [`short`].
    #[inline(always)]
    unsafe fn two<L: Lanes>(self, k: usize, apart: usize) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::add(self.chain::<L>(k), self.chain::<L>(k + apart)) }
    }

    /// # Safety
    /// As [`short`].
    #[inline(always)]
    unsafe fn four<L: Lanes>(self, k: usize, apart: usize) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::add(self.two::<L>(k, 2 * apart), self.two::<L>(k + apart, 2 * apart)) }
    }

    /// # Safety
    /// As [`short`].
    #[inline(always)]
    unsafe fn eight<L: Lanes>(self, k: usize, apart: usize) -> L::F {
        // SAFETY: the caller's.
        unsafe { L::add(self.four::<L>(k, 2 * apart), self.four::<L>(k + apart, 2 * apart)) }
    }
}

/// A [`Short`] of at most `C` columns: 4, 8, or with 16 any number of them.
///
/// # Safety
/// As [`Lanes`]; `call` was checked, and has zeros behind the columns.
#[inline(always)]
pub(super) unsafe fn short<L: Lanes, const C: usize>(call: &mut Short) {
    let columns = call.out.first().map_or(0, RowMut::len);
    let steps = call.weight.steps;
    for first in (0..columns).step_by(LANES) {
        let here = (columns - first).min(LANES);
        // SAFETY: the caller's.
        unsafe {
            let (zero, nothing) = (L::splat(0.0), L::splat(f32::NEG_INFINITY));
            let bias = match call.bias.is_empty() {
                true => zero,
                false => L::load_part(call.bias.as_ptr().add(first), here),
            };
            let hidden = L::eq(bias, nothing);
            let w = call.weight.numbers.as_ptr().add(first * steps);
            for (r, row) in call.out.iter_mut().enumerate() {
                let pair = Pair { x: call.x.row(r), w, count: if C < LANES { 1 } else { steps / LANES } };
                // Sums that have fewer than sixteen terms have a positive zero among them.
                let sum = match C {
                    4 => L::add(pair.four::<L>(0, 1), zero),
                    8 => L::add(pair.eight::<L>(0, 1), zero),
                    _ => L::add(pair.eight::<L>(0, 2), pair.eight::<L>(1, 2)),
                };
                let sum = match call.bias.is_empty() {
                    true => sum,
                    false => L::select(hidden, nothing, L::add(sum, bias)),
                };
                each_element!(E, numbers in row => {
                    let place = numbers.as_mut_ptr().add(first).cast::<E>();
                    if here == LANES {
                        E::store::<L>(place, sum);
                    } else {
                        E::store_part::<L>(place, sum, here);
                    }
                });
            }
        }
    }
}
