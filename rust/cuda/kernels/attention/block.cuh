// The rows of a block on their walk over the chunks of keys that any of them sees: what forward attention and the
// statistics of its weights share. How a row's scores come about depends on the row alone: blocks of one warp and of
// several, for prefill and for decode, give it the same bits.
#pragma once

#include "attention/ring.cuh"
#include "attention/scores.cuh"

template <typename T, int DIM, int WARPS, bool HOOKS, int VALUE_PANELS> struct RowBlock {
    using Shape = Panels<T, DIM>;
    using Operands = Product<T>;
    using Tiles = Ring<T, DIM, WARPS, HOOKS, VALUE_PANELS>;
    static constexpr int ROWS = WARPS * WARP_ROWS;
    static constexpr int PANEL = ROWS * Shape::WIDTH; // bytes of a panel of queries
    static constexpr int QUERY = PANEL * Shape::COUNT;

    const AttentionProblem& p;
    const AttentionPlan& plan;
    Sequence sequence{};
    int key_head = 0, part = 0, first_row = 0, rows = 0; // of the block; rows of the sequence

    // The sequence and the rows that this block is for; false if there are none left. Rows that see most come first.
    METHOD bool locate()
    {
        const Sequences& all = p.sequences;
        int tile = block_index(0) % plan.tiles, head_and_part = block_index(0) / plan.tiles;
        key_head = head_and_part / plan.parts;
        part = head_and_part % plan.parts;
        int index = 0;
        if (all.query_offsets == 0) {
            int tiles = (all.query_time * p.group + ROWS - 1) / ROWS;
            index = tile / tiles;
            tile %= tiles;
        } else if (all.count > 0) {
            index = sequence_of_tile(all, p.group, ROWS, tile);
            tile -= first_tile(all, p.group, ROWS, index);
        }
        if (index >= all.count) return false;
        sequence = sequence_of(all, index);
        rows = sequence.queries * p.group;
        int tiles = (rows + ROWS - 1) / ROWS;
        first_row = (tiles - 1 - tile) * ROWS;
        return tile >= 0 && tile < tiles;
    }

    // A row of the block; behind the last one of the sequence, that one again, whose results nobody stores.
    METHOD Row row(int index) const
    {
        return row_of(p, key_head, first_row + index < rows ? first_row + index : rows - 1);
    }

    // Of the array over (batch, head, time) that begins at `first`.
    METHOD void load_queries(char* to, uint64_t first) const
    {
        NO_UNROLL
        for (int i = thread_index(); i < ROWS * Shape::COUNT * Shape::PIECES; i += 32 * WARPS) {
            int index = i / (Shape::COUNT * Shape::PIECES), rest = i % (Shape::COUNT * Shape::PIECES);
            int panel = rest / Shape::PIECES, piece = rest % Shape::PIECES;
            Row at = row(index);
            int64_t time = sequence.query_start + at.query;
            Array queries = p.query;
            queries.pointer = first;
            const T* from = rows_of<const T>(queries, sequence.batch, at.head) + time * queries.time;
            int column = panel * Shape::COLUMNS + piece * Shape::IN_PIECE;
            Piece<T> x = load_piece(from, column, p.head_dim, plan.query_in_pieces != 0);
            store_piece(to + panel * PANEL + place<Shape::WIDTH>(index, piece), x.words);
        }
    }

    // Of the two rows of a lane.
    METHOD int row_index(int half) const { return warp() * WARP_ROWS + lane() / 4 + 8 * half; }
    METHOD bool is_asked(int half) const { return first_row + row_index(half) < rows; }
    METHOD RowView view(int half) const { return view_of<HOOKS>(p, sequence, row(row_index(half))); }

    METHOD Source<T> source(int first_column, int value_dim) const
    {
        bool values_paged = p.pages.table != 0, keys_paged = values_paged && p.keys_turned == 0;
        // Pages are found anew for each chunk: what is the same for all of them is the head.
        auto head = [&](const Array& array, bool paged) {
            return rows_of<const T>(array, paged ? 0 : sequence.key_batch, key_head) + sequence.key_start * array.time;
        };
        Array far = p.key;
        far.pointer = p.keys.far_turned;
        const T* far_key = HOOKS && p.keys.far_turned != 0 ? head(far, keys_paged) : nullptr;
        int64_t first_turn = (int64_t(sequence.key_batch) * p.sequences.key_time + sequence.key_start) * p.half;
        auto* turns = reinterpret_cast<const Turn*>(p.keys.turns);
        return Source<T>{head(p.key, keys_paged), head(p.value, values_paged) + first_column, far_key,
                         WARPS == 1 && turns != nullptr ? turns + first_turn : nullptr, value_dim, keys_paged,
                         values_paged};
    }

    // Scratch of the warp, behind the queries.
    METHOD char* scratch() const
    {
        return shared_memory() + Tiles::BYTES + QUERY * (has_border() ? 2 : 1) + warp() * Operands::SCRATCH;
    }

    // Takes each chunk of this block that any of its rows sees, in order: `take` gets the ring, which has the chunk's
    // values next, the chunk, whether the warp has a row that sees something of it, whether all rows see all of it, and
    // the scores in units of log2 e.
    template <typename Take> METHOD void walk(const Source<T>& from, const RowView (&views)[2], Take take)
    {
        int warp_row = warp() * WARP_ROWS;
        char* queries = shared_memory() + Tiles::BYTES;
        Reach reach = reach_of(p, sequence, row(0).query, row(ROWS - 1).query);
        Visible any = reach_of(p, sequence, row(warp_row).query, row(warp_row + WARP_ROWS - 1).query).any;
        if (first_row + warp_row >= rows) any = Visible{0, 0, 0};

        int chunks = (sequence.keys + CHUNK - 1) / CHUNK;
        int first = block_index(1) * plan.chunks_per_block;
        int last = first + plan.chunks_per_block < chunks ? first + plan.chunks_per_block : chunks;
        Tiles ring{p, plan, sequence, from};
        ring.begin(reach.any, first, last); // the tiles are on their way while the queries are read
        NO_UNROLL
        for (int side = 0; side < (has_border() ? 2 : 1); ++side)
            load_queries(queries + side * QUERY, side == 0 ? p.query.pointer : p.queries.far_turned);
        queries += warp_row * Shape::WIDTH;

        for (int chunk = next_chunk(reach.any, first, last); chunk < last;
             chunk = next_chunk(reach.any, chunk + 1, last)) {
            bool met = WARPS == 1 || meets(any, chunk), whole = is_whole(reach.all, chunk);
            Scores scores;
            if constexpr (HOOKS) {
                Scores sides[2]; // near and far
                NO_UNROLL
                for (int side = 0; side < (has_border() ? 2 : 1); ++side) {
                    multiply(ring, scores, queries + side * QUERY, chunk, met);
                    copy(sides[side], scores);
                }
                if (met) score_with_hooks(p, sequence, views, chunk, sides[0], sides[1]);
                copy(scores, sides[0]);
            } else {
                multiply(ring, scores, queries, chunk, met);
                score_plainly(views, scores);
            }
            if (!whole) hide_unseen(views, chunk, scores);
            take(ring, chunk, met, whole, scores);
        }
    }

private:
    METHOD bool has_border() const { return HOOKS && p.border != INFINITE; }

    // scores = queries keys^T, over the panels of the keys that come next.
    METHOD void multiply(Tiles& ring, Scores& scores, const char* queries, int chunk, bool met) const
    {
        UNROLL
        for (int i = 0; i < 4 * KEY_TILES; ++i) scores[i / 4][i % 4] = 0.0f;
        NO_UNROLL
        for (int panel = 0; panel < Shape::COUNT; ++panel) {
            const char* keys = ring.take_keys(chunk, panel);
            if (met) Operands::template add_scores<Shape::WIDTH>(scores, queries + panel * PANEL, keys);
        }
    }
};
