// From products to weights and slopes. A weight is exp(score - LSE); a slope, the gradient of a score, is
// weight * (dot(output gradient, value) - share).
#pragma once

#include "attention/gradient/params.cuh"
#include "attention/scores.cuh"

// Of a row, as the pairs of a walk need it; whole pieces of sixteen bytes, so that it may pass through shared memory.
// A row that is none sees nothing.
struct PairRow {
    float lse, share;
    float factor; // its query scale
    int query;
    Visible visible;
    int padding;
};

DEVICE PairRow pair_row(const AttentionProblem& p, const Sequence& sequence, uint64_t known, const Row& row)
{
    int64_t time = sequence.query_start + row.query;
    int64_t index = (int64_t(sequence.batch) * p.query_heads + row.head) * p.sequences.query_time + time;
    Known of_row = reinterpret_cast<const Known*>(known)[index];
    PairRow pair{of_row.lse, of_row.share, 1.0f, row.query, visible_to(p, sequence, row.query), 0};
    if (p.query_scale.pointer != 0)
        pair.factor = rows_of<const float>(p.query_scale, sequence.batch, row.head)[time * p.query_scale.time];
    return pair;
}

// What softcap, biases and border make of the product of a pair that sees each other.
struct Scored {
    float score; // minus infinity: hidden
    float chain; // the cap's derivative
    int column;  // of the distance table
};

DEVICE Scored score_pair(const AttentionProblem& p, const Sequence& sequence, int side, const Row& row, float factor,
                         int key, float product)
{
    Scored scored{-INFINITE, 1.0f, 0};
    double distance = 0.0;
    if (p.keys.positions != 0) {
        distance = positions_of(p.queries, sequence.batch,
                                p.sequences.query_time)[sequence.query_start + row.query] -
                   positions_of(p.keys, sequence.key_batch, p.sequences.key_time)[sequence.key_start + key];
        if (p.border != INFINITE && (distance >= p.border) != (side == FAR)) return scored;
    }
    float bias = p.key_bias.pointer == 0 ? 0.0f : bias_of(p, sequence, row.head, key);
    if (bias == -INFINITE) return scored;
    float score = capped(p, product * (p.scale * factor));
    if (p.softcap != 0.0f) {
        float part = score * p.softcap_inverse;
        scored.chain = fma(-part, part, 1.0f);
    }
    if (p.distance_table != 0) {
        scored.column = column_of(p, distance);
        score += reinterpret_cast<const float*>(p.distance_table)[row.head * p.distance_stride + scored.column];
    }
    scored.score = score + bias;
    return scored;
}

DEVICE float weight_of(float score, float lse)
{
    return score == -INFINITE ? 0.0f : ex2(fma(score, LOG2_E, -lse));
}

// Adds the slopes of a warp's lanes to the columns of a table that is the warp's alone, lanes of the same column in
// their order.
DEVICE void add_to_table(float* table, int column, float slope, bool counts)
{
    uint32_t same = lanes_alike(counts ? column : -1);
    if (count_bits(same) == 32) {
        UNROLL
        for (int step = 16; step > 0; step /= 2) slope += shuffle_xor(slope, step);
        if (lane() == 0 && counts) table[column] += slope;
        warp_barrier();
        return;
    }
    int turn = counts ? count_bits(same & ((1u << lane()) - 1)) : 32;
    NO_UNROLL
    for (int now = 0; ballot(turn < 32 && turn >= now) != 0; ++now) {
        if (turn == now) table[column] += slope;
        warp_barrier();
    }
}
