// The names of ptx.cuh for the host. Stricter than a GPU: asynchronous copies land when they are waited for, and not
// before; every access to shared memory is checked for bounds, initialisation and order.
#pragma once

#include "machine.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>

#define DEVICE static inline
#define METHOD inline
#define CONSTANT static constexpr
#define UNROLL
#define UNROLL_BY(N)
#define NO_UNROLL

#define FARSPAN_KERNEL(NAME, PARAMS, ...) \
    static void run_##NAME(const void* params) { __VA_ARGS__(*static_cast<const PARAMS*>(params)); } \
    static const emulated::Registration register_##NAME(#NAME, emulated::Kernel{run_##NAME, sizeof(PARAMS)});
#define FARSPAN_KERNEL_OF(NAME, PARAMS, THREADS, ...) FARSPAN_KERNEL(NAME, PARAMS, __VA_ARGS__)

// ------------------------------------------------------------------------------------------------------------- numbers

using std::fma;

DEVICE uint32_t bits(float x)
{
    uint32_t y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
DEVICE float from_bits(uint32_t x)
{
    float y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}
DEVICE float flushed(float x) { return std::fabs(x) < 1.17549435e-38f ? std::copysign(0.0f, x) : x; }
DEVICE float ex2(float x) { return flushed(std::exp2(flushed(x))); }
DEVICE float reciprocal(float x) { return 1.0f / x; }
DEVICE float reciprocal_near(float x) { return flushed(1.0f / flushed(x)); }
DEVICE float square_root(float x) { return std::sqrt(x); }
DEVICE float round_even(float x) { return std::nearbyint(x); }
DEVICE double round_even(double x) { return std::nearbyint(x); }
DEVICE double round_down(double x) { return std::floor(x); }
DEVICE float larger(float a, float b) { return std::fmax(a, b); }
DEVICE float smaller(float a, float b) { return std::fmin(a, b); }
DEVICE float magnitude(float x) { return std::fabs(x); }

struct bfloat16 {
    uint16_t bits;
};
struct float16 {
    uint16_t bits;
};
DEVICE uint32_t bits(bfloat16 x) { return x.bits; }
DEVICE uint32_t bits(float16 x) { return x.bits; }

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bfloat16 x) { return from_bits(uint32_t(x.bits) << 16); }
DEVICE float to_float(float16 x)
{
    _Float16 y;
    std::memcpy(&y, &x, sizeof y);
    return y;
}

template <typename T> DEVICE T from_float(float x);
template <> inline float from_float<float>(float x) { return x; }
template <> inline bfloat16 from_float<bfloat16>(float x)
{
    if (x != x) return bfloat16{0x7fff};
    uint32_t b = bits(x);
    return bfloat16{uint16_t((b + 0x7fff + (b >> 16 & 1)) >> 16)};
}
template <> inline float16 from_float<float16>(float x)
{
    if (x != x) return float16{0x7fff};
    _Float16 y = x;
    float16 z;
    std::memcpy(&z, &y, sizeof z);
    return z;
}

template <typename T> DEVICE uint32_t pack(float low, float high)
{
    return from_float<T>(low).bits | uint32_t(from_float<T>(high).bits) << 16;
}

struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

// ------------------------------------------------------------------------------------------------------------- threads

DEVICE int thread_index() { return emulated::self->index; }
DEVICE int lane() { return thread_index() % 32; }
DEVICE int warp() { return thread_index() / 32; }
DEVICE int block_index(int axis) { return emulated::block->index[axis]; }
DEVICE int grid_size(int axis) { return emulated::block->grid[axis]; }

DEVICE void barrier() { emulated::block->barrier("barrier", false); }
DEVICE bool barrier_any(bool said)
{
    emulated::block->barrier("barrier_any", said);
    return emulated::block->has_said();
}
DEVICE void warp_barrier() { emulated::block->warp_barrier(); }

namespace emulated {

template <typename V> struct Exchange {
    V value, result;
    int from;
};

// Every lane gets the value of the lane that it names.
template <typename V> V exchange(const char* name, V value, int from)
{
    Exchange<V> mine{value, value, from};
    block->meet(name, &mine, [](void* const* lanes, int count) {
        for (int i = 0; i < count; ++i) {
            auto* lane = static_cast<Exchange<V>*>(lanes[i]);
            if (lane->from < 0 || lane->from >= count) fail("a shuffle from a lane that does not exist");
            lane->result = static_cast<Exchange<V>*>(lanes[lane->from])->value;
        }
    });
    return mine.result;
}

} // namespace emulated

template <typename V> DEVICE V shuffle_xor(V value, int mask)
{
    return emulated::exchange("shuffle_xor", value, lane() ^ mask);
}
template <typename V> DEVICE V shuffle(V value, int from) { return emulated::exchange("shuffle", value, from % 32); }
DEVICE uint32_t ballot(bool said)
{
    uint32_t mine = said;
    emulated::block->meet("ballot", &mine, [](void* const* lanes, int count) {
        uint32_t all = 0;
        for (int i = 0; i < count; ++i) all |= *static_cast<uint32_t*>(lanes[i]) << i;
        for (int i = 0; i < count; ++i) *static_cast<uint32_t*>(lanes[i]) = all;
    });
    return mine;
}
DEVICE uint32_t lanes_alike(int x)
{
    uint32_t mine = x;
    emulated::block->meet("lanes_alike", &mine, [](void* const* lanes, int count) {
        uint32_t given[32] = {};
        for (int i = 0; i < count; ++i) given[i] = *static_cast<uint32_t*>(lanes[i]);
        for (int i = 0; i < count; ++i) {
            uint32_t alike = 0;
            for (int j = 0; j < count; ++j) alike |= uint32_t(given[j] == given[i]) << j;
            *static_cast<uint32_t*>(lanes[i]) = alike;
        }
    });
    return mine;
}

DEVICE int count_bits(uint32_t x) { return __builtin_popcount(x); }

DEVICE int anew(int x) { return x; }

// -------------------------------------------------------------------------------------------------------------- memory

DEVICE char* shared_memory() { return emulated::block->shared.data(); }
DEVICE uint32_t shared_address(const void* pointer) { return static_cast<const char*>(pointer) - shared_memory(); }
template <typename V> DEVICE V load_global(const V* pointer)
{
    ++emulated::block->global_reads;
    return *pointer;
}
template <typename V> DEVICE V load_shared(const V* pointer)
{
    emulated::block->shared.read(pointer, sizeof(V), emulated::block->access());
    V value;
    std::memcpy(&value, pointer, sizeof value);
    return value;
}
template <typename V> DEVICE void store_shared(V* pointer, V value)
{
    emulated::block->shared.write(pointer, sizeof(V), emulated::block->access());
    std::memcpy(pointer, &value, sizeof value);
}

DEVICE void copy_async16(void* to, const void* from, bool valid)
{
    if (valid && reinterpret_cast<uintptr_t>(from) % 16 != 0) emulated::fail("misaligned: a copy from global memory");
    emulated::block->copy(static_cast<char*>(to), valid ? static_cast<const char*>(from) : nullptr);
}
DEVICE void copy_commit() { emulated::block->end_group(); }
template <int N> DEVICE void copy_wait() { emulated::block->wait(N); }

DEVICE uint32_t atomic_add(uint32_t* pointer, uint32_t value)
{
    uint32_t before = *pointer;
    *pointer += value;
    return before;
}

// ------------------------------------------------------------------------------------------------------------ matrices

namespace emulated {

struct Matrices {
    const void* row;
    uint32_t* result;
};

template <bool transposed> void load_matrices(uint32_t (&r)[4], const void* pointer)
{
    block->shared.read(pointer, 16, block->access(true));
    Matrices mine{pointer, r};
    block->meet(transposed ? "ldmatrix_x4_transposed" : "ldmatrix_x4", &mine, [](void* const* lanes, int count) {
        if (count != 32) fail("ldmatrix in a warp of less than 32 lanes");
        for (int matrix = 0; matrix < 4; ++matrix) {
            uint16_t rows[8][8];
            for (int i = 0; i < 8; ++i) std::memcpy(rows[i], static_cast<Matrices*>(lanes[8 * matrix + i])->row, 16);
            for (int lane = 0; lane < 32; ++lane) {
                int g = lane / 4, t = 2 * (lane % 4);
                uint16_t low = transposed ? rows[t][g] : rows[g][t];
                uint16_t high = transposed ? rows[t + 1][g] : rows[g][t + 1];
                static_cast<Matrices*>(lanes[lane])->result[matrix] = low | uint32_t(high) << 16;
            }
        }
    });
}

struct Product {
    float* c;
    const uint32_t* a;
    uint32_t b[2];
};

template <typename T> void multiply(void* const* lanes, int count)
{
    if (count != 32) fail("mma in a warp of less than 32 lanes");
    float a[16][16], b[16][8], c[16][8];
    auto low = [](uint32_t pair) { return to_float(T{uint16_t(pair)}); };
    auto high = [](uint32_t pair) { return to_float(T{uint16_t(pair >> 16)}); };
    for (int lane = 0; lane < 32; ++lane) {
        auto* mine = static_cast<Product*>(lanes[lane]);
        int g = lane / 4, t = 2 * (lane % 4);
        for (int i = 0; i < 4; ++i) {
            int row = g + i % 2 * 8, column = t + i / 2 * 8;
            a[row][column] = low(mine->a[i]);
            a[row][column + 1] = high(mine->a[i]);
            c[g + i / 2 * 8][t + i % 2] = mine->c[i];
        }
        for (int i = 0; i < 2; ++i) {
            b[t + i * 8][g] = low(mine->b[i]);
            b[t + i * 8 + 1][g] = high(mine->b[i]);
        }
    }
    for (int k = 0; k < 16; ++k)
        for (int row = 0; row < 16; ++row)
            for (int column = 0; column < 8; ++column) c[row][column] = fma(a[row][k], b[k][column], c[row][column]);
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
            static_cast<Product*>(lanes[lane])->c[i] = c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}

} // namespace emulated

DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* pointer, uint32_t turn = 0, uint32_t offset = 0)
{
    emulated::load_matrices<false>(r, shared_memory() + (shared_address(pointer) ^ turn) + offset);
}
DEVICE void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* pointer, uint32_t turn = 0, uint32_t offset = 0)
{
    emulated::load_matrices<true>(r, shared_memory() + (shared_address(pointer) ^ turn) + offset);
}

template <typename T> DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    emulated::Product mine{c, a, {b0, b1}};
    emulated::block->meet("mma_m16n8k16", &mine, emulated::multiply<T>);
}
