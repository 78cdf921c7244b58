// The slopes of a loss by products, of a stretch of tokens: logits are computed again, tile by tile, and become what
// the two products that follow take. Sums over a tile's rows of the slopes by logits are the gradient of bias.
#pragma once
#include "loss/sides.cuh"
#include "unembed/row.cuh"

// Far below what exp can tell from 0, and finite, so that 0 times it is 0.
CONSTANT float LOWEST = -1000.0f;

// Of a token: the slopes of the loss by its logit, and of its logit by the product.
struct Slope {
    float by_logit, chain;
};

DEVICE Slope slope_of(const SlopesParams& p, const SlopeRow& row, float product, float target_product, uint32_t token,
                      bool pair)
{
    const UnembedParams& model = p.model;
    bool absent = !exists(model, token);
    float l = product * model.scale, chain = model.scale;
    if (model.softcap > 0.0f) {
        float t = tangent(l / model.softcap);
        l = model.softcap * t;
        chain = model.scale * (1.0f - t * t);
    }
    if (model.bias && !absent) {
        float bias = model.bias[token];
        l += bias;
        absent = bias == NOTHING;
    }
    if (absent) return Slope{0.0f, 0.0f};
    float gap = fma(l, p.inverse_temperature, -row.max) - row.log_sum;
    float by_logit = exponential(gap) * fma(row.per_gap, larger(gap, LOWEST), row.constant);
    if (row.per_class != 0.0f) by_logit -= row.per_class * (p.class_weight ? p.class_weight[token] : 1.0f);
    if (pair) {
        float t = logit_of(p.target, target_product, token);
        by_logit -= row.per_target * exponential(fma(t, p.inverse_temperature, -row.target_max) - row.target_log_sum);
    }
    if (int32_t(token) == row.token) by_logit += row.at_token;
    NO_UNROLL
    for (int i = 0; i < p.top; ++i) {
        int64_t at = int64_t(row.row) * p.top + i;
        if (p.top_token[at] == int64_t(token)) by_logit += p.by_top[at];
    }
    return Slope{by_logit, chain};
}

// Four numbers of a row, beside each other.
template <typename T>
DEVICE void store_four(char* numbers, int64_t at, const Quad& x, float scale)
{
    if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<float4*>(numbers + 4 * at) =
            float4{x.at[0] * scale, x.at[1] * scale, x.at[2] * scale, x.at[3] * scale};
    } else {
        *reinterpret_cast<uint2*>(numbers + 2 * at) =
            uint2{pack<T>(x.at[0] * scale, x.at[1] * scale), pack<T>(x.at[2] * scale, x.at[3] * scale)};
    }
}

template <typename T>
DEVICE void write_slopes(const SlopesParams& p, float* products, const float* targets, int place, int tile, bool pair)
{
    SlopeRow row = p.rows[place];
    uint32_t token = (p.first_tile + tile) * TOKENS + 4 * lane();
    Quad x = load_quad(products), t = {}, by_logit;
    if (pair) t = load_quad(targets);
    UNROLL
    for (int i = 0; i < 4; ++i) {
        Slope slope = slope_of(p, row, x.at[i], t.at[i], token + i, pair);
        by_logit.at[i] = slope.by_logit;
        x.at[i] = slope.by_logit * slope.chain;
    }
    int64_t at = place * p.stride + tile * TOKENS + 4 * lane();
    store_four<T>(p.by_row, at, x, row.scale);
    if (p.by_token) store_four<T>(p.by_token, at, x, p.common->scale);
    if (p.bias_sums) store_quad(products, by_logit);
}

// Sums over the block's rows in order, a thread for each token.
DEVICE void sum_rows(const SlopesParams& p, const float* by_logit, int rows, int row_block, int tile)
{
    barrier();
    int token = thread_index();
    if (token >= TOKENS) return;
    float sum = 0.0f;
    NO_UNROLL
    for (int i = 0; i < rows; ++i) sum += load_shared(by_logit + i * PITCH + token);
    p.bias_sums[row_block * p.stride + tile * TOKENS + token] = sum;
}

template <typename T, int ROWS, bool PAIR>
DEVICE void loss_slopes(const SlopesParams& p)
{
    int row_blocks = (p.model.rows + ROWS - 1) / ROWS, left = counted_rows(p.model, p.common);
    int tile = block_index(0) / row_blocks, row_block = block_index(0) % row_blocks, first_row = row_block * ROWS;
    if (first_row >= left) return;
    uint32_t tile_start = (p.first_tile + tile) * TOKENS;
    float* products = reinterpret_cast<float*>(shared_memory());
    const float* targets = PAIR ? target_products<ROWS>() : products;
    if constexpr (PAIR) products_of_sides<T, ROWS>(p.model, p.target, tile_start, first_row);
    else tile_products<T, ROWS>(p.model, tile_start, first_row, products);
    int rows = left - first_row < ROWS ? left - first_row : ROWS;
    NO_UNROLL
    for (int i = warp(); i < rows; i += WARPS) {
        write_slopes<T>(p, products + i * PITCH, targets + i * PITCH, first_row + i, tile, PAIR);
    }
    if (p.bias_sums) sum_rows(p, products, rows, row_block, tile);
}
