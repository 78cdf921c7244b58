// Gradients as they are asked for, from the sums that other kernels leave.
#pragma once
#include "loss/params.cuh"

CONSTANT int STORE_THREADS = 256;

// A block for each row of the gradient of hidden.
template <typename T>
DEVICE void loss_store(const StoreParams& p)
{
    int row = block_index(0), place = p.place_of ? p.place_of[row] : row;
    bool some = p.sums && place >= 0;
    const float* sums = some ? p.sums + int64_t(place) * p.dim : nullptr;
    float scale = some ? 1.0f / p.slopes[place].scale : 0.0f;
    T* out = reinterpret_cast<T*>(p.out) + int64_t(row) * p.dim;
    for (int column = thread_index(); column < p.dim; column += STORE_THREADS) {
        out[column] = from_float<T>(some ? sums[column] * scale : 0.0f);
    }
}

// A thread for each token of a stretch: the sums of blocks of rows in their order.
DEVICE void loss_bias(const BiasParams& p)
{
    int token = block_index(0) * STORE_THREADS + thread_index();
    if (token >= p.written) return;
    int blocks = token < p.tokens ? (p.common->counted + p.block_rows - 1) / p.block_rows : 0;
    float sum = 0.0f;
    NO_UNROLL
    for (int i = 0; i < blocks; ++i) sum += p.sums[i * p.stride + token];
    p.out[token] = sum;
}
