// Where a key of a sequence stands, in an array over (batch, head, time) or in pages.
#pragma once

#include "attention/rows.cuh"

// How far the keys or the values of a head lie apart, in elements.
struct Spacing {
    int64_t time, page;
};

DEVICE Spacing spacing_of(const Array& array) { return Spacing{array.time, array.batch}; }

// Where a key stands behind the first of its head; in pages, whatever the table says, inside of them.
DEVICE int64_t element_of(const Pages& pages, bool paged, const Sequence& sequence, const Spacing& spacing, int key)
{
    if (!paged) return key * spacing.time;
    int block = pages.shift >= 0 ? key >> pages.shift : key / pages.size;
    int page = count_at(pages.table, pages.kind, sequence.index * pages.stride + block, pages.count - 1);
    return page * spacing.page + (key - block * pages.size) * spacing.time;
}

// Whether the keys of a chunk are evenly spaced.
DEVICE bool is_even(const Pages& pages, bool paged) { return !paged || pages.size % CHUNK == 0; }
