// The table of kernels, and what the library exports.

#include "machine.hpp"

#include <cstring>
#include <map>
#include <string>

#ifdef FARSPAN_SANITIZED
#include <sanitizer/asan_interface.h>
#endif

namespace emulated {
namespace {

std::map<std::string, Kernel>& kernels()
{
    static std::map<std::string, Kernel> table;
    return table;
}

// One block after the other, and its memory is kept for the next launch of this thread.
Block& machine()
{
    static thread_local Block block;
    return block;
}

// Of every GPU.
constexpr unsigned MOST_BLOCKS[3] = {0x7fffffff, 65535, 65535};

// What is wrong with a launch; nothing, if it may be.
std::string refusal(const Kernel* kernel, const unsigned* grid, unsigned threads, size_t params_bytes)
{
    if (kernel == nullptr) return "unknown kernel";
    if (kernel->params_bytes != params_bytes)
        return "parameters of " + std::to_string(params_bytes) + " bytes, not " + std::to_string(kernel->params_bytes);
    if (threads == 0 || threads > 1024) return std::to_string(threads) + " threads, not 1 to 1024";
    for (int axis = 0; axis < 3; ++axis)
        if (grid[axis] > MOST_BLOCKS[axis])
            return std::to_string(grid[axis]) + " blocks along axis " + "xyz"[axis] + ", more than " +
                   std::to_string(MOST_BLOCKS[axis]);
    return "";
}

} // namespace

Registration::Registration(const char* name, Kernel kernel) { kernels()[name] = kernel; }

} // namespace emulated

extern "C" int farspan_emulated_run(const char* name, const unsigned* grid, unsigned threads, unsigned shared_bytes,
                                    const void* params, size_t params_bytes, uint64_t seed, char* error,
                                    size_t error_bytes)
{
    using namespace emulated;
    auto found = kernels().find(name);
    const Kernel* kernel = found == kernels().end() ? nullptr : &found->second;
    std::string text = refusal(kernel, grid, threads, params_bytes);
    if (text.empty())
        text = machine().run(*kernel, {grid[0], grid[1], grid[2]}, threads, shared_bytes, params, seed);
    if (text.empty()) return 0;
    if (error_bytes > 0) {
        std::strncpy(error, text.c_str(), error_bytes - 1);
        error[error_bytes - 1] = 0;
    }
    return 1;
}

extern "C" uint64_t farspan_emulated_reads() { return emulated::machine().global_reads; }

extern "C" void farspan_emulated_forbid([[maybe_unused]] const void* first, [[maybe_unused]] size_t bytes)
{
#ifdef FARSPAN_SANITIZED
    __asan_poison_memory_region(first, bytes);
#endif
}
