// Sums over many rows: in float64, in one order.
#pragma once

#include "attention/gradient/params.cuh"

CONSTANT int SUM_THREADS = 256;
CONSTANT int SUM_ALONE = 64; // terms that one thread adds up by itself

// What no walk writes, because it is of no row or key that exists, counts nothing.
DEVICE void clear_numbers(const ClearParams& p)
{
    int64_t index = int64_t(block_index(0)) * SUM_THREADS + thread_index();
    if (index < p.count) reinterpret_cast<float*>(p.to)[index] = 0.0f;
}

// A block for each sum, or a thread where there are few terms.
DEVICE void sum_over_rows(const SumParams& p)
{
    int64_t terms = p.gone[0] * p.gone[1] * p.gone[2] * p.gone[3];
    bool alone = terms <= SUM_ALONE;
    int64_t index = alone ? int64_t(block_index(0)) * SUM_THREADS + thread_index() : block_index(0);
    if (index >= p.kept[0] * p.kept[1] * p.kept[2]) return;
    int64_t last = index % p.kept[2], middle = index / p.kept[2] % p.kept[1], first = index / p.kept[2] / p.kept[1];
    const float* from = reinterpret_cast<const float*>(p.from) + first * p.kept_from[0] + middle * p.kept_from[1] +
                        last * p.kept_from[2];
    double sum = 0.0;
    NO_UNROLL
    for (int64_t term = alone ? 0 : thread_index(); term < terms; term += alone ? 1 : SUM_THREADS) {
        int64_t rest = term, at = 0;
        UNROLL
        for (int axis = 3; axis >= 0; --axis) {
            at += rest % p.gone[axis] * p.gone_from[axis];
            rest /= p.gone[axis];
        }
        sum += from[at];
    }
    float* to = reinterpret_cast<float*>(p.to) + first * p.kept_to[0] + middle * p.kept_to[1] + last * p.kept_to[2];
    if (alone) {
        *to = float(sum);
        return;
    }
    auto* sums = reinterpret_cast<double*>(shared_memory());
    store_shared(sums + thread_index(), sum);
    barrier();
    UNROLL
    for (int step = SUM_THREADS / 2; step > 0; step /= 2) {
        if (thread_index() < step) {
            sum += load_shared(sums + thread_index() + step);
            store_shared(sums + thread_index(), sum);
        }
        barrier();
    }
    if (thread_index() == 0) *to = float(sum);
}
