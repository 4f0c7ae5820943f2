#pragma once

#include <cstdint>

namespace afterimage::cuda {

// As cpu/occlude.h, but windows may reach over the image's edges.
template <class T>
void occlude(std::uintptr_t image, std::uintptr_t windows, std::uintptr_t fill, std::uintptr_t output,
             std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, bool channels_last,
             bool picture, int device, std::uintptr_t stream);

template <class T>
void occlude_backward(std::uintptr_t grad_output, std::uintptr_t windows, std::uintptr_t grad, std::int64_t batch,
                      std::int64_t channels, std::int64_t height, std::int64_t width, bool channels_last, bool inside,
                      int device, std::uintptr_t stream);

}  // namespace afterimage::cuda
