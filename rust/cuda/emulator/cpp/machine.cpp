#include "machine.hpp"

#include <algorithm>
#include <cstring>

namespace emulated {

thread_local Block* block = nullptr;
thread_local Thread* self = nullptr;

namespace {
constexpr int LANES = 32;
}

void fail(const std::string& text)
{
    block->error = text + ", in block (" + std::to_string(block->index[0]) + ", " + std::to_string(block->index[1]) +
                   ", " + std::to_string(block->index[2]) + ")";
    block->leave();
}

void Block::leave()
{
    Fiber::switch_to(self->fiber, outside);
    __builtin_unreachable();
}

void enter_thread()
{
    self->fiber.arrive();
    block->kernel->run(block->params);
    Thread& thread = *self;
    if (!thread.open.empty()) fail("no wait: thread " + std::to_string(thread.index) + " ends before a copy it began");
    for (const auto& group : thread.groups)
        if (!group.empty()) fail("no wait: thread " + std::to_string(thread.index) + " ends before a copy it began");
    thread.has_ended = true;
    --block->alive;
    block->next();
    __builtin_unreachable();
}

std::string Block::run(const Kernel& kernel, const unsigned (&grid)[3], unsigned threads, unsigned shared_bytes,
                       const void* params, uint64_t seed)
{
    count = threads;
    this->kernel = &kernel;
    this->params = params;
    std::copy(std::begin(grid), std::end(grid), this->grid);
    error.clear();
    global_reads = 0;
    phase = 0;
    shared.forget();
    block = this;
    for (index[2] = 0; index[2] < grid[2]; ++index[2])
        for (index[1] = 0; index[1] < grid[1]; ++index[1])
            for (index[0] = 0; index[0] < grid[0]; ++index[0]) {
                run_block(shared_bytes, ++seed);
                if (!error.empty()) return error;
            }
    return error;
}

void Block::run_block(unsigned shared_bytes, uint64_t seed)
{
    random = seed * 0x9e3779b97f4a7c15 + 1;
    ++phase;
    shared.begin(shared_bytes, phase);
    while (this->threads.size() < count) threads.push_back(std::make_unique<Thread>());
    warps.assign((count + LANES - 1) / LANES, Warp());
    released.clear();
    ready.clear();
    for (size_t i = 0; i < count; ++i) {
        Thread& thread = *threads[i];
        thread.index = i;
        thread.has_ended = false;
        thread.open.clear();
        thread.groups.clear();
        thread.fiber.start(enter_thread);
        ++warps[i / LANES].lanes;
        released.push_back(i);
    }
    alive = count;
    at_barrier = 0;
    says = said_before = false;
    release(released);
    self = threads[ready.back()].get();
    ready.pop_back();
    Fiber::switch_to(outside, self->fiber);
    for (size_t i = 0; i < count; ++i)
        if (error.empty() && threads[i]->fiber.has_overflown())
            error = "the emulator's stack of thread " + std::to_string(i) + " overflows";
}

// Makes threads ready, in an order that the seed decides.
void Block::release(std::vector<int>& released)
{
    for (size_t left = released.size(); left > 0; --left) {
        random = random * 6364136223846793005 + 1442695040888963407;
        std::swap(released[(random >> 33) % left], released[left - 1]);
        make_ready(released[left - 1]);
    }
    released.clear();
}

// Continues a thread that can go on; the caller has seen to it that it is continued itself.
void Block::next()
{
    Thread& from = *self;
    if (ready.empty()) {
        if (alive > 0) fail(stuck());
        leave();
    }
    self = threads[ready.back()].get();
    ready.pop_back();
    if (self != &from) Fiber::switch_to(from.fiber, self->fiber);
}

std::string Block::stuck() const
{
    std::string text = "deadlock: " + std::to_string(at_barrier) + " threads wait at a block barrier";
    size_t ended = std::count_if(threads.begin(), threads.end(), [](const auto& t) { return t->has_ended; });
    for (size_t w = 0; w < warps.size(); ++w)
        if (warps[w].arrived > 0)
            text += ", " + std::to_string(warps[w].arrived) + " of " + std::to_string(warps[w].lanes) +
                    " lanes of warp " + std::to_string(w) + " at " + warps[w].meets_at;
    return text + ", " + std::to_string(ended) + " have ended";
}

void Block::barrier(const char* name, bool said)
{
    if (at_barrier > 0 && std::strcmp(barrier_name, name) != 0)
        fail("divergence: threads meet at different barriers, " + std::string(barrier_name) + " and " + name);
    barrier_name = name;
    says |= said;
    if (++at_barrier == count) {
        at_barrier = 0;
        ++phase;
        said_before = says;
        says = false;
        for (size_t i = 0; i < count; ++i) released.push_back(i);
        release(released);
    }
    next();
}

void Block::meet(const char* name, void* argument, Perform perform)
{
    Warp& warp = warps[self->index / LANES];
    if (warp.arrived > 0 && std::strcmp(warp.meets_at, name) != 0)
        fail("divergence: lanes of warp " + std::to_string(self->index / LANES) + " meet at different instructions, " +
             warp.meets_at + " and " + name);
    warp.meets_at = name;
    warp.arguments[self->index % LANES] = argument;
    if (++warp.arrived == warp.lanes) {
        warp.arrived = 0;
        perform(warp.arguments, warp.lanes);
        int first = self->index / LANES * LANES;
        for (int i = 0; i < warp.lanes; ++i) released.push_back(first + i);
        release(released);
    }
    next();
}

void Block::warp_barrier()
{
    Warp& warp = warps[self->index / LANES];
    meet("warp_barrier", &warp, [](void* const* arguments, int) { ++static_cast<Warp*>(arguments[0])->step; });
}

Access Block::access(bool whole_warp) const
{
    return Access{self->index, phase, warps[self->index / LANES].step, whole_warp};
}

void Block::copy(char* to, const char* from)
{
    shared.begin_copy(to, access());
    self->open.push_back(Copy{to, from});
}

void Block::end_group()
{
    self->groups.push_back(std::move(self->open));
    self->open.clear();
}

void Block::wait(size_t groups)
{
    auto& all = self->groups;
    while (all.size() > groups) {
        for (const Copy& copy : all.front()) {
            if (copy.from == nullptr) std::memset(copy.to, 0, 16);
            else std::memcpy(copy.to, copy.from, 16);
            shared.end_copy(copy.to, access());
        }
        all.erase(all.begin());
    }
}

} // namespace emulated
