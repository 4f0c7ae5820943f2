// Matrix tiles (AMX) of bfloat16, and float32 numbers as the sum of two bfloat16 ones.
#pragma once

#include "cpu/intrinsics.h"

#include <cstdint>

#include "cpu/isa.h"
#include "formula/number.h"

#define AFTERIMAGE_INLINE_AMX AFTERIMAGE_TARGET_AMX AFTERIMAGE_FORMULA

namespace afterimage::cpu::tiles {

constexpr std::int64_t tile = 1024;  // bytes: 16 rows of 64

// All eight tiles whole. In static memory: compilers do not see all that is read of it.
struct alignas(64) Layout {
    std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
inline constexpr Layout whole_tiles{};

// To be called by each thread before its first tile instruction, and `release` after its last.
AFTERIMAGE_INLINE_AMX void configure() { _tile_loadconfig(&whole_tiles); }

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

// Rows i, i + 4, i + 8 and i + 12 of a tile, four pairs of each: inserting from memory spares the one port that shuffles.
AFTERIMAGE_INLINE_AMX __m512i four_rows(const char* address) {
    const __m128i* quads = reinterpret_cast<const __m128i*>(address);
    __m512i rows = _mm512_castsi128_si512(_mm_load_si128(quads));
    rows = _mm512_inserti32x4(rows, _mm_load_si128(quads + 16), 1);
    rows = _mm512_inserti32x4(rows, _mm_load_si128(quads + 32), 2);
    return _mm512_inserti32x4(rows, _mm_load_si128(quads + 48), 3);
}

// The 16 × 16 transpose of a tile's pairs.
AFTERIMAGE_INLINE_AMX void transpose(const char* source, char* target) {
#pragma GCC unroll 4
    for (int quad = 0; quad < 4; ++quad) {
        const __m512i first = four_rows(source + 16 * quad), second = four_rows(source + 16 * quad + 64);
        const __m512i third = four_rows(source + 16 * quad + 128), fourth = four_rows(source + 16 * quad + 192);
        const __m512i upper_left = _mm512_unpacklo_epi32(first, second), upper = _mm512_unpackhi_epi32(first, second);
        const __m512i lower_left = _mm512_unpacklo_epi32(third, fourth), lower = _mm512_unpackhi_epi32(third, fourth);
        char* row = target + 256 * quad;
        _mm512_store_si512(row, _mm512_unpacklo_epi64(upper_left, lower_left));
        _mm512_store_si512(row + 64, _mm512_unpackhi_epi64(upper_left, lower_left));
        _mm512_store_si512(row + 128, _mm512_unpacklo_epi64(upper, lower));
        _mm512_store_si512(row + 192, _mm512_unpackhi_epi64(upper, lower));
    }
}

}  // namespace afterimage::cpu::tiles
