// A tile of products: TOKENS weight rows by ROWS hidden rows, both read in slabs of 128 bytes a row through shared
// memory. An element is one chain over the columns in their order, in steps that do not depend on the tile, so it has
// the same bits in a tile of any width and at any place in it.
#pragma once
#include "unembed/params.cuh"

CONSTANT int SLAB_BYTES = 128;
CONSTANT int CHUNKS = SLAB_BYTES / 16;

// Where a chunk of 16 bytes of a slab's row lies: turned by the row, so that eight rows meet in no bank.
template <typename Bytes>
DEVICE Bytes* chunk_of(Bytes* slab, int row, int chunk)
{
    return slab + row * SLAB_BYTES + ((chunk ^ (row & 7)) * 16);
}

// Up to 16 bytes from column `column` on, one element at a time: for rows that begin anywhere, and for the last ones.
template <typename T>
DEVICE uint4 load_slowly(const char* row, int column, int dim)
{
    constexpr int per_word = 4 / sizeof(T);
    uint32_t words[4];
    UNROLL
    for (int i = 0; i < 4; ++i) {
        words[i] = 0;
        UNROLL
        for (int j = 0; j < per_word; ++j) {
            int at = column + i * per_word + j;
            if (at >= dim) continue;
            if constexpr (per_word == 1) {
                words[i] = reinterpret_cast<const uint32_t*>(row)[at];
            } else {
                words[i] |= uint32_t(reinterpret_cast<const uint16_t*>(row)[at]) << (16 * j);
            }
        }
    }
    return uint4{words[0], words[1], words[2], words[3]};
}

// Starts to copy the columns from `column` on of COUNT rows; `row_at` gives where a row begins, null for one of zeros.
template <typename T, int COUNT, typename RowAt>
DEVICE void copy_slab(char* slab, int column, int dim, bool aligned, const char* first, RowAt row_at)
{
    constexpr int per_chunk = 16 / sizeof(T);
    // A copy of nothing reads nowhere, but from an address that a copy may have.
    const char* nowhere = reinterpret_cast<const char*>(reinterpret_cast<uint64_t>(first) & ~uint64_t(15));
    for (int i = thread_index(); i < COUNT * CHUNKS; i += THREADS) {
        int start = column + i % CHUNKS * per_chunk;
        const char* row = row_at(i / CHUNKS);
        bool some = row && start < dim;
        char* to = chunk_of(slab, i / CHUNKS, i % CHUNKS);
        if (!some || (aligned && start + per_chunk <= dim)) {
            copy_async16(to, some ? row + int64_t(start) * sizeof(T) : nowhere, some);
        } else {
            store_shared(reinterpret_cast<uint4*>(to), load_slowly<T>(row, start, dim));
        }
    }
}

// The same of whole slabs of rows that all exist and begin at multiples of 16 bytes: a thread copies the same chunk of
// every STEP-th row, and knows where from the first slab on.
template <int COUNT> struct WholeSlabs {
    static constexpr int STEP = THREADS / CHUNKS;
    const char* first; // of the thread, in the first slab
    int64_t stride;

    METHOD WholeSlabs(const char* rows, int64_t stride)
        : first(rows + thread_index() / CHUNKS * stride + thread_index() % CHUNKS * 16), stride(stride)
    {
    }

    METHOD void copy(char* slab, int index) const
    {
        char* to = chunk_of(slab, thread_index() / CHUNKS, thread_index() % CHUNKS);
        const char* from = first + index * SLAB_BYTES;
        UNROLL
        for (int row = 0; row < COUNT; row += STEP) {
            if (COUNT % STEP == 0 || thread_index() / CHUNKS + row < COUNT) copy_async16(to, from, true);
            to += STEP * SLAB_BYTES;
            from += STEP * stride;
        }
    }
};

// How the warps of a block share a tile: 16 tokens by 8 rows is the unit of an accumulator.
template <int ROWS>
struct Share {
    static constexpr int across = ROWS >= 64 ? ROWS / 32 : 1;
    static constexpr int tokens = TOKENS / (WARPS / across);
    static constexpr int rows = ROWS / across;
    static constexpr int m = tokens / 16, n = rows / 8;
    // Slabs in shared memory: one is multiplied, the others are on their way.
    static constexpr int stages = ROWS <= 8 ? 4 : 3;
};

// Of the lane's four numbers in an accumulator: tokens lane / 4 and 8 later, rows 2 (lane % 4) and the next.
template <int ROWS>
struct Products {
    float at[Share<ROWS>::m][Share<ROWS>::n][4];
};

template <int ROWS>
DEVICE int first_token_of_warp()
{
    return warp() / Share<ROWS>::across * Share<ROWS>::tokens;
}

template <int ROWS>
DEVICE int first_row_of_warp()
{
    return warp() % Share<ROWS>::across * Share<ROWS>::rows;
}

// bfloat16 and float16, on tensor cores: 16 columns a step.
template <typename T, int ROWS>
DEVICE void multiply_halves(Products<ROWS>& products, const char* weight, const char* hidden)
{
    constexpr int m = Share<ROWS>::m, n = Share<ROWS>::n;
    NO_UNROLL
    for (int chunk = 0; chunk < CHUNKS; chunk += 4) {
        uint32_t b[n][4];
        UNROLL
        for (int j = 0; j < n; ++j) {
            ldmatrix_x4(b[j], chunk_of(hidden, first_row_of_warp<ROWS>() + 8 * j + lane() % 8, chunk + lane() / 8));
        }
        UNROLL
        for (int i = 0; i < m; ++i) {
            UNROLL
            for (int step = 0; step < 2; ++step) {
                uint32_t a[4];
                int token = first_token_of_warp<ROWS>() + 16 * i + lane() % 16;
                ldmatrix_x4(a, chunk_of(weight, token, chunk + 2 * step + lane() / 16));
                UNROLL
                for (int j = 0; j < n; ++j) {
                    mma_m16n8k16<T>(products.at[i][j], a, b[j][2 * step], b[j][2 * step + 1]);
                }
            }
        }
    }
}

DEVICE float element(const uint4& four, int i)
{
    return from_bits(i == 0 ? four.x : i == 1 ? four.y : i == 2 ? four.z : four.w);
}

DEVICE uint4 load_chunk(const char* slab, int row, int chunk)
{
    return load_shared(reinterpret_cast<const uint4*>(chunk_of(slab, row, chunk)));
}

// float32, by fused multiply-adds.
template <int ROWS>
DEVICE void multiply_floats(Products<ROWS>& products, const char* weight, const char* hidden)
{
    constexpr int m = Share<ROWS>::m, n = Share<ROWS>::n;
    NO_UNROLL
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
        uint4 b[n][2];
        UNROLL
        for (int j = 0; j < 2 * n; ++j) {
            int row = first_row_of_warp<ROWS>() + 8 * (j / 2) + 2 * (lane() % 4) + j % 2;
            b[j / 2][j % 2] = load_chunk(hidden, row, chunk);
        }
        UNROLL
        for (int i = 0; i < m; ++i) {
            UNROLL
            for (int half = 0; half < 2; ++half) {
                int token = first_token_of_warp<ROWS>() + 16 * i + 8 * half + lane() / 4;
                uint4 a = load_chunk(weight, token, chunk);
                UNROLL
                for (int column = 0; column < 4; ++column) {
                    UNROLL
                    for (int j = 0; j < 2 * n; ++j) {
                        float& sum = products.at[i][j / 2][2 * half + j % 2];
                        sum = fma(element(a, column), element(b[j / 2][j % 2], column), sum);
                    }
                }
            }
        }
    }
}

template <typename T, int ROWS>
DEVICE void multiply(Products<ROWS>& products, const char* weight, const char* hidden)
{
    if constexpr (sizeof(T) == 4) {
        multiply_floats<ROWS>(products, weight, hidden);
    } else {
        multiply_halves<T, ROWS>(products, weight, hidden);
    }
}

// A row of products in shared memory: the four tokens by four rows that a store of a warp touches lie in 32 banks.
CONSTANT int PITCH = TOKENS + 4;

template <int ROWS>
DEVICE void store_products(const Products<ROWS>& products, float* logits)
{
    UNROLL
    for (int i = 0; i < Share<ROWS>::m; ++i) {
        UNROLL
        for (int j = 0; j < Share<ROWS>::n; ++j) {
            UNROLL
            for (int k = 0; k < 4; ++k) {
                int token = first_token_of_warp<ROWS>() + 16 * i + 8 * (k / 2) + lane() / 4;
                int row = first_row_of_warp<ROWS>() + 8 * j + 2 * (lane() % 4) + k % 2;
                store_shared(logits + row * PITCH + token, products.at[i][j][k]);
            }
        }
    }
}

// The products of a tile with the rows from `first_row` on, left at `logits`: [ROWS][PITCH], where the slabs were.
template <typename T, int ROWS>
DEVICE void tile_products(const UnembedParams& p, uint32_t tile_start, int first_row, float* logits)
{
    constexpr int columns = SLAB_BYTES / sizeof(T), stages = Share<ROWS>::stages;
    constexpr int stage_bytes = (TOKENS + ROWS) * SLAB_BYTES;
    char* memory = shared_memory();
    int slabs = (p.dim + columns - 1) / columns;
    auto weight_row = [&](int i) {
        uint32_t token = tile_start + i;
        return exists(p, token) ? p.weight.first + int64_t(token - p.first_token) * p.weight.stride : nullptr;
    };
    auto hidden_row = [&](int i) {
        int row = first_row + i;
        return row < p.rows ? p.hidden.first + source_row(p, row) * p.hidden.stride : nullptr;
    };
    bool weight_aligned = p.flags & WEIGHT_ALIGNED, hidden_aligned = p.flags & HIDDEN_ALIGNED;
    bool every_token = weight_aligned && exists(p, tile_start) && exists(p, tile_start + TOKENS - 1);
    bool every_row = hidden_aligned && p.row_map == nullptr && p.repeat == 1 && first_row + ROWS <= p.rows;
    const WholeSlabs<TOKENS> weights(p.weight.first + int64_t(int(tile_start - p.first_token)) * p.weight.stride,
                                     p.weight.stride);
    const WholeSlabs<ROWS> hiddens(p.hidden.first + int64_t(p.first_row + first_row) * p.hidden.stride,
                                   p.hidden.stride);
    int whole_slabs = p.dim / columns, next_stage = 0;
    auto copy = [&](int slab) {
        if (slab < slabs) {
            char* stage = memory + next_stage * stage_bytes;
            if (every_token && slab < whole_slabs) weights.copy(stage, slab);
            else copy_slab<T, TOKENS>(stage, slab * columns, p.dim, weight_aligned, p.weight.first, weight_row);
            stage += TOKENS * SLAB_BYTES;
            if (every_row && slab < whole_slabs) hiddens.copy(stage, slab);
            else copy_slab<T, ROWS>(stage, slab * columns, p.dim, hidden_aligned, p.hidden.first, hidden_row);
        }
        next_stage = next_stage + 1 == stages ? 0 : next_stage + 1;
        copy_commit();
    };

    Products<ROWS> products = {};
    for (int slab = 0; slab < stages - 1; ++slab) copy(slab);
    int this_stage = 0;
    NO_UNROLL
    for (int slab = 0; slab < slabs; ++slab) {
        copy_wait<stages - 2>();
        barrier();
        // The stage that the barrier has shown to be read by all.
        copy(slab + stages - 1);
        const char* stage = memory + this_stage * stage_bytes;
        this_stage = this_stage + 1 == stages ? 0 : this_stage + 1;
        multiply<T, ROWS>(products, stage, stage + TOKENS * SLAB_BYTES);
    }
    copy_wait<0>();
    barrier();
    store_products<ROWS>(products, logits);
    barrier();
}
