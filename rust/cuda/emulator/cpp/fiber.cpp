#include "fiber.hpp"

#include <cstdint>
#include <cstring>
#include <new>
#include <sys/mman.h>
#include <utility>

#ifdef FARSPAN_SANITIZED
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulated {
namespace {

// Reserved, not used: pages come into being when they are first written to.
constexpr size_t STACK_BYTES = 256 << 10;
constexpr uint64_t CANARY = 0x6661727370616e21;

} // namespace

bool Fiber::has_overflown() const
{
    return stack != nullptr && std::memcmp(stack, &CANARY, sizeof CANARY) != 0;
}

Fiber::~Fiber()
{
    if (stack == nullptr) return;
    forget_frames();
    munmap(stack, STACK_BYTES);
}

#ifdef FARSPAN_SANITIZED

namespace {
// Whoever runs next is told where the stack of this fiber lies: that of a thread of the system is not known otherwise.
thread_local Fiber* left __attribute__((tls_model("initial-exec"))) = nullptr;
} // namespace

void Fiber::depart(const Fiber& to)
{
    left = this;
    __sanitizer_start_switch_fiber(&fake_stack, to.bottom, to.size);
}

void Fiber::arrive()
{
    __sanitizer_finish_switch_fiber(std::exchange(fake_stack, nullptr), &left->bottom, &left->size);
}

// Nobody returns from the frames of a fiber that ended, or that was left where its block failed.
void Fiber::forget_frames()
{
    __asan_unpoison_memory_region(stack, STACK_BYTES);
    if (fake_stack == nullptr) return;
    // Only the fiber that runs can give up its fake stack: we become that fiber for a moment.
    void* mine = nullptr;
    const void* my_bottom = nullptr;
    size_t my_size = 0;
    __sanitizer_start_switch_fiber(&mine, stack, STACK_BYTES);
    __sanitizer_finish_switch_fiber(std::exchange(fake_stack, nullptr), &my_bottom, &my_size);
    __sanitizer_start_switch_fiber(nullptr, my_bottom, my_size);
    __sanitizer_finish_switch_fiber(mine, nullptr, nullptr);
}

#else

void Fiber::depart(const Fiber&) {}
void Fiber::arrive() {}
void Fiber::forget_frames() {}

#endif

#if defined(__x86_64__) && defined(__linux__)

// Saves the registers that a call preserves, exchanges the stacks and takes the other's registers.
asm(R"(
    .text
    .hidden farspan_emulated_switch
    .globl farspan_emulated_switch
    .type farspan_emulated_switch, @function
farspan_emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size farspan_emulated_switch, . - farspan_emulated_switch
)");
extern "C" void farspan_emulated_switch(void** from, void* to);

void Fiber::switch_to(Fiber& from, Fiber& to)
{
    from.depart(to);
    farspan_emulated_switch(&from.pointer, to.pointer);
    from.arrive();
}

#else

void Fiber::switch_to(Fiber& from, Fiber& to)
{
    from.depart(to);
    swapcontext(&from.context, &to.context);
    from.arrive();
}

#endif

void Fiber::start(void (*entry)())
{
    if (stack == nullptr) {
        void* memory = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        stack = static_cast<char*>(memory);
    }
    forget_frames();
#ifdef FARSPAN_SANITIZED
    bottom = stack;
    size = STACK_BYTES;
#endif
    std::memcpy(stack, &CANARY, sizeof CANARY);
#if defined(__x86_64__) && defined(__linux__)
    // Six registers, the address that `ret` takes, and one that `entry` would return to.
    void** top = reinterpret_cast<void**>(stack + STACK_BYTES) - 8;
    std::memset(top, 0, 8 * sizeof *top);
    top[6] = reinterpret_cast<void*>(entry);
    pointer = top;
#else
    getcontext(&context);
    context.uc_stack.ss_sp = stack + sizeof CANARY;
    context.uc_stack.ss_size = STACK_BYTES - sizeof CANARY;
    context.uc_link = nullptr;
    makecontext(&context, entry, 0);
#endif
}

} // namespace emulated
