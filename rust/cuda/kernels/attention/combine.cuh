// Rows whose chunks were shared out among blocks: their partial results are merged in the order of the chunks, by the
// function that a block uses when it walks them itself.
#pragma once

#include "attention/merge.cuh"

CONSTANT int COMBINE_ROWS = 4; // a warp for each

// Columns of a lane are 32 apart; DIM is the value dimension, rounded up.
template <typename T, int DIM> DEVICE void attention_combine(const AttentionParams& params)
{
    const AttentionProblem& p = params.problem;
    const AttentionResults& results = params.results;
    int64_t rows = row_count(p);
    int64_t index = int64_t(block_index(0)) * COMBINE_ROWS + warp();
    if (index >= rows) return;
    int time = int(index % p.sequences.query_time), head = int(index / p.sequences.query_time % p.query_heads);
    int batch = int(index / p.sequences.query_time / p.query_heads);
    const Sequences& all = p.sequences;
    int of = all.query_offsets == 0
                 ? batch
                 : sequence_at(all.query_offsets, all.query_offsets_kind, all.count, all.query_time, time);
    Sequence sequence = sequence_of(all, of);
    int query = time - sequence.query_start;
    if (query < 0 || query >= sequence.queries) return;

    float sink = sink_of(p, head);
    State state = first_state(sink);
    Visible visible = visible_to(p, sequence, query);
    float output[DIM / 32] = {};
    int chunks = (sequence.keys + CHUNK - 1) / CHUNK;
    UNROLL_BY(4)
    for (int chunk = next_chunk(visible, 0, chunks); chunk < chunks; chunk = next_chunk(visible, chunk + 1, chunks)) {
        int64_t row = chunk * rows + index;
        Factors factors = merge(state, reinterpret_cast<const State*>(results.partial_states)[row]);
        const float* values = reinterpret_cast<const float*>(results.partial_values) + row * p.value_dim;
        UNROLL
        for (int i = 0; i < DIM / 32; ++i) {
            int column = 32 * i + lane();
            float value = column < p.value_dim ? values[column] : 0.0f;
            output[i] = fma(output[i], factors.before, value * factors.chunk);
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
