// Sums of turned queries or keys become gradients.
#pragma once

#include "attention/gradient/params.cuh"
#include "attention/members.cuh"
#include "attention/tile.cuh"

// The transposed rotations, near and far, whose sum is the gradient.
template <typename T> DEVICE void attention_turn_back(const TurnParams& p)
{
    const Sequences& all = p.sequences;
    bool of_queries = p.of_queries != 0;
    int time_axis = of_queries ? all.query_time : all.key_time;
    auto [index, batch, head, time] = row_of_warp(p.heads, time_axis);
    if (index >= int64_t(p.batch) * p.heads * time_axis) return;
    if (!member_at(all, of_queries, batch, time).exists) return;

    T* to = rows_of<T>(p.plain, batch, head) + time * p.plain.time;
    NO_UNROLL
    for (int column = lane(); column < p.dim; column += 32) {
        float total = 0.0f;
        NO_UNROLL
        for (int side = NEAR; side <= FAR; ++side) {
            const Array& turned = p.turned[side];
            if (turned.pointer == 0) continue;
            const float* from = rows_of<const float>(turned, batch, head) + time * turned.time;
            float own = from[column];
            if (column < 2 * p.half) {
                auto* turns = reinterpret_cast<const Turn*>(side == NEAR ? p.prepared.turns : p.prepared.far_turns);
                Rotation rotation{turns + (int64_t(batch) * time_axis + time) * p.half, p.half, p.interleaved != 0};
                float partner = from[rotation.partner(column)];
                Turn turn = rotation.turns[rotation.pair(column)];
                own = fma(own, turn.cosine,
                          rotation.is_first(column) ? partner * turn.sine : -(partner * turn.sine));
            }
            total += own;
        }
        to[column] = from_float<T>(total);
    }
}
