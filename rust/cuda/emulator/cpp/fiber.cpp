#include "fiber.hpp"

#include <cstdint>
#include <cstring>
#include <new>
#include <sys/mman.h>

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
    if (stack != nullptr) munmap(stack, STACK_BYTES);
}

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

void Fiber::switch_to(Fiber& from, Fiber& to) { farspan_emulated_switch(&from.pointer, to.pointer); }

#else

void Fiber::switch_to(Fiber& from, Fiber& to) { swapcontext(&from.context, &to.context); }

#endif

void Fiber::start(void (*entry)())
{
    if (stack == nullptr) {
        void* memory = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        stack = static_cast<char*>(memory);
    }
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
