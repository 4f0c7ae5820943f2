// What one step of the Gram product is: a part of an image's positions, multiplied into squares of 32 by 32 channels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "formula/number.h"

namespace afterimage::cpu {

constexpr std::int64_t panel = 32;  // channels
constexpr std::int64_t square = panel * panel;

inline std::int64_t panels_of(std::int64_t channels) { return (channels + panel - 1) / panel; }

// Of the upper triangle of squares, row after row.
inline std::int64_t square_index(std::int64_t panels, std::int64_t row, std::int64_t column) {
    return row * panels - row * (row - 1) / 2 + column - row;
}

inline std::int64_t squares_of(std::int64_t panels) { return panels * (panels + 1) / 2; }

template <class T>
struct Block {
    const T* features;  // of channel 0 at the first position; one of the strides is 1
    std::int64_t channels, channel_stride;
    std::int64_t positions, position_stride;
    const float* shift;  // subtracted, one per channel and up to the panel's end; null: nothing is
};

// `count` positions from `begin` on, or as many as there are.
template <class T>
AFTERIMAGE_FORMULA Block<T> slice(Block<T> block, std::int64_t begin, std::int64_t count) {
    block.features += begin * block.position_stride;
    block.positions = block.positions - begin < count ? block.positions - begin : count;
    return block;
}

template <class T>
struct Step {
    std::size_t bytes;  // of workspace
    // Adds a part's products to the squares and, where it is shifted, its values to the sums of the channels.
    void (*run)(const Block<T>&, void* workspace, float* squares, float* sums);
};

template <class T>
Step<T> gram_step_vector(std::int64_t channels);  // baseline, AVX2, AVX-512

template <class T>
Step<T> gram_step_amx(std::int64_t channels, bool center);

// The shifted value; what lies outside of the block is zero.
template <class Tag, class T>
AFTERIMAGE_FORMULA float value(const Block<T>& block, std::int64_t channel, std::int64_t position) {
    if (channel >= block.channels || position >= block.positions) return 0.0f;
    const T* address = block.features + channel * block.channel_stride + position * block.position_stride;
    return to_float<Tag>(*address) - (block.shift ? block.shift[channel] : 0.0f);
}

}  // namespace afterimage::cpu
