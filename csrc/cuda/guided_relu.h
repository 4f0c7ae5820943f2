#pragma once

#include <cstdint>

namespace afterimage::cuda {

// As cpu/guided_relu.h.
template <class T>
void guided_relu_backward(std::uintptr_t grad_output, std::uintptr_t output, std::uintptr_t grad_input,
                          std::int64_t size, bool use_forward, bool use_gradient, double upper, int device,
                          std::uintptr_t stream);

}  // namespace afterimage::cuda
