// From products to weights: scale, cap, biases and mask of a warp's rows and a chunk of keys.
#pragma once

#include "attention/merge.cuh"
#include "attention/product.cuh"

// What a lane knows of one of its two rows.
struct RowView {
    Row row;
    Visible visible;
    float factor; // of products
};

template <bool HOOKS>
DEVICE RowView view_of(const AttentionProblem& p, const Sequence& sequence, const Row& row)
{
    RowView view{row, visible_to(p, sequence, row.query), HOOKS ? p.scale : p.scale * LOG2_E};
    if (HOOKS && p.query_scale.pointer != 0) {
        int64_t time = sequence.query_start + row.query;
        view.factor *= rows_of<const float>(p.query_scale, sequence.batch, row.head)[time * p.query_scale.time];
    }
    return view;
}

DEVICE float bias_of(const AttentionProblem& p, const Sequence& sequence, int head, int key)
{
    int64_t time = sequence.key_start + key;
    return rows_of<const float>(p.key_bias, sequence.key_batch, head)[time * p.key_bias.time];
}

DEVICE const double* positions_of(const Prepared& prepared, int batch, int time_axis)
{
    return reinterpret_cast<const double*>(prepared.positions) + int64_t(batch) * time_axis;
}

// The column of a distance table; a position that is not a number takes the first.
DEVICE int column_of(const AttentionProblem& p, double distance)
{
    double column = round_down(distance) - p.distance_minimum;
    return !(column > 0.0) ? 0 : column < p.distance_length ? int(column) : p.distance_length - 1;
}

DEVICE float capped(const AttentionProblem& p, float score)
{
    return p.softcap == 0.0f ? score : p.softcap * tangent(score * p.softcap_inverse);
}

// Whether its bias hides an existing key from a row.
DEVICE bool is_hidden(const AttentionProblem& p, const Sequence& sequence, int head, int key)
{
    return p.key_bias.pointer != 0 && bias_of(p, sequence, head, key) == -INFINITE;
}

// Products become scores in units of log2 e; a far product replaces one at the border or beyond it. Both lie on the
// stack: a loop over them keeps the kernel short and its registers free.
DEVICE void score_with_hooks(const AttentionProblem& p, const Sequence& sequence, const RowView (&views)[2], int chunk,
                             Scores& scores, const Scores& far)
{
    bool by_distance = p.keys.positions != 0;
    Row rows[2] = {views[0].row, views[1].row};
    UNROLL
    for (Row& row : rows) row = Row{anew(row.query), anew(row.head)};
    const double* key_positions = positions_of(p.keys, sequence.key_batch, p.sequences.key_time) + sequence.key_start;
    const double* query_positions =
        positions_of(p.queries, sequence.batch, p.sequences.query_time) + sequence.query_start;
    NO_UNROLL
    for (int tile = 0; tile < KEY_TILES; ++tile) {
        UNROLL
        for (int i = 0; i < 4; ++i) {
            const Row& row = rows[i / 2];
            int key = chunk * CHUNK + 8 * tile + lane() % 4 * 2 + i % 2;
            if (key >= sequence.keys) continue; // hidden by the mask
            float score = scores[tile][i], bias = 0.0f;
            double distance = 0.0;
            if (by_distance) {
                distance = query_positions[row.query] - key_positions[key];
                if (p.border != INFINITE && distance >= p.border) score = far[tile][i];
            }
            score = capped(p, score * views[i / 2].factor);
            if (p.distance_table != 0) {
                auto* table = reinterpret_cast<const float*>(p.distance_table) + row.head * p.distance_stride;
                score += table[column_of(p, distance)];
            }
            if (p.key_bias.pointer != 0) bias = bias_of(p, sequence, row.head, key);
            scores[tile][i] = bias == -INFINITE ? -INFINITE : (score + bias) * LOG2_E;
        }
    }
}

DEVICE void score_plainly(const RowView (&views)[2], Scores& scores)
{
    UNROLL
    for (int tile = 0; tile < KEY_TILES; ++tile) {
        UNROLL
        for (int i = 0; i < 4; ++i) scores[tile][i] *= views[i / 2].factor;
    }
}

DEVICE void hide_unseen(const RowView (&views)[2], int chunk, Scores& scores)
{
    UNROLL
    for (int tile = 0; tile < KEY_TILES; ++tile) {
        UNROLL
        for (int i = 0; i < 4; ++i) {
            int key = chunk * CHUNK + 8 * tile + lane() % 4 * 2 + i % 2;
            if (!sees(views[i / 2].visible, key)) scores[tile][i] = -INFINITE;
        }
    }
}

// The sum over the four lanes that share a row.
DEVICE float summed(float x)
{
    x += shuffle_xor(x, 1);
    x += shuffle_xor(x, 2);
    return x;
}

// Scores become weights relative to the chunk's maximum, in place. Sums are those of the unrounded weights, in a fixed
// order: a lane's own, then those of its neighbours, then those of the other pair. `each` is told how far below the
// maximum a score is, its weight, and the place of its key in the chunk.
template <typename Each> DEVICE State weigh(Scores& scores, int half, Each each)
{
    State state{-INFINITE, 0.0f};
    UNROLL
    for (int tile = 0; tile < KEY_TILES; ++tile)
        state.maximum = larger(state.maximum, larger(scores[tile][2 * half], scores[tile][2 * half + 1]));
    state.maximum = larger(state.maximum, shuffle_xor(state.maximum, 1));
    state.maximum = larger(state.maximum, shuffle_xor(state.maximum, 2));
    float reference = reference_of(state.maximum);
    UNROLL
    for (int tile = 0; tile < KEY_TILES; ++tile) {
        UNROLL
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
            float below = scores[tile][i] - reference;
            scores[tile][i] = ex2(below);
            state.sum += scores[tile][i];
            each(below, scores[tile][i], 8 * tile + lane() % 4 * 2 + i % 2);
        }
    }
    state.sum = summed(state.sum);
    return state;
}

DEVICE State weigh(Scores& scores, int half)
{
    return weigh(scores, half, [](float, float, int) {});
}
