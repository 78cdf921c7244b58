// What an attention problem looks like to its kernels. The structs are those of rust/cuda/src/attention/params.rs.
#pragma once

#include "math.cuh"

// Keys that are weighed under one maximum before their sums are merged with those of the keys before them. They are
// counted from a sequence's first key, so that a row is summed in the same order in every call.
CONSTANT int CHUNK = 64;

// An array of integers or positions in device memory, its element type chosen by the caller.
CONSTANT int32_t NUMBERS_F64 = 0;
CONSTANT int32_t NUMBERS_F32 = 1;
CONSTANT int32_t NUMBERS_I64 = 2;
CONSTANT int32_t NUMBERS_I32 = 3;

// An integer held to 0..most: nothing that stands in device memory leads an access astray.
DEVICE int count_at(uint64_t pointer, int32_t kind, int64_t index, int most)
{
    int64_t count = kind == NUMBERS_I64 ? load_global(reinterpret_cast<const int64_t*>(pointer) + index)
                                        : load_global(reinterpret_cast<const int32_t*>(pointer) + index);
    return count < 0 ? 0 : count > most ? most : int(count);
}

// A table of float32 over (batch, head, time), or a query, key, value or output, whose last dimension is contiguous.
// Pointer 0: the problem has none.
struct Array {
    uint64_t pointer;
    int64_t batch, head, time; // strides in elements
};

// Its rows of one head.
template <typename T> DEVICE T* rows_of(const Array& array, int batch, int head)
{
    return reinterpret_cast<T*>(array.pointer) + batch * array.batch + head * array.head;
}

// Positions of queries or keys; pointer 0: the order.
struct Positions {
    uint64_t pointer;
    int64_t batch, time;
    int32_t kind, padding;
};

// Which queries meet which keys: a dense batch, or stretches of one time axis.
struct Sequences {
    uint64_t key_lengths, query_offsets, key_offsets; // 0: whole, dense, dense
    int32_t count, query_time, key_time;
    int32_t lengths_kind, query_offsets_kind, key_offsets_kind;
};

// Keys and values in pages: key j of a sequence is key j % size of page table[sequence][j / size].
struct Pages {
    uint64_t table; // [sequence][block]; 0: arrays over (batch, head, time)
    int64_t stride; // of the sequences, in elements
    int32_t kind, count, size;
    int32_t shift; // log2 of the size, below 0 where it is no power of two
};

// What stands in the workspace of the queries or the keys before attention begins. 0: not needed.
struct Prepared {
    uint64_t positions;          // float64 [batch][time], by prepare.cuh
    uint64_t turns, far_turns;   // pairs of float32 [batch][time][half]: cosines and sines, by prepare.cuh
    uint64_t turned, far_turned; // [batch][head][time][turned_dim], by rotate.cuh
};

// What is asked.
struct AttentionProblem {
    Array query, key, value;
    Array query_scale, key_bias;
    Sequences sequences;
    Pages pages;
    Prepared queries, keys;
    uint64_t distance_table, sink; // 0: none
    int64_t distance_stride, sink_stride;
    double border; // infinite: none
    double distance_minimum;
    int32_t query_heads, group, head_dim, value_dim;
    int32_t turned_dim;  // head_dim in whole pieces of 16 bytes
    int32_t keys_turned; // whether `key` is an array of turned keys, over (batch, head, time) also beside pages
    int32_t causal, window_left, window_right, keep_first; // a bound below 0: none
    int32_t half, interleaved, distance_length;
    float scale, softcap, softcap_inverse; // softcap 0: none
};

// How the work is cut, and read.
struct AttentionPlan {
    int32_t chunks_per_block, parts; // parts: blocks that share the columns of the values
    int32_t query_in_pieces, key_in_pieces, value_in_pieces; // aligned to 16 bytes, in whole pieces of 16 bytes
    int32_t tiles; // blocks along the rows of a key head, over all sequences
};

// Where results go.
struct AttentionResults {
    Array output, lse;
    uint64_t partial_values, partial_states; // in the workspace; 0: every block finishes its rows itself
};

struct AttentionParams {
    AttentionProblem problem;
    AttentionPlan plan;
    AttentionResults results;
};
