#include "cpu/guided_relu.h"

#include <cmath>
#include <limits>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "formula/guided_relu.h"

namespace afterimage::cpu {
namespace {

template <class T>
struct Problem {
    const T* grad_output;
    const T* output;
    T* grad_input;
    bool use_forward;
    bool use_gradient;
    float ceiling;
};

// Ordinary stores: streaming ones gained nothing where the gradient is read next, and lost a third on fresh memory.
template <class Tag, bool use_forward, bool use_gradient, class T>
AFTERIMAGE_FORMULA void loop(const Problem<T>& problem, std::int64_t begin, std::int64_t end) {
    const T* __restrict grad_output = problem.grad_output;
    const T* __restrict output = problem.output;
    T* __restrict grad_input = problem.grad_input;
    const float ceiling = problem.ceiling;
    for (std::int64_t i = begin; i < end; ++i)
        grad_input[i] = formula::guided_relu_backward<Tag, use_forward, use_gradient>(grad_output[i], output[i], ceiling);
}

template <class Tag, class T>
AFTERIMAGE_FORMULA void rules(const Problem<T>& problem, std::int64_t begin, std::int64_t end) {
    if (problem.use_forward && problem.use_gradient) return loop<Tag, true, true>(problem, begin, end);
    if (problem.use_forward) return loop<Tag, true, false>(problem, begin, end);
    if (problem.use_gradient) return loop<Tag, false, true>(problem, begin, end);
    return loop<Tag, false, false>(problem, begin, end);
}

template <class T>
void baseline(const Problem<T>& problem, std::int64_t begin, std::int64_t end) {
    rules<Baseline>(problem, begin, end);
}

template <class T>
AFTERIMAGE_TARGET_AVX2 void avx2(const Problem<T>& problem, std::int64_t begin, std::int64_t end) {
    rules<Avx2>(problem, begin, end);
}

template <class T>
AFTERIMAGE_TARGET_AVX512 void avx512(const Problem<T>& problem, std::int64_t begin, std::int64_t end) {
    rules<Avx512>(problem, begin, end);
}

// Round `upper` to T, so that a saturated output equals it.
template <class T>
float rounded(double upper);

template <>
float rounded<float>(double upper) {
    return static_cast<float>(upper);
}

template <>
float rounded<bfloat16>(double upper) {
    const float number = static_cast<float>(upper);
    std::uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    bits += 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
    return to_float<Baseline>(bfloat16{static_cast<std::uint16_t>(bits >> 16)});
}

}  // namespace

template <class T>
void guided_relu_backward(std::uintptr_t grad_output, std::uintptr_t output, std::uintptr_t grad_input,
                          std::int64_t size, bool use_forward, bool use_gradient, double upper, int threads) {
    const float ceiling = std::isinf(upper) ? std::numeric_limits<float>::quiet_NaN() : rounded<T>(upper);
    const Problem<T> problem{reinterpret_cast<const T*>(grad_output), reinterpret_cast<const T*>(output),
                             reinterpret_cast<T*>(grad_input), use_forward, use_gradient, ceiling};
    const auto kernel = isa() >= Isa::avx512 ? avx512<T> : isa() == Isa::avx2 ? avx2<T> : baseline<T>;
    parallel_ranges(size, threads, [&](std::int64_t begin, std::int64_t end) { kernel(problem, begin, end); });
}

template void guided_relu_backward<float>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, bool, bool,
                                          double, int);
template void guided_relu_backward<bfloat16>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, bool, bool,
                                             double, int);

}  // namespace afterimage::cpu
