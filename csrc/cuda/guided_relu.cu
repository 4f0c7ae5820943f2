#include "cuda/guided_relu.h"

#include <cmath>
#include <limits>

#include "cuda/intrinsics.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "formula/guided_relu.h"

namespace afterimage::cuda {
namespace {

constexpr int threads = 256;

template <class T, bool use_forward, bool use_gradient, int count>
__global__ void __launch_bounds__(threads)
    backward(const T* grad_output, const T* output, T* grad_input, std::int64_t size, float upper) {
    const std::int64_t first = (std::int64_t{blockIdx.x} * threads + threadIdx.x) * count;
    if (first >= size) return;
    T rounded;
    assign<Cuda>(rounded, upper);  // so that a saturated output equals it
    const float ceiling = isinf(upper) ? nanf("") : to_float<Cuda>(rounded);
    if (first + count > size) {
        for (std::int64_t i = first; i < size; ++i)
            grad_input[i] = formula::guided_relu_backward<Cuda, use_forward, use_gradient>(grad_output[i], output[i],
                                                                                           ceiling);
        return;
    }
    Pack<T, count> gradient = load<T, count>(grad_output + first);
    const Pack<T, count> value = use_forward ? load<T, count>(output + first) : gradient;
#pragma unroll
    for (int i = 0; i < count; ++i)
        gradient[i] = formula::guided_relu_backward<Cuda, use_forward, use_gradient>(gradient[i], value[i], ceiling);
    store(grad_input + first, gradient);
}

template <class T, int count>
auto backward(bool use_forward, bool use_gradient) {
    if (use_forward && use_gradient) return backward<T, true, true, count>;
    if (use_forward) return backward<T, true, false, count>;
    return use_gradient ? backward<T, false, true, count> : backward<T, false, false, count>;
}

}  // namespace

template <class T>
void guided_relu_backward(std::uintptr_t grad_output, std::uintptr_t output, std::uintptr_t grad_input,
                          std::int64_t size, bool use_forward, bool use_gradient, double upper, int device,
                          std::uintptr_t stream) {
    const Queue queue("guided_relu_backward", device, stream);
    const bool wide = aligned(grad_output) && aligned(output) && aligned(grad_input);
    const auto kernel = wide ? backward<T, widest<T>>(use_forward, use_gradient)
                             : backward<T, 1>(use_forward, use_gradient);
    queue.launch(kernel, ceil_div(size, threads * (wide ? widest<T> : 1)), threads,
                 reinterpret_cast<const T*>(grad_output), reinterpret_cast<const T*>(output),
                 reinterpret_cast<T*>(grad_input), size, static_cast<float>(upper));
}

#define INSTANTIATE(T)                                                                                            \
    template void guided_relu_backward<T>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, bool, bool, \
                                          double, int, std::uintptr_t)
INSTANTIATE(float);
INSTANTIATE(bfloat16);
INSTANTIATE(float16);
#undef INSTANTIATE

}  // namespace afterimage::cuda
