// Statistics of rows whose chunks were shared out among blocks: their sums are merged in the order of the chunks, by
// the function that a block uses when it walks them itself.
#pragma once

#include "attention/members.cuh"
#include "attention/statistics/moments.cuh"

DEVICE void combine_statistics(const StatisticsParams& params)
{
    const AttentionProblem& p = params.problem;
    int64_t rows = row_count(p);
    auto [index, batch, head, time] = row_of_warp(p.query_heads, p.sequences.query_time);
    if (index >= rows) return;
    Member member = member_at(p.sequences, true, batch, time);
    if (!member.exists) return;

    Seen row = first_seen(sink_of(p, head));
    Visible visible = visible_to(p, member.sequence, member.inside);
    int chunks = (member.sequence.keys + CHUNK - 1) / CHUNK;
    NO_UNROLL
    for (int first = next_chunk(visible, 0, chunks); first < chunks; first = next_chunk(visible, first + 32, chunks)) {
        int chunk = first + lane(); // each lane reads one
        bool some = chunk < chunks && meets(visible, chunk);
        State state{};
        Moments moments{};
        if (some) {
            state = reinterpret_cast<const State*>(params.results.partial_states)[chunk * rows + index];
            moments = reinterpret_cast<const Moments*>(params.results.partial_moments)[chunk * rows + index];
        }
        NO_UNROLL
        for (uint32_t left = ballot(some); left != 0; left &= left - 1) {
            int from = count_bits((left & (0u - left)) - 1);
            take_chunk(row, State{shuffle(state.maximum, from), shuffle(state.sum, from)},
                       Moments{shuffle(moments.spread, from), shuffle(moments.distance, from),
                               shuffle(moments.first, from)});
        }
    }
    if (lane() == 0) store_statistics(params, batch, head, time, row);
}
