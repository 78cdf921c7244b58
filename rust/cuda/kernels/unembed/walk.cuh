// One pass over the vocabulary: a block takes a tile of tokens and up to ROWS rows, forms their products, and leaves
// for each row what the tile says of it. Nothing of the size of the logits is written.
#pragma once
#include "unembed/product.cuh"
#include "unembed/row.cuh"

// How many tokens of the tile come before the row's target: larger logits, equal ones of a lower id.
DEVICE uint32_t count_before(const UnembedParams& p, const Quad& logits, uint32_t token, int row)
{
    uint64_t target = ranked(p.target_logit[row], uint32_t(value(p.target, row)));
    uint32_t count = 0;
    UNROLL
    for (int i = 0; i < 4; ++i) count += exists(p, token + i) && ranked(logits.at[i], token + i) > target;
    return warp_sum(count);
}

DEVICE void read_draws(const UnembedParams& p, const Quad& logits, uint32_t token, int row, int tile,
                       float temperature)
{
    int64_t source = source_row(p, row);
    Best* bests = p.bests + (int64_t(row) * p.samples * p.tiles + tile);
    NO_UNROLL
    for (int sample = 0; sample < p.samples; ++sample) {
        Best best;
        if (temperature > 0.0f) {
            NoiseKey key = {uint64_t(value(p.draws.seed, source)), uint32_t(value(p.draws.stream, source)) + sample,
                            uint32_t(value(p.draws.position, source))};
            best = perturbed(logits, token, key, inverse_temperature(temperature));
        } else {
            best = coldest(logits, token);
        }
        if (lane() == 0) bests[int64_t(sample) * p.tiles] = best;
    }
}

// What a warp does with a row of the tile. `row` counts from the first of this launch.
DEVICE void read_row(const UnembedParams& p, float* shared, int row, int tile, uint32_t tile_start)
{
    int64_t part = int64_t(row) * p.tiles + tile;
    int slot = p.flags & REVISIT ? p.slots[part] : -1;
    if ((p.flags & REVISIT) && slot < 0) return;

    uint32_t token = tile_start + 4 * lane();
    int64_t source = source_row(p, row);
    Quad logits = load_quad(shared);
    UNROLL
    for (int i = 0; i < 4; ++i) logits.at[i] = logit_of(p, logits.at[i], token + i);
    change_row(p.changes, source, tile_start, shared, logits);

    if (p.listed > 0) {
        Entries entries = entries_of(p, logits, token, p.below ? p.below[row] : ~uint64_t(0));
        sort(entries);
        if (slot >= 0) {
            store_list(p.overflow + (int64_t(row) * p.slot_count + slot) * TOKENS, entries, TOKENS);
            return;
        }
        store_list(p.lists + part * p.listed, entries, p.listed);
    }
    if (!p.parts) return;

    float temperature = value(p.draws.temperature, source);
    float inverse = temperature > 0.0f ? inverse_temperature(temperature) : 1.0f;
    Mass mass = mass_of(logits, inverse, p.flags & MOMENTS);
    uint32_t size = count_finite(logits);
    if (lane() == 0) p.parts[part] = Part{mass, size};
    if (p.spreads) {
        Spread spread = spread_of(logits, mass.max, size);
        if (lane() == 0) p.spreads[part] = spread;
    }
    if (p.before) {
        uint32_t before = count_before(p, logits, token, row);
        if (lane() == 0) p.before[part] = before;
    }
    if (p.samples > 0) read_draws(p, logits, token, row, tile, temperature);
}

// Whether any of the rows wants the tile's whole list. All warps find the same.
template <int ROWS>
DEVICE bool is_revisited(const UnembedParams& p, int first_row, int tile)
{
    bool any = false;
    UNROLL
    for (int i = 0; i < (ROWS + 31) / 32; ++i) {
        int row = first_row + 32 * i + lane();
        bool mine = 32 * i + lane() < ROWS && row < p.rows;
        any |= mine && p.slots[int64_t(row) * p.tiles + tile] >= 0;
    }
    return ballot(any) != 0;
}

template <typename T, int ROWS>
DEVICE void unembed(const UnembedParams& p)
{
    // Blocks of rows that share a tile follow each other, so that the weights are still in the cache.
    int row_blocks = (p.rows + ROWS - 1) / ROWS;
    int tile = block_index(0) / row_blocks, first_row = block_index(0) % row_blocks * ROWS;
    if ((p.flags & REVISIT) && !is_revisited<ROWS>(p, first_row, tile)) return;

    uint32_t tile_start = (p.first_token / TOKENS + tile) * TOKENS;
    float* logits = reinterpret_cast<float*>(shared_memory());
    tile_products<T, ROWS>(p, tile_start, first_row, logits);
    NO_UNROLL
    for (int i = warp(); i < ROWS && first_row + i < p.rows; i += WARPS) {
        read_row(p, logits + i * PITCH, first_row + i, tile, tile_start);
    }
}
