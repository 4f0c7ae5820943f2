// Nearest-neighbor texture: how far two values are from each other, which candidates are near, and which one is picked.
#pragma once

#include "formula/number.h"

namespace afterimage::formula {

template <class Tag>
AFTERIMAGE_FORMULA std::int32_t squared_difference(std::int16_t a, std::int16_t b) {
    const std::int16_t difference = static_cast<std::int16_t>(a - b);  // of 8-bit values
    return std::int32_t{difference} * difference;
}

// The largest distance that is at most (1 + eps) best.
template <class Tag>
AFTERIMAGE_FORMULA std::int32_t farthest(std::int32_t best, double eps) {
    const double limit = best * (1.0 + eps);
    return limit < 2147483647.0 ? static_cast<std::int32_t>(limit) : 2147483647;
}

// One of `count` by a random number of 32 bits.
template <class Tag>
AFTERIMAGE_FORMULA std::int64_t picked(std::int64_t draw, std::int64_t count) {
    return draw * count >> 32;
}

}  // namespace afterimage::formula
