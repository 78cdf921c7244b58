// What a warp makes of one row of a tile's products: logits, and from them everything that is asked of the row. Lane i
// has the tokens from 4 i on; sums go lane by lane and then up one tree.
#pragma once
#include "unembed/params.cuh"

struct Quad {
    float at[4];
};

DEVICE Quad load_quad(const float* row)
{
    uint4 x = load_shared(reinterpret_cast<const uint4*>(row) + lane());
    return Quad{from_bits(x.x), from_bits(x.y), from_bits(x.z), from_bits(x.w)};
}

DEVICE void store_quad(float* row, const Quad& x)
{
    uint4 words = {bits(x.at[0]), bits(x.at[1]), bits(x.at[2]), bits(x.at[3])};
    store_shared(reinterpret_cast<uint4*>(row) + lane(), words);
}

// The first place from `first` to `last` whose token is not below `token`.
DEVICE int64_t place_of(const uint32_t* tokens, int64_t first, int64_t last, uint32_t token)
{
    while (first < last) {
        int64_t middle = first + (last - first) / 2;
        bool below = tokens[middle] < token;
        first = below ? middle + 1 : first;
        last = below ? last : middle;
    }
    return first;
}

struct Span {
    int64_t first, last;
};

// The part of a row's list that concerns the tile.
DEVICE Span within(const int64_t* offsets, const uint32_t* tokens, int64_t row, uint32_t tile_start)
{
    int64_t first = place_of(tokens, offsets[row], offsets[row + 1], tile_start);
    return Span{first, place_of(tokens, first, offsets[row + 1], tile_start + TOKENS)};
}

// A changed logit that was finite stays so: what float32 cannot hold is as large as it can be, and no ban.
DEVICE float held(float changed, bool finite)
{
    constexpr float largest = 3.40282347e38f;
    return finite ? larger(smaller(changed, largest), -largest) : changed;
}

DEVICE float changed(const Change& change, float logit)
{
    if (change.banned) return NOTHING;
    bool finite = logit - logit == 0.0f;
    float biased = held(logit + change.bias, finite);
    float repeated = held(biased < 0.0f ? biased * change.repetition : biased / change.repetition, finite);
    return held(repeated - change.subtracted, finite);
}

// Bits of the lane's four tokens in a bit set of the tile.
DEVICE uint32_t bits_of_lane(uint32_t word) { return word >> (4 * lane() % 32); }

DEVICE void keep(Quad& logits, uint32_t bits)
{
    UNROLL
    for (int i = 0; i < 4; ++i) logits.at[i] = bits >> i & 1 ? logits.at[i] : NOTHING;
}

// The tokens of a list as a bit set; every lane gets the word that its tokens are in.
DEVICE uint32_t listed_bits(const uint32_t* tokens, const Span& span, uint32_t tile_start)
{
    uint32_t words[4] = {0, 0, 0, 0};
    for (int64_t i = span.first + lane(); i < span.last; i += 32) {
        uint32_t place = tokens[i] - tile_start;
        UNROLL
        for (uint32_t j = 0; j < 4; ++j) words[j] |= place / 32 == j ? 1u << place % 32 : 0u;
    }
    UNROLL
    for (int j = 0; j < 4; ++j) {
        UNROLL
        for (int mask = 16; mask > 0; mask >>= 1) words[j] |= shuffle_xor(words[j], mask);
    }
    int mine = lane() / 8;
    return mine == 0 ? words[0] : mine == 1 ? words[1] : mine == 2 ? words[2] : words[3];
}

// Applies the row's changes, then its mask and its list of the allowed.
DEVICE void change_row(const Changes& changes, int64_t row, uint32_t tile_start, float* shared, Quad& logits)
{
    if (changes.offsets) {
        Span span = within(changes.offsets, changes.tokens, row, tile_start);
        if (span.first < span.last) {
            store_quad(shared, logits);
            warp_barrier();
            for (int64_t i = span.first + lane(); i < span.last; i += 32) {
                float* logit = shared + (changes.tokens[i] - tile_start);
                store_shared(logit, changed(changes.changes[i], load_shared(logit)));
            }
            warp_barrier();
            logits = load_quad(shared);
        }
    }
    if (changes.mask) {
        int64_t word = tile_start / 32 + lane() / 8;
        keep(logits, word < changes.mask_words ? bits_of_lane(changes.mask[row * changes.mask_stride + word]) : 0);
    }
    if (changes.allowed_offsets && changes.allowed_offsets[row] < changes.allowed_offsets[row + 1]) {
        Span span = within(changes.allowed_offsets, changes.allowed_tokens, row, tile_start);
        keep(logits, bits_of_lane(listed_bits(changes.allowed_tokens, span, tile_start)));
    }
}

// How many of the row's tokens have a logit above -inf.
DEVICE uint32_t count_finite(const Quad& logits)
{
    uint32_t count = 0;
    UNROLL
    for (int i = 0; i < 4; ++i) count += logits.at[i] > NOTHING;
    return warp_sum(count);
}

// Softmax sums of the row: at the temperature where it is not 1, moments where they are wanted.
DEVICE Mass mass_of(const Quad& logits, float inverse, bool moments)
{
    float max = NOTHING;
    bool nan = false;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        nan |= is_nan(logits.at[i]);
        max = logits.at[i] > max ? logits.at[i] : max;
    }
    max = warp_max(max);
    Mass mass = {max, 0.0f, 0.0f, 0.0f, 0.0f};
    if (ballot(nan) != 0) {
        mass.max = NOT_A_NUMBER;
        return mass;
    }
    if (max == NOTHING) return mass;
    if (max == INFINITE) {
        // exp(inf - inf) is not a number: infinite logits share the mass evenly.
        UNROLL
        for (int i = 0; i < 4; ++i) mass.sum += logits.at[i] == max ? 1.0f : 0.0f;
        mass.sum = warp_sum(mass.sum);
        mass.tempered = mass.sum;
        return mass;
    }
    // Far below what exp can tell from 0, and finite, so that 0 times it is 0.
    constexpr float lowest = -1000.0f;
    bool tempered = inverse != 1.0f;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        float gap = logits.at[i] - max, share = exponential(gap);
        mass.sum += share;
        mass.moment = fma(share, larger(gap, lowest), mass.moment);
        if (tempered) {
            gap = gap * inverse;
            share = exponential(gap);
            mass.tempered += share;
            mass.tempered_moment = fma(share, larger(gap, lowest), mass.tempered_moment);
        }
    }
    mass.sum = warp_sum(mass.sum);
    mass.moment = moments ? warp_sum(mass.moment) : 0.0f;
    if (tempered) {
        mass.tempered = warp_sum(mass.tempered);
        mass.tempered_moment = moments ? warp_sum(mass.tempered_moment) : 0.0f;
    }
    return mass;
}

// Mean and squared deviations of the `count` logits above -inf, in two sweeps.
DEVICE Spread spread_of(const Quad& logits, float max, uint32_t count)
{
    float sum = 0.0f, squares = 0.0f;
    UNROLL
    for (int i = 0; i < 4; ++i) sum += logits.at[i] > NOTHING ? logits.at[i] - max : 0.0f;
    float mean = count == 0 ? 0.0f : max + warp_sum(sum) / float(count);
    UNROLL
    for (int i = 0; i < 4; ++i) {
        float step = logits.at[i] > NOTHING ? logits.at[i] - mean : 0.0f;
        squares = fma(step, step, squares);
    }
    return Spread{count, mean, warp_sum(squares)};
}

DEVICE void compete(Best& best, const Best& candidate)
{
    if (candidate.logit > NOTHING && beats(candidate, best)) best = candidate;
}

// One of four numbers, without an address that would put them into memory.
template <typename V> DEVICE V pick(const V (&from)[4], int i)
{
    return i == 0 ? from[0] : i == 1 ? from[1] : i == 2 ? from[2] : from[3];
}

// The largest logit.
DEVICE Best coldest(const Quad& logits, uint32_t token)
{
    Best best = no_best();
    UNROLL
    for (int i = 0; i < 4; ++i) compete(best, {logits.at[i], 0.0f, logits.at[i], int32_t(token + i)});
    return warp_best(best, warp_max(best.score));
}

// The largest logit over the temperature plus noise; `token` is the lane's first.
//
// The exact noise is evaluated only where a bound on it leaves a token the chance to win: of each lane's tokens for the
// one that may reach the highest, then for those that may reach the best of these. A token that may not is below the
// best score, so the result is that of evaluating the noise of all.
DEVICE Best perturbed(const Quad& logits, uint32_t token, const NoiseKey& key, float inverse)
{
    Words first = noise_words(key, token >> 1), second = noise_words(key, (token >> 1) + 1);
    uint32_t high[4] = {first.x1, first.x3, second.x1, second.x3}, low[4] = {first.x0, first.x2, second.x0, second.x2};
    float reach[4];
    int next = 0;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        reach[i] = fma(logits.at[i], inverse, noise_bound(high[i]));
        if (reach[i] > pick(reach, next)) next = i;
    }
    Best best = no_best();
    uint32_t done = 0;
    float bar;
    NO_UNROLL
    do {
        if (next >= 0) {
            float logit = pick(logits.at, next), noise = gumbel(pick(high, next), pick(low, next));
            float score = fma(logit, inverse, noise);
            compete(best, {score, rest_of(score, logit, inverse, noise), logit, int32_t(token + next)});
            done |= 1u << next;
        }
        bar = warp_max(best.score);
        next = -1;
        UNROLL
        for (int i = 0; i < 4; ++i)
            if ((done >> i & 1) == 0 && reach[i] >= bar) next = i;
    } while (ballot(next >= 0) != 0);
    return warp_best(best, bar);
}

// Four entries of 128 in order, of which lane i holds those from 4 i on.
struct Entries {
    uint64_t at[4];
};

DEVICE void order(uint64_t& first, uint64_t& second, bool falling)
{
    bool swap = (first < second) == falling;
    uint64_t x = swap ? second : first;
    second = swap ? first : second;
    first = x;
}

// The tile's tokens as entries of a list; 0 where there is no token, or none below the bound.
DEVICE Entries entries_of(const UnembedParams& p, const Quad& logits, uint32_t token, uint64_t below)
{
    Entries entries;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        uint64_t entry = exists(p, token + i) ? ranked(logits.at[i], token + i) : 0;
        entries.at[i] = entry < below ? entry : 0;
    }
    return entries;
}

// Batcher's bitonic sort, falling.
DEVICE void sort(Entries& entries)
{
    NO_UNROLL
    for (int size = 2; size <= TOKENS; size *= 2) {
        NO_UNROLL
        for (int step = size / 2; step >= 4; step /= 2) {
            bool falling = (4 * lane() & size) == 0, lower = (4 * lane() & step) == 0;
            UNROLL
            for (int i = 0; i < 4; ++i) {
                uint64_t other = shuffle_xor_ranked(entries.at[i], step / 4);
                bool take = (other > entries.at[i]) == (falling == lower);
                entries.at[i] = take ? other : entries.at[i];
            }
        }
        if (size >= 4) {
            bool falling = (4 * lane() & size) == 0;
            order(entries.at[0], entries.at[2], falling);
            order(entries.at[1], entries.at[3], falling);
        }
        bool turned = size == 2;
        bool falling = (4 * lane() & size) == 0;
        order(entries.at[0], entries.at[1], turned || falling);
        order(entries.at[2], entries.at[3], turned ? false : falling);
    }
}

DEVICE void store_list(uint64_t* list, const Entries& entries, int count)
{
    UNROLL
    for (int i = 0; i < 4; ++i) {
        if (4 * lane() + i < count) list[4 * lane() + i] = entries.at[i];
    }
}
