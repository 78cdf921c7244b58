// What a position means to the tiles: once for each query and key, before attention reads it again and again.
#pragma once

#include "attention/members.cuh"

CONSTANT int PREPARE_THREADS = 128;

// Of the queries or the keys; pointer 0: the order, no border.
struct PrepareSide {
    Positions positions, far_positions;
    Prepared prepared;
};

struct PrepareParams {
    Sequences sequences;
    PrepareSide queries, keys;
    uint64_t inv_freq; // float32 [sequence][half]
    int64_t inv_freq_stride;
    int32_t half, query_blocks;
    float magnitude;
    int32_t padding;
};

DEVICE double position_at(const Positions& positions, int batch, int time)
{
    int64_t index = batch * positions.batch + time * positions.time;
    if (positions.kind == NUMBERS_F64) return reinterpret_cast<const double*>(positions.pointer)[index];
    if (positions.kind == NUMBERS_F32) return reinterpret_cast<const float*>(positions.pointer)[index];
    if (positions.kind == NUMBERS_I64) return double(reinterpret_cast<const int64_t*>(positions.pointer)[index]);
    return reinterpret_cast<const int32_t*>(positions.pointer)[index];
}

// A thread for each time and pair of dimensions: the angle is a product in float64.
DEVICE void prepare_attention(const PrepareParams& p)
{
    int pairs = p.half > 0 ? p.half : 1;
    const Sequences& all = p.sequences;
    Thread thread = thread_of(p.query_blocks, int64_t(all.query_time) * pairs, int64_t(all.key_time) * pairs,
                              PREPARE_THREADS);
    int time_axis = thread.of_queries ? all.query_time : all.key_time;
    if (thread.index >= int64_t(time_axis) * pairs) return;
    int batch = thread.batch, time = int(thread.index / pairs), pair = int(thread.index % pairs);
    Member member = member_at(all, thread.of_queries, batch, time);
    if (!member.exists) return;

    const PrepareSide& side = thread.of_queries ? p.queries : p.keys;
    const Sequence& sequence = member.sequence;
    double order = thread.of_queries ? double(query_order(sequence, member.inside)) : member.inside;
    double position = side.positions.pointer != 0 ? position_at(side.positions, batch, time) : order;
    int64_t row = int64_t(batch) * time_axis + time;
    if (side.prepared.positions != 0 && pair == 0) reinterpret_cast<double*>(side.prepared.positions)[row] = position;
    if (p.half == 0) return;
    double frequency = reinterpret_cast<const float*>(p.inv_freq)[sequence.index * p.inv_freq_stride + pair];
    auto write = [&](uint64_t turns, double at) {
        Turn turned = turn(at * frequency);
        reinterpret_cast<Turn*>(turns)[row * p.half + pair] =
            Turn{turned.cosine * p.magnitude, turned.sine * p.magnitude};
    };
    write(side.prepared.turns, position);
    if (side.prepared.far_turns != 0) write(side.prepared.far_turns, position_at(side.far_positions, batch, time));
}
