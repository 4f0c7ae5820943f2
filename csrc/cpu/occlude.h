#pragma once

#include <cstdint>

namespace afterimage::cpu {

// `image` is (channels, height, width), or (height, width, channels) if channels_last, and `output` is `batch` of these;
// so is `fill` if it is a picture, otherwise it is (channels, width), or (width, channels): the row that every row
// takes. `windows` is (batch, 4), y0, x0, y1, x1, half open and inside of the image. T is any type of the elements' size.
template <class T>
void occlude(std::uintptr_t image, std::uintptr_t windows, std::uintptr_t fill, std::uintptr_t output,
             std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, bool channels_last,
             bool picture, int threads);

// Sums `grad_output`, laid out as `output` above, over the batch: what is inside of each window, or what is outside.
// `grad` is one such image of float32; the terms are added in the order of the batch.
template <class T>
void occlude_backward(std::uintptr_t grad_output, std::uintptr_t windows, std::uintptr_t grad, std::int64_t batch,
                      std::int64_t channels, std::int64_t height, std::int64_t width, bool channels_last, bool inside,
                      int threads);

}  // namespace afterimage::cpu
