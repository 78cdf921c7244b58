// A walk of the backward pass: a block owns 16 lines a warp, rows or keys, and meets, chunk after chunk of 64, all
// lines of the other kind that see them or that they see. What becomes of it is one gradient: of queries, keys or
// values. Weights and slopes are computed again from the LSE; the order of a sum depends on its sequence alone.
#pragma once

#include "attention/gradient/lines.cuh"
#include "attention/gradient/slopes.cuh"

CONSTANT int OF_QUERY = 0;
CONSTANT int OF_KEY = 1;
CONSTANT int OF_VALUE = 2;
// Columns whose sums a thread's registers have room for. A lone warp has a loop more, over the panels of wide float32.
template <int WARPS> DEVICE constexpr int most_sums() { return WARPS == 1 ? 64 : 128; }

template <typename T, int DIM, int WARPS, int OF, bool HOOKS> struct Gradient {
    using Shape = Panels<T, DIM>;
    using Operands = Product<T>;
    using Loads = Tiles<T, DIM, WARPS>;
    using Weights = typename Operands::Weights;
    static constexpr bool BY_ROWS = OF == OF_QUERY; // the block's own lines are rows, the others keys
    static constexpr int OWN = WARPS * WARP_ROWS;
    static constexpr int PANEL = OWN * Shape::WIDTH;
    static constexpr int SLOT = CHUNK * Shape::WIDTH;
    static constexpr int COLUMNS = DIM < most_sums<WARPS>() ? DIM : most_sums<WARPS>(); // of this block
    static constexpr int SUM_PANELS = COLUMNS / Shape::COLUMNS;
    static constexpr int BY_VALUE = OF == OF_VALUE ? 0 : Shape::COUNT; // panels of the second product
    // Places in shared memory: two slots of tiles, what is known of the rows of a chunk, the own lines for either
    // product, scratch.
    static constexpr int RECORDS = 2 * SLOT;
    static constexpr int RECORD_BYTES = CHUNK * int(sizeof(PairRow));
    static constexpr int LINES = RECORDS + RECORD_BYTES;
    static constexpr int SCRATCH = LINES + PANEL * (Shape::COUNT + BY_VALUE);

    const GradientParams& params;
    const AttentionProblem& p;
    Sequence sequence{};
    int part = 0, key_head = 0, first_head = 0, group = 1; // heads of the rows: from the first, a group
    int rows = 0, first = 0; // of the sequence; the block's first line
    int side = NEAR;
    int last = 0;            // end of the others' chunks
    int chunk = 0, item = 0; // what is asked for next
    int slot = 0;            // where that will lie, and what is taken next lies now

    METHOD void run()
    {
        int block = block_index(0), stripe = block % params.stripes, rest = block / params.stripes;
        part = rest % params.parts;
        int head = rest / params.parts;
        bool apart = params.heads_apart != 0;
        group = apart ? 1 : p.group;
        key_head = apart ? head / p.group : head;
        first_head = apart ? head : head * p.group;
        if (counts_distances()) clear_table();
        NO_UNROLL
        for (int tile = stripe; tile < params.tiles; tile += params.stripes) {
            if (!locate(tile)) continue;
            Sums sums = {};
            float numbers[2] = {0.0f, 0.0f};
            int end = OF == OF_VALUE ? params.sides : block_index(1) + 1;
            NO_UNROLL
            for (side = OF == OF_VALUE ? NEAR : block_index(1); side < end; ++side) walk(sums, numbers);
            store(sums, numbers);
        }
    }

private:
    using Sums = float[COLUMNS / 8][4];

    // Whether the table's gradient is asked for.
    METHOD bool counts_distances() const { return HOOKS && BY_ROWS && params.tables != 0; }

    // The warp's own table.
    METHOD float* table() const
    {
        int stripe = block_index(0) % params.stripes;
        int64_t index = (int64_t(first_head) * params.sides + block_index(1)) * params.stripes + stripe;
        return reinterpret_cast<float*>(params.tables) + (index * WARPS + warp()) * p.distance_length;
    }

    METHOD void clear_table() const
    {
        float* of_warp = table();
        for (int column = lane(); column < p.distance_length; column += 32) of_warp[column] = 0.0f;
        warp_barrier();
    }

    // The sequence and the lines that a tile is of; false if there are none left.
    METHOD bool locate(int tile)
    {
        Sequences all = p.sequences;
        if (!BY_ROWS) { // tiles are given out by where keys begin
            all.query_offsets = all.key_offsets;
            all.query_offsets_kind = all.key_offsets_kind;
            all.query_time = all.key_time;
        }
        int of_time = BY_ROWS ? group : 1, index = 0;
        if (all.query_offsets == 0) {
            int tiles = (all.query_time * of_time + OWN - 1) / OWN;
            index = tile / tiles;
            tile %= tiles;
        } else if (all.count > 0) {
            index = sequence_of_tile(all, of_time, OWN, tile);
            tile -= first_tile(all, of_time, OWN, index);
        }
        if (index >= all.count) return false;
        sequence = sequence_of(p.sequences, index);
        rows = sequence.queries * group;
        int tiles = (lines() + OWN - 1) / OWN;
        // Lines that meet most come first: the last rows, the first keys.
        first = (BY_ROWS ? tiles - 1 - tile : tile) * OWN;
        last = ((BY_ROWS ? sequence.keys : rows) + CHUNK - 1) / CHUNK;
        return tile >= 0 && tile < tiles;
    }

    // ------------------------------------------------------------------------------------------ which lines meet which

    // How many own lines there are.
    METHOD int lines() const { return BY_ROWS ? rows : sequence.keys; }

    METHOD Row row_at(int line) const
    {
        int query = group == 1 ? line : line / group;
        return Row{query, first_head + line - query * group};
    }

    // What the rows from one line to another see; lines behind the last row are that one again.
    METHOD Reach reach(int from, int to) const
    {
        return reach_of(p, sequence, row_at(from < rows ? from : rows - 1).query,
                        row_at(to < rows ? to : rows - 1).query);
    }

    // Whether a chunk of the others has something for `count` own lines.
    METHOD bool meets_own(int from, int count, int chunk) const
    {
        if (from >= lines()) return false;
        if (BY_ROWS) return meets(reach(from, from + count - 1).any, chunk);
        return meets(reach(chunk * CHUNK, chunk * CHUNK + CHUNK - 1).any, from, from + count);
    }

    // Whether all pairs of the block's lines with a chunk see each other.
    METHOD bool is_whole_own(int chunk) const
    {
        if (BY_ROWS) return first + OWN <= rows && is_whole(reach(first, first + OWN - 1).all, chunk);
        int line = chunk * CHUNK;
        return line + CHUNK <= rows && is_whole(reach(line, line + CHUNK - 1).all, first, first + OWN);
    }

    // The next chunk from this one on that has something for the block; each lane looks at one.
    METHOD int next_chunk_own(int chunk) const
    {
        NO_UNROLL
        for (; chunk < last; chunk += 32) {
            int at = chunk + lane();
            uint32_t found = ballot(at < last && meets_own(first, OWN, at));
            if (found != 0) return chunk + count_bits((found & (0u - found)) - 1);
        }
        return last;
    }

    // ------------------------------------------------------------------------------------------------- tiles, in order

    // Of each chunk: the panels for the scores, those for the product with the values, those that are summed.
    METHOD void ask()
    {
        if (chunk < last) {
            bool second = item >= Shape::COUNT && (OF == OF_VALUE || item < Shape::COUNT + BY_VALUE);
            int panel = item < Shape::COUNT ? item : item - Shape::COUNT;
            if (item >= Shape::COUNT + BY_VALUE) panel = item - Shape::COUNT - BY_VALUE + part * SUM_PANELS;
            Lines<T> from = lines_of(!BY_ROWS, second);
            Loads::template load<CHUNK>(shared_memory() + slot * SLOT, from, chunk * CHUNK, panel);
            if (++item == Shape::COUNT + BY_VALUE + (is_asked() ? SUM_PANELS : 0)) {
                item = 0;
                chunk = next_chunk_own(chunk + 1);
            }
        }
        copy_commit();
    }

    METHOD const char* take(bool clean, bool& wild)
    {
        copy_wait<0>();
        char* ready = shared_memory() + slot * SLOT;
        if (clean) wild = barrier_any(take_out_wild<T, typename Loads::Shape, Loads::STEP>(ready));
        else barrier();
        slot ^= 1;
        ask(); // into the slot of the tile before, which nobody reads any more
        return ready;
    }

    METHOD bool is_asked() const { return params.gradient.pointer != 0 || params.sums[side].pointer != 0; }

    // Rows or keys, as the first product takes them or the second.
    METHOD Lines<T> lines_of(bool of_rows, bool second) const
    {
        const Array& array = of_rows ? (second ? params.output_gradient : params.query[side])
                                     : (second ? p.value : params.key[side]);
        int32_t in_pieces = of_rows ? (second ? params.output_gradient_in_pieces : params.query_in_pieces)
                                    : (second ? params.value_in_pieces : params.key_in_pieces);
        int batch = of_rows ? sequence.batch : sequence.key_batch;
        int64_t start = of_rows ? sequence.query_start : sequence.key_start;
        return Lines<T>{rows_of<const T>(array, batch, of_rows ? first_head : key_head) + start * array.time,
                        array.time,
                        array.head,
                        of_rows ? group : 1,
                        of_rows ? rows : sequence.keys,
                        second ? p.value_dim : p.head_dim,
                        in_pieces != 0};
    }

    // What the pairs need to know of rows: of the block's own for the gradient of queries, else of a chunk.
    METHOD void store_records(int from, int count) const
    {
        NO_UNROLL
        for (int i = thread_index(); i < count; i += 32 * WARPS) {
            int line = from + i;
            PairRow row{};
            if (line < rows) row = pair_row(p, sequence, params.known, row_at(line));
            const Visible& visible = row.visible;
            uint4 known{bits(row.lse), bits(row.share), bits(row.factor), uint32_t(row.query)};
            store_shared(records() + 2 * i, known);
            store_shared(records() + 2 * i + 1,
                         uint4{uint32_t(visible.start), uint32_t(visible.end), uint32_t(visible.first), 0});
        }
    }

    METHOD uint4* records() const { return reinterpret_cast<uint4*>(shared_memory() + RECORDS); }

    METHOD PairRow record(int i, bool whole) const
    {
        uint4 known = load_shared(records() + 2 * i);
        PairRow row{from_bits(known.x), from_bits(known.y), from_bits(known.z), int(known.w), Visible{0, 0, 0}, 0};
        if (whole) return row;
        uint4 seen = load_shared(records() + 2 * i + 1);
        row.visible = Visible{int(seen.x), int(seen.y), int(seen.z)};
        return row;
    }

    // -------------------------------------------------------------------------------------------------------- the walk

    METHOD void walk(Sums& sums, float (&numbers)[2])
    {
        chunk = next_chunk_own(0);
        if (chunk >= last) return;
        barrier(); // the tiles of the walk before are read
        NO_UNROLL
        for (int panel = 0; panel < Shape::COUNT + BY_VALUE; ++panel) {
            bool second = panel >= Shape::COUNT;
            Loads::template load<OWN>(shared_memory() + LINES + panel * PANEL, lines_of(BY_ROWS, second), first,
                                      second ? panel - Shape::COUNT : panel);
        }
        if (BY_ROWS) store_records(first, OWN);
        item = slot = 0;
        ask();

        int own = first + warp() * WARP_ROWS;
        const char* own_lines = shared_memory() + LINES + warp() * WARP_ROWS * Shape::WIDTH;
        char* scratch = shared_memory() + SCRATCH + warp() * Operands::SCRATCH;
        bool hides = HOOKS && (p.key_bias.pointer != 0 || p.border != INFINITE);
        NO_UNROLL
        for (int now = chunk; now < last; now = next_chunk_own(now + 1)) {
            // Seen behind the barrier of the first tile; those before were read before the last tiles were summed.
            if (!BY_ROWS && !is_asked()) barrier();
            if (!BY_ROWS) store_records(now * CHUNK, CHUNK);
            bool met = WARPS == 1 || meets_own(own, WARP_ROWS, now), whole = is_whole_own(now);
            Scores scores, by_value;
            multiply(scores, own_lines, met);
            if (OF != OF_VALUE) multiply(by_value, own_lines + Shape::COUNT * PANEL, met);
            Weights weights{};
            if (met) {
                if constexpr (HOOKS) differentiate_with_hooks(now, whole, scores, by_value, numbers);
                else differentiate(now, whole, scores, by_value);
                weights = Operands::weights_of(scores, scratch);
            }
            if (!is_asked()) continue;
            UNROLL
            for (int panel = 0; panel < SUM_PANELS; ++panel) {
                bool wild = false;
                const char* values = take(!whole || hides, wild);
                if (!met) continue;
                int first_of_panel = panel * Shape::COLUMNS;
                NO_UNROLL
                for (int tile = 0; wild && tile < Shape::COLUMNS / 8; ++tile)
                    add_wild(sums, weights, now, first_of_panel / 8 + tile);
                UNROLL
                for (int pair = 0; pair < Shape::COLUMNS / 16; ++pair) {
                    float of_chunk[2][4] = {};
                    Operands::template sum_values<Shape::WIDTH>(of_chunk, weights, values, pair);
                    UNROLL
                    for (int i = 0; i < 8; ++i)
                        sums[first_of_panel / 8 + 2 * pair + i / 4][i % 4] += of_chunk[i / 4][i % 4];
                }
            }
        }
    }

    METHOD void multiply(Scores& scores, const char* own_lines, bool met)
    {
        UNROLL
        for (int i = 0; i < 4 * KEY_TILES; ++i) scores[i / 4][i % 4] = 0.0f;
        NO_UNROLL
        for (int panel = 0; panel < Shape::COUNT; ++panel) {
            bool wild;
            const char* tile = take(false, wild);
            if (met) Operands::template add_scores<Shape::WIDTH>(scores, own_lines + panel * PANEL, tile);
        }
    }

    // A lane's own lines, among those of the block and of the sequence.
    METHOD int own_place(int half) const { return anew(thread_index()) / 32 * WARP_ROWS + anew(lane()) / 4 + 8 * half; }
    METHOD int own_line(int half) const { return first + own_place(half); }

    // Products become weights for the gradient of values, and slopes for the others.
    METHOD void differentiate(int now, bool whole, Scores& scores, const Scores& by_value) const
    {
        float factor = p.scale * LOG2_E;
        PairRow own[2] = {};
        UNROLL
        for (int half = 0; half < 2 && BY_ROWS; ++half) own[half] = record(own_place(half), whole);
        UNROLL
        for (int tile = 0; tile < KEY_TILES; ++tile) {
            UNROLL
            for (int column = 0; column < 2; ++column) {
                int inside = 8 * tile + lane() % 4 * 2 + column, line = now * CHUNK + inside;
                PairRow other{};
                if (!BY_ROWS) other = record(inside, whole);
                UNROLL
                for (int half = 0; half < 2; ++half) {
                    float& score = scores[tile][2 * half + column];
                    const PairRow& row = BY_ROWS ? own[half] : other;
                    float weight = ex2(fma(score, factor, -row.lse));
                    bool seen = whole || sees(row.visible, BY_ROWS ? line : own_line(half));
                    if (OF != OF_VALUE) weight *= by_value[tile][2 * half + column] - row.share;
                    score = seen ? weight : 0.0f;
                }
            }
        }
    }

    // The same with all hooks. Adds to the gradients that are sums of slopes, where they are asked for. The products
    // lie on the stack: a loop over them keeps the kernel short and its registers free.
    METHOD void differentiate_with_hooks(int now, bool whole, Scores& scores, const Scores& by_value,
                                         float (&numbers)[2]) const
    {
        float near[KEY_TILES][4], values[KEY_TILES][4];
        copy(near, scores);
        if (OF != OF_VALUE) copy(values, by_value);
        NO_UNROLL
        for (int tile = 0; tile < KEY_TILES; ++tile) {
            UNROLL
            for (int i = 0; i < 4; ++i) {
                int half = i / 2, inside = 8 * tile + lane() % 4 * 2 + i % 2, line = now * CHUNK + inside;
                int key = BY_ROWS ? line : own_line(half);
                PairRow row = record(BY_ROWS ? own_place(half) : inside, whole);
                if (BY_ROWS) line = own_line(half);
                Row at{row.query, first_head + line - row.query * group};
                float product = near[tile][i];
                Scored scored{-INFINITE, 1.0f, 0};
                bool seen = whole || sees(row.visible, key);
                if (seen) scored = score_pair(p, sequence, side, at, row.factor, key, product);
                bool counts = scored.score != -INFINITE;
                float weight = weight_of(scored.score, row.lse);
                if constexpr (OF == OF_VALUE) {
                    near[tile][i] = weight;
                    continue;
                }
                float slope = counts ? weight * (values[tile][i] - row.share) : 0.0f;
                float chained = slope * scored.chain;
                if (OF == OF_KEY) numbers[half] += slope;
                if (OF == OF_QUERY && counts) numbers[half] = fma(chained, product, numbers[half]);
                near[tile][i] = chained * row.factor;
                if (counts_distances()) add_to_table(table(), scored.column, slope, counts);
            }
        }
        copy(scores, near);
    }

    // What the infinities and NaN that were taken out of a panel come to, for those that have a weight for them.
    METHOD void add_wild(Sums& sums, const Weights& weights, int now, int tile) const
    {
        Lines<T> from = lines_of(!BY_ROWS, OF == OF_VALUE);
        float sum[4] = {-0.0f, -0.0f, -0.0f, -0.0f};
        NO_UNROLL
        for (int line = now * CHUNK; line < now * CHUNK + CHUNK && line < from.count; ++line) {
            float2 weight = Operands::weights_at(weights, line % CHUNK);
            const T* of_line = from.at(line);
            UNROLL
            for (int i = 0; i < 4; ++i) {
                int column = part * COLUMNS + 8 * tile + lane() % 4 * 2 + i % 2;
                float value = column < from.dim ? to_float(of_line[column]) : 0.0f;
                float of_row = i < 2 ? weight.x : weight.y;
                if (of_row != 0.0f && !(magnitude(value) < INFINITE)) sum[i] += of_row * value;
            }
        }
        UNROLL
        for (int other = 0; other < COLUMNS / 8; ++other) { // registers have no index
            UNROLL
            for (int i = 0; i < 4; ++i) sums[other][i] += other == tile ? sum[i] : -0.0f;
        }
    }

    // ----------------------------------------------------------------------------------------------------- the results

    METHOD void store(const Sums& sums, const float (&numbers)[2]) const
    {
        // Slopes are by scores: a query or a key enters these times the scale, which its gradient still lacks.
        float factor = OF == OF_VALUE ? 1.0f : p.scale;
        int dim = (OF == OF_VALUE ? p.value_dim : p.head_dim) - part * COLUMNS;
        int of_side = OF == OF_VALUE ? NEAR : block_index(1);
        UNROLL
        for (int half = 0; half < 2; ++half) {
            float number = numbers[half];
            number += shuffle_xor(number, 1);
            number += shuffle_xor(number, 2);
            int line = own_line(half);
            if (line >= lines()) continue;
            Row at = BY_ROWS ? row_at(line) : Row{line, key_head};
            int batch = BY_ROWS ? sequence.batch : sequence.key_batch;
            int64_t time = (BY_ROWS ? sequence.query_start : sequence.key_start) + at.query;
            const Array& array = params.sums[of_side];
            auto* to = rows_of<T>(params.gradient, batch, at.head) + time * params.gradient.time + part * COLUMNS;
            auto* turned = rows_of<float>(array, batch, at.head) + time * array.time + part * COLUMNS;
            UNROLL
            for (int i = 0; i < COLUMNS / 4; ++i) {
                int column = i / 2 * 8 + lane() % 4 * 2 + i % 2;
                float sum = sums[i / 2][2 * half + i % 2] * factor;
                if (column < dim && params.gradient.pointer != 0) to[column] = from_float<T>(sum);
                if (column < dim && array.pointer != 0) turned[column] = sum;
            }
            if (!HOOKS || OF == OF_VALUE || params.numbers == 0 || part != 0 || lane() % 4 != 0) continue;
            int64_t row = int64_t(batch) * p.query_heads + (BY_ROWS ? at.head : first_head);
            row = row * (BY_ROWS ? p.sequences.query_time : p.sequences.key_time) + time;
            reinterpret_cast<float*>(params.numbers)[of_side * params.numbers_side + row] =
                BY_ROWS ? number * p.scale : number;
        }
    }
};

template <typename T, int DIM, int WARPS, int OF, bool HOOKS> DEVICE void attention_gradient(const GradientParams& p)
{
    Gradient<T, DIM, WARPS, OF, HOOKS>{p, p.problem}.run();
}
