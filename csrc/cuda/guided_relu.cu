#include "cuda/guided_relu.h"

#include <cmath>

#include "cuda/intrinsics.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "formula/guided_relu.h"

namespace afterimage::cuda {
namespace {

constexpr int threads = 256;

// What a thread works on: the elements whose bits make up one byte. `whole`: all are there, and aligned.
template <class T>
struct Eight {
    std::int64_t first;
    int count;
    bool whole;
    Pack<T, widest<T>> packs[8 / widest<T>];

    __device__ Eight(std::int64_t size, bool wide)
        : first((std::int64_t{blockIdx.x} * threads + threadIdx.x) * 8),
          count(static_cast<int>(min(size - first, std::int64_t{8}))), whole(wide && count == 8), packs{} {}

    __device__ T& operator[](int i) { return packs[i / widest<T>][i % widest<T>]; }

    __device__ void read(const T* from) {
#pragma unroll
        for (int i = 0; i < 8; i += widest<T>)
            if (whole) packs[i / widest<T>] = load<T, widest<T>>(from + first + i);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (!whole && i < count) (*this)[i] = from[first + i];
    }

    __device__ void write(T* to) {
#pragma unroll
        for (int i = 0; i < 8; i += widest<T>)
            if (whole) store(to + first + i, packs[i / widest<T>]);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            if (!whole && i < count) to[first + i] = (*this)[i];
    }
};

template <class T>
__global__ void __launch_bounds__(threads)
    forward(const T* input, T* output, std::uint8_t* bits, std::int64_t size, float upper, bool wide) {
    Eight<T> eight(size, wide);
    if (eight.count <= 0) return;
    T ceiling;
    assign<Cuda>(ceiling, upper);  // so that a saturated output equals it
    eight.read(input);
    unsigned byte = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
        const unsigned bit = i < eight.count && formula::guided_relu_bit<Cuda>(eight[i], ceiling);
        byte |= bit << i;
        eight[i] = formula::guided_relu<Cuda>(eight[i], ceiling);
    }
    eight.write(output);
    bits[eight.first / 8] = static_cast<std::uint8_t>(byte);
}

template <class T>
__global__ void __launch_bounds__(threads)
    backward(const T* grad_output, const std::uint8_t* bits, T* grad_input, std::int64_t size, bool use_forward,
             bool use_gradient, bool wide) {
    Eight<T> eight(size, wide);
    if (eight.count <= 0) return;
    eight.read(grad_output);
    const unsigned byte = use_forward ? bits[eight.first / 8] : 0xffu;
#pragma unroll
    for (int i = 0; i < 8; ++i)
        eight[i] = formula::guided_relu_backward<Cuda>(eight[i], byte >> i & 1, use_gradient);
    eight.write(grad_input);
}

}  // namespace

template <class T>
void guided_relu(std::uintptr_t input, std::uintptr_t output, std::uintptr_t bits, std::int64_t size, double upper,
                 int device, std::uintptr_t stream) {
    const Queue queue("guided_relu", device, stream);
    const float ceiling = std::isinf(upper) ? std::nanf("") : static_cast<float>(upper);
    queue.launch(forward<T>, ceil_div(size, 8 * threads), threads, reinterpret_cast<const T*>(input),
                 reinterpret_cast<T*>(output), reinterpret_cast<std::uint8_t*>(bits), size, ceiling,
                 aligned(input) && aligned(output));
}

template <class T>
void guided_relu_backward(std::uintptr_t grad_output, std::uintptr_t bits, std::uintptr_t grad_input,
                          std::int64_t size, bool use_forward, bool use_gradient, int device, std::uintptr_t stream) {
    const Queue queue("guided_relu_backward", device, stream);
    queue.launch(backward<T>, ceil_div(size, 8 * threads), threads, reinterpret_cast<const T*>(grad_output),
                 reinterpret_cast<const std::uint8_t*>(bits), reinterpret_cast<T*>(grad_input), size, use_forward,
                 use_gradient, aligned(grad_output) && aligned(grad_input));
}

#define INSTANTIATE(T)                                                                                            \
    template void guided_relu<T>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, double, int,       \
                                 std::uintptr_t);                                                                 \
    template void guided_relu_backward<T>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, bool, bool, \
                                          int, std::uintptr_t)
INSTANTIATE(float);
INSTANTIATE(bfloat16);
INSTANTIATE(float16);
#undef INSTANTIATE

}  // namespace afterimage::cuda
