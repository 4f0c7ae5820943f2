// Matrix tiles (AMX) of bfloat16, and float32 numbers as the sum of two bfloat16 ones.
#pragma once

#include "cpu/intrinsics.h"

#include <cstdint>

#include "cpu/isa.h"
#include "formula/number.h"

#define AFTERIMAGE_INLINE_AMX AFTERIMAGE_TARGET_AMX AFTERIMAGE_FORMULA

namespace afterimage::cpu::tiles {

constexpr std::int64_t tile = 1024;  // bytes: 16 rows of 64

// All eight tiles whole. To be called by each thread, before its first tile instruction and after its last.
AFTERIMAGE_INLINE_AMX void configure() {
    struct alignas(64) {
        std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
        std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } layout;
    _tile_loadconfig(&layout);
}

AFTERIMAGE_INLINE_AMX void release() { _tile_release(); }

// Tile instructions are opaque to some compilers: keeps loads and stores on their side of them.
AFTERIMAGE_INLINE_AMX void fence() { __asm__ volatile("" ::: "memory"); }

AFTERIMAGE_INLINE_AMX __m512 load16(const float* address) { return _mm512_loadu_ps(address); }

AFTERIMAGE_INLINE_AMX __m512 load16(const bfloat16* address) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(address));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// 16 numbers of either argument as pairs of bfloat16, the first in the lower half: value ≈ high + low.
struct Halves {
    __m512i high, low;
};

// High is rounded to nearest, so that low has either sign; low is cut off at 2^-17 of the value, which keeps NaN.
AFTERIMAGE_INLINE_AMX Halves split(__m512 first, __m512 second) {
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    const __m512i first_bits = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(first), half), upper);
    const __m512i second_bits = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(second), half), upper);
    const __m512i first_rest = _mm512_castps_si512(_mm512_sub_ps(first, _mm512_castsi512_ps(first_bits)));
    const __m512i second_rest = _mm512_castps_si512(_mm512_sub_ps(second, _mm512_castsi512_ps(second_bits)));
    constexpr int first_or_both = 0xf8;  // a | (b & c)
    return {_mm512_or_si512(_mm512_srli_epi32(first_bits, 16), second_bits),
            _mm512_ternarylogic_epi32(_mm512_srli_epi32(first_rest, 16), second_rest, upper, first_or_both)};
}

// 32 neighbours, as pairs.
AFTERIMAGE_INLINE_AMX __m512i neighbours(const bfloat16* address) { return _mm512_loadu_si512(address); }

// 16 of either as pairs.
AFTERIMAGE_INLINE_AMX __m512i interleave(const bfloat16* first, const bfloat16* second) {
    const __m256i low = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(first));
    const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(second));
    return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

// The 16 × 16 transpose of a tile's pairs.
AFTERIMAGE_INLINE_AMX void transpose(const char* source, char* target) {
    __m512i rows[16], pairs[16], fours[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = _mm512_load_si512(source + 64 * i);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            fours[i + 2 * j] = _mm512_unpacklo_epi64(pairs[i + j], pairs[i + j + 2]);
            fours[i + 2 * j + 1] = _mm512_unpackhi_epi64(pairs[i + j], pairs[i + j + 2]);
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512i even = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0x88);
        const __m512i odd = _mm512_shuffle_i32x4(fours[i], fours[i + 4], 0xdd);
        const __m512i next_even = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0x88);
        const __m512i next_odd = _mm512_shuffle_i32x4(fours[i + 8], fours[i + 12], 0xdd);
        _mm512_store_si512(target + 64 * i, _mm512_shuffle_i32x4(even, next_even, 0x88));
        _mm512_store_si512(target + 64 * (i + 4), _mm512_shuffle_i32x4(odd, next_odd, 0x88));
        _mm512_store_si512(target + 64 * (i + 8), _mm512_shuffle_i32x4(even, next_even, 0xdd));
        _mm512_store_si512(target + 64 * (i + 12), _mm512_shuffle_i32x4(odd, next_odd, 0xdd));
    }
}

}  // namespace afterimage::cpu::tiles
