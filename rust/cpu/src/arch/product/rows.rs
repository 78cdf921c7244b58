//! Rows of products on their way out: a bias is added, and numbers are rounded to the type they are stored in.

use crate::arch::element::Element;
use crate::arch::lanes::{LANES, Lanes};

/// Adds `bias` to the first numbers of `row`; -inf stays -inf, whatever it is added to.
///
/// # Safety
/// As [`Lanes`]; `row` has whole vectors for all of `bias`.
#[inline(always)]
pub(super) unsafe fn add_bias<L: Lanes>(row: &mut [f32], bias: &[f32]) {
    for (vector, bias) in row.chunks_exact_mut(LANES).zip(bias.chunks(LANES)) {
        // SAFETY: the caller's; the bias is read within its length.
        unsafe {
            let nothing = L::splat(f32::NEG_INFINITY);
            let bias = L::load_part(bias.as_ptr(), bias.len());
            let sum = L::add(L::load(vector.as_ptr()), bias);
            L::store(vector.as_mut_ptr(), L::select(L::eq(bias, nothing), nothing, sum));
        }
    }
}

/// Rounds and stores the first numbers of `row`.
///
/// # Safety
/// As [`Lanes`]; `row` has whole vectors for `count` numbers, for which `out` has room.
#[inline(always)]
pub(super) unsafe fn store<L: Lanes, E: Element>(row: &[f32], out: *mut E, count: usize) {
    for at in (0..count).step_by(LANES) {
        // SAFETY: the caller's.
        unsafe {
            let numbers = L::load(row.as_ptr().add(at));
            if at + LANES <= count {
                E::store::<L>(out.add(at), numbers);
            } else {
                E::store_part::<L>(out.add(at), numbers, count - at);
            }
        }
    }
}
