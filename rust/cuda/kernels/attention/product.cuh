// The two products of a warp's 16 rows with a chunk of keys. A lane holds of every 16 x 8 result the elements
// (g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1), g = lane / 4, t = 2 (lane % 4): tensor cores want it so, and float32
// without tensor cores follows them, so that all that lies between the products is written once.
#pragma once

#include "attention/tile.cuh"

CONSTANT int WARP_ROWS = 16;
CONSTANT int KEY_TILES = CHUNK / 8;

// Scores of a chunk, or the weights that become of them.
using Scores = float[KEY_TILES][4];

// A copy that a loop may index: where `from` lives in registers, `to` will live on the stack.
template <int N> DEVICE void copy(float (&to)[N][4], const float (&from)[N][4])
{
    UNROLL
    for (int tile = 0; tile < N; ++tile) {
        UNROLL
        for (int i = 0; i < 4; ++i) to[tile][i] = from[tile][i];
    }
}

// ------------------------------------------------------------------------------------------------ bfloat16 and float16

template <typename T> struct Product {
    static constexpr int SCRATCH = 0; // bytes of shared memory for each warp

    // Weights in the layout of a left operand.
    struct Weights {
        uint32_t a[CHUNK / 16][4];
    };

    // scores += query keys^T over a panel.
    template <int WIDTH> DEVICE void add_scores(Scores& scores, const char* query, const char* keys)
    {
        int i = anew(lane());
        query += place<WIDTH>(i % 16, i / 16);
        keys += place<WIDTH>(i / 16 * 8 + i % 8, i / 8 % 2);
        UNROLL
        for (int step = 0; step < WIDTH / 32; ++step) { // pieces 2 step and 2 step + 1
            uint32_t a[4];
            ldmatrix_x4(a, query, 32 * step);
            UNROLL
            for (int tile = 0; tile < KEY_TILES; tile += 2) {
                uint32_t b[4];
                ldmatrix_x4(b, keys, 32 * step, 8 * tile * WIDTH);
                mma_m16n8k16<T>(scores[tile], a, b[0], b[1]);
                mma_m16n8k16<T>(scores[tile + 1], a, b[2], b[3]);
            }
        }
    }

    DEVICE Weights weights_of(const Scores& p, char*)
    {
        Weights weights;
        UNROLL
        for (int tile = 0; tile < KEY_TILES; ++tile) {
            weights.a[tile / 2][tile % 2 * 2] = pack<T>(p[tile][0], p[tile][1]);
            weights.a[tile / 2][tile % 2 * 2 + 1] = pack<T>(p[tile][2], p[tile][3]);
        }
        return weights;
    }

    // sums = weights values, for sixteen columns of a panel.
    template <int WIDTH>
    DEVICE void sum_values(float (&sums)[2][4], const Weights& weights, const char* values, int pair)
    {
        int i = anew(lane());
        values += place<WIDTH>(i % 16, i / 16);
        UNROLL
        for (int step = 0; step < CHUNK / 16; ++step) {
            uint32_t b[4];
            ldmatrix_x4_transposed(b, values, 32 * pair, 16 * step * WIDTH);
            mma_m16n8k16<T>(sums[0], weights.a[step], b[0], b[1]);
            mma_m16n8k16<T>(sums[1], weights.a[step], b[2], b[3]);
        }
    }

    // The weights of a key in rows g and g + 8, for all lanes of a warp at once.
    DEVICE float2 weights_at(const Weights& weights, int key)
    {
        int from = lane() / 4 * 4 + key % 8 / 2, shift = key % 2 * 16, of = key / 8 % 2 * 2;
        uint32_t upper = shuffle(weights.a[key / 16][of], from), lower = shuffle(weights.a[key / 16][of + 1], from);
        return float2{to_float(T{uint16_t(upper >> shift)}), to_float(T{uint16_t(lower >> shift)})};
    }
};

// ------------------------------------------------------------------------------------------------------------- float32

template <> struct Product<float> {
    static constexpr int SCRATCH_WIDTH = CHUNK * 4;
    static constexpr int SCRATCH = WARP_ROWS * SCRATCH_WIDTH;

    // Weights pass through the scratch of the warp.
    struct Weights {
        const char* scratch;
    };

    DEVICE float4 four(const char* tile) { return load_shared(reinterpret_cast<const float4*>(tile)); }

    DEVICE float dot(const float4& a, const float4& b, float c)
    {
        return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, c))));
    }

    template <int WIDTH> DEVICE void add_scores(Scores& scores, const char* query, const char* keys)
    {
        int g = lane() / 4, t = lane() % 4 * 2;
        NO_UNROLL
        for (int piece = 0; piece < WIDTH / 16; ++piece) {
            float4 upper = four(query + place<WIDTH>(g, piece)), lower = four(query + place<WIDTH>(g + 8, piece));
            UNROLL
            for (int tile = 0; tile < KEY_TILES; ++tile) {
                UNROLL
                for (int i = 0; i < 2; ++i) {
                    float4 key = four(keys + place<WIDTH>(8 * tile + t + i, piece));
                    scores[tile][i] = dot(upper, key, scores[tile][i]);
                    scores[tile][2 + i] = dot(lower, key, scores[tile][2 + i]);
                }
            }
        }
    }

    DEVICE Weights weights_of(const Scores& p, char* scratch)
    {
        int g = lane() / 4, t = lane() % 4 * 2;
        UNROLL
        for (int tile = 0; tile < KEY_TILES; ++tile) {
            UNROLL
            for (int i = 0; i < 2; ++i) {
                int at = place<SCRATCH_WIDTH>(g + 8 * i, 2 * tile + t / 4) + t % 4 * 4;
                store_shared(reinterpret_cast<float2*>(scratch + at), float2{p[tile][2 * i], p[tile][2 * i + 1]});
            }
        }
        return Weights{scratch};
    }

    template <int WIDTH>
    DEVICE void sum_values(float (&sums)[2][4], const Weights& weights, const char* values, int pair)
    {
        int g = lane() / 4, t = lane() % 4 * 2;
        NO_UNROLL
        for (int piece = 0; piece < CHUNK / 4; ++piece) {
            float4 upper = four(weights.scratch + place<SCRATCH_WIDTH>(g, piece));
            float4 lower = four(weights.scratch + place<SCRATCH_WIDTH>(g + 8, piece));
            float rows[2][4] = {{upper.x, upper.y, upper.z, upper.w}, {lower.x, lower.y, lower.z, lower.w}};
            UNROLL
            for (int key = 0; key < 4; ++key) {
                UNROLL
                for (int half = 0; half < 2; ++half) {
                    int at = place<WIDTH>(4 * piece + key, 4 * pair + 2 * half + t / 4) + t % 4 * 4;
                    float2 value = load_shared(reinterpret_cast<const float2*>(values + at));
                    UNROLL
                    for (int i = 0; i < 2; ++i) {
                        sums[half][2 * i] = fma(rows[i][key], value.x, sums[half][2 * i]);
                        sums[half][2 * i + 1] = fma(rows[i][key], value.y, sums[half][2 * i + 1]);
                    }
                }
            }
        }
    }

    DEVICE float2 weights_at(const Weights& weights, int key)
    {
        auto at = [&](int row) {
            return load_shared(reinterpret_cast<const float*>(weights.scratch + place<SCRATCH_WIDTH>(row, key / 4)) +
                               key % 4);
        };
        return float2{at(lane() / 4), at(lane() / 4 + 8)};
    }
};
