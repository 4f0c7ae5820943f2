#pragma once

#include <cstdint>

namespace afterimage::cpu {

// (images, channels, positions) features, planar or channels-last, to their products (images, channels, channels) in
// float32, times `scale`: of the features or, if `center`, of their differences from each channel's mean.
template <class T>
void gram(std::uintptr_t features, std::uintptr_t products, std::int64_t images, std::int64_t channels,
          std::int64_t positions, bool channels_last, bool center, double scale, int threads);

// The gradient of the features, in their type and layout, given that of the products in float32. `means` holds each
// image's channels' means in float32, or is 0 where nothing was centered. Only on AMX, else throws
// std::invalid_argument: elsewhere an ordinary matrix product is as fast.
template <class T>
void gram_backward(std::uintptr_t grad_products, std::uintptr_t features, std::uintptr_t means,
                   std::uintptr_t grad_features, std::int64_t images, std::int64_t channels, std::int64_t positions,
                   bool channels_last, double scale, int threads);

}  // namespace afterimage::cpu
