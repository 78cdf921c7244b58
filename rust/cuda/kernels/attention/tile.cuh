// Tiles of queries, keys and values in shared memory.
//
// A row of a tile is cut into panels of at most 256 bytes, a panel into pieces of 16 bytes. Pieces are permuted within
// a row so that the eight rows which a matrix instruction reads at once lie in different banks.
#pragma once

#include "attention/rows.cuh"

// Panels of rows of DIM elements of type T.
template <typename T, int DIM> struct Panels {
    static constexpr int WIDTH = DIM * int(sizeof(T)) < 256 ? DIM * int(sizeof(T)) : 256; // bytes of a row
    static constexpr int COLUMNS = WIDTH / int(sizeof(T));
    static constexpr int COUNT = DIM / COLUMNS;
    static constexpr int PIECES = WIDTH / 16;
    static constexpr int IN_PIECE = 16 / int(sizeof(T));
    static_assert(PIECES >= 8, "eight rows lie in different banks");
};

// Where a piece of a row lies.
template <int WIDTH> DEVICE int place(int row, int piece) { return row * WIDTH + (piece ^ row % 8) * 16; }

// Sixteen bytes of a row.
template <typename T> struct Piece {
    static constexpr int COUNT = 16 / int(sizeof(T));
    static constexpr int IN_WORD = COUNT / 4;
    uint32_t words[4];
};

template <typename T> DEVICE float number_of(const Piece<T>& piece, int i)
{
    if constexpr (sizeof(T) == 4) return from_bits(piece.words[i]);
    else return to_float(T{uint16_t(piece.words[i / 2] >> i % 2 * 16)});
}

// A word of one float32, or of two shorter numbers.
template <typename T> DEVICE uint32_t word_of(const float* numbers)
{
    if constexpr (sizeof(T) == 4) return bits(numbers[0]);
    else return pack<T>(numbers[0], numbers[1]);
}

DEVICE void store_piece(char* to, const uint32_t (&words)[4])
{
    store_shared(reinterpret_cast<uint4*>(to), uint4{words[0], words[1], words[2], words[3]});
}

// The piece of a row at a column, zeros behind dim.
template <typename T> DEVICE Piece<T> load_piece(const T* row, int column, int dim, bool in_pieces)
{
    Piece<T> piece{};
    if (in_pieces && column % Piece<T>::COUNT == 0) {
        if (column < dim) {
            uint4 raw = *reinterpret_cast<const uint4*>(row + column);
            piece = Piece<T>{{raw.x, raw.y, raw.z, raw.w}};
        }
    } else {
        UNROLL
        for (int i = 0; i < Piece<T>::COUNT; ++i) {
            uint32_t word = column + i < dim ? bits(row[column + i]) : 0;
            piece.words[i / Piece<T>::IN_WORD] |= word << i % Piece<T>::IN_WORD * 16;
        }
    }
    return piece;
}

// How a row turns: pairs of its first 2 half numbers, `(i, i + half)`, or `(2i, 2i + 1)` when interleaved.
struct Rotation {
    const Turn* turns;
    int half;
    bool interleaved;

    METHOD int partner(int column) const
    {
        return interleaved ? column ^ 1 : column < half ? column + half : column - half;
    }

    // Whether a number is the first of its pair, and the pair's number.
    METHOD bool is_first(int column) const { return interleaved ? column % 2 == 0 : column < half; }
    METHOD int pair(int column) const { return interleaved ? column / 2 : column < half ? column : column - half; }
};

template <typename T>
DEVICE Piece<T> load_turned(const T* row, int column, int dim, bool in_pieces, const Rotation& rotation)
{
    using P = Piece<T>;
    P own = load_piece(row, column, dim, in_pieces), partners{};
    int half = rotation.half;
    if (column >= 2 * half) return own;
    bool together = !rotation.interleaved && (column + P::COUNT <= half || column >= half);
    if (together) partners = load_piece(row, rotation.partner(column), dim, in_pieces);
    P turned;
    UNROLL
    for (int word = 0; word < 4; ++word) {
        float numbers[P::IN_WORD];
        UNROLL
        for (int i = 0; i < P::IN_WORD; ++i) {
            int inside = word * P::IN_WORD + i, at = column + inside;
            numbers[i] = number_of(own, inside);
            if (at >= 2 * half) continue;
            float partner = rotation.interleaved ? number_of(own, inside ^ 1) : number_of(partners, inside);
            if (!rotation.interleaved && !together) partner = to_float(row[rotation.partner(at)]);
            Turn turn = rotation.turns[rotation.pair(at)];
            float crossed = partner * turn.sine;
            numbers[i] = fma(numbers[i], turn.cosine, rotation.is_first(at) ? -crossed : crossed);
        }
        turned.words[word] = word_of<T>(numbers);
    }
    return turned;
}

// Replaces infinities and NaN by zeros; tells whether there were any.
template <typename T> DEVICE bool zero_wild(uint32_t& word)
{
    if constexpr (sizeof(T) == 4) {
        bool wild = (word & 0x7f800000u) == 0x7f800000u;
        word = wild ? 0 : word;
        return wild;
    } else {
        uint32_t low = from_float<T>(INFINITE).bits, high = low << 16;
        bool low_wild = (word & low) == low, high_wild = (word & high) == high;
        word = (low_wild ? 0 : word & 0xffffu) | (high_wild ? 0 : word & 0xffff0000u);
        return low_wild || high_wild;
    }
}

// The same of a panel of CHUNK rows. Each thread looks through what it has copied itself: of every STEP-th row a piece.
template <typename T, typename Shape, int STEP> DEVICE bool take_out_wild(char* panel)
{
    bool wild = false;
    int thread = thread_index();
    NO_UNROLL
    for (int i = thread / Shape::PIECES; i < CHUNK; i += STEP) {
        auto* at = reinterpret_cast<uint4*>(panel + place<Shape::WIDTH>(i, thread % Shape::PIECES));
        uint4 raw = load_shared(at);
        bool x = zero_wild<T>(raw.x), y = zero_wild<T>(raw.y), z = zero_wild<T>(raw.z), w = zero_wild<T>(raw.w);
        if (x || y || z || w) store_shared(at, raw);
        wild = wild || x || y || z || w;
    }
    return wild;
}
