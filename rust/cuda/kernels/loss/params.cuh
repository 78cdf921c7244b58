// What the kernels of the losses take, and the records that they leave for each other: farspan_core::loss, on a device.
#pragma once
#include "unembed/params.cuh"

// What all rows of a loss share. It is worked out on the device, which alone reads the targets.
struct Common {
    double divisor;      // what a sum of losses is divided by
    double all_classes;  // the sum of the class weights of the tokens that exist
    float largest_class; // the largest of them
    int32_t counted;     // how many rows count
    float scale;         // what the slopes are multiplied with where they are stored for the gradient of weight
    int32_t unused;
};

// Softmax sums of a tile's logits, and the sum of class weight times logit.
struct EntropyPart {
    float max, sum, weighted;
};

// Softmax sums of both sides of a divergence over a tile: farspan_core::loss::Pair.
struct PairPart {
    float max, sum, target_max, target_sum, cross;
    uint32_t impossible;
};

// How a row's logits become slopes: farspan_core::loss::Slope, and what is added at its target.
struct SlopeRow {
    float max, log_sum;               // of the lse
    float constant, per_gap;          // what p, and p times its logarithm, are multiplied with
    float per_class, per_target;      // what the class weight, and the target's probability, are multiplied with
    float target_max, target_log_sum; // of the target's lse
    float at_token;                   // what is added at `token`
    float scale;                      // what the slopes are multiplied with where they are stored
    int32_t token;                    // -1: none
    int32_t row;                      // of the call
};

// Which rows count, in order. Without targets all do.
struct GatherParams {
    Setting<int64_t> targets;
    int64_t ignore_index;
    const float* class_weight;
    int32_t* row_map;  // [rows]: those that count, one after the other
    int32_t* place_of; // [rows]: where a row stands among them, -1 for one that does not count
    Common* common;
    float* loss;       // [rows]: 0 where a row does not count, as the following two; null where it is no result
    float* max;
    float* log_sum;
    int32_t rows, valid;
    uint32_t mean, unused;
};

enum LossFlags : uint32_t {
    SMOOTHS = 1,         // the weighted sum of the logits is wanted
    FIRST_STRETCH = 2,   // no sums lie in memory yet
    OTHER_ALIGNED = 4,   // every row of the other operand begins at a multiple of 16 bytes
};

// What the passes over the vocabulary take. Rows are those that count.
struct LossParams {
    UnembedParams model, target; // the target of a divergence only
    Setting<int64_t> targets;
    const float* class_weight;
    const Common* common;
    EntropyPart* parts;          // [rows, tiles]
    PairPart* pairs;             // [rows, tiles]
    float* target_logit;         // [rows]
    float inverse_temperature;
    uint32_t flags;
};

// What becomes of a cross-entropy's rows. Results are those of the call's rows, null where one is not wanted.
struct EntropyParams {
    const EntropyPart* parts;
    const float* target_logit;
    Setting<int64_t> targets;
    const float* class_weight;
    const Common* common;
    const int32_t* row_map;
    double* losses; // of the rows that count
    float* loss;
    float* max;
    float* log_sum;
    double label_smoothing, smoothing, z_loss;
    int32_t rows, first_row, tiles, valid;
};

struct ReduceParams {
    const double* losses;
    const Common* common;
    float* loss;
};

// What becomes of a divergence's rows.
struct PairParams {
    const PairPart* pairs;
    float* divergence;
    float* max;
    float* log_sum;
    float* target_max;
    float* target_log_sum;
    int32_t rows, first_row, tiles, unused;
};

enum LossKind : int32_t { CROSS_ENTROPY = 0, SCORE = 1, DIVERGENCE = 2 };

// What the slopes of rows follow from. Lists are of the call's rows; those that a kind of loss has not are null.
struct RowsParams {
    Common* common;
    const int32_t* row_map;
    Setting<int64_t> targets;
    const float* class_weight;
    Setting<float> max, log_sum, target_max, target_log_sum;
    Setting<float> upstream;             // by the loss, the divergence, or logprob
    Setting<float> by_entropy, by_lse, entropy;
    const float* by_top;                 // [rows, top]
    SlopeRow* slopes;                    // of the rows that count
    double label_smoothing, smoothing, z_loss;
    float inverse_temperature, scale;
    int32_t valid, top, kind;
    uint32_t scales;                     // whether what is stored would not fit its type otherwise
};

// Slopes of all rows that count by a stretch of tokens.
struct SlopesParams {
    UnembedParams model, target;
    const SlopeRow* rows;
    const Common* common;
    const float* class_weight;
    const int64_t* top_token;  // [rows of the call, top]
    const float* by_top;
    char* by_row;              // [rows, stride]: slopes by products, for the gradient of hidden
    char* by_token;            // the same for that of weight; null where it is the same numbers
    float* bias_sums;          // [blocks of rows, stride]: sums over rows of slopes by logits; null: not wanted
    int64_t stride;
    int32_t first_tile, top;
    float inverse_temperature;
    uint32_t unused;
};

// A product of slopes with the other operand, weight or hidden.
struct OuterParams {
    const char* slopes; // [rows, stride]
    int64_t stride;
    Matrix other;
    const int32_t* row_map;
    const float* bias;  // of the stretch: what it bans has no influence
    const Common* common;
    float* sums;        // [rows, dim]: the gradient of hidden so far
    char* out;          // [tokens, dim]: the gradient of weight
    int32_t tokens;     // of the stretch that exist
    int32_t written;    // of its tokens that have a gradient, those behind `tokens` one of 0
    int32_t rows, dim, hidden_rows;
    uint32_t flags;
};

struct StoreParams {
    const float* sums;       // null: all of the gradient is 0
    const SlopeRow* slopes;
    const int32_t* place_of; // null: every row is its own
    char* out;               // [rows, dim]
    int32_t rows, dim;
};

struct BiasParams {
    const float* sums;
    const Common* common;
    float* out;
    int64_t stride;
    int32_t tokens, written;
    int32_t block_rows, unused; // rows that each of the sums is of
};

DEVICE bool is_token(int64_t token, int32_t valid) { return token >= 0 && token < valid; }

// The class weight of a target; of one that is no token nothing is known.
DEVICE double class_of(const float* class_weight, int64_t target, int32_t valid)
{
    if (!is_token(target, valid)) return double(__builtin_bit_cast(float, 0x7fc00000u));
    return class_weight ? double(class_weight[target]) : 1.0;
}

DEVICE int row_of_call(const int32_t* row_map, int row) { return row_map ? row_map[row] : row; }

// Rows of a launch that count.
DEVICE int counted_rows(const UnembedParams& p, const Common* common)
{
    int left = common ? common->counted - p.first_row : p.rows;
    return left < p.rows ? left : p.rows;
}

DEVICE float log_of_sum(float sum) { return sum > 0.0f ? logarithm(sum) : 0.0f; }
