// The divergence: a pass over the same tokens of two problems, and a warp that merges what the tiles say of a row.
#pragma once
#include "loss/sides.cuh"
#include "unembed/row.cuh"

struct Largest {
    float max;   // NaN where a number is
    float below; // what exponents are taken from: of nothing but -inf the sums are 0, relative to any number
};

DEVICE Largest largest_of(const Quad& x, float inverse)
{
    float max = NOTHING;
    bool nan = false;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        nan |= is_nan(x.at[i]);
        max = x.at[i] > max ? x.at[i] : max;
    }
    max = ballot(nan) != 0 ? NOT_A_NUMBER : warp_max(max) * inverse;
    return Largest{max, max == NOTHING ? 0.0f : max};
}

DEVICE PairPart pair_of(const Quad& logits, const Quad& targets, float inverse)
{
    Largest own = largest_of(logits, inverse), other = largest_of(targets, inverse);
    float sum = 0.0f, target_sum = 0.0f, cross = 0.0f;
    bool impossible = false;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        float l = logits.at[i], t = targets.at[i];
        sum += exponential(fma(l, inverse, -own.below));
        float q = exponential(fma(t, inverse, -other.below));
        target_sum += q;
        bool allowed = t > NOTHING, possible = l > NOTHING;
        impossible |= allowed && !possible;
        cross = fma(q, allowed && possible ? (t - l) * inverse : 0.0f, cross);
    }
    return PairPart{own.max, warp_sum(sum), other.max, warp_sum(target_sum), warp_sum(cross), ballot(impossible) != 0};
}

template <typename T, int ROWS>
DEVICE void loss_pairs(const LossParams& p)
{
    int row_blocks = (p.model.rows + ROWS - 1) / ROWS;
    int tile = block_index(0) / row_blocks, first_row = block_index(0) % row_blocks * ROWS;
    products_of_sides<T, ROWS>(p.model, p.target, tile * TOKENS, first_row);
    const float* products = reinterpret_cast<const float*>(shared_memory());
    uint32_t token = tile * TOKENS + 4 * lane();
    NO_UNROLL
    for (int i = warp(); i < ROWS && first_row + i < p.model.rows; i += WARPS) {
        Quad logits = load_quad(products + i * PITCH), targets = load_quad(target_products<ROWS>() + i * PITCH);
        UNROLL
        for (int k = 0; k < 4; ++k) {
            logits.at[k] = logit_of(p.model, logits.at[k], token + k);
            targets.at[k] = logit_of(p.target, targets.at[k], token + k);
        }
        PairPart part = pair_of(logits, targets, p.inverse_temperature);
        if (lane() == 0) p.pairs[int64_t(first_row + i) * p.model.tiles + tile] = part;
    }
}

// What sums relative to `from` are multiplied with to be relative to `to`, which is at least as large.
DEVICE float step_of(float from, float to)
{
    return from == to || from == NOTHING ? 1.0f : exponential(from - to);
}

DEVICE float larger_or_nan(float a, float b) { return is_nan(a) || a > b ? a : b; }

DEVICE PairPart merged(const PairPart& a, const PairPart& b)
{
    float max = larger_or_nan(a.max, b.max), target_max = larger_or_nan(a.target_max, b.target_max);
    float x = step_of(a.max, max), y = step_of(b.max, max);
    float of_a = step_of(a.target_max, target_max), of_b = step_of(b.target_max, target_max);
    return PairPart{max,
                    a.sum * x + b.sum * y,
                    target_max,
                    a.target_sum * of_a + b.target_sum * of_b,
                    a.cross * of_a + b.cross * of_b,
                    a.impossible | b.impossible};
}

DEVICE bool is_finite(float x) { return x - x == 0.0f; }

// KL(target || model); NaN where a logit is, or where either allows nothing.
DEVICE float divergence_of(const PairPart& pair)
{
    bool known = is_finite(pair.max) && is_finite(pair.target_max) && is_finite(pair.cross) && !is_nan(pair.sum) &&
                 !is_nan(pair.target_sum);
    if (!known) return NOT_A_NUMBER;
    if (pair.impossible != 0) return INFINITE;
    // The difference of the two lse, formed from what is exact where the sides are nearly equal.
    double difference = double(pair.max) - double(pair.target_max) + double(logarithm(pair.sum / pair.target_sum));
    return larger(float(double(pair.cross) / double(pair.target_sum) + difference), 0.0f);
}

// Tiles lane by lane in order, then one tree.
DEVICE void loss_merge_pairs(const PairParams& p)
{
    int row = block_index(0) * WARPS + warp();
    if (row >= p.rows) return;
    PairPart pair = {NOTHING, 0.0f, NOTHING, 0.0f, 0.0f, 0};
    NO_UNROLL
    for (int tile = lane(); tile < p.tiles; tile += 32) pair = merged(pair, p.pairs[int64_t(row) * p.tiles + tile]);
    NO_UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) {
        PairPart other = {shuffle_xor(pair.max, mask),        shuffle_xor(pair.sum, mask),
                          shuffle_xor(pair.target_max, mask), shuffle_xor(pair.target_sum, mask),
                          shuffle_xor(pair.cross, mask),      shuffle_xor(pair.impossible, mask)};
        pair = merged(pair, other);
    }
    if (lane() != 0) return;
    int of_call = p.first_row + row;
    p.divergence[of_call] = divergence_of(pair);
    p.max[of_call] = pair.max;
    p.log_sum[of_call] = log_of_sum(pair.sum);
    p.target_max[of_call] = pair.target_max;
    p.target_log_sum[of_call] = log_of_sum(pair.target_sum);
}
