#pragma once

#include <cstdint>

namespace afterimage::cpu {

// What is summed over each image: see formula/total_variation.h. `images` and `gradient` hold number × channels ×
// height × width elements, channels last if so said; `values` number floats. Every β >= 1, eps >= 0, both finite.
struct Images {
    std::int64_t number, channels, height, width;
    bool channels_last;
};

template <class T>
void total_variation(std::uintptr_t images, std::uintptr_t values, std::int64_t number, std::int64_t channels,
                     std::int64_t height, std::int64_t width, bool channels_last, double beta, double eps,
                     bool anisotropic, int threads);

// The same, and the gradient of each image's value, which is read once and written once.
template <class T>
void total_variation_with_gradient(std::uintptr_t images, std::uintptr_t values, std::uintptr_t gradient,
                                   std::int64_t number, std::int64_t channels, std::int64_t height,
                                   std::int64_t width, bool channels_last, double beta, double eps, bool anisotropic,
                                   int threads);

}  // namespace afterimage::cpu
