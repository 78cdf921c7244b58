// Fused attention: a block takes 16 rows a warp (queries, and the heads that share a key head) and walks the chunks of
// keys that any of them sees, or some of these chunks, in which case it leaves the results of each for
// combine.cuh. How a row is summed depends on the row alone: the same kernel serves prefill and decode.
#pragma once

#include "attention/block.cuh"

// Blocks that share the columns of the values, where sums of all columns would not fit a thread's registers. Each of
// them weighs the keys anew.
template <int DIM> DEVICE constexpr int parts() { return DIM > 128 ? 2 : 1; }

template <typename T, int DIM, int WARPS, bool HOOKS>
using AttentionBlock = RowBlock<T, DIM, WARPS, HOOKS, Panels<T, DIM>::COUNT / parts<DIM>()>;

template <typename T, int DIM, int WARPS, bool HOOKS> struct Attention : AttentionBlock<T, DIM, WARPS, HOOKS> {
    using Block = AttentionBlock<T, DIM, WARPS, HOOKS>;
    using typename Block::Operands, typename Block::Shape, typename Block::Tiles;
    using Block::p, Block::part, Block::sequence;
    static constexpr int COLUMNS = DIM / parts<DIM>(); // of the values, for this block

    // Sums of a row's columns in the layout of products: of the block, and of a panel.
    using Output = float[COLUMNS / 8][4];
    using Sums = float[Shape::COLUMNS / 8][4];

    const AttentionResults& results;
    int first_column = 0, value_dim = 0; // columns of the block

    METHOD void run()
    {
        if (!this->locate()) return;
        first_column = part * COLUMNS;
        value_dim = p.value_dim - first_column;
        RowView views[2] = {this->view(0), this->view(1)};
        Source<T> from = this->source(first_column, value_dim);
        char* scratch = this->scratch();
        Output output = {};
        State states[2] = {first_state(sink_of(p, views[0].row.head)), first_state(sink_of(p, views[1].row.head))};
        this->walk(from, views, [&](Tiles& ring, int chunk, bool met, bool whole, Scores& scores) {
            State of_chunk[2] = {weigh(scores, 0), weigh(scores, 1)};
            Weights weights = Operands::weights_of(scores, scratch);
            Factors factors[2];
            float* partial[2];
            UNROLL
            for (int half = 0; half < 2; ++half) {
                factors[half] = Factors{1.0f, -0.0f};
                if (met) factors[half] = merge(states[half], of_chunk[half]);
                partial[half] = begin_partial(chunk, views[half].row, half, of_chunk[half]);
            }
            bool clean = !whole || (HOOKS && p.key_bias.pointer != 0);
            UNROLL
            for (int panel = 0; panel < COLUMNS / Shape::COLUMNS; ++panel) {
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
        });
        if (results.partial_states != 0) return;
        UNROLL
        for (int half = 0; half < 2; ++half)
            if (this->is_asked(half)) store(output, half, states[half], views[half].row);
    }

private:
    using Weights = typename Operands::Weights;

    // Stores the state of a chunk of a row, if that is what the block is for; gives the place of its values.
    METHOD float* begin_partial(int chunk, const Row& at, int half, const State& state) const
    {
        if (results.partial_states == 0 || !this->is_asked(half)) return nullptr;
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
    Attention<T, DIM, WARPS, HOOKS>{{p.problem, p.plan}, p.results}.run();
}
