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

} // namespace

Registration::Registration(const char* name, Kernel kernel) { kernels()[name] = kernel; }

} // namespace emulated

extern "C" int farspan_emulated_run(const char* name, const unsigned* grid, unsigned threads, unsigned shared_bytes,
                                    const void* params, size_t params_bytes, uint64_t seed, char* error,
                                    size_t error_bytes)
{
    using namespace emulated;
    // One block after the other, and its memory is kept for the next launch of this thread.
    static thread_local Block machine;
    std::string text;
    auto found = kernels().find(name);
    if (found == kernels().end()) text = "unknown kernel";
    else if (found->second.params_bytes != params_bytes)
        text = "parameters of " + std::to_string(params_bytes) + " bytes, not " +
               std::to_string(found->second.params_bytes);
    else if (threads == 0 || threads > 1024) text = std::to_string(threads) + " threads, not 1 to 1024";
    else text = machine.run(found->second, {grid[0], grid[1], grid[2]}, threads, shared_bytes, params, seed);
    if (text.empty()) return 0;
    if (error_bytes > 0) {
        std::strncpy(error, text.c_str(), error_bytes - 1);
        error[error_bytes - 1] = 0;
    }
    return 1;
}

extern "C" void farspan_emulated_forbid([[maybe_unused]] const void* first, [[maybe_unused]] size_t bytes)
{
#ifdef FARSPAN_SANITIZED
    __asan_poison_memory_region(first, bytes);
#endif
}
