#include "shared.hpp"

#include "machine.hpp"

#include <cstring>

namespace emulated {
namespace {

constexpr size_t UNIT = 2;
// Readers that are not one thread: all lanes of warp w are WARP - w.
constexpr int16_t BLOCK = -1;
constexpr int16_t WARP = -2;
constexpr int LANES = 32;

int warp_of(int16_t reader) { return reader <= WARP ? WARP - reader : reader / LANES; }

// Whether nothing orders an earlier access of a thread (or of all lanes of its warp) before this one.
bool is_unordered(int16_t other, uint32_t phase, uint32_t step, const Access& access)
{
    if (phase != access.phase) return false;
    if (other == BLOCK || warp_of(other) != access.thread / LANES) return true;
    bool same_lane = other == access.thread && !access.whole_warp;
    return !same_lane && step == access.step;
}

const char* name_of(int16_t thread) { return thread == BLOCK ? "several threads" : "a lane of the same warp"; }

std::string described(int16_t thread)
{
    return thread >= 0 ? "thread " + std::to_string(thread) : std::string(name_of(thread));
}

} // namespace

void SharedMemory::begin(size_t bytes, uint32_t phase)
{
    constexpr size_t alignment = 1024;
    size = bytes;
    first_phase = phase;
    memory.resize(bytes + alignment);
    offset_of_aligned = -reinterpret_cast<uintptr_t>(memory.data()) % alignment;
    records.resize(bytes / UNIT + 1);
    for (Record& record : records) record.is_pending = false;
    std::memset(data(), 0xff, bytes); // NaN in every element type
}

void SharedMemory::forget() { records.assign(records.size(), Record()); }

size_t SharedMemory::offset(const char* verb, const void* pointer, size_t bytes, const Access& access)
{
    ptrdiff_t at = static_cast<const char*>(pointer) - data();
    if (at < 0 || size_t(at) + bytes > size) {
        fail("out of bounds: thread " + std::to_string(access.thread) + " " + verb + " " + std::to_string(bytes) +
             " bytes at " + std::to_string(at) + " of " + std::to_string(size) + " bytes of shared memory");
    }
    if (at % bytes != 0) {
        fail("misaligned: thread " + std::to_string(access.thread) + " " + verb + " " + std::to_string(bytes) +
             " bytes at " + std::to_string(at) + " of shared memory");
    }
    return at;
}

void SharedMemory::read(const void* pointer, size_t bytes, const Access& access)
{
    size_t at = offset("reads", pointer, bytes, access);
    for (size_t unit = at / UNIT; unit < (at + bytes) / UNIT; ++unit) {
        Record& record = records[unit];
        if (record.is_pending) {
            fail("no wait: thread " + std::to_string(access.thread) + " reads shared byte " +
                 std::to_string(unit * UNIT) + " while a copy to it by thread " + std::to_string(record.writer) +
                 " is under way");
        }
        if (record.write_phase < first_phase) {
            fail("uninitialised: thread " + std::to_string(access.thread) + " reads shared byte " +
                 std::to_string(unit * UNIT) + ", which nobody wrote");
        }
        if (is_unordered(record.writer, record.write_phase, record.write_step, access)) {
            fail("race: thread " + std::to_string(access.thread) + " reads shared byte " + std::to_string(unit * UNIT) +
                 ", which thread " + std::to_string(record.writer) + " wrote with no barrier between");
        }
        int16_t reader = access.whole_warp ? WARP - access.thread / LANES : access.thread;
        if (record.read_phase == access.phase && record.reader != reader) {
            bool same_warp = record.reader != BLOCK && warp_of(record.reader) == access.thread / LANES;
            if (!same_warp) reader = BLOCK;
            else if (record.read_step == access.step) reader = WARP - access.thread / LANES;
        }
        record.reader = reader;
        record.read_phase = access.phase;
        record.read_step = access.step;
    }
}

void SharedMemory::check_write(Record& record, size_t at, const Access& access)
{
    auto race = [&](int16_t other, const char* verb) {
        fail("race: thread " + std::to_string(access.thread) + " writes shared byte " + std::to_string(at) +
             ", which " + described(other) + " " + verb + " with no barrier between");
    };
    if (record.is_pending) race(record.writer, "copies to asynchronously");
    if (record.write_phase >= first_phase && is_unordered(record.writer, record.write_phase, record.write_step, access))
        race(record.writer, "wrote");
    if (record.read_phase >= first_phase && is_unordered(record.reader, record.read_phase, record.read_step, access))
        race(record.reader, "read");
}

void SharedMemory::set_writer(Record& record, const Access& access)
{
    record.writer = access.thread;
    record.write_phase = access.phase;
    record.write_step = access.step;
}

void SharedMemory::write(const void* pointer, size_t bytes, const Access& access)
{
    size_t at = offset("writes", pointer, bytes, access);
    for (size_t unit = at / UNIT; unit < (at + bytes) / UNIT; ++unit) {
        check_write(records[unit], unit * UNIT, access);
        set_writer(records[unit], access);
    }
}

void SharedMemory::begin_copy(const void* pointer, const Access& access)
{
    size_t at = offset("copies", pointer, 16, access);
    for (size_t unit = at / UNIT; unit < (at + 16) / UNIT; ++unit) {
        check_write(records[unit], unit * UNIT, access);
        set_writer(records[unit], access);
        records[unit].is_pending = true;
    }
}

void SharedMemory::end_copy(const void* pointer, const Access& access)
{
    size_t at = offset("copies", pointer, 16, access);
    for (size_t unit = at / UNIT; unit < (at + 16) / UNIT; ++unit) {
        set_writer(records[unit], access);
        records[unit].is_pending = false;
    }
}

} // namespace emulated
