// How the products are cut into blocks: pairs of tiles of channels, each over a range of positions.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/launch.h"

namespace afterimage::cuda {

struct GramPlan {
    std::int64_t images, channels, positions;
    bool channels_last;
    int tile;                     // channels on each side of a block's products
    std::int64_t pairs;           // of tiles, the first not after the second
    std::int64_t ranges, range;   // of positions, and their length
    std::int64_t means_chunks;    // of positions, over which sums are taken for the means

    std::int64_t blocks() const { return images * ranges * pairs; }
    std::int64_t partial() const { return blocks() * tile * tile; }  // floats
};

// Depends on the sizes and on whether there are tensor cores, not on the device's size: equal bits on equal devices.
inline GramPlan gram_plan(std::int64_t images, std::int64_t channels, std::int64_t positions, bool channels_last,
                          bool tensor_cores) {
    constexpr std::int64_t shortest = 128, longest = 1 << 13, step = 64, chunk = 1024;
    const int tile = tensor_cores && channels > 64 ? 128 : 64;
    const std::int64_t tiles = ceil_div(channels, tile), pairs = tiles * (tiles + 1) / 2;
    const std::int64_t enough = tile == 128 ? 264 : 528;  // blocks for two or four on each of 132 multiprocessors
    const std::int64_t wanted = ceil_div(enough, std::max<std::int64_t>(1, images * pairs));
    const std::int64_t most = std::max<std::int64_t>(1, std::min(wanted, positions / shortest));
    const std::int64_t even = ceil_div(ceil_div(positions, most), step) * step;
    const std::int64_t range = std::min(longest, std::max(step, even));
    const std::int64_t ranges = std::max<std::int64_t>(1, ceil_div(positions, range));
    return {images, channels, positions, channels_last, tile, pairs, ranges, range, ceil_div(positions, chunk)};
}

struct Pair {
    int first, second;
};

// The pairs in the order (0, 0), (0, 1), (1, 1), (0, 2) …
__host__ __device__ inline Pair pair_of(int index) {
    int second = 0;
    while (index > second) index -= ++second;
    return {index, second};
}

}  // namespace afterimage::cuda
