// Sixteen numbers at once under AVX-512, eight under AVX2: loaded as they are, compared as float32.
#pragma once

#include "cpu/isa.h"
#include "formula/number.h"

#ifdef AFTERIMAGE_X86
#include <immintrin.h>

#define AFTERIMAGE_LANES(target) AFTERIMAGE_FORMULA target static

namespace afterimage {

template <class Tag, class T>
struct Lanes;

template <>
struct Lanes<Avx512, float> {
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX512) __m512 load(const float* from) { return _mm512_loadu_ps(from); }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX512) __m512 all(float value) { return _mm512_set1_ps(value); }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX512) __m512 wide(__m512 values) { return values; }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX512) __m512 choose(__mmask16 where, __m512 yes, __m512 no) {
        return _mm512_mask_mov_ps(no, where, yes);
    }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX512) void store(float* to, __mmask16 where, __m512 values) {
        _mm512_storeu_ps(to, _mm512_maskz_mov_ps(where, values));
    }
};

template <>
struct Lanes<Avx512, bfloat16> {
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX512) __m256i load(const bfloat16* from) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX512) __m256i all(bfloat16 value) { return _mm256_set1_epi16(value.bits); }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX512) __m512 wide(__m256i values) {
        // Zeroing forms: GCC 12 warns of the others, which begin with an undefined vector.
        return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, values), 16));
    }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX512) __m256i choose(__mmask16 where, __m256i yes, __m256i no) {
        return _mm256_mask_mov_epi16(no, where, yes);
    }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX512) void store(bfloat16* to, __mmask16 where, __m256i values) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_maskz_mov_epi16(where, values));
    }
};

template <>
struct Lanes<Avx2, float> {
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) __m256 load(const float* from) { return _mm256_loadu_ps(from); }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) __m256 all(float value) { return _mm256_set1_ps(value); }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) __m256 wide(__m256 values) { return values; }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) __m256 choose(__m256 where, __m256 yes, __m256 no) {
        return _mm256_blendv_ps(no, yes, where);
    }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) void store(float* to, __m256 where, __m256 values) {
        _mm256_storeu_ps(to, _mm256_and_ps(where, values));
    }
};

template <>
struct Lanes<Avx2, bfloat16> {
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) __m128i load(const bfloat16* from) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) __m128i all(bfloat16 value) { return _mm_set1_epi16(value.bits); }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) __m256 wide(__m128i values) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(values), 16));
    }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) __m128i narrow(__m256 where) {
        const __m256i words = _mm256_castps_si256(where);
        return _mm_packs_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) __m128i choose(__m256 where, __m128i yes, __m128i no) {
        return _mm_blendv_epi8(no, yes, narrow(where));
    }
    AFTERIMAGE_LANES(AFTERIMAGE_TARGET_AVX2) void store(bfloat16* to, __m256 where, __m128i values) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm_and_si128(narrow(where), values));
    }
};

}  // namespace afterimage
#endif
