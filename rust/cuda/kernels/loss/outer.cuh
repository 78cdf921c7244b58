// The two products of a gradient, over the slopes of a stretch: slopes times weight adds to the gradient of hidden, and
// slopes transposed times hidden is the gradient of weight. Both are sums over blocks of SUMMED slabs, in their order,
// each of which is a chain of its own.
#pragma once
#include "loss/params.cuh"
#include "unembed/product.cuh"

CONSTANT int OUTER_THREADS = 128;
// The result's tile of a block, and of each of its four warps.
CONSTANT int HEIGHT = 128;
CONSTANT int BREADTH = 64;
CONSTANT int WARP_HEIGHT = 64;
CONSTANT int WARP_BREADTH = 32;
CONSTANT int OUTER_STAGES = 3;
// Slabs whose products are added up before they are added to the rest.
CONSTANT int SUMMED = 16;

// Where a piece of 16 bytes of a row lies: turned by the row, so that eight rows meet in no bank.
template <int WIDTH>
DEVICE int piece_at(int row, int piece)
{
    return row * WIDTH + (piece ^ (row & 7)) * 16;
}

// A slab of 128 bytes of slopes a row and, for the gradient of weight, of as many rows; the other operand has a row for
// each of its columns, or rows.
template <typename T, bool OF_WEIGHT> struct Slab {
    static constexpr int DEPTH = SLAB_BYTES / int(sizeof(T));
    static constexpr int IN_PIECE = 16 / int(sizeof(T));
    static constexpr int SLOPE_ROWS = OF_WEIGHT ? DEPTH : HEIGHT;
    static constexpr int SLOPE_WIDTH = OF_WEIGHT ? HEIGHT * int(sizeof(T)) : SLAB_BYTES;
    static constexpr int OTHER_WIDTH = BREADTH * int(sizeof(T));
    static constexpr int SLOPE_BYTES = SLOPE_ROWS * SLOPE_WIDTH;
    static constexpr int BYTES = SLOPE_BYTES + DEPTH * OTHER_WIDTH;
};

// A lane's numbers of a warp's part, in the order of `mma_m16n8k16`.
using Outer = float[WARP_HEIGHT / 16][WARP_BREADTH / 8][4];

// What a block works on. `deep` is how many rows, or tokens, are summed over.
struct OuterPlace {
    int high, broad, deep; // the first row or token of the result, its first column
    int counted;
};

template <typename T, bool OF_WEIGHT>
DEVICE void copy_slopes(const OuterParams& p, const OuterPlace& at, char* slab, int first)
{
    using S = Slab<T, OF_WEIGHT>;
    constexpr int pieces = S::SLOPE_WIDTH / 16, step = OUTER_THREADS / pieces;
    int piece = thread_index() % pieces;
    UNROLL_BY(4)
    for (int i = thread_index() / pieces; i < S::SLOPE_ROWS; i += step) {
        int row = (OF_WEIGHT ? first : at.high) + i, column = (OF_WEIGHT ? at.high : first) + piece * S::IN_PIECE;
        bool valid = row < at.counted;
        const char* from = valid ? p.slopes + (row * p.stride + column) * int64_t(sizeof(T)) : p.slopes;
        copy_async16(slab + piece_at<S::SLOPE_WIDTH>(i, piece), from, valid);
    }
}

// The row of the other operand that a row of the slab is; null for one that has no influence.
template <bool OF_WEIGHT>
DEVICE const char* other_row(const OuterParams& p, const OuterPlace& at, int row)
{
    if (row >= at.deep) return nullptr;
    if constexpr (OF_WEIGHT) {
        int of_call = p.row_map ? mapped_row(p.row_map, row, p.hidden_rows) : row;
        return p.other.first + of_call * p.other.stride;
    } else {
        if (p.bias && p.bias[row] == NOTHING) return nullptr;
        return p.other.first + row * p.other.stride;
    }
}

template <typename T, bool OF_WEIGHT>
DEVICE void copy_other(const OuterParams& p, const OuterPlace& at, char* slab, int first)
{
    using S = Slab<T, OF_WEIGHT>;
    constexpr int pieces = S::OTHER_WIDTH / 16, step = OUTER_THREADS / pieces;
    int piece = thread_index() % pieces, column = at.broad + piece * S::IN_PIECE;
    bool whole = (p.flags & OTHER_ALIGNED) && column + S::IN_PIECE <= p.dim;
    UNROLL_BY(4)
    for (int i = thread_index() / pieces; i < S::DEPTH; i += step) {
        char* to = slab + piece_at<S::OTHER_WIDTH>(i, piece);
        const char* row = column < p.dim ? other_row<OF_WEIGHT>(p, at, first + i) : nullptr;
        if (whole || row == nullptr) {
            copy_async16(to, row ? row + column * int64_t(sizeof(T)) : p.slopes, row != nullptr);
        } else {
            store_shared(reinterpret_cast<uint4*>(to), load_slowly<T>(row, column, p.dim));
        }
    }
}

// bfloat16 and float16, on tensor cores.
template <typename T, bool OF_WEIGHT>
DEVICE void multiply_outer_halves(Outer& sums, const char* slopes, const char* other)
{
    using S = Slab<T, OF_WEIGHT>;
    int high = warp() / 2 * WARP_HEIGHT, broad = warp() % 2 * WARP_BREADTH, i = lane();
    NO_UNROLL
    for (int k = 0; k < S::DEPTH; k += 16) {
        uint32_t b[WARP_BREADTH / 16][4];
        UNROLL
        for (int n = 0; n < WARP_BREADTH / 16; ++n) {
            int piece = broad / 8 + 2 * n + i / 16;
            ldmatrix_x4_transposed(b[n], other + piece_at<S::OTHER_WIDTH>(k + i % 16, piece));
        }
        UNROLL
        for (int m = 0; m < WARP_HEIGHT / 16; ++m) {
            uint32_t a[4];
            if constexpr (OF_WEIGHT) {
                int piece = high / 8 + 2 * m + i / 8 % 2;
                ldmatrix_x4_transposed(a, slopes + piece_at<S::SLOPE_WIDTH>(k + i % 8 + i / 16 * 8, piece));
            } else {
                ldmatrix_x4(a, slopes + piece_at<S::SLOPE_WIDTH>(high + 16 * m + i % 16, k / 8 + i / 16));
            }
            UNROLL
            for (int n = 0; n < WARP_BREADTH / 8; ++n) {
                mma_m16n8k16<T>(sums[m][n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
            }
        }
    }
}

DEVICE float number_at(const char* slab, int at) { return load_shared(reinterpret_cast<const float*>(slab + at)); }

// A column of slopes, or for the gradient of weight a row: the lane's eight numbers.
template <bool OF_WEIGHT>
DEVICE void slopes_at(float (&a)[WARP_HEIGHT / 8], const char* slopes, int k)
{
    using S = Slab<float, OF_WEIGHT>;
    int high = warp() / 2 * WARP_HEIGHT + lane() / 4;
    UNROLL
    for (int m = 0; m < WARP_HEIGHT / 8; ++m) {
        int place = high + 8 * m, row = OF_WEIGHT ? k : place, column = OF_WEIGHT ? place : k;
        a[m] = number_at(slopes, piece_at<S::SLOPE_WIDTH>(row, column / 4) + column % 4 * 4);
    }
}

// float32, by fused multiply-adds.
template <bool OF_WEIGHT>
DEVICE void multiply_outer_floats(Outer& sums, const char* slopes, const char* other)
{
    using S = Slab<float, OF_WEIGHT>;
    int broad = warp() % 2 * WARP_BREADTH + lane() % 4 * 2;
    NO_UNROLL
    for (int k = 0; k < S::DEPTH; ++k) {
        float a[WARP_HEIGHT / 8];
        slopes_at<OF_WEIGHT>(a, slopes, k);
        UNROLL
        for (int n = 0; n < WARP_BREADTH / 8; ++n) {
            int column = broad + 8 * n;
            const char* place = other + piece_at<S::OTHER_WIDTH>(k, column / 4) + column % 4 * 4;
            float2 b = load_shared(reinterpret_cast<const float2*>(place));
            UNROLL
            for (int m = 0; m < WARP_HEIGHT / 8; ++m) {
                float* c = sums[m / 2][n] + m % 2 * 2;
                c[0] = fma(a[m], b.x, c[0]);
                c[1] = fma(a[m], b.y, c[1]);
            }
        }
    }
}

// Calls `visit(row or token, column, number)` for each of the lane's numbers that lies within the result.
template <typename Visit>
DEVICE void for_each_number(Outer& numbers, const OuterPlace& at, int rows, int columns, Visit visit)
{
    int high = at.high + warp() / 2 * WARP_HEIGHT + lane() / 4;
    int broad = at.broad + warp() % 2 * WARP_BREADTH + lane() % 4 * 2;
    UNROLL
    for (int m = 0; m < WARP_HEIGHT / 16; ++m) {
        UNROLL
        for (int n = 0; n < WARP_BREADTH / 8; ++n) {
            UNROLL
            for (int i = 0; i < 4; ++i) {
                int row = high + 16 * m + i / 2 * 8, column = broad + 8 * n + i % 2;
                if (row < rows && column < columns) visit(row, column, numbers[m][n][i]);
            }
        }
    }
}

// total += sums; sums = 0.
DEVICE void take_over(Outer& total, Outer& sums)
{
    UNROLL
    for (int m = 0; m < WARP_HEIGHT / 16; ++m) {
        UNROLL
        for (int n = 0; n < WARP_BREADTH / 8; ++n) {
            UNROLL
            for (int i = 0; i < 4; ++i) {
                total[m][n][i] += sums[m][n][i];
                sums[m][n][i] = 0.0f;
            }
        }
    }
}

template <typename T, bool OF_WEIGHT>
DEVICE void add_outer(const OuterParams& p, const OuterPlace& at, Outer& total)
{
    using S = Slab<T, OF_WEIGHT>;
    char* memory = shared_memory();
    int slabs = (at.deep + S::DEPTH - 1) / S::DEPTH, next_stage = 0, this_stage = 0;
    auto copy = [&](int slab) {
        if (slab < slabs) {
            char* stage = memory + next_stage * S::BYTES;
            copy_slopes<T, OF_WEIGHT>(p, at, stage, slab * S::DEPTH);
            copy_other<T, OF_WEIGHT>(p, at, stage + S::SLOPE_BYTES, slab * S::DEPTH);
        }
        next_stage = next_stage + 1 == OUTER_STAGES ? 0 : next_stage + 1;
        copy_commit();
    };
    Outer sums = {};
    for (int slab = 0; slab < OUTER_STAGES - 1; ++slab) copy(slab);
    NO_UNROLL
    for (int slab = 0; slab < slabs; ++slab) {
        copy_wait<OUTER_STAGES - 2>();
        barrier();
        // The stage that the barrier has shown to be read by all.
        copy(slab + OUTER_STAGES - 1);
        const char* stage = memory + this_stage * S::BYTES;
        this_stage = this_stage + 1 == OUTER_STAGES ? 0 : this_stage + 1;
        if constexpr (sizeof(T) == 4) multiply_outer_floats<OF_WEIGHT>(sums, stage, stage + S::SLOPE_BYTES);
        else multiply_outer_halves<T, OF_WEIGHT>(sums, stage, stage + S::SLOPE_BYTES);
        if (slab % SUMMED == SUMMED - 1 || slab == slabs - 1) take_over(total, sums);
    }
    copy_wait<0>();
}

template <typename T, bool OF_WEIGHT>
DEVICE void loss_outer(const OuterParams& p)
{
    int counted = p.common->counted, extent = OF_WEIGHT ? p.written : p.rows;
    int high_tiles = (extent + HEIGHT - 1) / HEIGHT;
    // Tiles that read the same part of the other operand follow each other.
    OuterPlace at = {block_index(0) % high_tiles * HEIGHT, block_index(0) / high_tiles * BREADTH,
                     OF_WEIGHT ? counted : p.tokens, counted};
    Outer total = {};
    if constexpr (OF_WEIGHT) {
        if (at.high < p.tokens) add_outer<T, OF_WEIGHT>(p, at, total);
        float scale = 1.0f / p.common->scale;
        for_each_number(total, at, p.written, p.dim, [&](int token, int column, float number) {
            reinterpret_cast<T*>(p.out)[int64_t(token) * p.dim + column] = from_float<T>(number * scale);
        });
    } else {
        if (at.high >= counted) return;
        auto place = [&](int row, int column) { return p.sums + (int64_t(row) * p.dim + column); };
        if (!(p.flags & FIRST_STRETCH)) {
            for_each_number(total, at, counted, p.dim,
                            [&](int row, int column, float& number) { number = *place(row, column); });
        }
        add_outer<T, OF_WEIGHT>(p, at, total);
        for_each_number(total, at, counted, p.dim,
                        [&](int row, int column, float number) { *place(row, column) = number; });
    }
}
