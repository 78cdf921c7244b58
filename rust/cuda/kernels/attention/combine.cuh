// Rows whose chunks were shared out among blocks: their partial results are merged in the order of the chunks, by the
// function that a block uses when it walks them itself.
#pragma once

#include "attention/members.cuh"
#include "attention/merge.cuh"

CONSTANT int COMBINE_AHEAD = 4; // chunks that are read before the first of them is merged

// Columns of a lane are 32 apart; DIM is the value dimension, rounded up.
template <typename T, int DIM> DEVICE void attention_combine(const AttentionParams& params)
{
    const AttentionProblem& p = params.problem;
    const AttentionResults& results = params.results;
    int64_t rows = row_count(p);
    auto [index, batch, head, time] = row_of_warp(p.query_heads, p.sequences.query_time);
    if (index >= rows) return;
    Member member = member_at(p.sequences, true, batch, time);
    if (!member.exists) return;

    float sink = sink_of(p, head);
    State state = first_state(sink);
    Visible visible = visible_to(p, member.sequence, member.inside);
    float output[DIM / 32] = {};
    int chunks = (member.sequence.keys + CHUNK - 1) / CHUNK;
    int next = next_chunk(visible, 0, chunks);
    NO_UNROLL
    while (next < chunks) {
        State of_chunk[COMBINE_AHEAD];
        float values[COMBINE_AHEAD][DIM / 32];
        bool some[COMBINE_AHEAD];
        UNROLL
        for (int ahead = 0; ahead < COMBINE_AHEAD; ++ahead) {
            some[ahead] = next < chunks;
            if (!some[ahead]) continue;
            int64_t row = next * rows + index;
            of_chunk[ahead] = reinterpret_cast<const State*>(results.partial_states)[row];
            const float* from = reinterpret_cast<const float*>(results.partial_values) + row * p.value_dim;
            UNROLL
            for (int i = 0; i < DIM / 32; ++i) {
                int column = 32 * i + lane();
                values[ahead][i] = column < p.value_dim ? from[column] : 0.0f;
            }
            next = next_chunk(visible, next + 1, chunks);
        }
        UNROLL
        for (int ahead = 0; ahead < COMBINE_AHEAD; ++ahead) {
            if (!some[ahead]) continue;
            Factors factors = merge(state, of_chunk[ahead]);
            UNROLL
            for (int i = 0; i < DIM / 32; ++i)
                output[i] = fma(output[i], factors.before, values[ahead][i] * factors.chunk);
        }
    }
    float ending = ending_of(state);
    T* to = rows_of<T>(results.output, batch, head) + time * results.output.time;
    UNROLL
    for (int i = 0; i < DIM / 32; ++i) {
        int column = 32 * i + lane();
        if (column < p.value_dim) to[column] = from_float<T>(output[i] * ending);
    }
    if (results.lse.pointer != 0 && lane() == 0)
        rows_of<float>(results.lse, batch, head)[time * results.lse.time] = lse_of(state, sink);
}
