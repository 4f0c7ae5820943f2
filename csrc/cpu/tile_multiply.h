// The sums of a block of 32 pixels and 32 outputs, on two by two tiles.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/tiles.h"

namespace afterimage::cpu {

constexpr std::int64_t lanes = 16, block = 32;  // numbers of a register; pixels and outputs of two by two tiles

struct Shape {
    std::int64_t channels, pitch, rows, steps, down, across, phases, height, width, outputs;
    bool measured;

    std::int64_t groups() const { return (outputs + lanes - 1) / lanes; }
    std::int64_t group_bytes() const { return rows * steps * tiles::tile; }
    std::int64_t weight_bytes() const { return phases * phases * groups() * group_bytes(); }

    // Rows whose maps take half a megabyte.
    std::int64_t few(bool split) const {
        return std::max<std::int64_t>(1, (1 << 19) / ((split ? 4 : 2) * pitch * down));
    }
};

// Adds the products of 32 pixels' numbers, tiles 4 and 5, with 32 outputs' weights, tiles 6 and 7.
template <bool two>
AFTERIMAGE_INLINE_AMX void multiply_loaded() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (two) {
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
    }
}

template <bool two>
AFTERIMAGE_INLINE_AMX void load_weights(const char* weights, std::int64_t next) {
    _tile_loadd(6, weights, 64);
    if constexpr (two) _tile_loadd(7, weights + next, 64);
}

AFTERIMAGE_INLINE_AMX void load_pixels(const char* pixels, std::int64_t distance) {
    _tile_loadd(4, pixels, distance);
    _tile_loadd(5, pixels + lanes * distance, distance);
}

// Low times low is left out. Weights, which are packed, are loaded twice rather than pixels.
template <bool split, bool two>
AFTERIMAGE_INLINE_AMX void step(const char* high, const char* low, std::int64_t pixel, const char* weights,
                                std::int64_t next, std::int64_t behind) {
    load_pixels(high, pixel);
    if constexpr (split) {
        load_weights<two>(weights + behind, next);
        multiply_loaded<two>();
    }
    load_weights<two>(weights, next);
    multiply_loaded<two>();
    if constexpr (split) {
        load_pixels(low, pixel);
        multiply_loaded<two>();
    }
}

// The sums of 32 pixels and 32 outputs, or 16 unless `two`; `distance` lies between those of two pixels.
template <bool split, bool two>
AFTERIMAGE_INLINE_AMX void multiply(const Shape& shape, const char* high, const char* low, const char* weights,
                                    const float* bias, float* sums, std::int64_t distance) {
    const std::int64_t pixel = 2 * shape.across * shape.channels, next = shape.group_bytes();
    tiles::fence();  // the bias may have been written just now
    tiles::load_sums(bias, 0);
    for (std::int64_t row = 0; row < shape.rows; ++row, high += 2 * shape.pitch, low += 2 * shape.pitch)
        for (std::int64_t at = 0; at < shape.steps; ++at, weights += tiles::tile)
            step<split, two>(high + 64 * at, low + 64 * at, pixel, weights, next, shape.weight_bytes());
    char* below = reinterpret_cast<char*>(sums) + lanes * distance;
    _tile_stored(0, sums, distance);
    _tile_stored(2, below, distance);
    if constexpr (two) {
        _tile_stored(1, sums + lanes, distance);
        _tile_stored(3, below + lanes * sizeof(float), distance);
    }
    tiles::fence();
}

}  // namespace afterimage::cpu
