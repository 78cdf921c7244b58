// The cross-entropy: a pass over the vocabulary that leaves what a tile says of each row, a warp that merges what the
// tiles say of one, and a block that adds up the rows' losses.
#pragma once
#include "loss/block.cuh"
#include "unembed/product.cuh"
#include "unembed/row.cuh"

// Sum of class weight times logit, over the tokens of the tile that exist.
DEVICE float weighted_sum(const LossParams& p, const Quad& logits, uint32_t token)
{
    float sum = 0.0f;
    UNROLL
    for (int i = 0; i < 4; ++i) {
        if (!exists(p.model, token + i)) continue;
        sum = fma(p.class_weight ? p.class_weight[token + i] : 1.0f, logits.at[i], sum);
    }
    return warp_sum(sum);
}

DEVICE void read_entropy(const LossParams& p, const float* products, int row, int tile, uint32_t tile_start)
{
    uint32_t token = tile_start + 4 * lane();
    Quad logits = load_quad(products);
    UNROLL
    for (int i = 0; i < 4; ++i) logits.at[i] = logit_of(p.model, logits.at[i], token + i);
    Mass mass = mass_of(logits, 1.0f, false);
    float weighted = p.flags & SMOOTHS ? weighted_sum(p, logits, token) : 0.0f;
    if (lane() == 0) p.parts[int64_t(row) * p.model.tiles + tile] = EntropyPart{mass.max, mass.sum, weighted};
    int64_t target = value(p.targets, source_row(p.model, row));
    UNROLL
    for (int i = 0; i < 4; ++i) {
        if (target == int64_t(token + i) && exists(p.model, token + i)) p.target_logit[row] = logits.at[i];
    }
}

template <typename T, int ROWS>
DEVICE void loss_entropy(const LossParams& p)
{
    int row_blocks = (p.model.rows + ROWS - 1) / ROWS, rows = counted_rows(p.model, p.common);
    int tile = block_index(0) / row_blocks, first_row = block_index(0) % row_blocks * ROWS;
    if (first_row >= rows) return;
    float* products = reinterpret_cast<float*>(shared_memory());
    tile_products<T, ROWS>(p.model, tile * TOKENS, first_row, products);
    NO_UNROLL
    for (int i = warp(); i < ROWS && first_row + i < rows; i += WARPS) {
        read_entropy(p, products + i * PITCH, first_row + i, tile, tile * TOKENS);
    }
}

struct MergedEntropy {
    Mass mass;
    double weighted;
};

// Tiles lane by lane in order, then one tree.
DEVICE MergedEntropy merged_tiles(const EntropyPart* parts, int tiles)
{
    Mass mass = no_mass();
    double weighted = 0.0;
    NO_UNROLL
    for (int tile = lane(); tile < tiles; tile += 32) {
        EntropyPart part = parts[tile];
        mass = merged(mass, Mass{part.max, part.sum, 0.0f, 0.0f, 0.0f}, 1.0f);
        weighted += double(part.weighted);
    }
    NO_UNROLL
    for (int mask = 16; mask > 0; mask >>= 1) {
        float max = shuffle_xor(mass.max, mask), sum = shuffle_xor(mass.sum, mask);
        mass = merged(mass, Mass{max, sum, 0.0f, 0.0f, 0.0f}, 1.0f);
    }
    return MergedEntropy{mass, warp_total(weighted)};
}

DEVICE void loss_merge(const EntropyParams& p)
{
    int row = block_index(0) * WARPS + warp(), place = p.first_row + row;
    if (row >= p.rows || place >= p.common->counted) return;
    MergedEntropy found = merged_tiles(p.parts + int64_t(row) * p.tiles, p.tiles);
    if (lane() != 0) return;
    int of_call = row_of_call(p.row_map, place);
    int64_t target = value(p.targets, of_call);
    double weight = class_of(p.class_weight, target, p.valid);
    float log_sum = log_of_sum(found.mass.sum);
    double lse = double(found.mass.max) + double(log_sum), loss = 0.0;
    if (p.label_smoothing < 1.0) {
        float logit = is_token(target, p.valid) ? p.target_logit[row] : NOT_A_NUMBER;
        float logprob_of_target = logprob(found.mass, logit, found.mass.sum, 1.0f);
        loss -= (1.0 - p.label_smoothing) * weight * double(logprob_of_target);
    }
    if (p.smoothing > 0.0) loss += p.smoothing * (p.common->all_classes * lse - found.weighted);
    if (p.z_loss != 0.0) loss += p.z_loss * weight * lse * lse;
    p.losses[place] = loss;
    if (p.loss) p.loss[of_call] = float(loss);
    p.max[of_call] = found.mass.max;
    p.log_sum[of_call] = log_sum;
}

DEVICE void loss_reduce(const ReduceParams& p)
{
    double sum = 0.0;
    for (int row = thread_index(); row < p.common->counted; row += THREADS) sum += p.losses[row];
    sum = block_total(sum);
    if (thread_index() == 0) *p.loss = float(sum / p.common->divisor);
}
