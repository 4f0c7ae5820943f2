#pragma once

#include <cstdint>

namespace afterimage::cpu {

// Addresses of `size` contiguous elements of T; `bits` has one bit for each, the lowest of a byte first: 0 < input <
// upper, or NaN. `output` may be `input`. `upper` is rounded to T; infinity means no ceiling.
template <class T>
void guided_relu(std::uintptr_t input, std::uintptr_t output, std::uintptr_t bits, std::int64_t size, double upper,
                 int threads);

// Without use_forward, `bits` is not read. `grad_input` may be `grad_output`.
template <class T>
void guided_relu_backward(std::uintptr_t grad_output, std::uintptr_t bits, std::uintptr_t grad_input,
                          std::int64_t size, bool use_forward, bool use_gradient, int threads);

}  // namespace afterimage::cpu
