// Shared memory that knows who touched it: reads of what was never written, accesses out of bounds, and pairs of
// accesses that no barrier orders.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulated {

// Who touches shared memory, and when.
struct Access {
    int thread;
    uint32_t phase;   // block barriers passed
    uint32_t step;    // warp barriers that its warp has passed
    bool whole_warp;  // every lane reads it
};

class SharedMemory {
public:
    // Poisons `bytes` for a new block, whose first phase is `phase`.
    void begin(size_t bytes, uint32_t phase);
    // Forgets every access: phases start anew.
    void forget();

    char* data() { return memory.data() + offset_of_aligned; }

    void read(const void* pointer, size_t bytes, const Access& access);
    void write(const void* pointer, size_t bytes, const Access& access);
    // An asynchronous copy is asked for, and has landed.
    void begin_copy(const void* pointer, const Access& access);
    void end_copy(const void* pointer, const Access& access);

private:
    // Two bytes, the smallest unit that a kernel accesses.
    struct Record {
        uint32_t write_phase = 0, write_step = 0, read_phase = 0, read_step = 0;
        int16_t writer = 0, reader = 0;
        bool is_pending = false;
    };

    size_t offset(const char* verb, const void* pointer, size_t bytes, const Access& access);
    void check_write(Record& record, size_t at, const Access& access);
    void set_writer(Record& record, const Access& access);

    std::vector<char> memory;
    std::vector<Record> records;
    size_t offset_of_aligned = 0, size = 0;
    uint32_t first_phase = 0;
};

} // namespace emulated
