// The distances of a block of candidates to one pixel's neighborhood, given up once all are too far.
#pragma once

#include "cpu/isa.h"
#include "formula/nearest_texture.h"

#ifdef AFTERIMAGE_X86
#include "cpu/intrinsics.h"
#endif

namespace afterimage::cpu {

constexpr int block = 32;  // candidates compared at once
constexpr std::int64_t patience = 8;  // terms between two looks at what is near

// Two of the neighborhood's values, one candidate's after the other's.
struct Pair {
    std::int16_t first, second;
};

// Of candidate t, `values[t + offsets[k]]` is what `query[k]` is compared with.
struct Terms {
    const std::int64_t* offsets;
    const Pair* query;
    std::int64_t count;
};

// Each returns which of the candidates [values, values + block) are at most `limit` away, of those that `valid` names,
// and writes the distances if there are any. T is int32, what distances are counted in.
template <class T>
std::uint32_t baseline(const Terms& terms, const Pair* values, std::uint32_t valid, T limit, T* distances) {
    T sums[2 * block] = {};
    for (std::int64_t begin = 0, end; begin < terms.count; begin = end) {
        end = begin + patience < terms.count ? begin + patience : terms.count;
        for (std::int64_t k = begin; k < end; ++k) {
            const Pair *here = values + terms.offsets[k], query = terms.query[k];
            for (int lane = 0; lane < block; ++lane) {
                sums[2 * lane] += formula::squared_difference<Baseline>(here[lane].first, query.first);
                sums[2 * lane + 1] += formula::squared_difference<Baseline>(here[lane].second, query.second);
            }
        }
        std::uint32_t near = 0;
        for (int lane = 0; lane < block; ++lane) {
            distances[lane] = sums[2 * lane] + sums[2 * lane + 1];
            near |= std::uint32_t{distances[lane] <= limit} << lane;
        }
        valid &= near;
        if (!valid) break;
    }
    return valid;
}

#ifdef AFTERIMAGE_X86
AFTERIMAGE_FORMULA int bits(Pair pair) {
    int value;
    std::memcpy(&value, &pair, sizeof value);
    return value;
}

template <class T>
AFTERIMAGE_TARGET_AVX2 std::uint32_t avx2(const Terms& terms, const Pair* values, std::uint32_t valid, T limit,
                                          T* distances) {
    const __m256i farthest = _mm256_set1_epi32(limit);
    __m256i sums[4] = {};
    for (std::int64_t begin = 0, end; begin < terms.count; begin = end) {
        end = begin + patience < terms.count ? begin + patience : terms.count;
        for (std::int64_t k = begin; k < end; ++k) {
            const Pair* here = values + terms.offsets[k];
            const __m256i query = _mm256_set1_epi32(bits(terms.query[k]));
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const __m256i known = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(here + 8 * i));
                const __m256i difference = _mm256_sub_epi16(known, query);
                sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(difference, difference));
            }
        }
        std::uint32_t far = 0;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m256i over = _mm256_cmpgt_epi32(sums[i], farthest);
            far |= static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(over))) << 8 * i;
        }
        valid &= ~far;
        if (!valid) return 0;
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) _mm256_storeu_si256(reinterpret_cast<__m256i*>(distances) + i, sums[i]);
    return valid;
}

template <class T>
AFTERIMAGE_TARGET_AVX512 std::uint32_t avx512(const Terms& terms, const Pair* values, std::uint32_t valid, T limit,
                                              T* distances) {
    const __m512i farthest = _mm512_set1_epi32(limit);
    __m512i sums[2] = {};
    for (std::int64_t begin = 0, end; begin < terms.count; begin = end) {
        end = begin + patience < terms.count ? begin + patience : terms.count;
        for (std::int64_t k = begin; k < end; ++k) {
            const Pair* here = values + terms.offsets[k];
            const __m512i query = _mm512_set1_epi32(bits(terms.query[k]));
#pragma GCC unroll 2
            for (int i = 0; i < 2; ++i) {
                const __m512i difference = _mm512_sub_epi16(_mm512_loadu_si512(here + 16 * i), query);
                sums[i] = _mm512_add_epi32(sums[i], _mm512_madd_epi16(difference, difference));
            }
        }
        const std::uint32_t low = _mm512_cmple_epi32_mask(sums[0], farthest);
        const std::uint32_t high = _mm512_cmple_epi32_mask(sums[1], farthest);
        valid &= low | high << 16;
        if (!valid) return 0;
    }
    _mm512_storeu_si512(distances, sums[0]);
    _mm512_storeu_si512(distances + 16, sums[1]);
    return valid;
}
#else
template <class T>
std::uint32_t avx2(const Terms& terms, const Pair* values, std::uint32_t valid, T limit, T* distances) {
    return baseline(terms, values, valid, limit, distances);
}

template <class T>
std::uint32_t avx512(const Terms& terms, const Pair* values, std::uint32_t valid, T limit, T* distances) {
    return baseline(terms, values, valid, limit, distances);
}
#endif

}  // namespace afterimage::cpu
