// One name for each instruction that the kernels need. Every line of PTX and every CUDA built-in stands here; kernels
// read as algorithms, and the emulator gives the same names a definition for the host.
//
// Contraction is off (`--fmad=false`): a fused multiply-add happens where it is written, and nowhere else.
#pragma once

#ifdef FARSPAN_EMULATED
#include "emulated.hpp"
#else

using int16_t = short;
using int32_t = int;
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;

#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__
#define CONSTANT static constexpr __device__
#define UNROLL _Pragma("unroll")
#define UNROLL_BY(N) PRAGMA(unroll N)
#define PRAGMA(TEXT) _Pragma(#TEXT)
#define NO_UNROLL _Pragma("unroll 1")

// A kernel: its name, its parameter struct, the function template that is its body, given after the name because its
// arguments have commas.
#define FARSPAN_KERNEL(NAME, PARAMS, ...) \
    extern "C" __global__ void NAME(const __grid_constant__ PARAMS params) { __VA_ARGS__(params); }
// The same for a known number of threads: each may have as many registers as one such block leaves it. Blocks of 256
// threads come in twos, so that one computes while the other waits for memory.
#define FARSPAN_KERNEL_OF(NAME, PARAMS, THREADS, ...) \
    extern "C" __global__ void __launch_bounds__(THREADS, THREADS >= 256 ? 2 : 1) \
        NAME(const __grid_constant__ PARAMS params) \
    { \
        __VA_ARGS__(params); \
    }

// ------------------------------------------------------------------------------------------------------------- numbers

DEVICE uint32_t bits(float x) { return __float_as_uint(x); }
DEVICE float from_bits(uint32_t x) { return __uint_as_float(x); }
DEVICE float ex2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float reciprocal(float x) { return __frcp_rn(x); }
// Within one unit in the last place.
DEVICE float reciprocal_near(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float square_root(float x) { return __fsqrt_rn(x); }
DEVICE float round_even(float x) { return rintf(x); }
DEVICE double round_even(double x) { return rint(x); }
DEVICE double round_down(double x) { return floor(x); }
// The larger and the smaller number; a number beats a NaN.
DEVICE float larger(float a, float b) { return fmaxf(a, b); }
DEVICE float smaller(float a, float b) { return fminf(a, b); }
DEVICE float magnitude(float x) { return fabsf(x); }

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
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

template <typename T> DEVICE T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ bfloat16 from_float<bfloat16>(float x)
{
    bfloat16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <> __device__ __forceinline__ float16 from_float<float16>(float x)
{
    float16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

// Two numbers in one register, the first in its low half.
template <typename T> DEVICE uint32_t pack(float low, float high);
template <> __device__ __forceinline__ uint32_t pack<bfloat16>(float low, float high)
{
    uint32_t y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
template <> __device__ __forceinline__ uint32_t pack<float16>(float low, float high)
{
    uint32_t y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}

// ------------------------------------------------------------------------------------------------------------- threads

DEVICE int thread_index() { return threadIdx.x; }
DEVICE int lane() { return threadIdx.x % 32; }
DEVICE int warp() { return threadIdx.x / 32; }
DEVICE int block_index(int axis) { return axis == 0 ? blockIdx.x : axis == 1 ? blockIdx.y : blockIdx.z; }
DEVICE int grid_size(int axis) { return axis == 0 ? gridDim.x : axis == 1 ? gridDim.y : gridDim.z; }

// All threads of the block arrive before any goes on; what they wrote to memory is seen.
DEVICE void barrier() { __syncthreads(); }
// A barrier that also tells whether any thread said yes.
DEVICE bool barrier_any(bool said) { return __syncthreads_or(said); }
// The same for the lanes of a warp.
DEVICE void warp_barrier() { __syncwarp(); }

template <typename V> DEVICE V shuffle_xor(V value, int mask) { return __shfl_xor_sync(~0u, value, mask); }
template <typename V> DEVICE V shuffle(V value, int from) { return __shfl_sync(~0u, value, from); }
DEVICE uint32_t ballot(bool said) { return __ballot_sync(~0u, said); }
// The lanes that have the same number, each lane for its own.
DEVICE uint32_t lanes_alike(int x) { return __match_any_sync(~0u, x); }
DEVICE int count_bits(uint32_t x) { return __popc(x); }

// A number whose origin the compiler does not know: what follows from it is computed here, and not kept in registers
// through a loop around it.
DEVICE int anew(int x)
{
    asm volatile("" : "+r"(x));
    return x;
}

// -------------------------------------------------------------------------------------------------------------- memory

// What the launch asked for, aligned to 1024 bytes. Only `load_shared`, `store_shared` and the names below touch it.
DEVICE char* shared_memory()
{
    extern __shared__ __align__(1024) char memory[];
    return memory;
}
DEVICE uint32_t shared_address(const void* pointer) { return __cvta_generic_to_shared(pointer); }
// A number in global memory that nobody writes while the kernel runs. The emulator counts these reads.
template <typename V> DEVICE V load_global(const V* pointer) { return __ldg(pointer); }
template <typename V> DEVICE V load_shared(const V* pointer) { return *pointer; }
template <typename V> DEVICE void store_shared(V* pointer, V value) { *pointer = value; }

// Sixteen bytes from global to shared memory, or zeros if not valid; there after the wait for their group.
DEVICE void copy_async16(void* to, const void* from, bool valid)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
// Ends a group of copies.
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most N groups of this thread are under way.
template <int N> DEVICE void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

DEVICE uint32_t atomic_add(uint32_t* pointer, uint32_t value) { return atomicAdd(pointer, value); }

// ------------------------------------------------------------------------------------------------------------ matrices

// Four 8 x 8 matrices of 16-bit numbers: lane i gives the address of row i % 8 of matrix i / 8 and gets of each matrix
// the numbers 2 (i % 4) and 2 (i % 4) + 1 of row i / 4. The address is that of the pointer, with the bits of `turn`
// flipped, plus the offset: said so, no register has to keep it from one use to the next.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* pointer, uint32_t turn = 0, uint32_t offset = 0)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((shared_address(pointer) ^ turn) + offset)
                 : "memory");
}
// The same of the transposed matrices.
DEVICE void ldmatrix_x4_transposed(uint32_t (&r)[4], const void* pointer, uint32_t turn = 0, uint32_t offset = 0)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((shared_address(pointer) ^ turn) + offset)
                 : "memory");
}

// c += a b, of 16 x 16 and 16 x 8 numbers. With g = lane / 4 and t = 2 (lane % 4), a lane holds of c the elements
// (g, t), (g, t + 1), (g + 8, t), (g + 8, t + 1); of a the pairs at (g, t), (g + 8, t), (g, t + 8), (g + 8, t + 8);
// of b those at rows t and t + 8 of column g.
template <typename T>
DEVICE void mma_m16n8k16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void mma_m16n8k16<bfloat16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma_m16n8k16<float16>(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif
