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

// Which of 16 numbers are the first ones.
constexpr __mmask16 first(std::int64_t count) {
    return count >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1u << count) - 1);
}

// 16 numbers of either argument as pairs of bfloat16, the first in the lower half: value ≈ high + low.
struct Halves {
    __m512i high, low;
};

// High is rounded to nearest, so that low has either sign. Low is cut off, which keeps every NaN, after it was raised by
// what that loses on average: the error is 2^-18 of the value.
AFTERIMAGE_INLINE_AMX Halves split(__m512 first, __m512 second) {
    const __m512i half = _mm512_set1_epi32(0x8000), upper = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    const __m512i first_bits = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(first), half), upper);
    const __m512i second_bits = _mm512_and_si512(_mm512_add_epi32(_mm512_castps_si512(second), half), upper);
    const __m512 raise = _mm512_set1_ps(1.0f + 0.7f / 256);
    const __m512 first_low = _mm512_mul_ps(_mm512_sub_ps(first, _mm512_castsi512_ps(first_bits)), raise);
    const __m512 second_low = _mm512_mul_ps(_mm512_sub_ps(second, _mm512_castsi512_ps(second_bits)), raise);
    constexpr int first_or_both = 0xf8;  // a | (b & c)
    return {_mm512_or_si512(_mm512_srli_epi32(first_bits, 16), second_bits),
            _mm512_ternarylogic_epi32(_mm512_srli_epi32(_mm512_castps_si512(first_low), 16),
                                      _mm512_castps_si512(second_low), upper, first_or_both)};
}

// One row of a tile's high part and, a tile further on, of its low one.
AFTERIMAGE_INLINE_AMX void store(Halves halves, char* target) {
    _mm512_store_si512(target, halves.high);
    _mm512_store_si512(target + tile, halves.low);
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

// Two by two tiles: the sums are tiles 0 to 3, row after row, the factors 4 and 5 (left), 6 and 7 (right).
AFTERIMAGE_INLINE_AMX void zero_sums() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

// `pitch` is the bytes between rows.
AFTERIMAGE_INLINE_AMX void load_sums(const float* sums, std::int64_t pitch) {
    const char* below = reinterpret_cast<const char*>(sums) + 16 * pitch;
    _tile_loadd(0, sums, pitch);
    _tile_loadd(1, sums + 16, pitch);
    _tile_loadd(2, below, pitch);
    _tile_loadd(3, below + 64, pitch);
}

AFTERIMAGE_INLINE_AMX void store_sums(float* sums, std::int64_t pitch) {
    char* below = reinterpret_cast<char*>(sums) + 16 * pitch;
    _tile_stored(0, sums, pitch);
    _tile_stored(1, sums + 16, pitch);
    _tile_stored(2, below, pitch);
    _tile_stored(3, below + 64, pitch);
}

AFTERIMAGE_INLINE_AMX void load_left(const char* tiles, std::int64_t next) {
    _tile_loadd(4, tiles, 64);
    _tile_loadd(5, tiles + next, 64);
}

AFTERIMAGE_INLINE_AMX void load_right(const char* tiles, std::int64_t next) {
    _tile_loadd(6, tiles, 64);
    _tile_loadd(7, tiles + next, 64);
}

// On the diagonal of a symmetric product the lower left is not needed.
template <bool diagonal>
AFTERIMAGE_INLINE_AMX void multiply() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if constexpr (!diagonal) _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

// Adds the products of two rows of tiles with two columns; the second lies `steps` tiles behind the first, a split
// tile's low part behind its high one. Low times low is left out, where its terms have either sign: not on the diagonal.
template <bool left_split, bool right_split, bool diagonal>
AFTERIMAGE_INLINE_AMX void multiply(const char* left, const char* right, std::int64_t steps) {
    constexpr std::int64_t left_bytes = left_split ? 2 * tile : tile, right_bytes = right_split ? 2 * tile : tile;
    for (std::int64_t step = 0; step < steps; ++step, left += left_bytes, right += right_bytes) {
        load_left(left, steps * left_bytes);
        if constexpr (right_split) {
            load_right(right + tile, steps * right_bytes);
            multiply<diagonal>();
        }
        load_right(right, steps * right_bytes);
        multiply<diagonal>();
        if constexpr (left_split) {
            load_left(left + tile, steps * left_bytes);
            multiply<diagonal>();
        }
        if constexpr (left_split && right_split && diagonal) {
            load_right(right + tile, steps * right_bytes);
            multiply<diagonal>();
        }
    }
}

}  // namespace afterimage::cpu::tiles
