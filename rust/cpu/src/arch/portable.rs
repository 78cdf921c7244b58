//! Sixteen lanes in plain Rust: the definition of every primitive, the model that the others are tested against, and
//! the backend of a CPU that has nothing better.

use super::lanes::{LANES, Lanes};
use half::f16;

/// Sixteen lanes as an array.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

type F = [f32; LANES];
type U = [u32; LANES];
type M = [bool; LANES];

#[inline(always)]
fn map<A: Copy, B>(a: [A; LANES], f: impl Fn(A) -> B) -> [B; LANES] {
    std::array::from_fn(|i| f(a[i]))
}

#[inline(always)]
fn zip<A: Copy, B: Copy, C>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> C) -> [C; LANES] {
    std::array::from_fn(|i| f(a[i], b[i]))
}

/// bfloat16 of a float32: nearest, ties to even, NaN to a quiet NaN of the same sign.
#[inline(always)]
pub(crate) fn bf16_bits(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + (0x7fff + ((bits >> 16) & 1))) >> 16) as u16
}

// SAFETY: plain Rust runs on every CPU; pointers are used as the trait allows.
unsafe impl Lanes for Portable {
    type F = F;
    type Half = [f32; LANES / 2];
    type U = U;
    type M = M;

    #[inline(always)]
    unsafe fn splat(x: f32) -> F {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> F {
        // SAFETY: the caller promises sixteen readable values.
        std::array::from_fn(|i| unsafe { p.add(i).read_unaligned() })
    }
    #[inline(always)]
    unsafe fn load_part(p: *const f32, count: usize) -> F {
        // SAFETY: the caller promises `count` readable values.
        std::array::from_fn(|i| if i < count { unsafe { p.add(i).read_unaligned() } } else { 0.0 })
    }
    #[inline(always)]
    unsafe fn load_bf16(p: *const u16) -> F {
        // SAFETY: the caller promises sixteen readable values.
        std::array::from_fn(|i| f32::from_bits(u32::from(unsafe { p.add(i).read_unaligned() }) << 16))
    }
    #[inline(always)]
    unsafe fn load_f16(p: *const u16) -> F {
        // SAFETY: the caller promises sixteen readable values.
        std::array::from_fn(|i| f16::from_bits(unsafe { p.add(i).read_unaligned() }).to_f32())
    }
    #[inline(always)]
    unsafe fn store(p: *mut f32, x: F) {
        // SAFETY: the caller promises sixteen writable values.
        unsafe { p.cast::<F>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn store_part(p: *mut f32, x: F, count: usize) {
        for (i, lane) in x.into_iter().take(count).enumerate() {
            // SAFETY: the caller promises `count` writable values.
            unsafe { p.add(i).write_unaligned(lane) }
        }
    }
    #[inline(always)]
    unsafe fn store_bf16(p: *mut u16, x: F) {
        // SAFETY: the caller promises sixteen writable values.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(map(x, bf16_bits)) }
    }
    #[inline(always)]
    unsafe fn store_f16(p: *mut u16, x: F) {
        // SAFETY: the caller promises sixteen writable values.
        unsafe { p.cast::<[u16; LANES]>().write_unaligned(map(x, |v| f16::from_f32(v).to_bits())) }
    }
    #[inline(always)]
    unsafe fn prefetch(_: *const u8) {}

    #[inline(always)]
    unsafe fn add(a: F, b: F) -> F {
        zip(a, b, |x, y| x + y)
    }
    #[inline(always)]
    unsafe fn sub(a: F, b: F) -> F {
        zip(a, b, |x, y| x - y)
    }
    #[inline(always)]
    unsafe fn mul(a: F, b: F) -> F {
        zip(a, b, |x, y| x * y)
    }
    #[inline(always)]
    unsafe fn div(a: F, b: F) -> F {
        zip(a, b, |x, y| x / y)
    }
    #[inline(always)]
    unsafe fn fma(a: F, b: F, c: F) -> F {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: F, b: F) -> F {
        zip(a, b, |x, y| if x > y { x } else { y })
    }
    #[inline(always)]
    unsafe fn min(a: F, b: F) -> F {
        zip(a, b, |x, y| if x < y { x } else { y })
    }
    #[inline(always)]
    unsafe fn round(x: F) -> F {
        map(x, f32::round_ties_even)
    }

    #[inline(always)]
    unsafe fn splat_half(x: f32) -> [f32; LANES / 2] {
        [x; LANES / 2]
    }
    #[inline(always)]
    unsafe fn load_half(p: *const f32) -> [f32; LANES / 2] {
        // SAFETY: the caller promises eight readable values.
        std::array::from_fn(|i| unsafe { p.add(i).read_unaligned() })
    }
    #[inline(always)]
    unsafe fn fma_half(a: [f32; LANES / 2], b: [f32; LANES / 2], c: [f32; LANES / 2]) -> [f32; LANES / 2] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn whole(x: [f32; LANES / 2]) -> F {
        std::array::from_fn(|i| if i < LANES / 2 { x[i] } else { 0.0 })
    }

    #[inline(always)]
    unsafe fn splat_u(x: u32) -> U {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load_u(p: *const u32) -> U {
        // SAFETY: the caller promises sixteen readable values.
        unsafe { p.cast::<U>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store_u(p: *mut u32, x: U) {
        // SAFETY: the caller promises sixteen writable values.
        unsafe { p.cast::<U>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn bits(x: F) -> U {
        map(x, f32::to_bits)
    }
    #[inline(always)]
    unsafe fn from_bits(x: U) -> F {
        map(x, f32::from_bits)
    }
    #[inline(always)]
    unsafe fn to_int(x: F) -> U {
        map(x, |v| v as i32 as u32)
    }
    #[inline(always)]
    unsafe fn from_int(x: U) -> F {
        map(x, |v| v as i32 as f32)
    }
    #[inline(always)]
    unsafe fn add_u(a: U, b: U) -> U {
        zip(a, b, u32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn sub_u(a: U, b: U) -> U {
        zip(a, b, u32::wrapping_sub)
    }
    #[inline(always)]
    unsafe fn mul_wide(a: U, k: u32) -> (U, U) {
        let product = map(a, |x| u64::from(x) * u64::from(k));
        (map(product, |p| (p >> 32) as u32), map(product, |p| p as u32))
    }
    #[inline(always)]
    unsafe fn and_u(a: U, b: U) -> U {
        zip(a, b, |x, y| x & y)
    }
    #[inline(always)]
    unsafe fn or_u(a: U, b: U) -> U {
        zip(a, b, |x, y| x | y)
    }
    #[inline(always)]
    unsafe fn xor_u(a: U, b: U) -> U {
        zip(a, b, |x, y| x ^ y)
    }
    #[inline(always)]
    unsafe fn shl<const N: i32>(x: U) -> U {
        map(x, |v| v << N)
    }
    #[inline(always)]
    unsafe fn shr<const N: i32>(x: U) -> U {
        map(x, |v| v >> N)
    }

    #[inline(always)]
    unsafe fn gt(a: F, b: F) -> M {
        zip(a, b, |x, y| x > y)
    }
    #[inline(always)]
    unsafe fn ge(a: F, b: F) -> M {
        zip(a, b, |x, y| x >= y)
    }
    #[inline(always)]
    unsafe fn eq(a: F, b: F) -> M {
        zip(a, b, |x, y| x == y)
    }
    #[inline(always)]
    unsafe fn is_nan(x: F) -> M {
        map(x, f32::is_nan)
    }
    #[inline(always)]
    unsafe fn eq_u(a: U, b: U) -> M {
        zip(a, b, |x, y| x == y)
    }
    #[inline(always)]
    unsafe fn first(count: usize) -> M {
        std::array::from_fn(|i| i < count)
    }
    #[inline(always)]
    unsafe fn from_mask(mask: u16) -> M {
        std::array::from_fn(|i| mask >> i & 1 == 1)
    }
    #[inline(always)]
    unsafe fn to_mask(m: M) -> u16 {
        (0..LANES).map(|i| u16::from(m[i]) << i).sum()
    }
    #[inline(always)]
    unsafe fn select(m: M, a: F, b: F) -> F {
        std::array::from_fn(|i| if m[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn select_u(m: M, a: U, b: U) -> U {
        std::array::from_fn(|i| if m[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn interleave_u(a: U, b: U) -> (U, U) {
        let lane = |i: usize| if i.is_multiple_of(2) { a[i / 2] } else { b[i / 2] };
        (std::array::from_fn(lane), std::array::from_fn(|i| lane(i + LANES)))
    }
    #[inline(always)]
    unsafe fn permute(x: F, index: U) -> F {
        map(index, |i| x[i as usize % LANES])
    }
    #[inline(always)]
    unsafe fn transpose(rows: &mut [F; LANES]) {
        let from = *rows;
        *rows = std::array::from_fn(|i| std::array::from_fn(|j| from[j][i]));
    }

    #[inline(always)]
    unsafe fn sum(mut x: F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] += x[i + half];
            }
        }
        x[0]
    }
    #[inline(always)]
    unsafe fn maximum(mut x: F) -> f32 {
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                x[i] = if x[i + half] > x[i] { x[i + half] } else { x[i] };
            }
        }
        x[0]
    }
    #[inline(always)]
    unsafe fn sums(x: &[F; LANES]) -> F {
        // SAFETY: as of `sum`.
        std::array::from_fn(|i| unsafe { Self::sum(x[i]) })
    }
}
