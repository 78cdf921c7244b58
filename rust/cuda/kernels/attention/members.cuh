// All queries and keys of a call, one after the other: for kernels that go over them before attention does.
#pragma once

#include "attention/rows.cuh"

// What a place on the time axis of the queries or the keys holds.
struct Member {
    Sequence sequence;
    int inside; // its index among the queries or the keys of the sequence
    bool exists;
};

DEVICE Member member_at(const Sequences& all, bool of_queries, int batch, int time)
{
    uint64_t offsets = of_queries ? all.query_offsets : all.key_offsets;
    int32_t kind = of_queries ? all.query_offsets_kind : all.key_offsets_kind;
    int time_axis = of_queries ? all.query_time : all.key_time;
    int index = offsets == 0 ? batch : sequence_at(offsets, kind, all.count, time_axis, time);
    Sequence sequence = sequence_of(all, index);
    int inside = time - (of_queries ? sequence.query_start : sequence.key_start);
    return Member{sequence, inside, inside >= 0 && inside < (of_queries ? sequence.queries : sequence.keys)};
}

// Rows of a block whose warps take one each.
CONSTANT int ROWS_OF_WARPS = 4;

// Of an array [batch][head][time]: the row that a warp is for.
struct RowOfWarp {
    int64_t index;
    int batch, head, time;
};

DEVICE RowOfWarp row_of_warp(int heads, int time_axis)
{
    int64_t index = int64_t(block_index(0)) * ROWS_OF_WARPS + warp();
    return RowOfWarp{index, int(index / time_axis / heads), int(index / time_axis % heads), int(index % time_axis)};
}

// Threads of a kernel that goes over queries and keys: blocks of the queries come first, then those of the keys; an
// entry of the batch begins a block of its own.
struct Thread {
    bool of_queries;
    int batch;
    int64_t index; // within the entry
};

DEVICE Thread thread_of(int query_blocks, int64_t of_query_entry, int64_t of_key_entry, int threads)
{
    bool of_queries = block_index(0) < query_blocks;
    int block = of_queries ? block_index(0) : block_index(0) - query_blocks;
    int64_t blocks = ((of_queries ? of_query_entry : of_key_entry) + threads - 1) / threads;
    return Thread{of_queries, int(block / blocks), block % blocks * threads + thread_index()};
}
