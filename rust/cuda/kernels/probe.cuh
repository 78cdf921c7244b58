// One product of tensor cores, as bare as it gets. That the bits of a row do not depend on its place in the tile is
// what "the same row in prefill and in decode" rests on; this kernel shows it on the GPU at hand.
#pragma once
#include "ptx.cuh"

// Row-major tiles of pairs of 16-bit numbers, one tile a block: a is 16 x 16; b is 8 x 16, its transpose; c is 16 x 8.
struct ProbeParams {
    const uint32_t* a;
    const uint32_t* b;
    float* c;
};

template <typename T> DEVICE void probe(const ProbeParams& params)
{
    const int row = lane() / 4, pair = lane() % 4;
    const uint32_t* a = params.a + block_index(0) * 128;
    const uint32_t* b = params.b + block_index(0) * 64;
    float* c = params.c + block_index(0) * 128;
    const uint32_t rows[4] = {a[row * 8 + pair], a[row * 8 + 64 + pair], a[row * 8 + pair + 4], a[row * 8 + 68 + pair]};
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    mma_m16n8k16<T>(sums, rows, b[row * 8 + pair], b[row * 8 + pair + 4]);
    c[row * 8 + 2 * pair] = sums[0];
    c[row * 8 + 2 * pair + 1] = sums[1];
    c[row * 8 + 64 + 2 * pair] = sums[2];
    c[row * 8 + 64 + 2 * pair + 1] = sums[3];
}
