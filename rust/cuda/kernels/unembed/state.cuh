// What is known of a row after some tiles of the vocabulary, and how two such states combine: farspan_core::merge,
// operation by operation, so that every bit is the same.
#pragma once
#include "math.cuh"

// The logit of a token that cannot come.
CONSTANT float NOTHING = -INFINITE;
CONSTANT float NOT_A_NUMBER = __builtin_bit_cast(float, 0x7fc00000u);

DEVICE bool is_nan(float x) { return x != x; }

// Softmax sums relative to the largest logit.
struct Mass {
    float max, sum, tempered, moment, tempered_moment;
};

DEVICE Mass no_mass() { return {NOTHING, 0.0f, 0.0f, 0.0f, 0.0f}; }

// A sum of exp(x) x after a step of every x; nothing where the step left nothing, however far it was.
DEVICE float moved_moment(float sum, float moment, float step, float factor)
{
    return factor > 0.0f ? fma(sum, step, moment) * factor : 0.0f;
}

// The same sums relative to a maximum that is at least as large and not NaN.
DEVICE Mass relative_to(const Mass& mass, float max, float inverse)
{
    if (mass.max == max || mass.max == NOTHING) return mass;
    float step = mass.max - max;
    if (step == NOTHING) return no_mass();
    float factor = exponential(step), tempered_step = step * inverse;
    float tempered_factor = exponential(tempered_step);
    return {max, mass.sum * factor, mass.tempered * tempered_factor,
            moved_moment(mass.sum, mass.moment, step, factor),
            moved_moment(mass.tempered, mass.tempered_moment, tempered_step, tempered_factor)};
}

DEVICE Mass merged(const Mass& mass, const Mass& next, float inverse)
{
    if (is_nan(mass.max) || is_nan(next.max)) return {NOT_A_NUMBER, 0.0f, 0.0f, 0.0f, 0.0f};
    float max = next.max > mass.max ? next.max : mass.max;
    Mass a = relative_to(mass, max, inverse), b = relative_to(next, max, inverse);
    return {max, a.sum + b.sum, a.tempered + b.tempered, a.moment + b.moment, a.tempered_moment + b.tempered_moment};
}

DEVICE float lse(const Mass& mass) { return mass.sum > 0.0f ? mass.max + logarithm(mass.sum) : mass.max; }

DEVICE float entropy(const Mass& mass)
{
    if (is_nan(mass.max)) return NOT_A_NUMBER;
    return mass.sum > 0.0f ? logarithm(mass.sum) - mass.moment / mass.sum : 0.0f;
}

// The log-probability of a token: from its gap to the maximum, which is exact where it matters.
DEVICE float logprob(const Mass& mass, float logit, float sum, float inverse)
{
    if (is_nan(mass.max)) return NOT_A_NUMBER;
    if (logit == NOTHING) return NOTHING;
    float gap = logit == mass.max ? 0.0f : (logit - mass.max) * inverse;
    return gap - logarithm(sum);
}

// The token of the largest score; token -1 of none. As in rust/core, the rest decides between equal scores that are too
// large to hold their noise.
struct Best {
    float score, rest, logit;
    int32_t token;
};

constexpr float COARSE = 65536.0f;
constexpr float NOISELESS = 4294967296.0f;

DEVICE Best no_best() { return {NOTHING, 0.0f, NOTHING, -1}; }

DEVICE float rest_of(float score, float logit, float inverse, float noise)
{
    if (magnitude(score) < COARSE || magnitude(logit) == INFINITE) return 0.0f;
    if (magnitude(score) >= NOISELESS) return noise;
    float product = logit * inverse;
    return product - score + noise + fma(logit, inverse, -product);
}

// Ties go to the lowest id.
DEVICE bool beats(const Best& a, const Best& b)
{
    if (a.token < 0 || b.token < 0) return a.token >= 0;
    if (a.score != b.score) return a.score > b.score;
    if (magnitude(a.score) >= NOISELESS && a.logit != b.logit) return a.logit > b.logit;
    if (a.rest != b.rest) return a.rest > b.rest;
    return a.token < b.token;
}

// A token and its logit in the order of integers: larger logits first, equal ones by id. 0 is no token.
DEVICE uint64_t ranked(float logit, uint32_t token)
{
    uint32_t word = bits(logit + 0.0f);
    uint32_t ordered = word >> 31 ? ~word : word | 0x80000000u;
    return uint64_t(ordered) << 32 | uint32_t(~token);
}

DEVICE uint32_t ranked_token(uint64_t entry) { return ~uint32_t(entry); }

DEVICE float ranked_logit(uint64_t entry)
{
    uint32_t ordered = uint32_t(entry >> 32);
    return from_bits(ordered >> 31 ? ordered & 0x7fffffffu : ~ordered);
}

// Over the lanes of a warp, or over each of its groups of neighbouring lanes, always in the same tree; every lane gets
// the result.
template <int LANES = 32>
DEVICE float warp_sum(float x)
{
    UNROLL
    for (int mask = LANES / 2; mask > 0; mask >>= 1) x += shuffle_xor(x, mask);
    return x;
}

DEVICE uint32_t warp_sum(uint32_t x)
{
    UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) x += shuffle_xor(x, mask);
    return x;
}

template <int LANES = 32>
DEVICE float warp_max(float x)
{
    UNROLL
    for (int mask = LANES / 2; mask > 0; mask >>= 1) {
        float other = shuffle_xor(x, mask);
        x = other > x ? other : x;
    }
    return x;
}

DEVICE Best warp_best(Best best)
{
    UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) {
        Best other = {shuffle_xor(best.score, mask), shuffle_xor(best.rest, mask), shuffle_xor(best.logit, mask),
                      shuffle_xor(best.token, mask)};
        if (beats(other, best)) best = other;
    }
    return best;
}

// The same where the largest score is known: mostly one lane alone has it.
DEVICE Best warp_best(const Best& best, float score)
{
    uint32_t at = ballot(best.token >= 0 && best.score == score);
    if (count_bits(at) != 1) return warp_best(best);
    int from = count_bits(at - 1);
    return {score, shuffle(best.rest, from), shuffle(best.logit, from), shuffle(best.token, from)};
}

DEVICE uint64_t shuffle_xor_ranked(uint64_t x, int mask)
{
    uint32_t low = shuffle_xor(uint32_t(x), mask);
    uint32_t high = shuffle_xor(uint32_t(x >> 32), mask);
    return uint64_t(high) << 32 | low;
}
