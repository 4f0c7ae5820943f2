#pragma once

#include <cstdint>

namespace afterimage::cuda {

// As cpu/guided_relu.h.
template <class T>
void guided_relu(std::uintptr_t input, std::uintptr_t output, std::uintptr_t bits, std::int64_t size, double upper,
                 int device, std::uintptr_t stream);

template <class T>
void guided_relu_backward(std::uintptr_t grad_output, std::uintptr_t bits, std::uintptr_t grad_input,
                          std::int64_t size, bool use_forward, bool use_gradient, int device, std::uintptr_t stream);

}  // namespace afterimage::cuda
