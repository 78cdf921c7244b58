// Sums over a block that works on one row.
#pragma once
#include "unembed/params.cuh"

// One word of shared memory for each warp, for the sums below; whatever else a kernel holds lies behind it.
CONSTANT int SUM_BYTES = 4 * WARPS;

// The sum over the block, the same in every thread.
DEVICE uint32_t block_sum(uint32_t x)
{
    uint32_t* sums = reinterpret_cast<uint32_t*>(shared_memory());
    x = warp_sum(x);
    if (lane() == 0) store_shared(sums + warp(), x);
    barrier();
    uint32_t sum = 0;
    UNROLL
    for (int i = 0; i < WARPS; ++i) sum += load_shared(sums + i);
    barrier();
    return sum;
}

// The sum over the threads before this one.
DEVICE uint32_t sum_before(uint32_t x)
{
    uint32_t* sums = reinterpret_cast<uint32_t*>(shared_memory());
    uint32_t before = x;
    UNROLL
    for (int step = 1; step < 32; step *= 2) {
        uint32_t other = shuffle(before, lane() - step < 0 ? lane() : lane() - step);
        before += lane() >= step ? other : 0;
    }
    if (lane() == 31) store_shared(sums + warp(), before);
    barrier();
    before -= x;
    UNROLL
    for (int i = 0; i < WARPS; ++i) before += i < warp() ? load_shared(sums + i) : 0;
    barrier();
    return before;
}
