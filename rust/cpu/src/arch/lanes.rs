//! Sixteen float32 lanes, the vocabulary in which every hot loop of this crate is written.
//!
//! Each machine implements the same sixteen lanes (AVX2 as two registers, AVX-512 as one, portable code as an array)
//! with the same IEEE operations, and a reduction over lanes always follows one fixed tree. A loop written in [`Lanes`]
//! therefore has the same bits on every machine, and testing it on the portable lanes tests it everywhere.

/// Number of lanes of every [`Lanes`] machine.
pub const LANES: usize = 16;

/// Primitive operations on sixteen lanes.
///
/// # Safety
/// Every method may only be called on a CPU that has the implementor's instruction set, from code that is compiled for
/// it (below a `#[target_feature]` wrapper, into which everything is inlined). Pointers must be valid for the lanes
/// that a method reads or writes; no alignment is needed.
#[allow(clippy::missing_safety_doc, reason = "one contract for every method, stated on the trait")]
pub unsafe trait Lanes: Copy + Send + Sync + 'static {
    /// Sixteen float32.
    type F: Copy;
    /// Eight float32, for what fills no more than half of the lanes.
    type Half: Copy;
    /// Sixteen 32-bit integers, unsigned unless a method says otherwise.
    type U: Copy;
    /// Sixteen truth values.
    type M: Copy;

    // ------------------------------------------------------------------------------------------------ load and store
    /// All lanes `x`.
    unsafe fn splat(x: f32) -> Self::F;
    /// Sixteen float32 from `p`.
    unsafe fn load(p: *const f32) -> Self::F;
    /// `count <= 16` float32 from `p`, zeros behind; reads no byte past them.
    unsafe fn load_part(p: *const f32, count: usize) -> Self::F;
    /// Sixteen bfloat16 from `p`, widened.
    unsafe fn load_bf16(p: *const u16) -> Self::F;
    /// Sixteen binary16 from `p`, widened.
    unsafe fn load_f16(p: *const u16) -> Self::F;
    /// Sixteen float32 to `p`.
    unsafe fn store(p: *mut f32, x: Self::F);
    /// The first `count <= 16` lanes to `p`; writes no byte past them.
    unsafe fn store_part(p: *mut f32, x: Self::F, count: usize);
    /// Sixteen bfloat16 to `p`, rounded to nearest even, NaN kept (as a quiet NaN).
    unsafe fn store_bf16(p: *mut u16, x: Self::F);
    /// Sixteen binary16 to `p`, rounded to nearest even.
    unsafe fn store_f16(p: *mut u16, x: Self::F);
    /// Asks for the cache line at `p`; never faults.
    unsafe fn prefetch(p: *const u8);

    // ---------------------------------------------------------------------------------------------------- arithmetic
    /// `a + b`.
    unsafe fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    unsafe fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    unsafe fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    unsafe fn div(a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: the second operand when they are unordered or both zero.
    unsafe fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: the second operand when they are unordered or both zero.
    unsafe fn min(a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even, as float32.
    unsafe fn round(x: Self::F) -> Self::F;

    // -------------------------------------------------------------------------------------------------------- halves
    /// All eight lanes `x`.
    unsafe fn splat_half(x: f32) -> Self::Half;
    /// Eight float32 from `p`.
    unsafe fn load_half(p: *const f32) -> Self::Half;
    /// `a * b + c`, rounded once.
    unsafe fn fma_half(a: Self::Half, b: Self::Half, c: Self::Half) -> Self::Half;
    /// Its lanes, and zeros in the other eight.
    unsafe fn whole(x: Self::Half) -> Self::F;

    // ---------------------------------------------------------------------------------------------- integers and bits
    /// All lanes `x`.
    unsafe fn splat_u(x: u32) -> Self::U;
    /// Sixteen integers from `p`.
    unsafe fn load_u(p: *const u32) -> Self::U;
    /// Sixteen integers to `p`.
    unsafe fn store_u(p: *mut u32, x: Self::U);
    /// The bits of a float32.
    unsafe fn bits(x: Self::F) -> Self::U;
    /// The float32 of these bits.
    unsafe fn from_bits(x: Self::U) -> Self::F;
    /// A float32 that is an integer of magnitude below 2^31, as a signed integer.
    unsafe fn to_int(x: Self::F) -> Self::U;
    /// A signed integer as float32, rounded to nearest even.
    unsafe fn from_int(x: Self::U) -> Self::F;
    /// Wrapping `a + b`.
    unsafe fn add_u(a: Self::U, b: Self::U) -> Self::U;
    /// Wrapping `a - b`.
    unsafe fn sub_u(a: Self::U, b: Self::U) -> Self::U;
    /// The full product of each lane with `k`: (high words, low words).
    unsafe fn mul_wide(a: Self::U, k: u32) -> (Self::U, Self::U);
    /// `a & b`.
    unsafe fn and_u(a: Self::U, b: Self::U) -> Self::U;
    /// `a | b`.
    unsafe fn or_u(a: Self::U, b: Self::U) -> Self::U;
    /// `a ^ b`.
    unsafe fn xor_u(a: Self::U, b: Self::U) -> Self::U;
    /// `x << N`.
    unsafe fn shl<const N: i32>(x: Self::U) -> Self::U;
    /// `x >> N`, zeros from above.
    unsafe fn shr<const N: i32>(x: Self::U) -> Self::U;

    // -------------------------------------------------------------------------------------------------------- choices
    /// `a > b`, false when unordered.
    unsafe fn gt(a: Self::F, b: Self::F) -> Self::M;
    /// `a >= b`, false when unordered.
    unsafe fn ge(a: Self::F, b: Self::F) -> Self::M;
    /// `a == b`, false when unordered.
    unsafe fn eq(a: Self::F, b: Self::F) -> Self::M;
    /// Whether a lane is NaN.
    unsafe fn is_nan(x: Self::F) -> Self::M;
    /// `a == b` of integers.
    unsafe fn eq_u(a: Self::U, b: Self::U) -> Self::M;
    /// The lanes whose number is below `count`.
    unsafe fn first(count: usize) -> Self::M;
    /// Lane by lane: bit i of `mask` for lane i.
    unsafe fn from_mask(mask: u16) -> Self::M;
    /// Bit i is lane i.
    unsafe fn to_mask(m: Self::M) -> u16;
    /// `if m { a } else { b }`.
    unsafe fn select(m: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// `if m { a } else { b }` of integers.
    unsafe fn select_u(m: Self::M, a: Self::U, b: Self::U) -> Self::U;

    // ----------------------------------------------------------------------------------------------------- rearranging
    /// `a0 b0 a1 b1 ...`: the first sixteen and the last sixteen of the thirty-two interleaved lanes.
    unsafe fn interleave_u(a: Self::U, b: Self::U) -> (Self::U, Self::U);
    /// Lane i is lane `index[i]` of `x`, all indices below sixteen.
    unsafe fn permute(x: Self::F, index: Self::U) -> Self::F;
    /// Rows become columns.
    unsafe fn transpose(rows: &mut [Self::F; LANES]);

    // ------------------------------------------------------------------------------------------------------ reductions
    /// The sum by halves: lane i with lane i + 8, then 4, 2, 1.
    unsafe fn sum(x: Self::F) -> f32;
    /// The maximum by the same halves as [`Lanes::sum`], each step [`Lanes::max`] of the upper over the lower half.
    unsafe fn maximum(x: Self::F) -> f32;
    /// The [`Lanes::sum`] of each of sixteen vectors.
    unsafe fn sums(x: &[Self::F; LANES]) -> Self::F;
}
