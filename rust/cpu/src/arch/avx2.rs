//! Sixteen lanes as a pair of AVX2 registers, with FMA and F16C.
//!
//! No closure here may hold an intrinsic: closures are compiled without the instruction set of the function they end up
//! in, and the intrinsic becomes a call.

use super::lanes::{LANES, Lanes};
use std::arch::x86_64::*;

/// Sixteen lanes as two 256-bit registers.
#[derive(Clone, Copy, Debug)]
pub struct Avx2;

/// What the CPU must have, as `#[target_feature]` lists it.
pub fn is_available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
}

type F = [__m256; 2];
type U = [__m256i; 2];

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Lanes 0 to `count` of eight, as an integer mask.
#[inline(always)]
unsafe fn first_of_eight(count: usize) -> __m256i {
    // SAFETY: called below `#[target_feature]` only.
    unsafe {
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(count.min(8) as i32), lane)
    }
}

/// Eight float32 as the low words of eight 32-bit lanes, rounded to bfloat16.
#[inline(always)]
unsafe fn to_bf16(x: __m256) -> __m256i {
    // SAFETY: called below `#[target_feature]` only.
    unsafe {
        let bits = _mm256_castps_si256(x);
        let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
        let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x40_0000));
        let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(x, x));
        _mm256_srli_epi32::<16>(_mm256_blendv_epi8(rounded, quiet, nan))
    }
}

#[inline(always)]
unsafe fn transpose_8(r: [__m256; 8]) -> [__m256; 8] {
    let mut a = r;
    let mut b = r;
    // SAFETY: called below `#[target_feature]` only.
    unsafe {
        for i in 0..4 {
            a[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
            a[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
        }
        for q in [0, 4] {
            for c in 0..2 {
                b[q + 2 * c] = _mm256_shuffle_ps::<0x44>(a[q + c], a[q + 2 + c]);
                b[q + 2 * c + 1] = _mm256_shuffle_ps::<0xee>(a[q + c], a[q + 2 + c]);
            }
        }
        for i in 0..4 {
            a[i] = _mm256_permute2f128_ps::<0x20>(b[i], b[i + 4]);
            a[i + 4] = _mm256_permute2f128_ps::<0x31>(b[i], b[i + 4]);
        }
    }
    a
}

/// Eight of sixteen lanes: bit 3 of an index names the register, the bits below it the lane.
#[inline(always)]
unsafe fn permute_8(x: F, index: __m256i) -> __m256 {
    // SAFETY: called below `#[target_feature]` only.
    unsafe {
        let low = _mm256_permutevar8x32_ps(x[0], index);
        let high = _mm256_permutevar8x32_ps(x[1], index);
        _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(index)))
    }
}

/// Eight bfloat16, widened.
#[inline(always)]
unsafe fn widen_bf16(p: *const u16) -> __m256 {
    // SAFETY: called below `#[target_feature]` only, with eight readable values.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())))) }
}

/// High and low words of eight products with the number in every lane of `k`.
#[inline(always)]
unsafe fn mul_wide_8(x: __m256i, k: __m256i) -> (__m256i, __m256i) {
    // SAFETY: called below `#[target_feature]` only.
    unsafe {
        let even = _mm256_mul_epu32(x, k);
        let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(x), k);
        let high = _mm256_blend_epi32::<0xaa>(_mm256_srli_epi64::<32>(even), odd);
        let low = _mm256_blend_epi32::<0xaa>(even, _mm256_slli_epi64::<32>(odd));
        (high, low)
    }
}

/// Eight truth values from the low bits of `bits`.
#[inline(always)]
unsafe fn mask_8(bits: i32) -> __m256 {
    // SAFETY: called below `#[target_feature]` only.
    unsafe {
        let lane = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(bits), lane), lane))
    }
}

/// `x0 y0 x1 y1 ...`
#[inline(always)]
unsafe fn interleave_8(x: __m256i, y: __m256i) -> [__m256i; 2] {
    // SAFETY: called below `#[target_feature]` only.
    unsafe {
        let (low, high) = (_mm256_unpacklo_epi32(x, y), _mm256_unpackhi_epi32(x, y));
        [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)]
    }
}

/// The eight rows and columns of `rows` that begin at row `from`, transposed.
#[inline(always)]
unsafe fn transposed_block(rows: &[F; LANES], from: usize, half: usize) -> [__m256; 8] {
    let mut block = [rows[0][0]; 8];
    for (i, row) in block.iter_mut().enumerate() {
        *row = rows[from + i][half];
    }
    // SAFETY: called below `#[target_feature]` only.
    unsafe { transpose_8(block) }
}

/// The sums of eight vectors. Transposed, lane i of vector j is lane j of row i, so the tree over lanes is a tree over
/// whole rows.
#[inline(always)]
unsafe fn sums_8(x: &[F; LANES], from: usize) -> __m256 {
    // SAFETY: called below `#[target_feature]` only.
    unsafe {
        let mut rows = [x[0][0]; 8];
        for (i, row) in rows.iter_mut().enumerate() {
            *row = _mm256_add_ps(x[from + i][1], x[from + i][0]);
        }
        rows = transpose_8(rows);
        for half in [4, 2, 1] {
            for i in 0..half {
                rows[i] = _mm256_add_ps(rows[i], rows[i + half]);
            }
        }
        rows[0]
    }
}

/// Folds the upper half of eight lanes onto the lower one, three times.
macro_rules! fold {
    ($x:expr, $op:ident) => {{
        let x = $op(_mm256_extractf128_ps::<1>($x), _mm256_castps256_ps128($x));
        let x = $op(_mm_movehl_ps(x, x), x);
        _mm_cvtss_f32($op(_mm_movehdup_ps(x), x))
    }};
}

/// Methods that do the same to both halves.
macro_rules! both {
    ($($name:ident($($arg:ident: $kind:ty),+) -> $out:ty = |$($half:ident),+| $body:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $kind),+) -> $out {
            // SAFETY: see the impl.
            unsafe { both!(@halves [$($arg),+] [$($half),+] $body) }
        }
    )*};
    (@halves [$a:ident] [$x:ident] $body:expr) => {[{ let $x = $a[0]; $body }, { let $x = $a[1]; $body }]};
    (@halves [$a:ident, $b:ident] [$x:ident, $y:ident] $body:expr) => {
        [{ let ($x, $y) = ($a[0], $b[0]); $body }, { let ($x, $y) = ($a[1], $b[1]); $body }]
    };
    (@halves [$a:ident, $b:ident, $c:ident] [$x:ident, $y:ident, $z:ident] $body:expr) => {
        [{ let ($x, $y, $z) = ($a[0], $b[0], $c[0]); $body }, { let ($x, $y, $z) = ($a[1], $b[1], $c[1]); $body }]
    };
}

// SAFETY: the trait's callers run on a CPU with these features and pass pointers valid for the lanes named.
unsafe impl Lanes for Avx2 {
    type F = F;
    type Half = __m256;
    type U = U;
    type M = F;

    both! {
        add(a: F, b: F) -> F = |x, y| _mm256_add_ps(x, y);
        sub(a: F, b: F) -> F = |x, y| _mm256_sub_ps(x, y);
        mul(a: F, b: F) -> F = |x, y| _mm256_mul_ps(x, y);
        div(a: F, b: F) -> F = |x, y| _mm256_div_ps(x, y);
        fma(a: F, b: F, c: F) -> F = |x, y, z| _mm256_fmadd_ps(x, y, z);
        max(a: F, b: F) -> F = |x, y| _mm256_max_ps(x, y);
        min(a: F, b: F) -> F = |x, y| _mm256_min_ps(x, y);
        round(a: F) -> F = |x| _mm256_round_ps::<NEAREST>(x);
        bits(a: F) -> U = |x| _mm256_castps_si256(x);
        from_bits(a: U) -> F = |x| _mm256_castsi256_ps(x);
        to_int(a: F) -> U = |x| _mm256_cvtps_epi32(x);
        from_int(a: U) -> F = |x| _mm256_cvtepi32_ps(x);
        add_u(a: U, b: U) -> U = |x, y| _mm256_add_epi32(x, y);
        sub_u(a: U, b: U) -> U = |x, y| _mm256_sub_epi32(x, y);
        and_u(a: U, b: U) -> U = |x, y| _mm256_and_si256(x, y);
        or_u(a: U, b: U) -> U = |x, y| _mm256_or_si256(x, y);
        xor_u(a: U, b: U) -> U = |x, y| _mm256_xor_si256(x, y);
        gt(a: F, b: F) -> F = |x, y| _mm256_cmp_ps::<_CMP_GT_OQ>(x, y);
        ge(a: F, b: F) -> F = |x, y| _mm256_cmp_ps::<_CMP_GE_OQ>(x, y);
        eq(a: F, b: F) -> F = |x, y| _mm256_cmp_ps::<_CMP_EQ_OQ>(x, y);
        is_nan(a: F) -> F = |x| _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x);
        eq_u(a: U, b: U) -> F = |x, y| _mm256_castsi256_ps(_mm256_cmpeq_epi32(x, y));
        select(m: F, a: F, b: F) -> F = |c, x, y| _mm256_blendv_ps(y, x, c);
        select_u(m: F, a: U, b: U) -> U = |c, x, y| _mm256_blendv_epi8(y, x, _mm256_castps_si256(c));
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        // SAFETY: see the impl.
        unsafe { [_mm256_set1_ps(x); 2] }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: see the impl.
        unsafe { [_mm256_loadu_ps(p), _mm256_loadu_ps(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, count: usize) -> F {
        // SAFETY: see the impl; masked lanes are not accessed.
        unsafe {
            let rest = count.saturating_sub(8);
            [_mm256_maskload_ps(p, first_of_eight(count)), _mm256_maskload_ps(p.wrapping_add(8), first_of_eight(rest))]
        }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        // SAFETY: see the impl.
        unsafe { [widen_bf16(p), widen_bf16(p.add(8))] }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        // SAFETY: see the impl.
        unsafe { [_mm256_cvtph_ps(_mm_loadu_si128(p.cast())), _mm256_cvtph_ps(_mm_loadu_si128(p.add(8).cast()))] }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        // SAFETY: see the impl.
        unsafe {
            _mm256_storeu_ps(p, x[0]);
            _mm256_storeu_ps(p.add(8), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, x: F, count: usize) {
        // SAFETY: see the impl; masked lanes are not accessed.
        unsafe {
            _mm256_maskstore_ps(p, first_of_eight(count), x[0]);
            _mm256_maskstore_ps(p.wrapping_add(8), first_of_eight(count.saturating_sub(8)), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: F) {
        // SAFETY: see the impl.
        unsafe {
            let packed = _mm256_packus_epi32(to_bf16(x[0]), to_bf16(x[1]));
            _mm256_storeu_si256(p.cast(), _mm256_permute4x64_epi64::<0xd8>(packed));
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: F) {
        // SAFETY: see the impl.
        unsafe {
            _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]));
            _mm_storeu_si128(p.add(8).cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]));
        }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn splat_half(x: f32) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load_half(p: *const f32) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn fma_half(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn whole(x: __m256) -> F {
        // SAFETY: see the impl.
        unsafe { [x, _mm256_setzero_ps()] }
    }

    #[inline(always)]
    unsafe fn splat_u(x: u32) -> U {
        // SAFETY: see the impl.
        unsafe { [_mm256_set1_epi32(x as i32); 2] }
    }
    #[inline(always)]
    unsafe fn load_u(p: *const u32) -> U {
        // SAFETY: see the impl.
        unsafe { [_mm256_loadu_si256(p.cast()), _mm256_loadu_si256(p.add(8).cast())] }
    }
    #[inline(always)]
    unsafe fn store_u(p: *mut u32, x: U) {
        // SAFETY: see the impl.
        unsafe {
            _mm256_storeu_si256(p.cast(), x[0]);
            _mm256_storeu_si256(p.add(8).cast(), x[1]);
        }
    }
    #[inline(always)]
    unsafe fn mul_wide(a: U, k: u32) -> (U, U) {
        // SAFETY: see the impl.
        unsafe {
            let k = _mm256_set1_epi32(k as i32);
            let ((high0, low0), (high1, low1)) = (mul_wide_8(a[0], k), mul_wide_8(a[1], k));
            ([high0, high1], [low0, low1])
        }
    }
    #[inline(always)]
    unsafe fn shl<const N: i32>(x: U) -> U {
        // SAFETY: see the impl.
        unsafe { [_mm256_slli_epi32::<N>(x[0]), _mm256_slli_epi32::<N>(x[1])] }
    }
    #[inline(always)]
    unsafe fn shr<const N: i32>(x: U) -> U {
        // SAFETY: see the impl.
        unsafe { [_mm256_srli_epi32::<N>(x[0]), _mm256_srli_epi32::<N>(x[1])] }
    }

    #[inline(always)]
    unsafe fn first(count: usize) -> F {
        // SAFETY: see the impl.
        unsafe {
            [_mm256_castsi256_ps(first_of_eight(count)), _mm256_castsi256_ps(first_of_eight(count.saturating_sub(8)))]
        }
    }
    #[inline(always)]
    unsafe fn from_mask(mask: u16) -> F {
        // SAFETY: see the impl.
        unsafe { [mask_8(i32::from(mask & 0xff)), mask_8(i32::from(mask >> 8))] }
    }
    #[inline(always)]
    unsafe fn to_mask(m: F) -> u16 {
        // SAFETY: see the impl.
        unsafe { _mm256_movemask_ps(m[0]) as u16 | (_mm256_movemask_ps(m[1]) as u16) << 8 }
    }

    #[inline(always)]
    unsafe fn interleave_u(a: U, b: U) -> (U, U) {
        // SAFETY: see the impl.
        unsafe { (interleave_8(a[0], b[0]), interleave_8(a[1], b[1])) }
    }
    #[inline(always)]
    unsafe fn permute(x: F, index: U) -> F {
        // SAFETY: see the impl.
        unsafe { [permute_8(x, index[0]), permute_8(x, index[1])] }
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [F; LANES]) {
        // SAFETY: see the impl.
        unsafe {
            let (top_left, top_right) = (transposed_block(rows, 0, 0), transposed_block(rows, 0, 1));
            let (bottom_left, bottom_right) = (transposed_block(rows, 8, 0), transposed_block(rows, 8, 1));
            for i in 0..8 {
                rows[i] = [top_left[i], bottom_left[i]];
                rows[i + 8] = [top_right[i], bottom_right[i]];
            }
        }
    }

    #[inline(always)]
    unsafe fn sum(x: F) -> f32 {
        // SAFETY: see the impl.
        unsafe { fold!(_mm256_add_ps(x[1], x[0]), _mm_add_ps) }
    }
    #[inline(always)]
    unsafe fn maximum(x: F) -> f32 {
        // SAFETY: see the impl.
        unsafe { fold!(_mm256_max_ps(x[1], x[0]), _mm_max_ps) }
    }
    #[inline(always)]
    unsafe fn sums(x: &[F; LANES]) -> F {
        // SAFETY: see the impl.
        unsafe { [sums_8(x, 0), sums_8(x, 8)] }
    }
}
