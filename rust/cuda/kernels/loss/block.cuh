// Sums over the block of a kernel that one block runs: each thread its own entries in order, then one tree.
#pragma once
#include "loss/params.cuh"
#include "unembed/block.cuh"

CONSTANT int DOUBLES_BYTES = 8 * WARPS;

template <typename V>
DEVICE V warp_total(V x)
{
    UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) x += shuffle_xor(x, mask);
    return x;
}

// Behind the words of the block's other sums; the same in every thread.
DEVICE double block_total(double x)
{
    double* sums = reinterpret_cast<double*>(shared_memory() + SUM_BYTES);
    x = warp_total(x);
    if (lane() == 0) store_shared(sums + warp(), x);
    barrier();
    double sum = 0.0;
    UNROLL
    for (int i = 0; i < WARPS; ++i) sum += load_shared(sums + i);
    barrier();
    return sum;
}

// The largest number that is one; 0 of none.
DEVICE float block_largest(float x)
{
    float* numbers = reinterpret_cast<float*>(shared_memory() + SUM_BYTES);
    UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) x = larger(x, shuffle_xor(x, mask));
    if (lane() == 0) store_shared(numbers + warp(), x);
    barrier();
    float found = 0.0f;
    UNROLL
    for (int i = 0; i < WARPS; ++i) found = larger(found, load_shared(numbers + i));
    barrier();
    return found;
}
