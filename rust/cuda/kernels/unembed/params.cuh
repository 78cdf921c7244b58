// What the unembedding's kernels take, and the records that they leave for each other.
#pragma once
#include "unembed/state.cuh"

// Tokens of a tile. Tiles begin at multiples of it in token ids, also where a shard begins within one.
constexpr int TOKENS = 128;
constexpr int WARPS = 8;
constexpr int THREADS = 32 * WARPS;

// Rows of contiguous elements; the stride is in bytes.
struct Matrix {
    const char* first;
    int64_t stride;
};

// One number per row, or stride 0 and one number for all. Without an address the bits of one for all of them stand in
// place of the stride: zeros where nothing is given.
template <typename T>
struct Setting {
    const T* first;
    int64_t stride;
};

DEVICE int64_t value_of(int64_t bits, const int64_t*) { return bits; }
DEVICE float value_of(int64_t bits, const float*) { return from_bits(uint32_t(bits)); }

template <typename T>
DEVICE T value(const Setting<T>& setting, int64_t row)
{
    return setting.first ? setting.first[row * setting.stride] : value_of(setting.stride, setting.first);
}

struct Draws {
    Setting<int64_t> seed, position, stream;
    Setting<float> temperature;
};

DEVICE float inverse_temperature(float temperature)
{
    float inverse = 1.0f / temperature;
    return smaller(inverse, 3.40282347e38f);
}

// What happens to the logit of one token: farspan_core::sampler::Change.
struct Change {
    float bias, repetition, subtracted;
    uint32_t banned;
};

// Lists are sorted by token; row r owns the places from offsets[r] to offsets[r + 1].
struct Changes {
    const int64_t* offsets;
    const uint32_t* tokens;
    const Change* changes;
    // An empty list of the allowed restricts nothing.
    const int64_t* allowed_offsets;
    const uint32_t* allowed_tokens;
    // Bit v % 32 of word v / 32 allows token v; words that are missing ban.
    const uint32_t* mask;
    int64_t mask_stride;
    int64_t mask_words;
};

// What a tile says of a row.
struct Part {
    Mass mass;
    uint32_t size;
};

// Number, mean and squared deviations of a tile's logits above -inf.
struct Spread {
    uint32_t count;
    float mean, squares;
};

// What all tiles say of a row, and how many entries its list of the largest has.
struct Total {
    Mass mass;
    uint32_t size, listed;
};

enum PassFlags : uint32_t {
    HIDDEN_ALIGNED = 1,   // every row of hidden begins at a multiple of 16 bytes
    WEIGHT_ALIGNED = 2,
    MOMENTS = 4,          // the entropy is wanted
    REVISIT = 8,          // only whole lists of the tiles that have a slot
};

struct UnembedParams {
    Matrix hidden, weight;
    const float* bias;
    Draws draws;
    Changes changes;
    // Which rows of hidden and of the settings this call reads; all of them, each `repeat` times, without it.
    const int32_t* row_map;
    // Tokens and logits to be ranked.
    Setting<int64_t> target;
    const float* target_logit;
    // Only entries below it are listed.
    const uint64_t* below;
    // [rows, tiles]: where a whole list goes, -1 for none.
    const int32_t* slots;
    Part* parts;           // [rows, tiles]
    Best* bests;           // [rows, samples, tiles]
    Spread* spreads;       // [rows, tiles]
    uint32_t* before;      // [rows, tiles]
    uint64_t* lists;       // [rows, tiles, listed]
    uint64_t* overflow;    // [rows, slots, TOKENS]
    float* target_out;     // [rows]
    int32_t rows, first_row, repeat, dim;
    uint32_t first_token;
    int32_t valid, tiles, samples, listed, slot_count;
    float scale, softcap;
    uint32_t flags;
    int32_t hidden_rows;
};

// The row that a map names, or the one nearest to it that exists.
DEVICE int mapped_row(const int32_t* row_map, int row, int rows)
{
    int named = row_map[row] < rows ? row_map[row] : rows - 1;
    return named > 0 ? named : 0;
}

// The row of hidden and of the settings behind row `row` of this launch.
DEVICE int64_t source_row(const UnembedParams& p, int row)
{
    int call = p.first_row + row;
    return p.row_map ? mapped_row(p.row_map, call, p.hidden_rows) : p.repeat == 1 ? call : call / p.repeat;
}

DEVICE bool exists(const UnembedParams& p, uint32_t token)
{
    return token >= p.first_token && token - p.first_token < uint32_t(p.valid);
}

// A product becomes a logit. Tokens that do not exist, and those that the bias bans, have none.
DEVICE float logit_of(const UnembedParams& p, float product, uint32_t token)
{
    if (!exists(p, token)) return NOTHING;
    float logit = product * p.scale;
    if (p.softcap > 0.0f) logit = p.softcap * tangent(logit / p.softcap);
    if (p.bias) {
        float bias = p.bias[token - p.first_token];
        logit = bias == NOTHING ? NOTHING : logit + bias;
    }
    return logit;
}
