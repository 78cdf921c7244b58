//! Two ways to the same rows, bit for bit, on every machine.

use super::pack::{Turns, turn_narrow_rows, turn_wide_rows};
use crate::arch::lanes::{LANES, Lanes};
use crate::arch::portable::Portable;

const ROWS: usize = 5;
/// Numbers that belong to a row, the turned ones first, and zeros up to a whole vector.
const DIM: usize = 2 * LANES - 3;
const STRIDE: usize = 2 * LANES;

/// Deterministic numbers between -4 and 4, and zeros of both signs among them.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let x = (state >> 8) as f32 / 2_097_152.0 - 4.0;
        if state >> 28 == 0 { 0.0 * x } else { x }
    };
    (0..count).map(|_| next()).collect()
}

fn bits(rows: &[f32]) -> Vec<u32> {
    rows.iter().map(|x| x.to_bits()).collect()
}

/// # Safety
/// The CPU has the machine's features.
#[inline(always)]
unsafe fn compare_turns<L: Lanes>() {
    for half in 1..=LANES / 2 {
        let (cos, sin) = (numbers(ROWS * half, 1), numbers(ROWS * half, 2));
        for (interleaved, back) in [(false, false), (false, true), (true, false), (true, true)] {
            let turns = Turns { cos: &cos, sin: &sin, half, interleaved };
            let mut before = numbers(ROWS * STRIDE, 3);
            before.iter_mut().skip(DIM).step_by(STRIDE).for_each(|x| *x = 0.0);
            let (mut narrow, mut wide, mut portable) = (before.clone(), before.clone(), before.clone());
            // SAFETY: the caller's; rows lie a stride of two whole vectors apart, and each has its turns.
            unsafe {
                turn_narrow_rows::<L>(narrow.as_mut_ptr(), STRIDE, &turns, back);
                turn_wide_rows::<L>(wide.as_mut_ptr(), STRIDE, &turns, back);
                turn_wide_rows::<Portable>(portable.as_mut_ptr(), STRIDE, &turns, back);
            }
            let given = format!("half {half}, interleaved {interleaved}, back {back}");
            assert_eq!(bits(&narrow), bits(&wide), "{given}");
            assert_eq!(bits(&wide), bits(&portable), "{given}, as the portable machine");
            for (row, old) in wide.chunks(STRIDE).zip(before.chunks(STRIDE)) {
                assert_ne!(bits(&row[..2 * half]), bits(&old[..2 * half]), "{given}: nothing was turned");
                assert_eq!(bits(&row[2 * half..]), bits(&old[2 * half..]), "{given}: behind what is turned");
            }
        }
    }
}

test_on!(narrow_rows_turn_as_wide_ones_portable, compare_turns::<Portable>);
test_on!(narrow_rows_turn_as_wide_ones_avx2, compare_turns::<Avx2>);
test_on!(narrow_rows_turn_as_wide_ones_avx512, compare_turns::<Avx512>);
