// Queries and keys turn once, before attention reads them again and again; what is not read is not turned. They turn as
// they would in a tile, and are rounded to their element type: the walk over turned keys is that over any others.
#pragma once

#include "attention/members.cuh"
#include "attention/pages.cuh"
#include "attention/tile.cuh"

CONSTANT int ROTATE_THREADS = 128;

struct RotateParams {
    AttentionProblem problem; // of the rows as they were given
    int32_t query_blocks;
    int32_t query_in_pieces, key_in_pieces; // as in AttentionPlan
    int32_t padding;
};

// A thread for each piece of a row.
template <typename T> DEVICE void rotate_rows(const RotateParams& params)
{
    constexpr int IN_PIECE = Piece<T>::COUNT;
    const AttentionProblem& p = params.problem;
    const Sequences& all = p.sequences;
    int pieces = p.turned_dim / IN_PIECE, key_heads = p.query_heads / p.group;
    Thread thread = thread_of(params.query_blocks, int64_t(all.query_time) * p.query_heads * pieces,
                              int64_t(all.key_time) * key_heads * pieces, ROTATE_THREADS);
    bool of_queries = thread.of_queries;
    int heads = of_queries ? p.query_heads : key_heads, time_axis = of_queries ? all.query_time : all.key_time;
    int64_t row = thread.index / pieces; // neighbours are heads of one time, which share its turns
    int head = int(row % heads), column = int(thread.index % pieces) * IN_PIECE;
    if (row >= int64_t(time_axis) * heads) return;
    int time = int(row / heads);
    Member member = member_at(all, of_queries, thread.batch, time);
    const Sequence& sequence = member.sequence;
    if (!member.exists || sequence.queries == 0) return;
    if (!of_queries && !meets(reach_of(p, sequence, 0, sequence.queries - 1).any, member.inside / CHUNK)) return;

    const Array& array = of_queries ? p.query : p.key;
    bool paged = !of_queries && p.pages.table != 0;
    int64_t element = paged ? element_of(p.pages, true, sequence, spacing_of(p.key), member.inside) : time * array.time;
    const T* from = rows_of<const T>(array, paged ? 0 : thread.batch, head) + element;
    bool in_pieces = (of_queries ? params.query_in_pieces : params.key_in_pieces) != 0;
    const Prepared& prepared = of_queries ? p.queries : p.keys;
    int64_t turns = (int64_t(thread.batch) * time_axis + time) * p.half;
    int64_t to = ((int64_t(thread.batch) * heads + head) * time_axis + time) * p.turned_dim + column;
    auto write = [&](uint64_t turned, uint64_t by) {
        Rotation rotation{reinterpret_cast<const Turn*>(by) + turns, p.half, p.interleaved != 0};
        Piece<T> x = load_turned(from, column, p.head_dim, in_pieces, rotation);
        *reinterpret_cast<uint4*>(reinterpret_cast<T*>(turned) + to) =
            uint4{x.words[0], x.words[1], x.words[2], x.words[3]};
    };
    write(prepared.turned, prepared.turns);
    if (prepared.far_turned != 0) write(prepared.far_turned, prepared.far_turns);
}
