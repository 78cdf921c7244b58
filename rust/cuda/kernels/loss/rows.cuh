// How the logits of each row become slopes, of every kind of loss: one block.
#pragma once
#include "loss/block.cuh"

DEVICE SlopeRow slopes_of_entropy(const RowsParams& p, int row)
{
    int64_t target = value(p.targets, row);
    double weight = class_of(p.class_weight, target, p.valid);
    double upstream = double(value(p.upstream, row)) / p.common->divisor;
    float max = value(p.max, row), log_sum = value(p.log_sum, row);
    double lse = double(max) + double(log_sum), at_target = (1.0 - p.label_smoothing) * weight;
    double constant = at_target + p.smoothing * p.common->all_classes + 2.0 * p.z_loss * weight * lse;
    SlopeRow slope = {};
    slope.max = max;
    slope.log_sum = log_sum;
    slope.constant = float(upstream * constant);
    slope.per_class = float(upstream * p.smoothing);
    slope.at_token = -float(upstream * at_target);
    slope.token = is_token(target, p.valid) ? int32_t(target) : -1;
    return slope;
}

DEVICE SlopeRow slopes_of_score(const RowsParams& p, int row)
{
    double listed = 0.0;
    for (int i = 0; i < p.top; ++i) listed += double(p.by_top[int64_t(row) * p.top + i]);
    double by_logprob = value(p.upstream, row), by_entropy = value(p.by_entropy, row);
    double constant = double(value(p.by_lse, row)) - by_logprob - listed - by_entropy * double(value(p.entropy, row));
    int64_t target = value(p.targets, row);
    SlopeRow slope = {};
    slope.max = value(p.max, row);
    slope.constant = float(constant);
    slope.per_gap = -float(by_entropy);
    slope.at_token = float(by_logprob);
    slope.token = is_token(target, p.valid) ? int32_t(target) : -1;
    return slope;
}

DEVICE SlopeRow slopes_of_divergence(const RowsParams& p, int row)
{
    SlopeRow slope = {};
    slope.max = value(p.max, row);
    slope.log_sum = value(p.log_sum, row);
    slope.constant = value(p.upstream, row) * p.inverse_temperature;
    slope.per_target = slope.constant;
    slope.target_max = value(p.target_max, row);
    slope.target_log_sum = value(p.target_log_sum, row);
    slope.token = -1;
    return slope;
}

// No slope of the row is larger.
DEVICE float largest_slope(const RowsParams& p, const SlopeRow& slope, int row)
{
    float largest = magnitude(slope.constant) + magnitude(slope.per_gap) + magnitude(slope.per_target) +
                    magnitude(slope.at_token) + magnitude(slope.per_class) * p.common->largest_class;
    for (int i = 0; i < p.top; ++i) largest += magnitude(p.by_top[int64_t(row) * p.top + i]);
    return largest * magnitude(p.scale);
}

// A power of two that takes numbers up to this one to about a thousand: small ones keep their digits in float16.
DEVICE float scale_for(float largest)
{
    bool usual = largest > 0.0f && INFINITE > largest;
    int32_t exponent = 263 - int32_t(bits(largest) >> 23);
    exponent = exponent < 1 ? 1 : exponent > 253 ? 253 : exponent;
    return usual ? from_bits(uint32_t(exponent) << 23) : 1.0f;
}

DEVICE void loss_weigh(const RowsParams& p)
{
    float largest_of_all = 0.0f;
    NO_UNROLL
    for (int place = thread_index(); place < p.common->counted; place += THREADS) {
        int row = row_of_call(p.row_map, place);
        SlopeRow slope = p.kind == CROSS_ENTROPY ? slopes_of_entropy(p, row)
                         : p.kind == SCORE       ? slopes_of_score(p, row)
                                                 : slopes_of_divergence(p, row);
        float largest = largest_slope(p, slope, row);
        largest_of_all = larger(largest_of_all, largest);
        slope.scale = p.scales ? scale_for(largest) : 1.0f;
        slope.row = row;
        p.slopes[place] = slope;
    }
    largest_of_all = block_largest(largest_of_all);
    if (thread_index() == 0) p.common->scale = p.scales ? scale_for(largest_of_all) : 1.0f;
}
