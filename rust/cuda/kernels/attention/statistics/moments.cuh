// What a row's weights say about themselves: sums over one chunk of keys after the other, merged as the softmax is.
// Blocks that walk their keys and the kernel that combines partial results share these functions, and so the bits of a
// row.
#pragma once

#include "attention/merge.cuh"
#include "attention/statistics/params.cuh"

// Sums over keys, beside those of a State, under its maximum. Scores are in units of log2 e.
struct Moments {
    float spread;   // weight times how far the score lies below the maximum: no term is negative
    float distance; // weight times the order of the query less that of the key
    float first;    // the score of the sequence's first key
};

// What a row has seen.
struct Seen {
    State state; // the sink among the keys
    Moments moments;
    float largest; // score of a key
};

// A row that has seen its sink only.
DEVICE Seen first_seen(float sink) { return Seen{first_state(sink), Moments{0.0f, 0.0f, -INFINITE}, -INFINITE}; }

// A spread as it is below another maximum.
DEVICE float raised(float spread, const State& state, float maximum)
{
    return state.maximum == -INFINITE ? spread : fma(maximum - state.maximum, state.sum, spread);
}

// A chunk of which the row sees nothing changes no bit.
DEVICE void take_chunk(Seen& row, const State& state, const Moments& moments)
{
    State before = row.state;
    Factors factors = merge(row.state, state);
    float maximum = row.state.maximum, spread = raised(moments.spread, state, maximum);
    Moments& sums = row.moments;
    sums.spread = fma(raised(sums.spread, before, maximum), factors.before, spread * factors.chunk);
    sums.distance = fma(sums.distance, factors.before, moments.distance * factors.chunk);
    sums.first = larger(sums.first, moments.first);
    row.largest = larger(row.largest, state.maximum);
}

// The statistics of a row that has seen all its keys.
DEVICE void store_statistics(const StatisticsParams& params, int batch, int head, int64_t time, const Seen& row)
{
    const StatisticsResults& results = params.results;
    float sink = sink_of(params.problem, head), ending = ending_of(row.state), sum = row.state.sum;
    float reference = reference_of(row.state.maximum);
    auto share = [&](float score) { return ex2(score - reference) * ending; };
    auto store = [&](const Array& array, float x) { rows_of<float>(array, batch, head)[time * array.time] = x; };
    store(results.lse, lse_of(row.state, sink));
    store(results.entropy, sum > 0.0f ? fma(row.moments.spread * ending, LN_2, logarithm(sum)) : sum);
    store(results.largest, share(row.largest));
    store(results.first, share(row.moments.first));
    store(results.sink, params.problem.sink == 0 ? 0.0f : share(sink * LOG2_E));
    // Adding zero takes the sign from a zero: that depends on chunks of which the row sees nothing.
    store(results.distance, row.moments.distance * ending + 0.0f);
}
