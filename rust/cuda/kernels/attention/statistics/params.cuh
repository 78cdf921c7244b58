// What the statistics of attention's weights are asked for. The structs are those of
// rust/cuda/src/attention/statistics/params.rs.
#pragma once

#include "attention/params.cuh"

// Where results go: float32, a number for each row.
struct StatisticsResults {
    Array lse, entropy, largest, first, sink, distance;
    uint64_t partial_moments, partial_states; // in the workspace; 0: every block finishes its rows itself
};

struct StatisticsParams {
    AttentionProblem problem; // the keys stand in for values, which nobody reads
    AttentionPlan plan;
    StatisticsResults results;
};
