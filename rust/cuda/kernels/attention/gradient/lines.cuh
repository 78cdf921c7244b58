// The lines of a matrix that a walk multiplies: those of rows (queries, and the heads that share a key head), or those
// of keys. And their way to shared memory.
#pragma once

#include "attention/gradient/params.cuh"
#include "attention/tile.cuh"

template <typename T> struct Lines {
    const T* first;
    int64_t time, head; // strides
    int group, count;   // heads of a time; lines that exist
    int dim;
    bool in_pieces; // aligned to 16 bytes, in whole pieces of 16 bytes

    METHOD const T* at(int line) const
    {
        int of_time = group == 1 ? line : line / group;
        return first + of_time * time + (line - of_time * group) * head;
    }
};

// Shared memory of a block of so many warps, tile by tile: a thread copies the same piece of every STEP-th line.
template <typename T, int DIM, int WARPS> struct Tiles {
    using Shape = Panels<T, DIM>;
    static constexpr int STEP = 32 * WARPS / Shape::PIECES;

    // A panel of LINES lines, zeros where there are none; there after the wait for its group.
    template <int LINES> METHOD static void load(char* to, const Lines<T>& lines, int first, int panel)
    {
        int thread = anew(thread_index());
        int piece = thread % Shape::PIECES, column = panel * Shape::COLUMNS + piece * Shape::IN_PIECE;
        NO_UNROLL
        for (int i = thread / Shape::PIECES; i < LINES; i += STEP) {
            char* at = to + place<Shape::WIDTH>(i, piece);
            int line = first + i;
            bool valid = line < lines.count;
            const T* from = valid ? lines.at(line) : lines.first;
            if (lines.in_pieces) {
                valid = valid && column < lines.dim;
                copy_async16(at, valid ? from + column : lines.first, valid);
            } else {
                Piece<T> x{};
                if (valid) x = load_piece(from, column, lines.dim, false);
                store_piece(at, x.words);
            }
        }
    }
};
