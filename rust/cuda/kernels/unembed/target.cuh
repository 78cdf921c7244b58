// The logits of given tokens, before the pass that compares all others with them: a warp takes eight rows, each with
// the token that is its own. The chain over the columns is that of the pass, so the bits are.
#pragma once
#include "unembed/params.cuh"

CONSTANT int TARGET_THREADS = 128;
CONSTANT int ROWS_OF_WARP = 8;

// Two neighbouring numbers of a row, zeros behind its end.
DEVICE uint32_t load_pair(const uint16_t* row, int column, int dim)
{
    uint32_t low = row && column < dim ? row[column] : 0;
    uint32_t high = row && column + 1 < dim ? row[column + 1] : 0;
    return low | high << 16;
}

// Lane 4 i + j has pairs of row i; the diagonal of the products has each row with its own token, and lane 4 i + i / 2
// has it.
template <typename T>
DEVICE float dot(const char* weight, const char* hidden, int dim)
{
    if constexpr (sizeof(T) == 4) {
        float sum = 0.0f;
        for (int i = 0; weight && i < dim; ++i) {
            sum = fma(reinterpret_cast<const float*>(weight)[i], reinterpret_cast<const float*>(hidden)[i], sum);
        }
        return sum;
    } else {
        const uint16_t* w = reinterpret_cast<const uint16_t*>(weight);
        const uint16_t* h = reinterpret_cast<const uint16_t*>(hidden);
        float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        int pair = 2 * (lane() % 4);
        NO_UNROLL
        for (int start = 0; start < dim; start += 16) {
            int column = start + pair;
            uint32_t a[4] = {load_pair(w, column, dim), 0, load_pair(w, column + 8, dim), 0};
            mma_m16n8k16<T>(c, a, load_pair(h, column, dim), load_pair(h, column + 8, dim));
        }
        return lane() / 4 % 2 == 0 ? c[0] : c[1];
    }
}

template <typename T>
DEVICE void unembed_target(const UnembedParams& p)
{
    int row = (block_index(0) * (TARGET_THREADS / 32) + warp()) * ROWS_OF_WARP + lane() / 4;
    int64_t target = row < p.rows ? value(p.target, row) : -1;
    bool known = target >= 0 && target <= 0x7fffffff && exists(p, uint32_t(target));
    const char* weight = known ? p.weight.first + (target - p.first_token) * p.weight.stride : nullptr;
    const char* hidden = row < p.rows ? p.hidden.first + source_row(p, row) * p.hidden.stride : nullptr;
    float product = dot<T>(weight, hidden, p.dim);
    if (row < p.rows && lane() % 4 == lane() / 8) {
        p.target_out[row] = known ? logit_of(p, product, uint32_t(target)) : NOT_A_NUMBER;
    }
}
