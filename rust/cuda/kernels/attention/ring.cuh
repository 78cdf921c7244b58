// The tiles of a block, one after the other: for each chunk the panels of its keys (once more at their far positions,
// where a border asks for it), then those of its values. They pass through a ring of slots in shared memory: while one
// is used, those behind it are on their way.
#pragma once

#include "attention/pages.cuh"
#include "attention/tile.cuh"

// Keys and values of one head of a sequence; of the values those columns that the block is for.
template <typename T> struct Source {
    const T *key, *value;
    const T* far_key;  // keys turned by their far positions; null: no border
    const Turn* turns; // of the sequence's first key, where keys turn in their tiles; else null
    int value_dim;
    bool keys_paged, values_paged;
};

// VALUE_PANELS: those of the values that the block is for; 0: values are not read.
template <typename T, int DIM, int WARPS, bool HOOKS, int VALUE_PANELS> struct Ring {
    using Shape = Panels<T, DIM>;
    static constexpr int SLOT = CHUNK * Shape::WIDTH;
    // A lone warp has nobody else to bridge the time with: it asks further ahead. Three slots leave room for four
    // blocks on a multiprocessor of Hopper at head dimension 128, one for each scheduler. Four slots leave three.
    static constexpr int SLOTS = WARPS == 1 && Shape::COUNT < 4 ? 3 : 2;
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

    // Waits for the next tile, a panel of the keys of a chunk. A lone warp turns them where they lie.
    METHOD const char* take_keys(int of_chunk, int panel)
    {
        copy_wait<SLOTS - 2>();
        char* ready = shared_memory() + taken * SLOT;
        barrier();
        next();
        if (WARPS == 1 && source.turns != nullptr && panel == 0) {
            turn_rows(ready, of_chunk * CHUNK);
            barrier();
        }
        return ready;
    }

    // Waits for the next tile, a panel of values. One of which not every row sees all is freed of infinities and NaN,
    // so that a weight of zero hides them; `wild` tells whether there were any.
    METHOD const char* take_values(bool clean, bool& wild)
    {
        copy_wait<SLOTS - 2>();
        char* ready = shared_memory() + taken * SLOT;
        if (clean) wild = barrier_any(take_out_wild<T, Shape, STEP>(ready));
        else barrier();
        next();
        return ready;
    }

private:
    METHOD void next()
    {
        taken = taken + 1 == SLOTS ? 0 : taken + 1;
        ask(); // into the slot of the tile before, which nobody reads any more
    }

    // Turns the pairs `(i, i + half)` of a tile of keys that holds both of each, by whole pieces: a thread takes the
    // same piece of every KEYS-th key. Where all keys of a tile of halves exist, nothing is tested and addresses are
    // worked out once; the loads of several keys' turns are on their way together.
    METHOD void turn_rows(char* tile, int first_key)
    {
        constexpr int ACROSS = Shape::PIECES / 2; // pieces that hold the first of each pair
        constexpr int KEYS = 32 * WARPS / ACROSS;
        constexpr int PERIOD = KEYS < 8 ? 8 / KEYS : 1; // of rows that are permuted alike
        int pieces = p.half / Shape::IN_PIECE, keys = sequence.keys - first_key, thread = anew(thread_index());
        int piece = thread % ACROSS, first = thread / ACROSS;
        if (piece >= pieces) return;
        auto* turns = reinterpret_cast<const float4*>(source.turns + int64_t(first_key + first) * p.half +
                                                      piece * Shape::IN_PIECE);
        auto turn = [&](int key, int below) {
            char* row = tile + below * Shape::WIDTH;
            turn_pieces(row + place<Shape::WIDTH>(key, piece), row + place<Shape::WIDTH>(key, piece + pieces), turns);
            turns += KEYS * p.half / 2;
        };
        if constexpr (sizeof(T) == 4) { // no registers are left for the addresses of a whole tile
            keys = keys < CHUNK ? keys : CHUNK;
            UNROLL_BY(4)
            for (int key = first; key < keys; key += KEYS) turn(key, 0);
        } else if (keys >= CHUNK) {
            UNROLL
            for (int i = 0; i < CHUNK / KEYS; ++i) turn(first + i % PERIOD * KEYS, i / PERIOD * PERIOD * KEYS);
        } else {
            NO_UNROLL
            for (int key = first; key < keys; key += KEYS) turn(key, 0);
        }
    }

    // Each number of the first piece belongs to that of the second in the same place.
    METHOD void turn_pieces(char* first, char* second, const float4* turns)
    {
        constexpr int IN_WORD = Piece<T>::IN_WORD;
        uint4 a = load_shared(reinterpret_cast<const uint4*>(first));
        uint4 b = load_shared(reinterpret_cast<const uint4*>(second));
        Piece<T> low{{a.x, a.y, a.z, a.w}}, high{{b.x, b.y, b.z, b.w}}, turned[2];
        UNROLL
        for (int word = 0; word < 4; ++word) {
            float lows[IN_WORD], highs[IN_WORD];
            UNROLL
            for (int i = 0; i < IN_WORD; ++i) {
                int at = word * IN_WORD + i;
                float4 two = turns[at / 2];
                Turn turn = at % 2 == 0 ? Turn{two.x, two.y} : Turn{two.z, two.w};
                float x = number_of(low, at), y = number_of(high, at);
                lows[i] = fma(x, turn.cosine, -(y * turn.sine));
                highs[i] = fma(y, turn.cosine, x * turn.sine);
            }
            turned[0].words[word] = word_of<T>(lows);
            turned[1].words[word] = word_of<T>(highs);
        }
        store_piece(first, turned[0].words);
        store_piece(second, turned[1].words);
    }

    METHOD void ask()
    {
        if (chunk < last) {
            char* to = shared_memory() + slot * SLOT;
            int keys = Shape::COUNT * (HOOKS && source.far_key != nullptr ? 2 : 1);
            bool value = VALUE_PANELS > 0 && tile >= keys; // one copy of the code serves both
            const T* key = HOOKS && tile >= Shape::COUNT ? source.far_key : source.key;
            bool paged = value ? source.values_paged : source.keys_paged;
            load(to, value ? source.value : key, paged, value ? spacing_of(p.value) : spacing_of(p.key),
                 value ? tile - keys : tile % Shape::COUNT, value ? source.value_dim : p.head_dim,
                 (value ? plan.value_in_pieces : plan.key_in_pieces) != 0);
            if (++tile == keys + VALUE_PANELS) {
                tile = 0;
                chunk = next_chunk(any, chunk + 1, last);
            }
        }
        slot = slot + 1 == SLOTS ? 0 : slot + 1;
        copy_commit();
    }

    METHOD void load(char* to, const T* from, bool paged, const Spacing& spacing, int panel, int dim,
                     bool in_pieces)
    {
        int thread = anew(thread_index());
        int piece = thread % Shape::PIECES, column = panel * Shape::COLUMNS + piece * Shape::IN_PIECE;
        int key = chunk * CHUNK + thread / Shape::PIECES;
        if (in_pieces && is_even(p.pages, paged) && chunk * CHUNK + CHUNK <= sequence.keys) {
            bool valid = column < dim;
            const T* first = valid ? from + element_of(p.pages, paged, sequence, spacing, key) + column : from;
            copy_whole(to, first, valid ? STEP * spacing.time : 0, thread / Shape::PIECES, piece, valid);
            return;
        }
        NO_UNROLL
        for (int i = thread / Shape::PIECES; i < CHUNK; i += STEP) {
            char* at = to + place<Shape::WIDTH>(i, piece);
            bool valid = key < sequence.keys;
            const T* row = valid ? from + element_of(p.pages, paged, sequence, spacing, key) : from;
            if (in_pieces) {
                valid = valid && column < dim;
                copy_async16(at, valid ? row + column : from, valid);
            } else {
                Piece<T> x{};
                if (valid) x = load_piece(row, column, dim, false);
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
};
