// What is known of each row before its keys are met again: its LSE, and what the softmax takes from every key's share.
#pragma once

#include "attention/gradient/params.cuh"
#include "attention/members.cuh"
#include "attention/merge.cuh"

template <typename T> DEVICE void attention_known(const KnownParams& params)
{
    const AttentionProblem& p = params.problem;
    auto [index, batch, head, time] = row_of_warp(p.query_heads, p.sequences.query_time);
    if (index >= row_count(p)) return;
    auto* sinks = reinterpret_cast<float*>(params.sinks);
    if (!member_at(p.sequences, true, batch, time).exists) {
        if (sinks != nullptr && lane() == 0) sinks[index] = 0.0f;
        return;
    }

    const T* output = rows_of<const T>(params.output, batch, head) + time * params.output.time;
    const T* gradient =
        rows_of<const T>(params.output_gradient, batch, head) + time * params.output_gradient.time;
    float share = 0.0f;
    NO_UNROLL
    for (int column = lane(); column < p.value_dim; column += 32)
        share = fma(to_float(output[column]), to_float(gradient[column]), share);
    UNROLL
    for (int step = 16; step > 0; step /= 2) share += shuffle_xor(share, step);
    if (lane() != 0) return;
    if (params.lse_gradient.pointer != 0)
        share -= rows_of<const float>(params.lse_gradient, batch, head)[time * params.lse_gradient.time];
    float lse = rows_of<const float>(params.lse, batch, head)[time * params.lse.time];
    reinterpret_cast<Known*>(params.known)[index] = Known{lse * LOG2_E, share};
    if (sinks == nullptr) return;
    float sink = sink_of(p, head);
    sinks[index] = sink == -INFINITE ? 0.0f : -(ex2((sink - lse) * LOG2_E) * share);
}
