// Fused attention: a block takes 16 rows a warp (queries, and the heads that share a key head) and walks the chunks of
// keys that any of them sees, or some of these chunks, in which case it leaves the results of each for
// combine.cuh. How a row is summed depends on the row alone: the same kernel serves prefill and decode.
#pragma once

#include "attention/ring.cuh"
#include "attention/scores.cuh"

template <typename T, int DIM, int WARPS, bool HOOKS> struct Attention {
    using Shape = Panels<T, DIM>;
    using Operands = Product<T>;
    using Tiles = Ring<T, DIM, WARPS, HOOKS>;
    static constexpr int ROWS = WARPS * WARP_ROWS;
    static constexpr int PANEL = ROWS * Shape::WIDTH; // bytes of a panel of queries
    static constexpr int QUERY = PANEL * Shape::COUNT;
    static constexpr int COLUMNS = DIM / parts<DIM>(); // of the values, for this block

    // Sums of a row's columns in the layout of products: of the block, and of a panel.
    using Output = float[COLUMNS / 8][4];
    using Sums = float[Shape::COLUMNS / 8][4];

    const AttentionProblem& p;
    const AttentionPlan& plan;
    const AttentionResults& results;
    Sequence sequence{};
    int key_head = 0, first_row = 0, rows = 0; // of the block; rows of the sequence
    int first_column = 0, value_dim = 0;       // columns of the block

    // The sequence and the rows that this block is for; false if there are none left. Rows that see most come first.
    METHOD bool locate()
    {
        const Sequences& all = p.sequences;
        int tile = block_index(0) % plan.tiles, part = block_index(0) / plan.tiles;
        key_head = part / plan.parts;
        first_column = part % plan.parts * COLUMNS;
        value_dim = p.value_dim - first_column;
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

    METHOD Source<T> source() const
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

    METHOD void run()
    {
        if (!locate()) return;
        int warp_row = warp() * WARP_ROWS;
        char* queries = shared_memory() + Tiles::BYTES;
        bool has_border = HOOKS && p.border != INFINITE;
        char* scratch = queries + QUERY * (has_border ? 2 : 1) + warp() * Operands::SCRATCH;
        int g = lane() / 4;
        RowView views[2] = {view_of<HOOKS>(p, sequence, row(warp_row + g)),
                            view_of<HOOKS>(p, sequence, row(warp_row + g + 8))};
        Reach reach = reach_of(p, sequence, row(0).query, row(ROWS - 1).query);
        Visible any = reach_of(p, sequence, row(warp_row).query, row(warp_row + WARP_ROWS - 1).query).any;
        if (first_row + warp_row >= rows) any = Visible{0, 0, 0};

        int chunks = (sequence.keys + CHUNK - 1) / CHUNK;
        int first = block_index(1) * plan.chunks_per_block;
        int last = first + plan.chunks_per_block < chunks ? first + plan.chunks_per_block : chunks;
        Source<T> from = source();
        Tiles ring{p, plan, sequence, from};
        ring.begin(reach.any, first, last); // the tiles are on their way while the queries are read
        NO_UNROLL
        for (int side = 0; side < (has_border ? 2 : 1); ++side)
            load_queries(queries + side * QUERY, side == 0 ? p.query.pointer : p.queries.far_turned);
        queries += warp_row * Shape::WIDTH;

        Output output = {};
        State states[2] = {first_state(sink_of(p, views[0].row.head)), first_state(sink_of(p, views[1].row.head))};
        for (int chunk = next_chunk(reach.any, first, last); chunk < last;
             chunk = next_chunk(reach.any, chunk + 1, last)) {
            bool met = WARPS == 1 || meets(any, chunk), whole = is_whole(reach.all, chunk);
            Scores scores;
            if constexpr (HOOKS) {
                Scores sides[2]; // near and far
                NO_UNROLL
                for (int side = 0; side < (has_border ? 2 : 1); ++side) {
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

            State of_chunk[2] = {weigh(scores, 0), weigh(scores, 1)};
            Weights weights = Operands::weights_of(scores, scratch);
            Factors factors[2];
            float* partial[2];
            UNROLL
            for (int half = 0; half < 2; ++half) {
                factors[half] = Factors{1.0f, -0.0f};
                if (met) factors[half] = merge(states[half], of_chunk[half]);
                partial[half] = begin_partial(chunk, views[half].row, warp_row + g + 8 * half, of_chunk[half]);
            }
            bool clean = !whole || (HOOKS && p.key_bias.pointer != 0);
            UNROLL
            for (int panel = 0; panel < Tiles::VALUE_PANELS; ++panel) {
                bool wild = false;
                const char* values = ring.take_values(clean, wild);
                if (!met) continue;
                int first_of_panel = panel * Shape::COLUMNS;
                if (wild || results.partial_states != 0) {
                    Sums rest;
                    if (wild) sum_wild(rest, weights, from, views, chunk, first_of_panel);
                    UNROLL
                    for (int pair = 0; pair < Shape::COLUMNS / 16; ++pair) {
                        float sums[2][4] = {};
                        Operands::template sum_values<Shape::WIDTH>(sums, weights, values, pair);
                        if (wild) {
                            UNROLL
                            for (int i = 0; i < 8; ++i) sums[i / 4][i % 4] += rest[2 * pair + i / 4][i % 4];
                        }
                        if (results.partial_states != 0) store_partial(sums, partial, first_of_panel + 16 * pair);
                        else add_chunk(output, sums, factors, first_of_panel + 16 * pair);
                    }
                    continue;
                }
                UNROLL
                for (int pair = 0; pair < Shape::COLUMNS / 16; ++pair) {
                    float sums[2][4] = {};
                    Operands::template sum_values<Shape::WIDTH>(sums, weights, values, pair);
                    add_chunk(output, sums, factors, first_of_panel + 16 * pair);
                }
            }
        }
        if (results.partial_states != 0) return;
        UNROLL
        for (int half = 0; half < 2; ++half)
            if (warp_row + g + 8 * half + first_row < rows) store(output, half, states[half], views[half].row);
    }

private:
    using Weights = typename Operands::Weights;

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

    // Stores the state of a chunk of a row, if that is what the block is for; gives the place of its values.
    METHOD float* begin_partial(int chunk, const Row& at, int index, const State& state) const
    {
        if (results.partial_states == 0 || first_row + index >= rows) return nullptr;
        int64_t place = partial_row(p, sequence, chunk, Row{anew(at.query), anew(at.head)});
        if (lane() % 4 == 0 && first_column == 0) reinterpret_cast<State*>(results.partial_states)[place] = state;
        return reinterpret_cast<float*>(results.partial_values) + place * p.value_dim + first_column;
    }

    METHOD void add_chunk(Output& output, const float (&sums)[2][4], const Factors (&factors)[2], int column) const
    {
        UNROLL
        for (int i = 0; i < 8; ++i) {
            float& sum = output[column / 8 + i / 4][i % 4];
            const Factors& factor = factors[i / 2 % 2];
            sum = fma(sum, factor.before, sums[i / 4][i % 4] * factor.chunk);
        }
    }

    METHOD void store_partial(const float (&sums)[2][4], float* const (&partial)[2], int column) const
    {
        UNROLL
        for (int i = 0; i < 8; ++i) {
            int at = column + i / 4 * 8 + lane() % 4 * 2 + i % 2;
            if (partial[i / 2 % 2] != nullptr && at < value_dim) partial[i / 2 % 2][at] = sums[i / 4][i % 4];
        }
    }

    // What the infinities and NaN that were taken out of a panel of values come to, in the rows that do see them;
    // elsewhere a negative zero, which changes no number.
    METHOD void sum_wild(Sums& sums, const Weights& weights, const Source<T>& from, const RowView (&views)[2],
                         int chunk, int first_of_panel) const
    {
        NO_UNROLL
        for (int tile = 0; tile < Shape::COLUMNS / 8; ++tile) {
            float sum[4] = {-0.0f, -0.0f, -0.0f, -0.0f};
            NO_UNROLL
            for (int key = chunk * CHUNK; key < chunk * CHUNK + CHUNK && key < sequence.keys; ++key) {
                float2 weight = Operands::weights_at(weights, key % CHUNK);
                const T* row = from.value + element_of(p.pages, p.pages.table != 0, sequence, spacing_of(p.value), key);
                UNROLL
                for (int i = 0; i < 4; ++i) {
                    const RowView& view = views[i / 2];
                    int at = first_of_panel + 8 * tile + lane() % 4 * 2 + i % 2;
                    float value = at < value_dim ? to_float(row[at]) : 0.0f;
                    bool seen = sees(view.visible, key) && !(HOOKS && is_hidden(p, sequence, view.row.head, key));
                    if (seen && !(magnitude(value) < INFINITE)) sum[i] += (i < 2 ? weight.x : weight.y) * value;
                }
            }
            UNROLL
            for (int i = 0; i < 4; ++i) sums[tile][i] = sum[i];
        }
    }

    METHOD void store(const Output& output, int half, const State& state, const Row& at) const
    {
        int64_t time = sequence.query_start + at.query;
        float ending = ending_of(state);
        T* to = rows_of<T>(results.output, sequence.batch, at.head) + time * results.output.time + first_column;
        UNROLL
        for (int i = 0; i < COLUMNS / 4; ++i) {
            int column = i / 2 * 8 + lane() % 4 * 2 + i % 2;
            if (column < value_dim) to[column] = from_float<T>(output[i / 2][2 * half + i % 2] * ending);
        }
        if (results.lse.pointer != 0 && lane() % 4 == 0 && first_column == 0)
            rows_of<float>(results.lse, sequence.batch, at.head)[time * results.lse.time] =
                lse_of(state, sink_of(p, at.head));
    }
};

template <typename T, int DIM, int WARPS, bool HOOKS> DEVICE void attention(const AttentionParams& p)
{
    Attention<T, DIM, WARPS, HOOKS>{p.problem, p.plan, p.results}.run();
}
