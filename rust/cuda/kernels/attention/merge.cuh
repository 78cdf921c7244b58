// The softmax of a row: chunk after chunk, each under its own maximum. Blocks that walk their keys and the kernel that
// combines partial results share these functions, and so the bits of a row.
#pragma once

#include "attention/rows.cuh"

// Scores are in units of log2 e.
struct State {
    float maximum, sum;
};

// What the values before and those of a chunk are multiplied with.
struct Factors {
    float before, chunk;
};

// The state of a row that has seen its sink only. Without one, minus infinity.
DEVICE State first_state(float sink) { return State{sink * LOG2_E, sink == -INFINITE ? 0.0f : 1.0f}; }

DEVICE float sink_of(const AttentionProblem& p, int head)
{
    return p.sink == 0 ? -INFINITE : reinterpret_cast<const float*>(p.sink)[head * p.sink_stride];
}

// What weights of a chunk are relative to: its maximum, if it has one.
DEVICE float reference_of(float maximum) { return maximum == -INFINITE ? 0.0f : maximum; }

// A chunk of which the row sees nothing changes no bit: it adds a negative zero.
DEVICE Factors merge(State& state, const State& chunk)
{
    float top = larger(state.maximum, chunk.maximum);
    float reference = reference_of(top);
    Factors factors{ex2(state.maximum - reference),
                    chunk.maximum == -INFINITE ? -0.0f : ex2(chunk.maximum - reference)};
    state.sum = fma(state.sum, factors.before, chunk.sum * factors.chunk);
    state.maximum = top;
    return factors;
}

// The factor of a row's values at the end; 0 for a row that has seen nothing.
DEVICE float ending_of(const State& state) { return state.sum == 0.0f ? 0.0f : reciprocal(state.sum); }

DEVICE float lse_of(const State& state, float sink)
{
    if (state.sum == 0.0f) return -INFINITE;
    if (state.sum == 1.0f && state.maximum == sink * LOG2_E) return sink;
    return state.sum > 0.0f ? fma(state.maximum, LN_2, logarithm(state.sum)) : state.sum;
}

// Rows of the output.
DEVICE int64_t row_count(const AttentionProblem& p)
{
    int64_t batch = p.sequences.query_offsets != 0 ? 1 : p.sequences.count;
    return batch * p.query_heads * p.sequences.query_time;
}

// Where the partial results of a chunk of a row stand: [chunk][batch][head][time].
DEVICE int64_t partial_row(const AttentionProblem& p, const Sequence& sequence, int chunk, const Row& row)
{
    int64_t head = int64_t(sequence.batch) * p.query_heads + row.head;
    return chunk * row_count(p) + head * p.sequences.query_time + sequence.query_start + row.query;
}
