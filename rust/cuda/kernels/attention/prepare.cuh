// What a position means to the tiles: once for each query and key, before attention reads it again and again.
#pragma once

#include "attention/rows.cuh"

CONSTANT int PREPARE_THREADS = 128;

struct PrepareParams {
    Sequences sequences;
    Positions positions, far_positions; // of the queries or the keys; pointer 0: the order, no border
    Prepared prepared;
    uint64_t inv_freq; // float32 [sequence][half]
    int64_t inv_freq_stride;
    int32_t of_queries, half;
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
    int time_axis = p.of_queries != 0 ? all.query_time : all.key_time;
    int64_t numbers = int64_t(time_axis) * pairs, blocks = (numbers + PREPARE_THREADS - 1) / PREPARE_THREADS;
    int batch = int(block_index(0) / blocks);
    int64_t thread = block_index(0) % blocks * PREPARE_THREADS + thread_index();
    if (thread >= numbers) return;
    int time = int(thread / pairs), pair = int(thread % pairs);

    uint64_t offsets = p.of_queries != 0 ? all.query_offsets : all.key_offsets;
    int32_t kind = p.of_queries != 0 ? all.query_offsets_kind : all.key_offsets_kind;
    int index = offsets == 0 ? batch : sequence_at(offsets, kind, all.count, time_axis, time);
    Sequence sequence = sequence_of(all, index);
    int inside = time - (p.of_queries != 0 ? sequence.query_start : sequence.key_start);
    if (inside < 0 || inside >= (p.of_queries != 0 ? sequence.queries : sequence.keys)) return;

    double order = p.of_queries != 0 ? double(query_order(sequence, inside)) : inside;
    double position = p.positions.pointer != 0 ? position_at(p.positions, batch, time) : order;
    int64_t row = int64_t(batch) * time_axis + time;
    if (p.prepared.positions != 0 && pair == 0) reinterpret_cast<double*>(p.prepared.positions)[row] = position;
    if (p.half == 0) return;
    double frequency = reinterpret_cast<const float*>(p.inv_freq)[index * p.inv_freq_stride + pair];
    auto write = [&](uint64_t turns, double at) {
        Turn turned = turn(at * frequency);
        reinterpret_cast<Turn*>(turns)[row * p.half + pair] =
            Turn{turned.cosine * p.magnitude, turned.sine * p.magnitude};
    };
    write(p.prepared.turns, position);
    if (p.prepared.far_turns != 0) write(p.prepared.far_turns, position_at(p.far_positions, batch, time));
}
