#pragma once

#include <cstdint>

namespace afterimage::cuda {

// As cpu/total_variation.h. The sums of the pieces of an image are kept apart in `workspace`, as many bytes as
// total_variation_workspace(…), and added in their order.
template <class T>
void total_variation(std::uintptr_t images, std::uintptr_t values, std::int64_t number, std::int64_t channels,
                     std::int64_t height, std::int64_t width, bool channels_last, double beta, double eps,
                     bool anisotropic, std::uintptr_t workspace, int device, std::uintptr_t stream);

template <class T>
std::int64_t total_variation_workspace(std::uintptr_t images, std::uintptr_t values, std::int64_t number,
                                       std::int64_t channels, std::int64_t height, std::int64_t width,
                                       bool channels_last, double beta, double eps, bool anisotropic, int device);

template <class T>
void total_variation_with_gradient(std::uintptr_t images, std::uintptr_t values, std::uintptr_t gradient,
                                   std::int64_t number, std::int64_t channels, std::int64_t height,
                                   std::int64_t width, bool channels_last, double beta, double eps, bool anisotropic,
                                   std::uintptr_t workspace, int device, std::uintptr_t stream);

template <class T>
std::int64_t total_variation_with_gradient_workspace(std::uintptr_t images, std::uintptr_t values,
                                                     std::uintptr_t gradient, std::int64_t number,
                                                     std::int64_t channels, std::int64_t height, std::int64_t width,
                                                     bool channels_last, double beta, double eps, bool anisotropic,
                                                     int device);

}  // namespace afterimage::cuda
