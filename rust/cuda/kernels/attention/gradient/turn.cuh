// Queries and keys are turned once, before the walks read them again and again; and sums of turned rows are turned back.
#pragma once

#include "attention/gradient/params.cuh"
#include "attention/tile.cuh"

CONSTANT int TURN_ROWS = 4; // a warp for each

// A row among those of all heads; false if no sequence has it.
struct TurnedRow {
    int batch, head, time;

    METHOD bool locate(const TurnParams& p)
    {
        const Sequences& all = p.sequences;
        bool of_queries = p.of_queries != 0;
        int time_axis = of_queries ? all.query_time : all.key_time;
        int64_t index = int64_t(block_index(0)) * TURN_ROWS + warp();
        if (index >= int64_t(p.batch) * p.heads * time_axis) return false;
        time = int(index % time_axis);
        head = int(index / time_axis % p.heads);
        batch = int(index / time_axis / p.heads);
        uint64_t offsets = of_queries ? all.query_offsets : all.key_offsets;
        int32_t kind = of_queries ? all.query_offsets_kind : all.key_offsets_kind;
        Sequence sequence =
            sequence_of(all, offsets == 0 ? batch : sequence_at(offsets, kind, all.count, time_axis, time));
        int inside = time - (of_queries ? sequence.query_start : sequence.key_start);
        return inside >= 0 && inside < (of_queries ? sequence.queries : sequence.keys);
    }

    METHOD Rotation rotation(const TurnParams& p, int side) const
    {
        int64_t row = int64_t(batch) * (p.of_queries != 0 ? p.sequences.query_time : p.sequences.key_time) + time;
        uint64_t turns = side == NEAR ? p.prepared.turns : p.prepared.far_turns;
        return Rotation{reinterpret_cast<const Turn*>(turns) + row * p.half, p.half, p.interleaved != 0};
    }

    template <typename T> METHOD T* at(const Array& array) const
    {
        return rows_of<T>(array, batch, head) + time * array.time;
    }
};

// Writes rows in whole pieces, zeros behind the last number.
template <typename T> DEVICE void attention_turn(const TurnParams& p)
{
    TurnedRow row;
    if (!row.locate(p)) return;
    const T* from = row.template at<const T>(p.plain);
    NO_UNROLL
    for (int side = NEAR; side <= FAR; ++side) {
        if (p.turned[side].pointer == 0) continue;
        Rotation rotation = row.rotation(p, side);
        T* to = row.template at<T>(p.turned[side]);
        NO_UNROLL
        for (int column = lane() * Piece<T>::COUNT; column < p.dim; column += 32 * Piece<T>::COUNT) {
            Piece<T> piece = load_turned(from, column, p.dim, p.in_pieces != 0, rotation);
            uint4 words{piece.words[0], piece.words[1], piece.words[2], piece.words[3]};
            *reinterpret_cast<uint4*>(to + column) = words;
        }
    }
}

// The transposed rotations: of float32 sums, near and far, whose sum is the gradient.
template <typename T> DEVICE void attention_turn_back(const TurnParams& p)
{
    TurnedRow row;
    if (!row.locate(p)) return;
    T* to = row.template at<T>(p.plain);
    NO_UNROLL
    for (int column = lane(); column < p.dim; column += 32) {
        float total = 0.0f;
        NO_UNROLL
        for (int side = NEAR; side <= FAR; ++side) {
            if (p.turned[side].pointer == 0) continue;
            const float* from = row.template at<const float>(p.turned[side]);
            float own = from[column];
            if (column < 2 * p.half) {
                Rotation rotation = row.rotation(p, side);
                float partner = from[rotation.partner(column)];
                bool is_first = rotation.interleaved ? column % 2 == 0 : column < p.half;
                int pair = rotation.interleaved ? column / 2 : is_first ? column : column - p.half;
                Turn turn = rotation.turns[pair];
                own = fma(own, turn.cosine, is_first ? partner * turn.sine : -(partner * turn.sine));
            }
            total += own;
        }
        to[column] = from_float<T>(total);
    }
}
