#pragma once

#include <cstdint>

namespace afterimage::cpu {

// (images, channels, positions) features, planar or channels-last, to their products (images, channels, channels) in
// float32, times `scale`: of the features or, if `center`, of their differences from each channel's mean.
template <class T>
void gram(std::uintptr_t features, std::uintptr_t products, std::int64_t images, std::int64_t channels,
          std::int64_t positions, bool channels_last, bool center, double scale, int threads);

}  // namespace afterimage::cpu
