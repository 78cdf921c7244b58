// The statistics of attention's weights, from the walk that attention takes, without values. An LSE has the bits of
// attention's.
#pragma once

#include "attention/block.cuh"
#include "attention/statistics/moments.cuh"

template <typename T, int DIM, int WARPS, bool HOOKS> struct Statistics : RowBlock<T, DIM, WARPS, HOOKS, 0> {
    using Block = RowBlock<T, DIM, WARPS, HOOKS, 0>;
    using typename Block::Tiles;
    using Block::p, Block::sequence;

    const StatisticsParams& params;

    METHOD void run()
    {
        if (!this->locate()) return;
        RowView views[2] = {this->view(0), this->view(1)};
        Seen seen[2] = {first_seen(sink_of(p, views[0].row.head)), first_seen(sink_of(p, views[1].row.head))};
        bool partial = params.results.partial_states != 0;
        Source<T> from = this->source(0, p.value_dim);
        this->walk(from, views, [&](Tiles&, int chunk, bool met, bool, Scores& scores) {
            if (!met) return;
            UNROLL
            for (int half = 0; half < 2; ++half) {
                const Row& row = views[half].row;
                Moments moments{};
                State state = observe(scores, half, chunk, row, moments);
                if (!partial) take_chunk(seen[half], state, moments);
                else if (is_writer(half)) store_partial(chunk, row, state, moments);
            }
        });
        if (partial) return;
        UNROLL
        for (int half = 0; half < 2; ++half) {
            const Row& row = views[half].row;
            int64_t time = sequence.query_start + row.query;
            if (is_writer(half)) store_statistics(params, sequence.batch, row.head, time, seen[half]);
        }
    }

private:
    // Four lanes share a row. The first of them has the score of the first key.
    METHOD bool is_writer(int half) const { return this->is_asked(half) && lane() % 4 == 0; }

    METHOD State observe(Scores& scores, int half, int chunk, const Row& row, Moments& moments) const
    {
        float gap = float(query_order(sequence, row.query) - chunk * CHUNK);
        float first = chunk == 0 ? scores[0][2 * half] : -INFINITE, spread = 0.0f, distance = 0.0f;
        State state = weigh(scores, half, [&](float below, float weight, int place) {
            spread -= below == -INFINITE ? 0.0f : weight * below;
            distance = fma(weight, gap - float(place), distance);
        });
        moments = Moments{summed(spread), summed(distance), first};
        return state;
    }

    METHOD void store_partial(int chunk, const Row& row, const State& state, const Moments& moments) const
    {
        int64_t place = partial_row(p, sequence, chunk, Row{anew(row.query), anew(row.head)});
        reinterpret_cast<State*>(params.results.partial_states)[place] = state;
        reinterpret_cast<Moments*>(params.results.partial_moments)[place] = moments;
    }
};

template <typename T, int DIM, int WARPS, bool HOOKS> DEVICE void attention_statistics(const StatisticsParams& params)
{
    Statistics<T, DIM, WARPS, HOOKS>{{params.problem, params.plan}, params}.run();
}
