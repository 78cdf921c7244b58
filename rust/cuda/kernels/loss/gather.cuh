// Which rows of a loss count, and what they share: one block.
#pragma once
#include "loss/block.cuh"

DEVICE void clear_row(const GatherParams& p, int row)
{
    if (p.loss) p.loss[row] = 0.0f;
    if (p.max) p.max[row] = 0.0f;
    if (p.log_sum) p.log_sum[row] = 0.0f;
}

// Notes the rows that count, and gives their number.
DEVICE int gather_rows(const GatherParams& p)
{
    int counted = 0;
    NO_UNROLL
    for (int first = 0; first < p.rows; first += THREADS) {
        int row = first + thread_index();
        bool counts = row < p.rows && value(p.targets, row) != p.ignore_index;
        int place = counted + int(sum_before(counts ? 1u : 0u));
        counted += int(block_sum(counts ? 1u : 0u));
        if (counts) p.row_map[place] = row;
        if (row < p.rows && p.place_of) p.place_of[row] = counts ? place : -1;
        if (row < p.rows && !counts) clear_row(p, row);
    }
    return counted;
}

DEVICE void loss_gather(const GatherParams& p)
{
    int counted = p.targets.first ? gather_rows(p) : p.rows;
    // Places behind the last row that counts name a row too, so that what is read for them exists.
    for (int row = counted + thread_index(); p.row_map && row < p.rows; row += THREADS) p.row_map[row] = 0;
    double divisor = 0.0, classes = 0.0;
    float largest_class = 1.0f;
    for (int row = thread_index(); p.mean && row < p.rows; row += THREADS) {
        int64_t target = value(p.targets, row);
        if (target != p.ignore_index) divisor += class_of(p.class_weight, target, p.valid);
    }
    for (int token = thread_index(); p.class_weight && token < p.valid; token += THREADS) {
        classes += double(p.class_weight[token]);
        largest_class = larger(largest_class, magnitude(p.class_weight[token]));
    }
    divisor = block_total(divisor);
    classes = block_total(classes);
    largest_class = block_largest(largest_class);
    if (thread_index() != 0) return;
    *p.common = Common{p.mean ? divisor : 1.0, p.class_weight ? classes : double(p.valid), largest_class, counted,
                       1.0f, 0};
}
