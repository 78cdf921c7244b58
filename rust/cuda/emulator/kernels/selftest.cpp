// Kernels with one mistake each, which the emulator must see, and the mathematics of math.cuh for comparison.

#include "math.cuh"

struct SelfTest {
    uint64_t input, output;
    int32_t count, mistake;
};

DEVICE float* words() { return reinterpret_cast<float*>(shared_memory()); }
DEVICE float* output(const SelfTest& p) { return reinterpret_cast<float*>(p.output); }

// Each thread stores its index, and adds what another thread of its block stored.
DEVICE void block_exchange(const SelfTest& p)
{
    int i = thread_index(), n = p.count;
    store_shared(words() + i, float(i));
    if (p.mistake != 1) barrier();
    float other = load_shared(words() + n - 1 - i);
    if (p.mistake != 2) barrier();
    store_shared(words() + i, other);
    barrier();
    output(p)[i] = load_shared(words() + i);
}
FARSPAN_KERNEL(selftest_block_exchange, SelfTest, block_exchange)

// The same among the lanes of one warp.
DEVICE void warp_exchange(const SelfTest& p)
{
    int i = thread_index();
    store_shared(words() + i, float(i));
    if (p.mistake != 1) warp_barrier();
    float other = load_shared(words() + (i ^ 1));
    if (p.mistake == 2) other = shuffle_xor(other, 0); // orders nothing
    else warp_barrier();
    store_shared(words() + i, other);
    output(p)[i] = load_shared(words() + i);
}
FARSPAN_KERNEL(selftest_warp_exchange, SelfTest, warp_exchange)

// Two groups of copies; every thread reads what its neighbour copied.
DEVICE void copies(const SelfTest& p)
{
    int i = thread_index(), n = p.count;
    auto* from = reinterpret_cast<const float4*>(p.input);
    auto* to = reinterpret_cast<float4*>(shared_memory());
    copy_async16(to + i, from + i, true);
    copy_commit();
    copy_async16(to + n + i, from + n + i, i % 2 == 0);
    if (p.mistake != 1) copy_commit();
    if (p.mistake == 2) copy_wait<1>();
    else copy_wait<0>();
    if (p.mistake != 3) barrier();
    float4 a = load_shared(to + (i + 1) % n), b = load_shared(to + n + (i + 1) % n);
    if (p.mistake == 4) copy_async16(to + i, from + i, true);
    output(p)[i] = a.x + b.w;
    if (p.mistake == 4) copy_commit();
    if (p.mistake == 4) copy_wait<0>();
}
FARSPAN_KERNEL(selftest_copies, SelfTest, copies)

DEVICE void mistakes(const SelfTest& p)
{
    int i = thread_index();
    if (p.mistake == 1 && i < p.count / 2) barrier();
    if (p.mistake == 2) store_shared(words() + p.count + i, 1.0f);
    if (p.mistake == 3) output(p)[i] = load_shared(words() + i);
    if (p.mistake == 4 && i != 5) warp_barrier();
    if (p.mistake == 5) output(p)[i] = i % 2 == 0 ? shuffle(1.0f, 0) : shuffle_xor(1.0f, 1);
    if (p.mistake == 6) output(p)[i] = load_shared(reinterpret_cast<float*>(shared_memory() + 2 + 4 * i));
    if (p.mistake == 7) copy_async16(shared_memory() + 16 * i, reinterpret_cast<const void*>(p.input + 4), true);
    if (p.mistake == 8) i % 2 == 0 ? barrier() : void(barrier_any(true));
}
FARSPAN_KERNEL(selftest_mistakes, SelfTest, mistakes)

// What the sanitizers see and nothing else does; `count` is right for `mistake` 0.
DEVICE void sanitized(const SelfTest& p)
{
    int i = thread_index();
    auto* input = reinterpret_cast<const float*>(p.input);
    float mine[4] = {};
    barrier(); // the arrays of all threads are there while others run
    mine[i % 4] = input[i];
    barrier();
    float* volatile where = mine; // the compiler forgets that there are four
    float picked = where[p.mistake == 1 ? 4 : i % 4];
    if (p.mistake == 2) picked = input[p.count];
    if (p.mistake == 3) output(p)[p.count] = picked;
    if (p.mistake == 4) picked = float(2147483584 + p.count);
    if (p.mistake == 5) {
        copy_async16(shared_memory() + 16 * i, input + p.count, true);
        copy_commit();
        copy_wait<0>();
    }
    output(p)[i] = picked;
}
FARSPAN_KERNEL(selftest_sanitized, SelfTest, sanitized)

// Halves of a word that belong to different threads are no race; a matrix of which one lane wrote a row is one.
DEVICE void matrices(const SelfTest& p)
{
    int i = lane();
    auto* half = reinterpret_cast<uint16_t*>(shared_memory());
    for (int j = 0; j < 8; ++j) {
        int at = p.mistake == 2 ? 8 * i + j : 32 * j + i;
        store_shared(half + at, uint16_t(at));
    }
    if (p.mistake == 0) warp_barrier();
    uint32_t r[4];
    ldmatrix_x4(r, half + 8 * i);
    for (int j = 0; j < 4; ++j) output(p)[8 * i + j] = float(r[j] & 0xffff) + 1000.0f * float(r[j] >> 16);
    ldmatrix_x4_transposed(r, half + 8 * i);
    for (int j = 0; j < 4; ++j) output(p)[8 * i + 4 + j] = float(r[j] & 0xffff) + 1000.0f * float(r[j] >> 16);
}
FARSPAN_KERNEL(selftest_matrices, SelfTest, matrices)

// A product whose operands are loaded as fragments are laid out: a row-major in `input`, then b column by column.
template <typename T> DEVICE void product(const SelfTest& p)
{
    auto* a = reinterpret_cast<const uint32_t*>(p.input);
    auto* b = a + 16 * 16 / 2;
    int g = lane() / 4, t = lane() % 4;
    uint32_t r[4] = {a[g * 8 + t], a[(g + 8) * 8 + t], a[g * 8 + t + 4], a[(g + 8) * 8 + t + 4]};
    float c[4] = {};
    mma_m16n8k16<T>(c, r, b[g * 8 + t], b[g * 8 + t + 4]);
    for (int i = 0; i < 4; ++i) output(p)[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = c[i];
}
FARSPAN_KERNEL(selftest_product_bf16, SelfTest, product<bfloat16>)
FARSPAN_KERNEL(selftest_product_f16, SelfTest, product<float16>)

// Function number `mistake` of every input.
DEVICE void elementary(const SelfTest& p)
{
    auto* input = reinterpret_cast<const float*>(p.input);
    auto* doubles = reinterpret_cast<const double*>(p.input);
    for (int i = thread_index(); i < p.count; i += 32) {
        float result = 0.0f;
        if (p.mistake == 0) result = exponential(input[i]);
        if (p.mistake == 1) result = logarithm(input[i]);
        if (p.mistake == 2) result = tangent(input[i]);
        if (p.mistake == 3) result = turn(doubles[i]).cosine;
        if (p.mistake == 4) result = turn(doubles[i]).sine;
        if (p.mistake == 5) result = noise_bound(bits(input[i]));
        output(p)[i] = result;
    }
}
FARSPAN_KERNEL(selftest_elementary, SelfTest, elementary)

struct NoiseTest {
    NoiseKey key;
    uint64_t output;
    uint32_t first, count;
};

DEVICE void noises(const NoiseTest& p)
{
    for (uint32_t i = thread_index(); i < p.count; i += 32)
        reinterpret_cast<float*>(p.output)[i] = noise(p.key, p.first + i);
}
FARSPAN_KERNEL(selftest_noise, NoiseTest, noises)
