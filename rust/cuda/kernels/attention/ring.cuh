// The tiles of a block, one after the other: for each chunk the panels of its keys (once more at their far positions,
// where a border asks for it), then those of its values. They pass through a ring of slots in shared memory: while one
// is used, those behind it are on their way.
#pragma once

#include "attention/tile.cuh"

// Keys and values of one head of a sequence; of the values those columns that the block is for.
template <typename T> struct Source {
    const T *key, *value;
    int value_dim;
    const Turn *turns, *far_turns; // of the sequence's first key; null: no rotation
};

// How far the keys or the values of a head lie apart, in elements.
struct Spacing {
    int64_t time, page;
};

DEVICE Spacing spacing_of(const Array& array) { return Spacing{array.time, array.batch}; }

// Where a key stands behind the first of its head; in pages, whatever the table says, inside of them.
DEVICE int64_t element_of(const AttentionProblem& p, const Sequence& sequence, const Spacing& spacing, int key)
{
    const Pages& pages = p.pages;
    if (pages.table == 0) return key * spacing.time;
    int block = pages.shift >= 0 ? key >> pages.shift : key / pages.size;
    int page = count_at(pages.table, pages.kind, sequence.index * pages.stride + block, pages.count - 1);
    return page * spacing.page + (key - block * pages.size) * spacing.time;
}

// Whether the keys of a chunk are evenly spaced.
DEVICE bool is_even(const Pages& pages) { return pages.table == 0 || pages.size % CHUNK == 0; }

// Blocks that share the columns of the values, where sums of all columns would not fit a thread's registers. Each of
// them weighs the keys anew.
template <int DIM> DEVICE constexpr int parts() { return DIM > 128 ? 2 : 1; }

template <typename T, int DIM, int WARPS, bool HOOKS> struct Ring {
    using Shape = Panels<T, DIM>;
    static constexpr int VALUE_PANELS = Shape::COUNT / parts<DIM>();
    static constexpr int SLOT = CHUNK * Shape::WIDTH;
    // A lone warp has nobody else to bridge the time with: it asks further ahead, as far as there is room.
    static constexpr int SLOTS = WARPS == 1 && Shape::COUNT < 4 ? 4 : 2;
    static constexpr int BYTES = SLOTS * SLOT;
    // A thread copies the same piece of every STEP-th row.
    static constexpr int STEP = 32 * WARPS / Shape::PIECES;

    const AttentionProblem& p;
    const AttentionPlan& plan;
    const Sequence& sequence;
    const Source<T>& source;
    Visible any{};
    int last = 0;                      // end of the chunks
    int chunk = 0, tile = 0, slot = 0; // what is asked for next, and where it will lie
    int taken = 0;                     // the slot that is taken next

    METHOD void begin(const Visible& seen, int first, int end)
    {
        any = seen;
        last = end;
        chunk = next_chunk(any, first, last);
        NO_UNROLL
        for (int i = 0; i < SLOTS - 1; ++i) ask();
    }

    // Waits for the next tile. A tile of values of which not every row sees all is freed of infinities and NaN, so that
    // a weight of zero hides them; `wild` tells whether there were any.
    METHOD const char* take(bool clean, bool& wild)
    {
        copy_wait<SLOTS - 2>();
        char* ready = shared_memory() + taken * SLOT;
        if (clean) wild = barrier_any(take_out_wild(ready));
        else barrier();
        taken = taken + 1 == SLOTS ? 0 : taken + 1;
        ask(); // into the slot of the tile before, which nobody reads any more
        return ready;
    }

private:
    METHOD void ask()
    {
        if (chunk < last) {
            char* to = shared_memory() + slot * SLOT;
            int keys = Shape::COUNT * (HOOKS && source.far_turns != nullptr ? 2 : 1);
            bool value = tile >= keys; // one copy of the code serves both
            const Turn* turns = value ? nullptr : tile < Shape::COUNT ? source.turns : source.far_turns;
            Spacing spacing = value ? spacing_of(p.value) : spacing_of(p.key);
            load(to, value ? source.value : source.key, spacing, value ? tile - keys : tile % Shape::COUNT,
                 value ? source.value_dim : p.head_dim,
                 (value ? plan.value_in_pieces : plan.key_in_pieces) != 0, turns);
            if (++tile == keys + VALUE_PANELS) {
                tile = 0;
                chunk = next_chunk(any, chunk + 1, last);
            }
        }
        slot = slot + 1 == SLOTS ? 0 : slot + 1;
        copy_commit();
    }

    METHOD void load(char* to, const T* from, const Spacing& spacing, int panel, int dim, bool in_pieces,
                     const Turn* turns)
    {
        int thread = anew(thread_index());
        int piece = thread % Shape::PIECES, column = panel * Shape::COLUMNS + piece * Shape::IN_PIECE;
        int key = chunk * CHUNK + thread / Shape::PIECES;
        bool turn = HOOKS && turns != nullptr, copy = in_pieces && !turn;
        if (copy && is_even(p.pages) && chunk * CHUNK + CHUNK <= sequence.keys) {
            bool valid = column < dim;
            const T* first = valid ? from + element_of(p, sequence, spacing, key) + column : from;
            copy_whole(to, first, valid ? STEP * spacing.time : 0, thread / Shape::PIECES, piece, valid);
            return;
        }
        NO_UNROLL
        for (int i = thread / Shape::PIECES; i < CHUNK; i += STEP) {
            char* at = to + place<Shape::WIDTH>(i, piece);
            bool valid = key < sequence.keys;
            const T* row = valid ? from + element_of(p, sequence, spacing, key) : from;
            if (copy) {
                valid = valid && column < dim;
                copy_async16(at, valid ? row + column : from, valid);
            } else {
                Piece<T> x{};
                if (valid && turn) {
                    Rotation rotation{turns + int64_t(key) * p.half, p.half, p.interleaved != 0};
                    x = load_turned(row, column, dim, in_pieces, rotation);
                } else if (valid) {
                    x = load_piece(row, column, dim, in_pieces);
                }
                store_piece(at, x.words);
            }
            key += STEP;
        }
    }

    // A chunk of keys that all exist, evenly spaced. Pieces of rows that lie eight apart are permuted alike: where they
    // go is worked out once.
    METHOD void copy_whole(char* to, const T* from, int64_t stride, int row, int piece, bool valid)
    {
        constexpr int PERIOD = STEP < 8 ? 8 / STEP : 1;
        char* at[PERIOD];
        UNROLL
        for (int i = 0; i < PERIOD; ++i) at[i] = to + place<Shape::WIDTH>(row + i * STEP, piece);
        UNROLL
        for (int i = 0; i < CHUNK / STEP; ++i) {
            copy_async16(at[i % PERIOD] + i / PERIOD * PERIOD * STEP * Shape::WIDTH, from, valid);
            from += stride;
        }
    }

    // Each thread looks through what it has copied itself.
    METHOD bool take_out_wild(char* tile)
    {
        bool wild = false;
        int thread = thread_index();
        NO_UNROLL
        for (int i = thread / Shape::PIECES; i < CHUNK; i += STEP) {
            auto* at = reinterpret_cast<uint4*>(tile + place<Shape::WIDTH>(i, thread % Shape::PIECES));
            uint4 raw = load_shared(at);
            bool x = zero_wild<T>(raw.x), y = zero_wild<T>(raw.y), z = zero_wild<T>(raw.z), w = zero_wild<T>(raw.w);
            if (x || y || z || w) store_shared(at, raw);
            wild = wild || x || y || z || w;
        }
        return wild;
    }
};
