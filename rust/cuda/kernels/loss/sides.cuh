// The same tile of both sides of a divergence.
#pragma once
#include "loss/params.cuh"
#include "unembed/product.cuh"

// Where the target's products stay while those of the model are formed: behind the slabs.
template <int ROWS>
DEVICE float* target_products()
{
    return reinterpret_cast<float*>(shared_memory() + Share<ROWS>::stages * (TOKENS + ROWS) * SLAB_BYTES);
}

// Leaves the products of the model at the begin of shared memory, as everywhere.
template <typename T, int ROWS>
DEVICE void products_of_sides(const UnembedParams& model, const UnembedParams& target, uint32_t tile_start,
                              int first_row)
{
    tile_products<T, ROWS>(target, tile_start, first_row, target_products<ROWS>());
    tile_products<T, ROWS>(model, tile_start, first_row, reinterpret_cast<float*>(shared_memory()));
}
