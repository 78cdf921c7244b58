// Sums of turned queries or keys become gradients.
#pragma once

#include "attention/gradient/params.cuh"
#include "attention/members.cuh"
#include "attention/tile.cuh"

CONSTANT int TURN_ROWS = 4; // a warp for each

// The transposed rotations, near and far, whose sum is the gradient.
template <typename T> DEVICE void attention_turn_back(const TurnParams& p)
{
    const Sequences& all = p.sequences;
    bool of_queries = p.of_queries != 0;
    int time_axis = of_queries ? all.query_time : all.key_time;
    int64_t index = int64_t(block_index(0)) * TURN_ROWS + warp();
    if (index >= int64_t(p.batch) * p.heads * time_axis) return;
    int time = int(index % time_axis), head = int(index / time_axis % p.heads);
    int batch = int(index / time_axis / p.heads);
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
                bool is_first = rotation.interleaved ? column % 2 == 0 : column < p.half;
                Turn turn = rotation.turns[rotation.interleaved ? column / 2 : is_first ? column : column - p.half];
                own = fma(own, turn.cosine, is_first ? partner * turn.sine : -(partner * turn.sine));
            }
            total += own;
        }
        to[column] = from_float<T>(total);
    }
}
