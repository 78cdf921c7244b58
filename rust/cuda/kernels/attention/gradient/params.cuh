// What the backward pass of attention looks like to its kernels. The structs are those of
// rust/cuda/src/attention/gradient/params.rs.
#pragma once

#include "attention/params.cuh"

// Which side of the border pairs are on: each side has its own rotation.
CONSTANT int NEAR = 0;
CONSTANT int FAR = 1;

// What a row's weights and slopes follow from. Written by known.cuh, [batch][head][time].
struct Known {
    float lse; // in units of log2 e
    float share; // dot(output gradient, output) - LSE gradient
};

struct KnownParams {
    AttentionProblem problem;
    Array output, output_gradient, lse, lse_gradient; // gradient of the LSE: pointer 0 for zero
    uint64_t known;
    uint64_t sinks; // float32 [batch][head][time]: what each row adds to the gradient of its sink; 0: not asked
};

// Sums of turned rows that turn back.
struct TurnParams {
    Sequences sequences;
    Prepared prepared;
    Array plain;     // the gradient
    Array turned[2]; // float32, near and far; pointer 0: no border
    int32_t of_queries, batch, heads, dim, half, interleaved;
};

// A walk: sums of one gradient over all that its lines meet.
struct GradientParams {
    AttentionProblem problem;
    Array query[2], key[2]; // turned, near and far; as they are where nothing turns
    Array output_gradient;
    uint64_t known;
    Array gradient;     // of the query, key or value; pointer 0: not asked, or
    Array sums[2];      // float32, still turned: near and far
    uint64_t numbers;   // float32 [side][batch][head][time]: gradient of query_scale or key_bias; 0: not asked
    int64_t numbers_side;
    uint64_t tables; // float32 [head][side][stripe][warp][column]: of the distance table; 0: not asked
    int32_t tiles, parts, stripes, sides; // tiles of lines for a head; blocks that share columns; blocks of a head
    int32_t heads_apart; // each query head by itself, also where heads share their keys
    int32_t query_in_pieces, key_in_pieces, value_in_pieces, output_gradient_in_pieces;
    int32_t padding;
};

// Numbers that become zeros.
struct ClearParams {
    uint64_t to; // float32
    int64_t count;
};

// Sums over some axes of a float32 array.
struct SumParams {
    uint64_t from, to;
    int64_t kept[3], kept_from[3], kept_to[3]; // sizes and strides of the axes that stay
    int64_t gone[4], gone_from[4];             // of those that are summed over
};
