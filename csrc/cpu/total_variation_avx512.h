// Total variation of one row with AVX-512: the same numbers but for roundings, with what stays in registers kept there.
#pragma once

#include "cpu/isa.h"
#include "cpu/total_variation_row.h"

#ifdef AFTERIMAGE_X86
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC's own intrinsics, GCC bug 105593
#endif
#include <immintrin.h>

#define AFTERIMAGE_INLINE_AVX512 AFTERIMAGE_TARGET_AVX512 AFTERIMAGE_FORMULA

namespace afterimage::cpu::wide {

struct Powers {
    __m512 value, slope;  // t^(β/2) and t^(β/2 - 1), which is 0 at t = 0
};

AFTERIMAGE_INLINE_AVX512 __mmask16 zero_or_infinite(__m512 t) { return _mm512_fpclass_ps_mask(t, 0x1e); }

// 1/√t from 14 bits by one step of Newton's, relative error 1e-7; NaN at 0 and at infinity.
AFTERIMAGE_INLINE_AVX512 __m512 reciprocal_root(__m512 t) {
    const __m512 guess = _mm512_rsqrt14_ps(t);
    const __m512 half = _mm512_mul_ps(guess, _mm512_set1_ps(0.5f));
    const __m512 error = _mm512_fnmadd_ps(_mm512_mul_ps(t, guess), half, _mm512_set1_ps(0.5f));
    return _mm512_fmadd_ps(guess, error, guess);
}

// t^(-¼) to 13 bits: t guess⁴ = 1 - error. One step of Newton's leaves a relative error of 1e-7.
struct Fourth {
    __m512 root, guess, error;  // `root` is t guess², near √t
};

AFTERIMAGE_INLINE_AVX512 Fourth fourth(__m512 t) {
    const __m512 guess = _mm512_rsqrt14_ps(_mm512_mul_ps(t, _mm512_rsqrt14_ps(t)));
    const __m512 square = _mm512_mul_ps(guess, guess), root = _mm512_mul_ps(t, square);
    return {root, guess, _mm512_fnmadd_ps(root, square, _mm512_set1_ps(1.0f))};
}

// log2 of [1, 2) by a table of 16: the reciprocal of each sixteenth's middle, and the logarithm that belongs to it; but
// of the first sixteenth's beginning, so that log2(1) is 0. Then -0.0304 < f < 0.0625, error 8e-11 (minimax fit).
AFTERIMAGE_INLINE_AVX512 __m512 logarithm(__m512 mantissa) {
    const __m512 reciprocals = _mm512_setr_ps(1.0f, 0.9142857f, 0.8648649f, 0.82051283f, 0.7804878f, 0.74418604f,
                                              0.71111113f, 0.68085104f, 0.6530611f, 0.627451f, 0.6037736f, 0.58181816f,
                                              0.5614035f, 0.5423729f, 0.52459013f, 0.50793654f);
    const __m512 logarithms = _mm512_setr_ps(0.0f, 0.12928301f, 0.20945333f, 0.2854022f, 0.35755205f,
                                             0.42626476f, 0.49185306f, 0.5545889f, 0.61470985f, 0.67242527f,
                                             0.7279204f, 0.78135973f, 0.83289f, 0.88264304f, 0.93073744f, 0.97727984f);
    const __m512i index = _mm512_srli_epi32(_mm512_castps_si512(mantissa), 19);  // its lowest four bits count
    const __m512 f = _mm512_fmsub_ps(mantissa, _mm512_permutexvar_ps(index, reciprocals), _mm512_set1_ps(1.0f));
    __m512 sum = _mm512_fmadd_ps(f, _mm512_set1_ps(0.26781517f), _mm512_set1_ps(-0.3606051f));
    sum = _mm512_fmadd_ps(f, sum, _mm512_set1_ps(0.4809248f));
    sum = _mm512_fmadd_ps(f, sum, _mm512_set1_ps(-0.72134775f));
    sum = _mm512_fmadd_ps(f, sum, _mm512_set1_ps(1.442695f));
    return _mm512_fmadd_ps(f, sum, _mm512_permutexvar_ps(index, logarithms));
}

AFTERIMAGE_INLINE_AVX512 __m512 exponential(__m512 r) {
    __m512 sum = _mm512_fmadd_ps(r, _mm512_set1_ps(0.00015345812f), _mm512_set1_ps(0.0013399931f));
    sum = _mm512_fmadd_ps(r, sum, _mm512_set1_ps(0.009618489f));
    sum = _mm512_fmadd_ps(r, sum, _mm512_set1_ps(0.055503286f));
    sum = _mm512_fmadd_ps(r, sum, _mm512_set1_ps(0.24022646f));
    sum = _mm512_fmadd_ps(r, sum, _mm512_set1_ps(0.6931472f));
    return _mm512_fmadd_ps(r, sum, _mm512_set1_ps(1.0f));
}

// t^(β/2 - 1) but for t of 0 and infinity.
AFTERIMAGE_INLINE_AVX512 __m512 power(__m512 t, const Exponent& exponent) {
    const __m512 octave = _mm512_getexp_ps(t);
    const __m512 mantissa = _mm512_getmant_ps(t, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
    const __m512 high = _mm512_mul_ps(octave, _mm512_set1_ps(exponent.high));
    const __m512 low = _mm512_fmadd_ps(logarithm(mantissa), _mm512_set1_ps(exponent.slope),
                                       _mm512_mul_ps(octave, _mm512_set1_ps(exponent.low)));
    const __m512 twos = _mm512_roundscale_ps(_mm512_add_ps(high, low), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 rest = _mm512_add_ps(_mm512_sub_ps(high, twos), low);
    // Beyond ±1 only by rounding where 2^twos is 0 or infinite. NaN is the second operand, which min and max return.
    const __m512 bounded = _mm512_max_ps(_mm512_set1_ps(-1.0f), _mm512_min_ps(_mm512_set1_ps(1.0f), rest));
    return _mm512_scalef_ps(exponential(bounded), twos);
}

template <Power which>
AFTERIMAGE_INLINE_AVX512 Powers powers(__m512 t, const Exponent& exponent) {
    if constexpr (which == Power::two) {
        return {t, _mm512_set1_ps(1.0f)};
    } else if constexpr (which == Power::four) {
        return {_mm512_mul_ps(t, t), t};
    } else if constexpr (which == Power::any) {
        const __mmask16 limit = zero_or_infinite(t), growing = exponent.slope > 0.0f ? 0xffff : 0;
        const __m512 slope = power(t, exponent);
        return {_mm512_mask_mul_ps(t, static_cast<__mmask16>(~limit), t, slope),
                _mm512_mask_mov_ps(slope, limit, _mm512_maskz_mov_ps(growing, t))};
    } else if constexpr (which == Power::five_halves) {
        const auto [root, guess, error] = fourth(t);
        const __m512 near = _mm512_mul_ps(root, guess);
        const __m512 slope = _mm512_fmadd_ps(_mm512_mul_ps(near, _mm512_set1_ps(0.75f)), error, near);
        const __m512 bounded = _mm512_mask_mov_ps(slope, zero_or_infinite(t), t);
        return {_mm512_mul_ps(t, bounded), bounded};
    } else {
        const __mmask16 regular = static_cast<__mmask16>(~zero_or_infinite(t));
        if constexpr (which == Power::three_halves) {
            const auto [root, guess, error] = fourth(t);
            const __m512 slope =
                _mm512_maskz_fmadd_ps(regular, _mm512_mul_ps(guess, _mm512_set1_ps(0.25f)), error, guess);
            return {_mm512_mask_mul_ps(t, regular, t, slope), slope};
        }
        const __m512 inverse = reciprocal_root(t);
        const __m512 root = _mm512_mask_mul_ps(t, regular, t, inverse);
        if constexpr (which == Power::three) return {_mm512_mul_ps(t, root), root};
        return {root, _mm512_maskz_mov_ps(regular, inverse)};
    }
}

struct Differential {
    __m512 value, across, down;
};

template <Power which, bool anisotropic>
AFTERIMAGE_INLINE_AVX512 Differential differential(__m512 dx, __m512 dy, __m512 eps, const Exponent& exponent) {
    const __m512 beta = _mm512_set1_ps(exponent.beta);
    if constexpr (anisotropic) {
        const Powers first = powers<which>(_mm512_fmadd_ps(dx, dx, eps), exponent);
        const Powers second = powers<which>(_mm512_fmadd_ps(dy, dy, eps), exponent);
        return {_mm512_add_ps(first.value, second.value), _mm512_mul_ps(_mm512_mul_ps(beta, first.slope), dx),
                _mm512_mul_ps(_mm512_mul_ps(beta, second.slope), dy)};
    } else {
        const Powers both = powers<which>(_mm512_fmadd_ps(dy, dy, _mm512_fmadd_ps(dx, dx, eps)), exponent);
        const __m512 slope = _mm512_mul_ps(beta, both.slope);
        return {both.value, _mm512_mul_ps(slope, dx), _mm512_mul_ps(slope, dy)};
    }
}

AFTERIMAGE_INLINE_AVX512 __m512 load(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }

AFTERIMAGE_INLINE_AVX512 __m512 load(const bfloat16* from, __mmask16 mask) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

AFTERIMAGE_INLINE_AVX512 void store(float* to, __mmask16 mask, __m512 value) { _mm512_mask_storeu_ps(to, mask, value); }

// To nearest, ties to even; NaN stays NaN.
AFTERIMAGE_INLINE_AVX512 void store(bfloat16* to, __mmask16 mask, __m512 value) {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_mov_epi32(_mm512_srli_epi32(rounded, 16), nan, _mm512_set1_epi32(0x7fc0));
    _mm256_mask_storeu_epi16(to, mask, _mm512_cvtepi32_epi16(kept));
}

// Asks for what lies twenty vectors on: the processor alone asks too late, of the gradient above all. Streaming stores
// gain as much here, but leave the gradient out of the cache for who reads it next.
template <bool to_write, class T>
AFTERIMAGE_INLINE_AVX512 void prefetch(const T* from) {
    __builtin_prefetch(reinterpret_cast<const char*>(from) + 20 * lanes * sizeof(T), to_write);
}

// The first `count` lanes.
AFTERIMAGE_INLINE_AVX512 __mmask16 first(std::int64_t count) {
    return static_cast<__mmask16>(count >= lanes ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}

// One vector of a row. Its derivatives to the left are those of the vector before, moved on by `step`: in registers
// where that is at most a vector, else through memory.
template <class T, Power which, bool anisotropic, bool gradient>
AFTERIMAGE_INLINE_AVX512 void vector(const Row<T>& row, std::int64_t j, __mmask16 inside, __mmask16 neighbors,
                             __mmask16 below, __m512i moved, __m512& before, __m512& sum) {
    prefetch<false>(row.below + j);
    const __m512 here = load(row.here + j, inside);
    const __m512 dx = _mm512_maskz_sub_ps(neighbors, load(row.here + j + row.step, neighbors), here);
    const __m512 dy = _mm512_maskz_sub_ps(below, load(row.below + j, inside), here);
    const Differential term = differential<which, anisotropic>(dx, dy, _mm512_set1_ps(row.eps), row.exponent);
    sum = _mm512_mask_add_ps(sum, inside, sum, term.value);
    if constexpr (gradient) {
        const __m512 above = _mm512_loadu_ps(row.down + j);
        _mm512_storeu_ps(row.down + j, term.down);
        __m512 left = _mm512_permutex2var_ps(before, moved, term.across);
        if (row.step > lanes) {
            left = _mm512_loadu_ps(row.across + j);
            _mm512_storeu_ps(row.across + j + row.step, term.across);
        }
        before = term.across;
        const __m512 result = _mm512_add_ps(_mm512_sub_ps(above, _mm512_add_ps(term.across, term.down)), left);
        if (row.gradient) {
            prefetch<true>(row.gradient + j);
            store(row.gradient + j, inside, result);
        }
    }
}

AFTERIMAGE_INLINE_AVX512 void add(__m512 sum, double* sums) {
    const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(sum));
    const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(sum, 1));
    _mm512_storeu_pd(sums, _mm512_add_pd(_mm512_loadu_pd(sums), low));
    _mm512_storeu_pd(sums + 8, _mm512_add_pd(_mm512_loadu_pd(sums + 8), high));
}

template <class T, Power which, bool anisotropic, bool gradient>
AFTERIMAGE_INLINE_AVX512 void total_variation_row(const Row<T> row) {  // a copy, which no store can change
    for (std::int64_t j = 0; row.step > lanes && j < row.step; j += lanes)
        _mm512_mask_storeu_ps(row.across + j, first(row.step - j), _mm512_setzero_ps());
    const __m512i counting = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i moved = _mm512_add_epi32(counting, _mm512_set1_epi32(static_cast<int>(lanes - row.step)));
    const __mmask16 below = row.last ? 0 : 0xffff;
    const std::int64_t complete = row.length - row.step - lanes;  // up to here all lanes have a neighbor
    __m512 before = _mm512_setzero_ps();
    for (std::int64_t begin = 0, j = 0; begin < row.length; begin += chunk) {
        const std::int64_t end = row.length - begin < chunk ? row.length : begin + chunk;
        __m512 sum = _mm512_setzero_ps();
        for (; j < end && j <= complete; j += lanes)
            vector<T, which, anisotropic, gradient>(row, j, 0xffff, 0xffff, below, moved, before, sum);
        for (; j < end; j += lanes)
            vector<T, which, anisotropic, gradient>(row, j, first(row.length - j), first(row.length - row.step - j),
                                                    below & first(row.length - j), moved, before, sum);
        add(sum, row.sums);
    }
}

}  // namespace afterimage::cpu::wide
#endif
