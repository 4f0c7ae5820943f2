#pragma once

#include <cstdint>

namespace afterimage::cpu {

// `images` and `gradient` hold number × channels × height × width elements of T, in this order or with the channels
// last; `values` holds `number` floats. beta >= 1 and eps >= 0, both finite. See formula/total_variation.h.
template <class T>
void total_variation(std::uintptr_t images, std::uintptr_t values, std::int64_t number, std::int64_t channels,
                     std::int64_t height, std::int64_t width, bool channels_last, double beta, double eps,
                     bool anisotropic, int threads);

// The same and each value's gradient: the images are read once, the gradient is written once.
template <class T>
void total_variation_with_gradient(std::uintptr_t images, std::uintptr_t values, std::uintptr_t gradient,
                                   std::int64_t number, std::int64_t channels, std::int64_t height,
                                   std::int64_t width, bool channels_last, double beta, double eps, bool anisotropic,
                                   int threads);

}  // namespace afterimage::cpu
