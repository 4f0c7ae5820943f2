#pragma once

#include <cstdint>

namespace afterimage::cuda {

// As cpu/gram.h. The sums of each range of positions are kept apart in `workspace`, gram_workspace(…) bytes, and added
// in their order.
template <class T>
void gram(std::uintptr_t features, std::uintptr_t products, std::int64_t images, std::int64_t channels,
          std::int64_t positions, bool channels_last, bool center, double scale, std::uintptr_t workspace, int device,
          std::uintptr_t stream);

template <class T>
std::int64_t gram_workspace(std::uintptr_t features, std::uintptr_t products, std::int64_t images,
                            std::int64_t channels, std::int64_t positions, bool channels_last, bool center,
                            double scale, int device);

}  // namespace afterimage::cuda
