// All tiles of a row become its results: a block per row. Softmax sums are added in one order, which knows the tiles
// only: those of a segment up a tree, then the segments one after the other, which is how shards of a vocabulary merge
// theirs. Maxima need no order.
#pragma once
#include "unembed/block.cuh"

// Sample::flag.
CONSTANT int32_t FLAG_NAN = 1;
CONSTANT int32_t FLAG_EMPTY = 2;
// A rank that nobody has counted.
CONSTANT int64_t UNRANKED = -2;

// Tiles of a segment: farspan_core::unembed::SHARD_UNIT tokens.
CONSTANT int SEGMENT = 16;
CONSTANT int SEGMENTS = THREADS / SEGMENT;

// Addresses of results are those of this launch's first row; null where a result is not wanted.
struct MergeParams {
    const Part* parts;
    const Best* bests;
    const uint32_t* before;
    const float* target_logit;
    const int32_t* row_map;
    Setting<float> temperature;
    Total* total;            // [rows]
    Mass* masses;            // [rows, segments]
    Best* best;              // [rows, samples]
    int64_t* token;          // [rows, samples]
    float* logprob;          // [rows, samples]
    float* raw_logprob;      // [rows, samples]
    int64_t* rank;           // [rows, samples]
    float* logit;            // [rows, samples]
    float* lse;              // [rows]
    int32_t* flag;           // [rows]
    int64_t* kept;           // [rows]
    float* kept_mass;        // [rows]
    float* entropy;          // [rows]
    int32_t first_row, hidden_rows, tiles, samples;
    // Ranks that are known stay.
    int32_t only_unranked, unused;
};

// What thread 0 needs of the others; behind the words of the block's sums.
struct Shared {
    float masses[SEGMENTS][5];
    Best bests[WARPS];
};

DEVICE Shared* shared_state() { return reinterpret_cast<Shared*>(shared_memory() + SUM_BYTES); }

// The same in every lane of a segment.
DEVICE Mass merged_over_segment(const Mass& mass, float inverse)
{
    float max = warp_max<SEGMENT>(is_nan(mass.max) ? INFINITE : mass.max);
    bool nan = warp_max<SEGMENT>(is_nan(mass.max) ? 1.0f : 0.0f) > 0.0f;
    Mass mine = relative_to(mass, max, inverse);
    Mass sums = {max, warp_sum<SEGMENT>(mine.sum), warp_sum<SEGMENT>(mine.tempered), warp_sum<SEGMENT>(mine.moment),
                 warp_sum<SEGMENT>(mine.tempered_moment)};
    return nan ? Mass{NOT_A_NUMBER, 0.0f, 0.0f, 0.0f, 0.0f} : sums;
}

DEVICE void store_mass(float* place, const Mass& mass)
{
    store_shared(place, mass.max);
    store_shared(place + 1, mass.sum);
    store_shared(place + 2, mass.tempered);
    store_shared(place + 3, mass.moment);
    store_shared(place + 4, mass.tempered_moment);
}

DEVICE Mass load_mass(const float* place)
{
    return Mass{load_shared(place), load_shared(place + 1), load_shared(place + 2), load_shared(place + 3),
                load_shared(place + 4)};
}

// `total` and then the segments of the first `count` lanes, one after the other as farspan_core::merge does it; by a
// warp, every lane of which gets the result.
DEVICE Mass merged_in_turn(const Mass& total, const Mass& segment, int count, float inverse)
{
    bool mine = lane() < count;
    if (is_nan(total.max) || ballot(mine && is_nan(segment.max)) != 0) return {NOT_A_NUMBER, 0.0f, 0.0f, 0.0f, 0.0f};
    float max = mine ? segment.max : NOTHING; // from the first one on
    UNROLL
    for (int step = 1; step < 32; step *= 2) {
        float earlier = shuffle(max, lane() < step ? lane() : lane() - step);
        max = max > earlier ? max : earlier;
    }
    float before = shuffle(max, lane() == 0 ? 0 : lane() - 1);
    before = lane() > 0 && before > total.max ? before : total.max;
    max = max > total.max ? max : total.max;

    float size = before - max, tempered_size = size == NOTHING ? NOTHING : size * inverse;
    Mass next = relative_to(segment, max, inverse);
    bool moves = before != max && before != NOTHING;
    float factor = exponential(size), tempered_factor = exponential(tempered_size);
    Mass sums = total;
    NO_UNROLL
    for (int i = 0; i < count; ++i) {
        float by = shuffle(factor, i), tempered_by = shuffle(tempered_factor, i);
        if (shuffle(int(moves), i) != 0) {
            sums.moment = moved_moment(sums.sum, sums.moment, shuffle(size, i), by);
            sums.tempered_moment =
                moved_moment(sums.tempered, sums.tempered_moment, shuffle(tempered_size, i), tempered_by);
            sums.sum = sums.sum * by;
            sums.tempered = sums.tempered * tempered_by;
        }
        sums.sum += shuffle(next.sum, i);
        sums.tempered += shuffle(next.tempered, i);
        sums.moment += shuffle(next.moment, i);
        sums.tempered_moment += shuffle(next.tempered_moment, i);
    }
    sums.max = shuffle(max, count - 1);
    return sums;
}

// The row's softmax sums, in the first warp. Those of its segments go to `masses`, unless that is null.
DEVICE Mass merged_mass(const Part* parts, int tiles, float inverse, Mass* masses)
{
    Mass total = no_mass();
    Shared* shared = shared_state();
    NO_UNROLL
    for (int first = 0; first < tiles; first += THREADS) {
        int tile = first + thread_index();
        Mass mass = merged_over_segment(tile < tiles ? parts[tile].mass : no_mass(), inverse);
        if (thread_index() % SEGMENT == 0) {
            store_mass(shared->masses[thread_index() / SEGMENT], mass);
            if (masses && tile < tiles) masses[tile / SEGMENT] = mass;
        }
        barrier();
        if (warp() == 0) {
            int count = (tiles - first + SEGMENT - 1) / SEGMENT;
            Mass segment = lane() < SEGMENTS ? load_mass(shared->masses[lane()]) : no_mass();
            total = merged_in_turn(total, segment, count < SEGMENTS ? count : SEGMENTS, inverse);
        }
        barrier();
    }
    return total;
}

// The best of a draw, in thread 0.
DEVICE Best merged_best(const Best* bests, int tiles)
{
    Shared* shared = shared_state();
    Best best = no_best();
    for (int tile = thread_index(); tile < tiles; tile += THREADS) {
        Best other = bests[tile];
        if (beats(other, best)) best = other;
    }
    best = warp_best(best);
    if (lane() == 0) {
        store_shared(&shared->bests[warp()].score, best.score);
        store_shared(&shared->bests[warp()].rest, best.rest);
        store_shared(&shared->bests[warp()].logit, best.logit);
        store_shared(&shared->bests[warp()].token, best.token);
    }
    barrier();
    NO_UNROLL
    for (int i = 1; thread_index() == 0 && i < WARPS; ++i) {
        const Best* place = &shared->bests[i];
        Best other = {load_shared(&place->score), load_shared(&place->rest), load_shared(&place->logit),
                      load_shared(&place->token)};
        if (beats(other, best)) best = other;
    }
    barrier();
    return best;
}

DEVICE uint32_t sum_over_tiles(const uint32_t* numbers, int64_t stride, int tiles)
{
    uint32_t sum = 0;
    for (int tile = thread_index(); tile < tiles; tile += THREADS) sum += numbers[tile * stride];
    return block_sum(sum);
}

// Writes what concerns the whole row; true when nothing can be drawn from it.
DEVICE bool write_row(const MergeParams& p, int row, const Mass& mass, uint32_t size, bool greedy)
{
    int32_t flag = is_nan(mass.max) ? FLAG_NAN : size == 0 ? FLAG_EMPTY : 0;
    if (p.lse) p.lse[row] = lse(mass);
    if (p.entropy) p.entropy[row] = entropy(mass);
    if (p.flag) p.flag[row] = flag;
    if (p.kept) p.kept[row] = flag != 0 ? 0 : greedy ? 1 : int64_t(size);
    if (p.kept_mass) p.kept_mass[row] = flag == FLAG_NAN ? NOT_A_NUMBER : flag == FLAG_EMPTY ? 0.0f : 1.0f;
    return flag != 0;
}

DEVICE void write_draw(const MergeParams& p, int64_t at, const Mass& mass, const Best& best, bool flagged, bool greedy,
                       float inverse)
{
    float raw = logprob(mass, best.logit, mass.sum, 1.0f);
    float warm = inverse == 1.0f ? raw : logprob(mass, best.logit, mass.tempered, inverse);
    float none = lse(mass);
    p.token[at] = flagged ? -1 : best.token;
    p.rank[at] = flagged ? -1 : greedy ? 0 : UNRANKED;
    p.logit[at] = flagged ? none : best.logit;
    p.raw_logprob[at] = flagged ? none : raw;
    p.logprob[at] = flagged ? none : greedy ? 0.0f : warm;
}

// How the row's given token stands among all.
DEVICE void write_target(const MergeParams& p, int row, const Mass& mass, uint32_t before)
{
    float logit = p.target_logit[row];
    if (p.logprob) p.logprob[row] = logprob(mass, logit, mass.sum, 1.0f);
    if (!p.rank || (p.only_unranked && p.rank[row] != UNRANKED)) return;
    p.rank[row] = is_nan(mass.max) || is_nan(logit) ? -1 : int64_t(before);
}

DEVICE void unembed_merge(const MergeParams& p)
{
    int row = block_index(0);
    const Part* parts = p.parts + int64_t(row) * p.tiles;
    int call = p.first_row + row;
    float temperature = value(p.temperature, p.row_map ? mapped_row(p.row_map, call, p.hidden_rows) : call);
    bool greedy = !(temperature > 0.0f);
    float inverse = greedy ? 1.0f : inverse_temperature(temperature);

    int segments = (p.tiles + SEGMENT - 1) / SEGMENT;
    Mass mass = merged_mass(parts, p.tiles, inverse, p.masses ? p.masses + int64_t(row) * segments : nullptr);
    uint32_t size = sum_over_tiles(&parts->size, sizeof(Part) / sizeof(uint32_t), p.tiles);
    uint32_t before = p.before ? sum_over_tiles(p.before + int64_t(row) * p.tiles, 1, p.tiles) : 0;
    bool first = thread_index() == 0;
    bool flagged = first && write_row(p, row, mass, size, greedy);
    if (first && p.total) p.total[row] = Total{mass, size, 0};
    if (first && p.target_logit) write_target(p, row, mass, before);
    NO_UNROLL
    for (int sample = 0; sample < p.samples; ++sample) {
        int64_t at = int64_t(row) * p.samples + sample;
        Best best = merged_best(p.bests + at * p.tiles, p.tiles);
        if (first && p.best) p.best[at] = best;
        if (first && p.token) write_draw(p, at, mass, best, flagged, greedy, inverse);
    }
}
