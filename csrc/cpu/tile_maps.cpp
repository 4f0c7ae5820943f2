#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/tile_convolution.h"
#include "formula/number.h"

#ifdef AFTERIMAGE_AMX
#include "cpu/tiles.h"
#endif

namespace afterimage::cpu {

#ifdef AFTERIMAGE_AMX
namespace {

constexpr std::int64_t lanes = 16;  // numbers of a register

AFTERIMAGE_INLINE_AMX __m256i rounded(__m512 values) {
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(values));
}

AFTERIMAGE_INLINE_AMX __m512 widened(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

// What each number of a row is multiplied by or added to, from any multiple of 16 on.
std::vector<float> repeated(const float* values, std::int64_t channels) {
    std::vector<float> many(std::lcm(channels, lanes));
    for (std::size_t i = 0; i < many.size(); ++i) many[i] = values[i % channels];
    return many;
}

struct Filling {
    std::vector<float> scale, shift;
    std::int64_t numbers;  // of a row
    bool rectify, add;
};

// One row.
template <bool split>
AFTERIMAGE_TARGET_AMX void amx(const Filling& filling, const float* sums, float* kept, bfloat16* high, bfloat16* low) {
    const std::int64_t period = static_cast<std::int64_t>(filling.scale.size());
    const __m512 least = _mm512_set1_ps(filling.rectify ? 0.0f : -INFINITY);
    for (std::int64_t at = 0, place = 0; at < filling.numbers; at += lanes) {
        const __mmask16 where = tiles::first(filling.numbers - at);
        __m512 value = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(where, sums + at), _mm512_loadu_ps(&filling.scale[place]),
                                       _mm512_loadu_ps(&filling.shift[place]));
        if (filling.add) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(where, kept + at));
        value = _mm512_max_ps(least, value);  // in this order a NaN stays one
        if (kept) _mm512_mask_storeu_ps(kept + at, where, value);
        const __m256i upper = rounded(value);
        _mm256_mask_storeu_epi16(high + at, where, upper);
        if constexpr (split) _mm256_mask_storeu_epi16(low + at, where, rounded(_mm512_sub_ps(value, widened(upper))));
        place += lanes;
        if (place == period) place = 0;
    }
}

// Sets what lies up to `edge` places before the first and behind the last of `size` ones, of so many numbers each.
void widen(bfloat16* first, std::int64_t size, std::int64_t numbers, std::int64_t before, std::int64_t behind,
           Edges edges) {
    const auto set = [&](std::int64_t place, std::int64_t inside) {
        bfloat16* to = first + place * numbers;
        if (edges == Edges::zero)
            std::fill_n(to, numbers, bfloat16{0});
        else
            std::copy_n(first + (edges == Edges::repeat ? inside : 2 * inside - place) * numbers, numbers, to);
    };
    for (std::int64_t i = 1; i <= before; ++i) set(-i, 0);
    for (std::int64_t i = 1; i <= behind; ++i) set(size - 1 + i, size - 1);
}

}  // namespace
#endif

void tile_maps(std::uintptr_t sums, std::uintptr_t scale, std::uintptr_t shift, std::uintptr_t kept, std::uintptr_t high,
               std::uintptr_t low, std::int64_t height, std::int64_t width, std::int64_t channels, std::int64_t edge,
               std::int64_t above, std::int64_t below, std::int64_t behind, Edges edges, bool rectify, bool add,
               int threads) {
    if (isa() < Isa::amx) throw std::invalid_argument("tile_maps needs AMX; convolve with torch in its place");
#ifdef AFTERIMAGE_AMX
    const Filling filling{repeated(reinterpret_cast<const float*>(scale), channels),
                          repeated(reinterpret_cast<const float*>(shift), channels), width * channels, rectify, add};
    const std::int64_t pitch = (width + 2 * edge) * channels, begin = above * pitch + edge * channels;
    const auto fill = [&](std::int64_t y) {
        bfloat16* planes[] = {reinterpret_cast<bfloat16*>(high), reinterpret_cast<bfloat16*>(low)};
        float* trunk = kept ? reinterpret_cast<float*>(kept) + y * filling.numbers : nullptr;
        for (bfloat16*& plane : planes)
            if (plane) plane += begin + y * pitch;
        (low ? amx<true> : amx<false>)(filling, reinterpret_cast<const float*>(sums) + y * filling.numbers, trunk, planes[0], planes[1]);
        for (bfloat16* plane : planes)
            if (plane) widen(plane, width, channels, edge, edge, edges);
    };
    const std::int64_t parts = std::min<std::int64_t>(height, threads > 1 ? threads * pieces : 1);
    parallel(parts, threads, [&](std::int64_t part) {
        for (std::int64_t y = part * height / parts; y < (part + 1) * height / parts; ++y) fill(y);
    });
    for (const std::uintptr_t plane : {high, low}) {
        if (!plane) continue;
        bfloat16* first = reinterpret_cast<bfloat16*>(plane) + above * pitch;
        widen(first, height, pitch, above, below, edges);
        std::fill_n(first + (height + below) * pitch, behind, bfloat16{0});
    }
#endif
}

}  // namespace afterimage::cpu
