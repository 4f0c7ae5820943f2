#include "cpu/guided_relu.h"

#include <cmath>
#include <limits>

#include "cpu/isa.h"
#include "cpu/lanes.h"
#include "cpu/parallel.h"
#include "formula/guided_relu.h"

namespace afterimage::cpu {
namespace {

template <class T>
struct Forward {
    const T* input;
    T* output;
    std::uint8_t* bits;
    T ceiling;  // NaN: none

    template <class Tag>
    AFTERIMAGE_FORMULA void byte(std::int64_t begin, std::int64_t end) const {
        unsigned byte = 0;
        for (std::int64_t i = begin; i < end; ++i) {
            byte |= unsigned{formula::guided_relu_bit<Tag>(input[i], ceiling)} << (i - begin);
            output[i] = formula::guided_relu<Tag>(input[i], ceiling);
        }
        bits[begin / 8] = static_cast<std::uint8_t>(byte);
    }
};

// Ordinary stores: streaming ones gained nothing where the gradient is read next, and lost a third on fresh memory.
template <class T, bool use_forward, bool use_gradient>
struct Backward {
    const T* grad_output;
    const std::uint8_t* bits;
    T* grad_input;

    template <class Tag>
    AFTERIMAGE_FORMULA void byte(std::int64_t begin, std::int64_t end) const {
        const unsigned byte = use_forward ? bits[begin / 8] : 0xff;
        for (std::int64_t i = begin; i < end; ++i) {
            const bool bit = byte >> (i - begin) & 1;
            grad_input[i] = formula::guided_relu_backward<Tag>(grad_output[i], bit, use_gradient);
        }
    }
};

template <class Tag, class Problem>
AFTERIMAGE_FORMULA void bytes(const Problem& problem, std::int64_t begin, std::int64_t end) {
    for (; begin + 8 <= end; begin += 8) problem.template byte<Tag>(begin, begin + 8);
    if (begin < end) problem.template byte<Tag>(begin, end);
}

// Problems come by value: bytes may alias anything, also the addresses of what is read next.
template <class Problem>
void baseline(Problem problem, std::int64_t begin, std::int64_t end) {
    bytes<Baseline>(problem, begin, end);
}

#ifdef AFTERIMAGE_X86
template <class T>
AFTERIMAGE_FORMULA AFTERIMAGE_TARGET_AVX2 void eight(const Forward<T>& problem, std::int64_t i) {
    typedef Lanes<Avx2, T> lanes;
    const auto input = lanes::load(problem.input + i), ceiling = lanes::all(problem.ceiling);
    const __m256 value = lanes::wide(input), top = lanes::wide(ceiling), zero = _mm256_setzero_ps();
    const __m256 blocked = _mm256_or_ps(_mm256_cmp_ps(value, zero, _CMP_LE_OQ), _mm256_cmp_ps(value, top, _CMP_GE_OQ));
    problem.bits[i >> 3] = static_cast<std::uint8_t>(~_mm256_movemask_ps(blocked));
    const auto capped = lanes::choose(_mm256_cmp_ps(value, top, _CMP_GT_OQ), ceiling, input);
    lanes::store(problem.output + i, _mm256_cmp_ps(value, zero, _CMP_NLT_UQ), capped);
}

template <class T, bool use_forward, bool use_gradient>
AFTERIMAGE_FORMULA AFTERIMAGE_TARGET_AVX2 void eight(const Backward<T, use_forward, use_gradient>& problem,
                                                     std::int64_t i) {
    typedef Lanes<Avx2, T> lanes;
    const auto gradient = lanes::load(problem.grad_output + i);
    __m256 passes = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
    if constexpr (use_forward) {
        const __m256i places = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
        const __m256i bits = _mm256_and_si256(_mm256_set1_epi32(problem.bits[i >> 3]), places);
        passes = _mm256_castsi256_ps(_mm256_cmpeq_epi32(bits, places));
    }
    if constexpr (use_gradient)
        passes = _mm256_and_ps(passes, _mm256_cmp_ps(lanes::wide(gradient), _mm256_setzero_ps(), _CMP_NLE_UQ));
    lanes::store(problem.grad_input + i, passes, gradient);
}

template <class T>
AFTERIMAGE_FORMULA AFTERIMAGE_TARGET_AVX512 void sixteen(const Forward<T>& problem, std::int64_t i) {
    typedef Lanes<Avx512, T> lanes;
    const auto input = lanes::load(problem.input + i), ceiling = lanes::all(problem.ceiling);
    const __m512 value = lanes::wide(input), top = lanes::wide(ceiling), zero = _mm512_setzero_ps();
    const __mmask16 above = _mm512_cmp_ps_mask(value, zero, _CMP_NLE_UQ);
    const std::uint16_t bits = _mm512_mask_cmp_ps_mask(above, value, top, _CMP_NGE_UQ);
    std::memcpy(problem.bits + (i >> 3), &bits, sizeof bits);
    const auto capped = lanes::choose(_mm512_cmp_ps_mask(value, top, _CMP_GT_OQ), ceiling, input);
    lanes::store(problem.output + i, _mm512_cmp_ps_mask(value, zero, _CMP_NLT_UQ), capped);
}

template <class T, bool use_forward, bool use_gradient>
AFTERIMAGE_FORMULA AFTERIMAGE_TARGET_AVX512 void sixteen(const Backward<T, use_forward, use_gradient>& problem,
                                                         std::int64_t i) {
    typedef Lanes<Avx512, T> lanes;
    const auto gradient = lanes::load(problem.grad_output + i);
    std::uint16_t passes = 0xffff;
    if constexpr (use_forward) std::memcpy(&passes, problem.bits + (i >> 3), sizeof passes);
    if constexpr (use_gradient)
        passes = _mm512_mask_cmp_ps_mask(passes, lanes::wide(gradient), _mm512_setzero_ps(), _CMP_NLE_UQ);
    lanes::store(problem.grad_input + i, passes, gradient);
}

template <class Problem>
AFTERIMAGE_TARGET_AVX2 void avx2(Problem problem, std::int64_t begin, std::int64_t end) {
    for (; begin + 8 <= end; begin += 8) eight(problem, begin);
    bytes<Avx2>(problem, begin, end);
}

template <class Problem>
AFTERIMAGE_TARGET_AVX512 void avx512(Problem problem, std::int64_t begin, std::int64_t end) {
    for (; begin + 16 <= end; begin += 16) sixteen(problem, begin);
    bytes<Avx512>(problem, begin, end);
}
#endif

template <class Problem>
void run(const Problem& problem, std::int64_t size, int threads) {
    void (*kernel)(Problem, std::int64_t, std::int64_t) = baseline<Problem>;
#ifdef AFTERIMAGE_X86
    if (isa() >= Isa::avx512) kernel = avx512<Problem>;
    if (isa() == Isa::avx2) kernel = avx2<Problem>;
#endif
    parallel_ranges(size, threads, [&](std::int64_t begin, std::int64_t end) { kernel(problem, begin, end); });
}

// Rounded to T, so that a saturated output equals it.
template <class T>
T rounded(float upper);

template <>
float rounded<float>(float upper) {
    return upper;
}

template <>
bfloat16 rounded<bfloat16>(float upper) {
    std::uint32_t bits;
    std::memcpy(&bits, &upper, sizeof bits);
    if (!std::isnan(upper)) bits += 0x7fff + ((bits >> 16) & 1);  // to nearest, ties to even
    return {static_cast<std::uint16_t>(bits >> 16)};
}

}  // namespace

template <class T>
void guided_relu(std::uintptr_t input, std::uintptr_t output, std::uintptr_t bits, std::int64_t size, double upper,
                 int threads) {
    const float ceiling = std::isinf(upper) ? std::numeric_limits<float>::quiet_NaN() : static_cast<float>(upper);
    run(Forward<T>{reinterpret_cast<const T*>(input), reinterpret_cast<T*>(output),
                   reinterpret_cast<std::uint8_t*>(bits), rounded<T>(ceiling)},
        size, threads);
}

template <class T>
void guided_relu_backward(std::uintptr_t grad_output, std::uintptr_t bits, std::uintptr_t grad_input,
                          std::int64_t size, bool use_forward, bool use_gradient, int threads) {
    const auto gradient = reinterpret_cast<const T*>(grad_output);
    const auto mask = reinterpret_cast<const std::uint8_t*>(bits);
    const auto result = reinterpret_cast<T*>(grad_input);
    if (!use_forward) return run(Backward<T, false, true>{gradient, mask, result}, size, threads);
    if (!use_gradient) return run(Backward<T, true, false>{gradient, mask, result}, size, threads);
    return run(Backward<T, true, true>{gradient, mask, result}, size, threads);
}

#define INSTANTIATE(T)                                                                                     \
    template void guided_relu<T>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, double, int); \
    template void guided_relu_backward<T>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, bool, bool, int)
INSTANTIATE(float);
INSTANTIATE(bfloat16);
#undef INSTANTIATE

}  // namespace afterimage::cpu
