//! Every primitive of every machine against the portable definition, bit for bit.

use super::lanes::{LANES, Lanes};
use super::portable::Portable;

/// Deterministic numbers of every magnitude, with zeros, infinities, NaN and denormals among them.
fn samples(seed: u32) -> [f32; LANES] {
    const SPECIAL: [u32; 8] =
        [0, 0x8000_0000, 0x7f80_0000, 0xff80_0000, 0x7fc0_0000, 0x0000_0001, 0x7f7f_ffff, 0x3f80_0000];
    std::array::from_fn(|i| {
        let mut x = seed.wrapping_mul(0x9e37_79b9) ^ (i as u32 + 1).wrapping_mul(0x85eb_ca6b);
        x = (x ^ x >> 15).wrapping_mul(0x2c1b_3c6d);
        x = (x ^ x >> 12).wrapping_mul(0x297a_2d39);
        x ^= x >> 15;
        match x % 16 {
            0 => f32::from_bits(SPECIAL[(x >> 8) as usize % 8]),
            1..4 => f32::from_bits(x),
            _ => (x as i32 as f32) * 2f32.powi((x >> 5) as i32 % 24 - 40),
        }
    })
}

/// Bits in which any NaN is one NaN: which payload survives an operation is not part of a primitive's meaning.
fn canonical(x: [f32; LANES]) -> [u32; LANES] {
    x.map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() })
}

test_on!(avx2_is_portable, compare::<Avx2>);
test_on!(avx512_is_portable, compare::<Avx512>);

/// # Safety
/// The CPU has the machine's features.
#[inline(always)]
unsafe fn compare<S: Lanes>() {
    for seed in 0..4000 {
        // SAFETY: the caller's.
        unsafe { compare_one::<S>(seed) }
    }
}

/// # Safety
/// The CPU has the machine's features.
#[inline(always)]
unsafe fn compare_one<S: Lanes>(seed: u32) {
    let (a, b, c) = (samples(3 * seed), samples(3 * seed + 1), samples(3 * seed + 2));
    let integers = [a.map(f32::to_bits), b.map(f32::to_bits)];
    let count = seed as usize % (LANES + 1);
    // SAFETY: of the caller; every pointer is to an array of sixteen, or to its first `count`.
    unsafe {
        let pack = |x: [f32; LANES]| S::load(x.as_ptr());
        let pack_u = |x: [u32; LANES]| S::load_u(x.as_ptr());
        let unpack = |x: S::F| {
            let mut out = [0.0; LANES];
            S::store(out.as_mut_ptr(), x);
            out
        };
        let unpack_u = |x: S::U| {
            let mut out = [0; LANES];
            S::store_u(out.as_mut_ptr(), x);
            out
        };
        let float = |name: &str, ours: S::F, model: [f32; LANES]| {
            assert_eq!(canonical(unpack(ours)), canonical(model), "{name}, seed {seed}: {a:?} {b:?} {c:?}");
        };
        let integer = |name: &str, ours: S::U, model: [u32; LANES]| {
            assert_eq!(unpack_u(ours), model, "{name}, seed {seed}: {integers:?}");
        };
        let mask = |name: &str, ours: S::M, model: [bool; LANES]| {
            assert_eq!(S::to_mask(ours), Portable::to_mask(model), "{name}, seed {seed}: {a:?} {b:?}");
        };

        let (x, y, z) = (pack(a), pack(b), pack(c));
        let (u, v) = (pack_u(integers[0]), pack_u(integers[1]));
        let [i, j] = integers;
        float("splat", S::splat(a[0]), Portable::splat(a[0]));
        float("load_part", S::load_part(a.as_ptr(), count), Portable::load_part(a.as_ptr(), count));
        float("add", S::add(x, y), Portable::add(a, b));
        float("sub", S::sub(x, y), Portable::sub(a, b));
        float("mul", S::mul(x, y), Portable::mul(a, b));
        float("div", S::div(x, y), Portable::div(a, b));
        float("fma", S::fma(x, y, z), Portable::fma(a, b, c));
        let halves = [a.as_ptr(), b.as_ptr(), c.as_ptr()];
        let [x_half, y_half, z_half] = halves.map(|half| S::load_half(half));
        let [a_half, b_half, c_half] = halves.map(|half| Portable::load_half(half));
        let model = Portable::whole(Portable::fma_half(a_half, b_half, c_half));
        float("fma_half", S::whole(S::fma_half(x_half, y_half, z_half)), model);
        float("splat_half", S::whole(S::splat_half(a[0])), Portable::whole(Portable::splat_half(a[0])));
        float("max", S::max(x, y), Portable::max(a, b));
        float("min", S::min(x, y), Portable::min(a, b));
        float("round", S::round(x), Portable::round(a));
        float("from_bits", S::from_bits(u), Portable::from_bits(i));
        float("from_int", S::from_int(u), Portable::from_int(i));
        integer("bits", S::bits(x), Portable::bits(a));
        let whole = a.map(|v| if v.abs() < 2e9 { v.round_ties_even() } else { 7.0 });
        integer("to_int", S::to_int(pack(whole)), Portable::to_int(whole));

        let half_bits = i.map(|v| v as u16);
        float("load_bf16", S::load_bf16(half_bits.as_ptr()), Portable::load_bf16(half_bits.as_ptr()));
        float("load_f16", S::load_f16(half_bits.as_ptr()), Portable::load_f16(half_bits.as_ptr()));
        let (mut ours, mut model) = ([0u16; LANES], [0u16; LANES]);
        S::store_bf16(ours.as_mut_ptr(), x);
        Portable::store_bf16(model.as_mut_ptr(), a);
        assert_eq!(ours, model, "store_bf16, seed {seed}: {a:?}");
        S::store_f16(ours.as_mut_ptr(), x);
        Portable::store_f16(model.as_mut_ptr(), a);
        for lane in 0..LANES {
            let nan = half::f16::from_bits(ours[lane]).is_nan() && half::f16::from_bits(model[lane]).is_nan();
            assert!(nan || ours[lane] == model[lane], "store_f16, seed {seed}, lane {lane}: {a:?}");
        }
        let (mut ours, mut model) = (b, b);
        S::store_part(ours.as_mut_ptr(), x, count);
        Portable::store_part(model.as_mut_ptr(), a, count);
        assert_eq!(canonical(ours), canonical(model), "store_part, seed {seed}");

        integer("splat_u", S::splat_u(i[0]), Portable::splat_u(i[0]));
        integer("add_u", S::add_u(u, v), Portable::add_u(i, j));
        integer("sub_u", S::sub_u(u, v), Portable::sub_u(i, j));
        integer("and_u", S::and_u(u, v), Portable::and_u(i, j));
        integer("or_u", S::or_u(u, v), Portable::or_u(i, j));
        integer("xor_u", S::xor_u(u, v), Portable::xor_u(i, j));
        integer("shl", S::shl::<9>(u), Portable::shl::<9>(i));
        integer("shr", S::shr::<9>(u), Portable::shr::<9>(i));
        let (high, low) = S::mul_wide(u, j[0]);
        let (model_high, model_low) = Portable::mul_wide(i, j[0]);
        integer("mul_wide, high", high, model_high);
        integer("mul_wide, low", low, model_low);
        let (first, second) = S::interleave_u(u, v);
        let (model_first, model_second) = Portable::interleave_u(i, j);
        integer("interleave_u, first", first, model_first);
        integer("interleave_u, second", second, model_second);

        let places = i.map(|v| v % LANES as u32);
        float("permute", S::permute(x, pack_u(places)), Portable::permute(a, places));

        let close = std::array::from_fn(|lane| if j[lane] % 3 == 0 { a[lane] } else { b[lane] });
        let near = pack(close);
        mask("gt", S::gt(x, near), Portable::gt(a, close));
        mask("ge", S::ge(x, near), Portable::ge(a, close));
        mask("eq", S::eq(x, near), Portable::eq(a, close));
        mask("is_nan", S::is_nan(x), Portable::is_nan(a));
        let close_bits = close.map(f32::to_bits);
        mask("eq_u", S::eq_u(u, pack_u(close_bits)), Portable::eq_u(i, close_bits));
        mask("first", S::first(count), Portable::first(count));
        mask("from_mask", S::from_mask(i[0] as u16), Portable::from_mask(i[0] as u16));
        let some = i[1] as u16;
        float("select", S::select(S::from_mask(some), x, y), Portable::select(Portable::from_mask(some), a, b));
        integer("select_u", S::select_u(S::from_mask(some), u, v), Portable::select_u(Portable::from_mask(some), i, j));

        let finite = a.map(|v| if v.is_finite() { v } else { 1.5 });
        assert_eq!(S::sum(pack(finite)).to_bits(), Portable::sum(finite).to_bits(), "sum, seed {seed}: {finite:?}");
        let maximum = [S::maximum(x), Portable::maximum(a)];
        assert!(maximum[0].to_bits() == maximum[1].to_bits() || maximum.iter().all(|m| m.is_nan()), "maximum: {a:?}");
        let many: [[f32; LANES]; LANES] = std::array::from_fn(|k| samples(seed * 17 + k as u32));
        let mut rows = many.map(pack);
        float("sums", S::sums(&rows), Portable::sums(&many));
        S::transpose(&mut rows);
        let mut model = many;
        Portable::transpose(&mut model);
        for k in 0..LANES {
            float("transpose", rows[k], model[k]);
        }
    }
}
