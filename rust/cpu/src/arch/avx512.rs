//! Sixteen lanes as one AVX-512 register (F, BW, DQ, VL and CD).

use super::lanes::{LANES, Lanes};
use std::arch::x86_64::*;

/// Sixteen lanes as one 512-bit register.
#[derive(Clone, Copy, Debug)]
pub struct Avx512;

/// What the CPU must have, as `#[target_feature]` lists it.
pub fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512cd")
        && super::avx2::is_available()
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Folds the upper half of `x` onto the lower one, four times: the tree of [`Lanes::sum`].
macro_rules! fold {
    ($x:expr, $op256:ident, $op128:ident) => {{
        let x = $op256(_mm512_extractf32x8_ps::<1>($x), _mm512_castps512_ps256($x));
        let x = $op128(_mm256_extractf128_ps::<1>(x), _mm256_castps256_ps128(x));
        let x = $op128(_mm_movehl_ps(x, x), x);
        _mm_cvtss_f32($op128(_mm_movehdup_ps(x), x))
    }};
}

// SAFETY: the trait's callers run on a CPU with these features and pass pointers valid for the lanes named.
unsafe impl Lanes for Avx512 {
    type F = __m512;
    type Half = __m256;
    type U = __m512i;
    type M = __mmask16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, count: usize) -> __m512 {
        // SAFETY: see the impl; masked lanes are not accessed.
        unsafe { _mm512_maskz_loadu_ps(Self::first(count), p) }
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p.cast())))) }
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: __m512) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, x: __m512, count: usize) {
        // SAFETY: see the impl; masked lanes are not accessed.
        unsafe { _mm512_mask_storeu_ps(p, Self::first(count), x) }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: __m512) {
        // SAFETY: see the impl.
        unsafe {
            let bits = _mm512_castps_si512(x);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x40_0000));
            let chosen = _mm512_mask_mov_epi32(rounded, Self::is_nan(x), quiet);
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(chosen)));
        }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: __m512) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<NEAREST>(x)) }
    }
    #[inline(always)]
    unsafe fn prefetch(p: *const u8) {
        // SAFETY: a prefetch never faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }

    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn round(x: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_roundscale_ps::<NEAREST>(x) }
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
    unsafe fn whole(x: __m256) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_zextps256_ps512(x) }
    }

    #[inline(always)]
    unsafe fn splat_u(x: u32) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_epi32(x as i32) }
    }
    #[inline(always)]
    unsafe fn load_u(p: *const u32) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store_u(p: *mut u32, x: __m512i) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_si512(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn bits(x: __m512) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_castps_si512(x) }
    }
    #[inline(always)]
    unsafe fn from_bits(x: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_castsi512_ps(x) }
    }
    #[inline(always)]
    unsafe fn to_int(x: __m512) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtps_epi32(x) }
    }
    #[inline(always)]
    unsafe fn from_int(x: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(x) }
    }
    #[inline(always)]
    unsafe fn add_u(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub_u(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_sub_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul_wide(a: __m512i, k: u32) -> (__m512i, __m512i) {
        // SAFETY: see the impl.
        unsafe {
            let k = _mm512_set1_epi32(k as i32);
            let even = _mm512_mul_epu32(a, k);
            let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), k);
            let high = _mm512_mask_mov_epi32(_mm512_srli_epi64::<32>(even), 0xaaaa, odd);
            let low = _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64::<32>(odd));
            (high, low)
        }
    }
    #[inline(always)]
    unsafe fn and_u(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_and_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn or_u(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn xor_u(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_xor_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn shl<const N: i32>(x: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_sll_epi32(x, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    unsafe fn shr<const N: i32>(x: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_srl_epi32(x, _mm_cvtsi32_si128(N)) }
    }

    #[inline(always)]
    unsafe fn gt(a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: see the impl.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn ge(a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: see the impl.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GE_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn eq(a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: see the impl.
        unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) }
    }
    #[inline(always)]
    unsafe fn is_nan(x: __m512) -> __mmask16 {
        // SAFETY: see the impl.
        unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x) }
    }
    #[inline(always)]
    unsafe fn eq_u(a: __m512i, b: __m512i) -> __mmask16 {
        // SAFETY: see the impl.
        unsafe { _mm512_cmpeq_epi32_mask(a, b) }
    }
    #[inline(always)]
    unsafe fn first(count: usize) -> __mmask16 {
        if count >= LANES { 0xffff } else { (1u16 << count) - 1 }
    }
    #[inline(always)]
    unsafe fn from_mask(mask: u16) -> __mmask16 {
        mask
    }
    #[inline(always)]
    unsafe fn to_mask(m: __mmask16) -> u16 {
        m
    }
    #[inline(always)]
    unsafe fn select(m: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_mask_mov_ps(b, m, a) }
    }
    #[inline(always)]
    unsafe fn select_u(m: __mmask16, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_mask_mov_epi32(b, m, a) }
    }

    #[inline(always)]
    unsafe fn interleave_u(a: __m512i, b: __m512i) -> (__m512i, __m512i) {
        // SAFETY: see the impl.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
            (_mm512_permutex2var_epi32(a, low, b), _mm512_permutex2var_epi32(a, high, b))
        }
    }
    #[inline(always)]
    unsafe fn permute(x: __m512, index: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_permutexvar_ps(index, x) }
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [__m512; LANES]) {
        // SAFETY: see the impl.
        unsafe {
            let r = |i: usize| rows[i];
            let mut a = [_mm512_setzero_ps(); LANES];
            for i in 0..8 {
                a[2 * i] = _mm512_unpacklo_ps(r(2 * i), r(2 * i + 1));
                a[2 * i + 1] = _mm512_unpackhi_ps(r(2 * i), r(2 * i + 1));
            }
            // b[4 q + c]: in each 128-bit block k, column 4 k + c of rows 4 q to 4 q + 3.
            let mut b = [_mm512_setzero_ps(); LANES];
            for q in 0..4 {
                let pair = |i: usize| _mm512_castps_pd(a[4 * q + i]);
                b[4 * q] = _mm512_castpd_ps(_mm512_unpacklo_pd(pair(0), pair(2)));
                b[4 * q + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(pair(0), pair(2)));
                b[4 * q + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(pair(1), pair(3)));
                b[4 * q + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(pair(1), pair(3)));
            }
            for c in 0..4 {
                let low = _mm512_shuffle_f32x4::<0x88>(b[c], b[4 + c]);
                let high = _mm512_shuffle_f32x4::<0x88>(b[8 + c], b[12 + c]);
                rows[c] = _mm512_shuffle_f32x4::<0x88>(low, high);
                rows[8 + c] = _mm512_shuffle_f32x4::<0xdd>(low, high);
                let low = _mm512_shuffle_f32x4::<0xdd>(b[c], b[4 + c]);
                let high = _mm512_shuffle_f32x4::<0xdd>(b[8 + c], b[12 + c]);
                rows[4 + c] = _mm512_shuffle_f32x4::<0x88>(low, high);
                rows[12 + c] = _mm512_shuffle_f32x4::<0xdd>(low, high);
            }
        }
    }

    #[inline(always)]
    unsafe fn sum(x: __m512) -> f32 {
        // SAFETY: see the impl.
        unsafe { fold!(x, _mm256_add_ps, _mm_add_ps) }
    }
    #[inline(always)]
    unsafe fn maximum(x: __m512) -> f32 {
        // SAFETY: see the impl.
        unsafe { fold!(x, _mm256_max_ps, _mm_max_ps) }
    }
    #[inline(always)]
    unsafe fn sums(x: &[__m512; LANES]) -> __m512 {
        // Two vectors fold their halves into one, so the work halves with every level of the tree: 16 sums in 45 steps.
        // SAFETY: see the impl.
        unsafe {
            // Lanes i and i + 8 of two vectors, side by side; then i and i + 4 of four; then i and i + 2 of eight.
            let mut eighths = [x[0]; 8];
            for p in 0..4 {
                for (half, first) in [(0, p), (1, 8 + p)] {
                    let (a, b) = (x[first], x[first + 4]);
                    let upper = _mm512_shuffle_f32x4::<0xee>(a, b);
                    eighths[2 * p + half] = _mm512_add_ps(upper, _mm512_shuffle_f32x4::<0x44>(a, b));
                }
            }
            let mut quarters = [x[0]; 4];
            for p in 0..4 {
                let (a, b) = (eighths[2 * p], eighths[2 * p + 1]);
                let upper = _mm512_shuffle_f32x4::<0xdd>(a, b);
                quarters[p] = _mm512_add_ps(upper, _mm512_shuffle_f32x4::<0x88>(a, b));
            }
            let mut halves = [x[0]; 2];
            for p in 0..2 {
                let (a, b) = (_mm512_castps_pd(quarters[2 * p]), _mm512_castps_pd(quarters[2 * p + 1]));
                let upper = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                halves[p] = _mm512_add_ps(upper, _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)));
            }
            let [a, b] = halves;
            _mm512_add_ps(_mm512_shuffle_ps::<0xdd>(a, b), _mm512_shuffle_ps::<0x88>(a, b))
        }
    }
}
