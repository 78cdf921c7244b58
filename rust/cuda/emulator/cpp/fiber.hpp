// A fiber: a stack of its own, entered and left by hand.
#pragma once

#include <cstddef>

#if !(defined(__x86_64__) && defined(__linux__))
#include <ucontext.h>
#endif

namespace emulated {

class Fiber {
public:
    Fiber() = default; // the context of whoever calls `switch_to`
    Fiber(const Fiber&) = delete;

    // Makes the next switch to this fiber enter `entry`, which must never return.
    void start(void (*entry)());

    // Suspends `from`, the running fiber, and continues `to`.
    static void switch_to(Fiber& from, Fiber& to);

    // Whether the end of the stack was written to.
    bool has_overflown() const;

    ~Fiber();

private:
    char* stack = nullptr;
#if defined(__x86_64__) && defined(__linux__)
    void* pointer = nullptr;
#else
    ucontext_t context{};
#endif
};

} // namespace emulated
