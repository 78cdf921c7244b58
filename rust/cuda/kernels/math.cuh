// exp, ln and the noise, bit for bit those of rust/core (`elementary`, `noise`): each one fixed sequence of float32
// operations. And what attention needs beside them: tanh, and the cosine and sine of a float64 angle.
#pragma once

#include "ptx.cuh"

CONSTANT float LOG2_E = 1.44269504f;
CONSTANT float LN_2 = 0.693147182f;
CONSTANT float INFINITE = __builtin_bit_cast(float, 0x7f800000u);

// ln 2 cut to 16 bits, and the rest.
CONSTANT float LN_2_HIGH = 0.69314575f;
CONSTANT float LN_2_LOW = 1.4286068e-6f;

// e to the power x, for x up to 88; 0 where the result would not be a normal number.
DEVICE float exponential(float x)
{
    float n = round_even(x * LOG2_E);
    float r = fma(n, -LN_2_LOW, fma(n, -LN_2_HIGH, x));
    float p = 1.9875692e-4f;
    p = fma(p, r, 1.3982e-3f);
    p = fma(p, r, 8.333452e-3f);
    p = fma(p, r, 4.1665796e-2f);
    p = fma(p, r, 1.6666665e-1f);
    p = fma(p, r, 0.5f);
    float power = fma(p, r * r, r) + 1.0f;
    // Outside its domain the power of two is never used: n stays small enough to be converted.
    float bounded = smaller(larger(n, -256.0f), 256.0f);
    float scaled = power * from_bits(uint32_t(int32_t(bounded) + 127) << 23);
    return -87.33654f > x ? 0.0f : scaled;
}

// Natural logarithm of a positive normal number.
DEVICE float logarithm(float x)
{
    constexpr uint32_t smallest = 0x3f2aaaabu;
    uint32_t shifted = bits(x) + (0x3f800000u - smallest);
    float exponent = float(shifted >> 23) - 127.0f;
    float f = from_bits((shifted & 0x007fffffu) + smallest) - 1.0f;
    float q = -0.12891679f;
    q = fma(q, f, 0.1398444f);
    q = fma(q, f, -0.12184262f);
    q = fma(q, f, 0.14005868f);
    q = fma(q, f, -0.16680488f);
    q = fma(q, f, 0.20010406f);
    q = fma(q, f, -0.24999797f);
    q = fma(q, f, 0.33333215f);
    float near = fma(f * f, fma(q, f, -0.5f), f);
    return fma(exponent, LN_2_HIGH, fma(exponent, LN_2_LOW, near));
}

struct Words {
    uint32_t x0, x1, x2, x3;
};

// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, 2011).
DEVICE Words philox(Words c, uint32_t k0, uint32_t k1)
{
    UNROLL_BY(5)
    for (int round = 0; round < 10; ++round) {
        uint64_t a = uint64_t(0xd2511f53u) * c.x0;
        uint64_t b = uint64_t(0xcd9e8d57u) * c.x2;
        c = Words{uint32_t(b >> 32) ^ c.x1 ^ k0, uint32_t(b), uint32_t(a >> 32) ^ c.x3 ^ k1, uint32_t(a)};
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return c;
}

// -log(-log1p(-t)) with t = (r + 0.5) / 2^64, r = low + 2^32 high.
DEVICE float gumbel(uint32_t high, uint32_t low)
{
    bool upper = high >> 31 != 0;
    high = upper ? ~high : high;
    low = upper ? ~low : low;
    float tail = fma(float(low >> 16), 65536.0f, float(low & 0xffffu) + 0.5f);
    float part = fma(float(high), 4294967296.0f, tail) * 5.421010862427522e-20f;
    float rest = 1.0f - part;
    float argument = upper ? part : rest;
    float dropped = upper ? 0.0f : part - (1.0f - rest);
    // A division of zero takes the compiler's long way round, so another is divided in its place.
    bool some = dropped != 0.0f;
    float quotient = (some ? dropped : 1.0f) / argument;
    return -logarithm((some ? quotient : 0.0f) - logarithm(argument));
}

// A number that gumbel(high, low) never exceeds.
DEVICE float noise_bound(uint32_t high)
{
    return fma(float(int32_t(bits(float(high >> 8)))), -8.262958e-8f, 104.66722f);
}

// What the noise of a row depends on beside the token.
struct NoiseKey {
    uint64_t seed;
    uint32_t stream, position;
};

// The four words that tokens 2 i and 2 i + 1 share.
DEVICE Words noise_words(const NoiseKey& key, uint32_t pair)
{
    return philox(Words{pair, key.position, key.stream, 0}, uint32_t(key.seed), uint32_t(key.seed >> 32));
}

// The noise that a token gets.
DEVICE float noise(const NoiseKey& key, uint32_t token)
{
    Words x = noise_words(key, token >> 1);
    return (token & 1) == 0 ? gumbel(x.x1, x.x0) : gumbel(x.x3, x.x2);
}

// Hyperbolic tangent, within 4 units in the last place (coefficients: Cephes, `tanhf`).
DEVICE float tangent(float x)
{
    float size = magnitude(x);
    float square = x * x;
    float p = -5.7049887e-3f;
    p = fma(p, square, 2.063909e-2f);
    p = fma(p, square, -5.3739716e-2f);
    p = fma(p, square, 0.13331442f);
    p = fma(p, square, -0.3333328f);
    float small = fma(p * square, x, x);
    float bounded = size > 9.1f ? 9.1f : size;
    float large = fma(-2.0f, reciprocal_near(ex2(bounded * (2.0f * LOG2_E)) + 1.0f), 1.0f);
    large = x < 0.0f ? -large : large;
    return 0.625f > size ? small : large;
}

struct Turn {
    float cosine, sine;
};

// Cosine and sine of an angle in radians, to float32 accuracy wherever a float64 still knows the angle.
DEVICE Turn turn(double angle)
{
    double quarters = round_even(angle * 0.63661977236758134308);
    double rest = fma(-quarters, 6.123233995736766e-17, fma(-quarters, 1.5707963267948966, angle));
    float x = float(rest), square = x * x;
    float s = fma(fma(-1.9515296e-4f, square, 8.3321609e-3f), square, -1.6666655e-1f);
    float sine = fma(s * square, x, x);
    float c = fma(fma(2.4433157e-5f, square, -1.3887316e-3f), square, 4.1666646e-2f);
    float cosine = fma(c * square, square, fma(-0.5f, square, 1.0f));
    int quadrant = int(int64_t(quarters) & 3);
    Turn swapped = (quadrant & 1) != 0 ? Turn{sine, cosine} : Turn{cosine, sine};
    return Turn{quadrant == 1 || quadrant == 2 ? -swapped.cosine : swapped.cosine,
                quadrant >= 2 ? -swapped.sine : swapped.sine};
}
