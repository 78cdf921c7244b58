// Which sequence, query and head a row is, and which keys it sees.
#pragma once

#include "attention/params.cuh"

// Queries and keys of one sequence.
struct Sequence {
    int index, batch, query_start, queries; // batch: on the first axis of queries
    int key_batch, key_start, keys;         // key_batch: on the first axis of keys
};

DEVICE Sequence sequence_of(const Sequences& s, int index)
{
    Sequence sequence{index, index, 0, s.query_time, index, 0, s.key_time};
    if (s.query_offsets != 0) {
        int end = count_at(s.query_offsets, s.query_offsets_kind, index + 1, s.query_time);
        sequence.batch = 0;
        sequence.query_start = count_at(s.query_offsets, s.query_offsets_kind, index, end);
        sequence.queries = end - sequence.query_start;
    }
    if (s.key_offsets != 0) { // not where ragged queries meet pages
        int end = count_at(s.key_offsets, s.key_offsets_kind, index + 1, s.key_time);
        sequence.key_batch = 0;
        sequence.key_start = count_at(s.key_offsets, s.key_offsets_kind, index, end);
        sequence.keys = end - sequence.key_start;
    }
    if (s.key_lengths != 0) sequence.keys = count_at(s.key_lengths, s.lengths_kind, index, sequence.keys);
    return sequence;
}

// The sequence of a ragged batch that an index of the time axis belongs to.
DEVICE int sequence_at(uint64_t offsets, int32_t kind, int count, int time_axis, int time)
{
    int low = 0, high = count - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (count_at(offsets, kind, middle, time_axis) <= time) low = middle;
        else high = middle - 1;
    }
    return low;
}

// Tiles of `rows` rows are given out by where queries begin: sequence s of a ragged batch has those from this one on,
// which are as many as it needs, or one more.
DEVICE int first_tile(const Sequences& s, int group, int rows, int index)
{
    return count_at(s.query_offsets, s.query_offsets_kind, index, s.query_time) * group / rows + index;
}

// The sequence that such a tile is of. The lanes of a warp look at 32 sequences at once, so that three looks find one
// of 32768.
DEVICE int sequence_of_tile(const Sequences& s, int group, int rows, int tile)
{
    int low = 0, high = s.count;
    while (high - low > 1) {
        int step = (high - low + 31) / 32, at = low + lane() * step;
        int begun = count_bits(ballot(at < high && first_tile(s, group, rows, at) <= tile));
        low += begun > 1 ? (begun - 1) * step : 0;
        high = low + step < high ? low + step : high;
    }
    return low;
}

// The order of a query: the ends of queries and keys align.
DEVICE int64_t query_order(const Sequence& sequence, int query)
{
    return int64_t(query) + sequence.keys - sequence.queries;
}

// Keys start..end and 0..first.
struct Visible {
    int start, end, first;
};

DEVICE Visible visible_to(const AttentionProblem& p, const Sequence& sequence, int query)
{
    int keys = sequence.keys;
    auto held = [keys](int64_t bound) { return bound < 0 ? 0 : bound > keys ? keys : int(bound); };
    int64_t order = query_order(sequence, query);
    int future = p.causal != 0 ? held(order + 1) : keys;
    int start = p.window_left >= 0 ? held(order - p.window_left) : 0;
    int end = p.window_right >= 0 ? held(order + p.window_right + 1) : keys;
    end = end < future ? end : future;
    return Visible{start, end > start ? end : start, p.keep_first < future ? p.keep_first : future};
}

DEVICE bool sees(const Visible& visible, int key)
{
    return (key >= visible.start && key < visible.end) || key < visible.first;
}

// What rows from one query to another see, any of them and all of them. Bounds grow with the order of the query.
struct Reach {
    Visible any, all;
};

DEVICE Reach reach_of(const AttentionProblem& p, const Sequence& sequence, int first_query, int last_query)
{
    Visible low = visible_to(p, sequence, first_query), high = visible_to(p, sequence, last_query);
    return Reach{Visible{low.start, high.end, high.first}, Visible{high.start, low.end, low.first}};
}

// Whether any, or all, of the keys first..end are seen.
DEVICE bool meets(const Visible& any, int first, int end)
{
    return (first < any.end && end > any.start && any.start < any.end) || first < any.first;
}

DEVICE bool is_whole(const Visible& all, int first, int end)
{
    return (first >= all.start && end <= all.end) || end <= all.first;
}

DEVICE bool meets(const Visible& any, int chunk) { return meets(any, chunk * CHUNK, chunk * CHUNK + CHUNK); }

DEVICE bool is_whole(const Visible& all, int chunk) { return is_whole(all, chunk * CHUNK, chunk * CHUNK + CHUNK); }

// The next chunk, from `chunk` on, that has something to see; `end` if there is none before it.
DEVICE int next_chunk(const Visible& any, int chunk, int end)
{
    if (chunk * CHUNK >= any.first && chunk < any.start / CHUNK) chunk = any.start / CHUNK;
    return chunk < end && meets(any, chunk) ? chunk : end;
}

// The rows of a sequence and key head are its queries in order, and for each query the heads that share the keys.
struct Row {
    int query, head;
};

DEVICE Row row_of(const AttentionProblem& p, int key_head, int index)
{
    int query = index / p.group;
    return Row{query, key_head * p.group + index - query * p.group};
}
