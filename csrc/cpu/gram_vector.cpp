// The Gram product without matrix tiles: panels of 32 channels, packed position by position, multiplied in float32.
#include <algorithm>

#include "cpu/gram_step.h"
#include "cpu/isa.h"

#ifdef AFTERIMAGE_X86
#include "cpu/intrinsics.h"
#endif

namespace afterimage::cpu {
namespace {

constexpr std::int64_t depth = 128;  // positions: two panels of them fit the first-level cache

template <class Tag, class T>
AFTERIMAGE_FORMULA void pack_plain(const Block<T>& block, std::int64_t channel, std::int64_t channels,
                                   std::int64_t position, std::int64_t positions, float* packed) {
    for (std::int64_t k = position; k < position + positions; ++k)
        for (std::int64_t c = channel; c < channel + channels; ++c)
            packed[k * panel + c % panel] = value<Tag>(block, c, k);
}

template <class Tag>
AFTERIMAGE_FORMULA void add_sums(const float* packed, std::int64_t positions, float* sums) {
    float total[panel] = {};
    for (std::int64_t k = 0; k < positions; ++k)
        for (std::int64_t lane = 0; lane < panel; ++lane) total[lane] += packed[k * panel + lane];
    for (std::int64_t lane = 0; lane < panel; ++lane) sums[lane] += total[lane];
}

template <class T>
void baseline(const Block<T>& part, void* workspace, float* squares, float* sums) {
    const std::int64_t panels = panels_of(part.channels);
    float* packed = static_cast<float*>(workspace);
    for (std::int64_t begin = 0; begin < part.positions; begin += depth) {
        const Block<T> block = slice(part, begin, depth);
        const std::int64_t size = block.positions * panel;
        float* sum = squares;
        for (std::int64_t i = 0; i < panels; ++i) {
            pack_plain<Baseline>(block, i * panel, panel, 0, block.positions, packed + i * size);
            if (block.shift) add_sums<Baseline>(packed + i * size, block.positions, sums + i * panel);
        }
        for (std::int64_t i = 0; i < panels; ++i)
            for (std::int64_t j = i; j < panels; ++j, sum += square)
                for (std::int64_t row = 0; row < panel; ++row) {
                    float total[panel] = {};
                    for (std::int64_t k = 0; k < block.positions; ++k) {
                        const float factor = packed[i * size + k * panel + row];
                        const float* column = packed + j * size + k * panel;
                        for (std::int64_t lane = 0; lane < panel; ++lane) total[lane] += factor * column[lane];
                    }
                    for (std::int64_t lane = 0; lane < panel; ++lane) sum[row * panel + lane] += total[lane];
                }
    }
}

#ifdef AFTERIMAGE_X86
#define INLINE_AVX2 AFTERIMAGE_TARGET_AVX2 AFTERIMAGE_FORMULA
#define INLINE_AVX512 AFTERIMAGE_TARGET_AVX512 AFTERIMAGE_FORMULA

INLINE_AVX2 __m256 load8(const float* address) { return _mm256_loadu_ps(address); }

INLINE_AVX2 __m256 load8(const bfloat16* address) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(address));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

INLINE_AVX512 __m512 load16(const float* address) { return _mm512_loadu_ps(address); }

INLINE_AVX512 __m512 load16(const bfloat16* address) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(address));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

INLINE_AVX2 void transpose(__m256 (&rows)[8]) {
    __m256 pairs[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    }
    __m256 fours[8];
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            fours[i + 2 * j] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
            fours[i + 2 * j + 1] = _mm256_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        rows[i] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        rows[i + 4] = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}

INLINE_AVX512 void transpose(__m512 (&rows)[16]) {
    __m512 pairs[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
        pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
        pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    }
    __m512 fours[16];
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) {
            fours[i + 2 * j] = _mm512_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0x44);
            fours[i + 2 * j + 1] = _mm512_shuffle_ps(pairs[i + j], pairs[i + j + 2], 0xee);
        }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512 low = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0x88);
        const __m512 high = _mm512_shuffle_f32x4(fours[i], fours[i + 4], 0xdd);
        const __m512 next_low = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0x88);
        const __m512 next_high = _mm512_shuffle_f32x4(fours[i + 8], fours[i + 12], 0xdd);
        rows[i] = _mm512_shuffle_f32x4(low, next_low, 0x88);
        rows[i + 8] = _mm512_shuffle_f32x4(low, next_low, 0xdd);
        rows[i + 4] = _mm512_shuffle_f32x4(high, next_high, 0x88);
        rows[i + 12] = _mm512_shuffle_f32x4(high, next_high, 0xdd);
    }
}

// 8 channels at 8 positions.
template <class T>
INLINE_AVX2 void pack8(const Block<T>& block, std::int64_t channel, std::int64_t position, float* packed) {
    const T* source = block.features + channel * block.channel_stride + position * block.position_stride;
    float* target = packed + position * panel + channel % panel;
    const bool planar = block.position_stride == 1;
    const std::int64_t stride = planar ? block.channel_stride : block.position_stride;
    __m256 rows[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) rows[i] = load8(source + i * stride);
    if (planar) transpose(rows);
    const __m256 shift = block.shift ? _mm256_loadu_ps(block.shift + channel) : _mm256_setzero_ps();
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) _mm256_storeu_ps(target + i * panel, _mm256_sub_ps(rows[i], shift));
}

// 16 channels at 16 positions.
template <class T>
INLINE_AVX512 void pack16(const Block<T>& block, std::int64_t channel, std::int64_t position, float* packed) {
    const T* source = block.features + channel * block.channel_stride + position * block.position_stride;
    float* target = packed + position * panel + channel % panel;
    const bool planar = block.position_stride == 1;
    const std::int64_t stride = planar ? block.channel_stride : block.position_stride;
    __m512 rows[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) rows[i] = load16(source + i * stride);
    if (planar) transpose(rows);
    const __m512 shift = block.shift ? _mm512_loadu_ps(block.shift + channel) : _mm512_setzero_ps();
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_storeu_ps(target + i * panel, _mm512_sub_ps(rows[i], shift));
}

// Adds the products of 4 rows of a square with 16 columns.
INLINE_AVX2 void multiply4(const float* rows, const float* columns, std::int64_t positions, float* sums) {
    __m256 total[4][2] = {};
    for (std::int64_t k = 0; k < positions; ++k) {
        const __m256 left = _mm256_loadu_ps(columns + k * panel), right = _mm256_loadu_ps(columns + k * panel + 8);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m256 factor = _mm256_broadcast_ss(rows + k * panel + i);
            total[i][0] = _mm256_fmadd_ps(factor, left, total[i][0]);
            total[i][1] = _mm256_fmadd_ps(factor, right, total[i][1]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        float* sum = sums + i * panel;
        _mm256_storeu_ps(sum, _mm256_add_ps(_mm256_loadu_ps(sum), total[i][0]));
        _mm256_storeu_ps(sum + 8, _mm256_add_ps(_mm256_loadu_ps(sum + 8), total[i][1]));
    }
}

// Adds the products of 8 rows of a square with 16 or 32 columns.
template <int vectors>
INLINE_AVX512 void multiply8(const float* rows, const float* columns, std::int64_t positions, float* sums) {
    __m512 total[8][vectors] = {};
    for (std::int64_t k = 0; k < positions; ++k) {
        __m512 column[vectors];
#pragma GCC unroll 2
        for (int j = 0; j < vectors; ++j) column[j] = _mm512_loadu_ps(columns + k * panel + 16 * j);
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            const __m512 factor = _mm512_set1_ps(rows[k * panel + i]);
#pragma GCC unroll 2
            for (int j = 0; j < vectors; ++j) total[i][j] = _mm512_fmadd_ps(factor, column[j], total[i][j]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < vectors; ++j) {
            float* sum = sums + i * panel + 16 * j;
            _mm512_storeu_ps(sum, _mm512_add_ps(_mm512_loadu_ps(sum), total[i][j]));
        }
}

template <class T>
AFTERIMAGE_TARGET_AVX2 void avx2(const Block<T>& part, void* workspace, float* squares, float* sums) {
    const std::int64_t panels = panels_of(part.channels);
    float* packed = static_cast<float*>(workspace);
    for (std::int64_t begin = 0; begin < part.positions; begin += depth) {
        const Block<T> block = slice(part, begin, depth);
        const std::int64_t size = block.positions * panel;
        float* sum = squares;
        for (std::int64_t channel = 0; channel < panels * panel; channel += 8) {
            float* target = packed + channel / panel * size;
            const std::int64_t whole = channel + 8 <= block.channels ? block.positions / 8 * 8 : 0;
            for (std::int64_t k = 0; k < whole; k += 8) pack8(block, channel, k, target);
            pack_plain<Avx2>(block, channel, 8, whole, block.positions - whole, target);
        }
        for (std::int64_t i = 0; block.shift && i < panels; ++i)
            add_sums<Avx2>(packed + i * size, block.positions, sums + i * panel);
        for (std::int64_t i = 0; i < panels; ++i)
            for (std::int64_t j = i; j < panels; ++j, sum += square)
                for (std::int64_t column = 0; column < panel; column += 16)
                    for (std::int64_t row = 0; row < (i == j ? column + 16 : panel); row += 4)
                        multiply4(packed + i * size + row, packed + j * size + column, block.positions,
                                  sum + row * panel + column);
    }
}

template <class T>
AFTERIMAGE_TARGET_AVX512 void avx512(const Block<T>& part, void* workspace, float* squares, float* sums) {
    const std::int64_t panels = panels_of(part.channels);
    float* packed = static_cast<float*>(workspace);
    for (std::int64_t begin = 0; begin < part.positions; begin += depth) {
        const Block<T> block = slice(part, begin, depth);
        const std::int64_t size = block.positions * panel;
        float* sum = squares;
        for (std::int64_t channel = 0; channel < panels * panel; channel += 16) {
            float* target = packed + channel / panel * size;
            const std::int64_t whole = channel + 16 <= block.channels ? block.positions / 16 * 16 : 0;
            for (std::int64_t k = 0; k < whole; k += 16) pack16(block, channel, k, target);
            pack_plain<Avx512>(block, channel, 16, whole, block.positions - whole, target);
        }
        for (std::int64_t i = 0; block.shift && i < panels; ++i)
            add_sums<Avx512>(packed + i * size, block.positions, sums + i * panel);
        for (std::int64_t i = 0; i < panels; ++i)
            for (std::int64_t j = i; j < panels; ++j, sum += square)
                for (std::int64_t row = 0; row < panel; row += 8) {
                    const float *rows = packed + i * size + row, *columns = packed + j * size;
                    if (i == j && row >= 16)
                        multiply8<1>(rows, columns + 16, block.positions, sum + row * panel + 16);
                    else
                        multiply8<2>(rows, columns, block.positions, sum + row * panel);
                }
    }
}

#else
template <class T>
void avx2(const Block<T>& block, void* workspace, float* squares, float* sums) {
    baseline(block, workspace, squares, sums);
}

template <class T>
void avx512(const Block<T>& block, void* workspace, float* squares, float* sums) {
    baseline(block, workspace, squares, sums);
}
#endif

}  // namespace

template <class T>
Step<T> gram_step_vector(std::int64_t channels) {
    const auto run = isa() >= Isa::avx512 ? avx512<T> : isa() == Isa::avx2 ? avx2<T> : baseline<T>;
    return {depth * panels_of(channels) * panel * sizeof(float), run};
}

template Step<float> gram_step_vector<float>(std::int64_t);
template Step<bfloat16> gram_step_vector<bfloat16>(std::int64_t);

}  // namespace afterimage::cpu
