// The largest entries of a row from the lists of its tiles: a block per row.
//
// A tile lists its `listed` largest entries. A tile whose last one comes before the row's k-th may hide others that
// do: it gets a slot, the pass is run again over tiles that have one, and their whole lists take the place of the short
// ones. At most k / listed tiles can be meant, so the result is exact with a bounded amount of memory.
#pragma once
#include "unembed/block.cuh"

CONSTANT int MAX_WINDOW = 1024;

enum SelectFlags : uint32_t {
    FIND_HIDDEN = 1,   // gives slots; without it the list is written
    LOGPROBS = 2,      // values are log-probabilities, not logits
};

// Addresses of results are those of this launch's first row; null where a result is not wanted.
struct SelectParams {
    const uint64_t* lists;      // [rows, tiles, listed]
    const uint64_t* overflow;   // [rows, slots, TOKENS]
    int32_t* slots;             // [rows, tiles]
    Total* total;               // [rows]
    uint64_t* below;            // [rows]: the last entry written
    uint64_t* entries;          // [rows, stride]
    int64_t* token;             // [rows, stride]
    float* value;               // [rows, stride]
    int64_t stride;
    int32_t tiles, listed, slot_count, k;
    // The power of 2 from k on.
    int32_t room;
    uint32_t flags;
};

struct Row {
    const uint64_t* lists;
    const uint64_t* overflow;
    const int32_t* slots;
};

struct List {
    const uint64_t* first;
    int length;
};

DEVICE List list_of(const SelectParams& p, const Row& row, int tile)
{
    int slot = row.slots && !(p.flags & FIND_HIDDEN) ? row.slots[tile] : -1;
    if (slot >= 0) return List{row.overflow + int64_t(slot) * TOKENS, TOKENS};
    return List{row.lists + int64_t(tile) * p.listed, p.listed};
}

// How many entries of a falling list are `least` or more.
DEVICE int leading(const List& list, uint64_t least)
{
    int first = 0, last = list.length;
    while (first < last) {
        int middle = (first + last) / 2;
        bool inside = list.first[middle] >= least;
        first = inside ? middle + 1 : first;
        last = inside ? last : middle;
    }
    return first;
}

// How many of the entries of this thread's tiles are `least` or more.
DEVICE uint32_t count_mine(const SelectParams& p, const Row& row, uint64_t least)
{
    uint32_t count = 0;
    for (int tile = thread_index(); tile < p.tiles; tile += THREADS) count += leading(list_of(p, row, tile), least);
    return count;
}

// The k-th largest entry, bit by bit, or an entry that as many reach; 1 where there are fewer.
DEVICE uint64_t find_kth(const SelectParams& p, const Row& row)
{
    uint64_t kth = 0;
    NO_UNROLL
    for (int bit = 63; bit >= 0; --bit) {
        uint64_t candidate = kth | uint64_t(1) << bit;
        uint32_t count = block_sum(count_mine(p, row, candidate));
        if (count >= uint32_t(p.k)) kth = candidate;
        if (count == uint32_t(p.k)) break;
    }
    return kth == 0 ? 1 : kth;
}

DEVICE void give_slots(const SelectParams& p, const Row& row, int32_t* slots, uint64_t kth)
{
    auto hides = [&](int tile) { return row.lists[int64_t(tile) * p.listed + p.listed - 1] > kth; };
    uint32_t mine = 0;
    for (int tile = thread_index(); tile < p.tiles; tile += THREADS) mine += hides(tile);
    int slot = sum_before(mine);
    for (int tile = thread_index(); tile < p.tiles; tile += THREADS) slots[tile] = hides(tile) ? slot++ : -1;
}

// Bitonic, falling.
DEVICE void sort(uint64_t* entries, int count)
{
    NO_UNROLL
    for (int size = 2; size <= count; size *= 2) {
        NO_UNROLL
        for (int step = size / 2; step > 0; step /= 2) {
            barrier();
            for (int i = thread_index(); i < count / 2; i += THREADS) {
                int at = 2 * i - (i & (step - 1));
                uint64_t a = load_shared(entries + at), b = load_shared(entries + at + step);
                if ((a < b) == ((at & size) == 0)) {
                    store_shared(entries + at, b);
                    store_shared(entries + at + step, a);
                }
            }
        }
    }
    barrier();
}

// Writes the k largest in order; what a row lacks of them as no token.
DEVICE void write_list(const SelectParams& p, const Row& row, int index, uint64_t kth)
{
    uint64_t* entries = reinterpret_cast<uint64_t*>(shared_memory() + SUM_BYTES);
    uint32_t mine = count_mine(p, row, kth);
    uint32_t place = sum_before(mine), found = block_sum(mine);
    for (int tile = thread_index(); tile < p.tiles; tile += THREADS) {
        List list = list_of(p, row, tile);
        for (int i = 0; i < list.length && list.first[i] >= kth; ++i) store_shared(entries + place++, list.first[i]);
    }
    for (int i = found + thread_index(); i < p.room; i += THREADS) store_shared(entries + i, uint64_t(0));
    sort(entries, p.room);

    Mass mass = p.total[index].mass;
    bool nan = is_nan(mass.max);
    for (int i = thread_index(); i < p.k; i += THREADS) {
        uint64_t entry = load_shared(entries + i);
        int64_t at = index * p.stride + i;
        float logit = entry == 0 ? NOTHING : ranked_logit(entry);
        if (p.entries) p.entries[at] = entry;
        if (p.token) p.token[at] = nan || entry == 0 ? -1 : int64_t(ranked_token(entry));
        float value = p.flags & LOGPROBS ? logprob(mass, logit, mass.sum, 1.0f) : logit;
        if (p.value) p.value[at] = nan ? NOT_A_NUMBER : value;
        if (p.below && i == p.k - 1) p.below[index] = entry;
    }
    if (thread_index() == 0) p.total[index].listed = found;
}

DEVICE void unembed_select(const SelectParams& p)
{
    int index = block_index(0);
    int32_t* slots = p.slots ? p.slots + int64_t(index) * p.tiles : nullptr;
    Row row = {p.lists + int64_t(index) * p.tiles * p.listed,
               p.overflow ? p.overflow + int64_t(index) * p.slot_count * TOKENS : nullptr, slots};
    uint64_t kth = find_kth(p, row);
    if (p.flags & FIND_HIDDEN) {
        give_slots(p, row, slots, kth);
    } else {
        write_list(p, row, index, kth);
    }
}
