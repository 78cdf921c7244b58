// The threads of one block: fibers that run one at a time and meet at barriers and at the instructions of a warp.
#pragma once

#ifdef __AVX512F__
#error "the emulator is built for x86-64-v3, so that other machines can run it too"
#endif

#include "fiber.hpp"
#include "shared.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace emulated {

// Ends the launch with this error. Called from a thread of the block; does not return.
[[noreturn]] void fail(const std::string& text);

// What the lanes of a warp do together once all have come.
using Perform = void (*)(void* const* arguments, int lanes);

struct Copy {
    char* to;
    const char* from; // null: zeros
};

struct Thread {
    Fiber fiber;
    int index = 0;
    bool has_ended = false;
    std::vector<Copy> open;                // copies of the group that is not ended yet
    std::vector<std::vector<Copy>> groups; // ended groups, oldest first
};

struct Warp {
    const char* meets_at = nullptr;
    int arrived = 0, lanes = 0;
    void* arguments[32] = {};
    uint32_t step = 0; // warp barriers passed
};

struct Kernel {
    void (*run)(const void* params);
    size_t params_bytes;
};

class Block {
public:
    // Runs every block of a grid. Returns the error, or nothing.
    std::string run(const Kernel& kernel, const unsigned (&grid)[3], unsigned threads, unsigned shared_bytes,
                    const void* params, uint64_t seed);

    void barrier(const char* name, bool said);
    bool has_said() const { return said_before; }
    void meet(const char* name, void* argument, Perform perform);
    void warp_barrier();

    void copy(char* to, const char* from);
    void end_group();
    void wait(size_t groups);

    Access access(bool whole_warp = false) const;

    unsigned index[3] = {}, grid[3] = {};
    uint64_t global_reads = 0; // of the launch, by `load_global`
    SharedMemory shared;
    std::string error;

    [[noreturn]] void leave();

private:
    friend void enter_thread();
    void run_block(unsigned shared_bytes, uint64_t seed);
    void make_ready(int thread) { ready.push_back(thread); }
    void release(std::vector<int>& threads);
    void next();
    std::string stuck() const;

    Fiber outside;
    std::vector<std::unique_ptr<Thread>> threads;
    std::vector<Warp> warps;
    std::vector<int> ready;
    std::vector<int> released;
    size_t count = 0, alive = 0, at_barrier = 0; // threads of the block
    const char* barrier_name = nullptr;
    uint32_t phase = 0;
    bool says = false, said_before = false;
    uint64_t random = 0;
    const Kernel* kernel = nullptr;
    const void* params = nullptr;
};

// The block and the thread that run now.
extern thread_local Block* block __attribute__((tls_model("initial-exec")));
extern thread_local Thread* self __attribute__((tls_model("initial-exec")));

// Puts a kernel into the table that launches look it up in.
struct Registration {
    Registration(const char* name, Kernel kernel);
};

} // namespace emulated
