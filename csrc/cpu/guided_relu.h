#pragma once

#include <cstdint>

namespace afterimage::cpu {

// Addresses of `size` contiguous elements of T each; grad_input must not overlap the others. `upper` is rounded to T;
// infinity means no ceiling.
template <class T>
void guided_relu_backward(std::uintptr_t grad_output, std::uintptr_t output, std::uintptr_t grad_input,
                          std::int64_t size, bool use_forward, bool use_gradient, double upper, int threads);

}  // namespace afterimage::cpu
