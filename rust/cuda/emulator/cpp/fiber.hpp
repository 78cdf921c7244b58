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

    // Makes the next switch to this fiber enter `entry`, which calls `arrive` first and must never return.
    void start(void (*entry)());

    // Suspends `from`, the running fiber, and continues `to`.
    static void switch_to(Fiber& from, Fiber& to);

    // Tells AddressSanitizer, if there is one, that this fiber is the one that runs.
    void arrive();

    // Whether the end of the stack was written to.
    bool has_overflown() const;

    ~Fiber();

private:
    void depart(const Fiber& to);
    void forget_frames();

    char* stack = nullptr;
#if defined(__x86_64__) && defined(__linux__)
    void* pointer = nullptr;
#else
    ucontext_t context{};
#endif
#ifdef FARSPAN_SANITIZED
    const void* bottom = nullptr; // of any stack, while `stack` is one that the fiber owns
    size_t size = 0;
    void* fake_stack = nullptr; // where frames are whose use after return is looked for
#endif
};

} // namespace emulated
