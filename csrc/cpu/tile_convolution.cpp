#include "cpu/tile_convolution.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"

#ifdef AFTERIMAGE_AMX
#include "cpu/tile_multiply.h"
#endif

namespace afterimage::cpu {

#ifdef AFTERIMAGE_AMX
namespace {

constexpr std::int64_t least_parts = 8, most_parts = 32;  // of an image

// Moments of each part's pixels about the mean of its first block: (parts, outputs).
struct Moments {
    Moments(std::int64_t parts, std::int64_t outputs)
        : counts(parts), about(parts * outputs), sums(parts * outputs), squares(parts * outputs) {}

    std::vector<double> counts;
    std::vector<float> about;
    std::vector<double> sums, squares;
};

// One row's, of a block of outputs.
struct Row {
    alignas(64) float bias[block] = {}, about[block] = {};
    alignas(64) double sum[block] = {}, square[block] = {};
};

// Adds a block of pixels whose mean and squares about it are known. In float64: the squares of means that lie far from
// the first block's would cancel.
AFTERIMAGE_INLINE_AMX void add(Row& row, std::int64_t half, std::int64_t pixels, __m512 mean, __m512 square) {
    const __m512d count = _mm512_set1_pd(static_cast<double>(pixels));
    for (std::int64_t quarter = 0; quarter < 2; ++quarter) {
        const std::int64_t at = half + 8 * quarter;
        const __m256 part = quarter ? _mm512_extractf32x8_ps(mean, 1) : _mm512_castps512_ps256(mean);
        const __m256 about = _mm256_load_ps(row.about + at);
        const __m256 own = quarter ? _mm512_extractf32x8_ps(square, 1) : _mm512_castps512_ps256(square);
        const __m512d apart = _mm512_sub_pd(_mm512_cvtps_pd(part), _mm512_cvtps_pd(about));
        const __m512d sum = _mm512_mul_pd(count, apart);
        _mm512_store_pd(row.sum + at, _mm512_add_pd(_mm512_load_pd(row.sum + at), sum));
        const __m512d both = _mm512_fmadd_pd(sum, apart, _mm512_cvtps_pd(own));
        _mm512_store_pd(row.square + at, _mm512_add_pd(_mm512_load_pd(row.square + at), both));
    }
}

// Stores the sums of up to 32 pixels and adds their moments; a part begins with the first ones.
AFTERIMAGE_INLINE_AMX void finish(const float* sums, std::int64_t pixels, std::int64_t outputs, float* to,
                                  std::int64_t pixel, bool measured, bool first, Row& row) {
    for (std::int64_t half = 0; half < block && half < outputs; half += lanes) {
        const __mmask16 where = tiles::first(outputs - half);
        __m512 sum = _mm512_setzero_ps(), square = _mm512_setzero_ps();
        for (std::int64_t i = 0; i < pixels; ++i) {
            const __m512 value = _mm512_load_ps(sums + i * block + half);
            sum = _mm512_add_ps(sum, value);
            _mm512_mask_storeu_ps(to + i * pixel + half, where, value);
        }
        if (!measured) continue;
        const __m512 mean = _mm512_mul_ps(sum, _mm512_set1_ps(1.0f / static_cast<float>(pixels)));
        for (std::int64_t i = 0; i < pixels; ++i) {
            const __m512 apart = _mm512_sub_ps(_mm512_load_ps(sums + i * block + half), mean);
            square = _mm512_fmadd_ps(apart, apart, square);
        }
        if (first) _mm512_store_ps(row.about + half, mean);
        add(row, half, pixels, mean, square);
    }
}

template <bool split, bool two>
AFTERIMAGE_INLINE_AMX void convolve_row(const Shape& shape, const char* high, const char* low, const char* weights,
                                        float* to, std::int64_t outputs, bool begins, Row& row) {
    alignas(64) float sums[block * block];
    for (std::int64_t x = 0; x < shape.width; x += block) {
        const std::int64_t at = 2 * x * shape.across * shape.channels;
        const std::int64_t pixel = shape.phases * shape.outputs, pixels = std::min(block, shape.width - x);
        if (!shape.measured && pixels == block && outputs == (two ? block : lanes)) {
            multiply<split, two>(shape, high + at, low + at, weights, row.bias, to + x * pixel, pixel * sizeof(float));
            continue;
        }
        multiply<split, two>(shape, high + at, low + at, weights, row.bias, sums, block * sizeof(float));
        finish(sums, pixels, outputs, to + x * pixel, pixel, shape.measured, begins && x == 0, row);
    }
}

// One row of a block of outputs and of one phase.
template <bool split>
AFTERIMAGE_INLINE_AMX void convolve(const Shape& shape, const char* high, const char* low, const char* weights,
                                    const float* bias, float* sums, std::int64_t y, std::int64_t group,
                                    std::int64_t phase, bool begins, float* about, double* sum, double* square) {
    const std::int64_t below = phase / shape.phases, right = phase % shape.phases, base = group * lanes;
    const std::int64_t from = 2 * ((y * shape.down + below) * shape.pitch + right * shape.channels);
    const std::int64_t place = (shape.phases * y + below) * shape.phases * shape.width + right;
    const std::int64_t outputs = std::min(block, shape.outputs - base);
    const char* tiles = weights + (phase * shape.groups() + group) * shape.group_bytes();
    float* to = sums + place * shape.outputs + base;
    Row row;
    if (bias) std::copy_n(bias + base, outputs, row.bias);
    if (shape.measured && !begins) std::copy_n(about + base, outputs, row.about);
    if (outputs > lanes)
        convolve_row<split, true>(shape, high + from, low + from, tiles, to, outputs, begins, row);
    else
        convolve_row<split, false>(shape, high + from, low + from, tiles, to, outputs, begins, row);
    if (!shape.measured) return;
    std::copy_n(row.about, outputs, about + base);
    for (std::int64_t i = 0; i < outputs; ++i)
        sum[base + i] += row.sum[i], square[base + i] += row.square[i];
}

// A part's rows, a few at a time: their maps and the weights of one block of outputs stay in the second-level cache.
template <bool split>
AFTERIMAGE_TARGET_AMX void amx(const Shape& shape, const char* high, const char* low, const char* weights,
                               const float* bias, float* sums, std::int64_t part, Moments& moments) {
    const std::int64_t parts = static_cast<std::int64_t>(moments.counts.size()), at = part * shape.outputs;
    const std::int64_t begin = part * shape.height / parts, end = (part + 1) * shape.height / parts;
    const std::int64_t few = shape.few(split);
    tiles::configure();
    for (std::int64_t top = begin; top < end; top += few)
        for (std::int64_t group = 0; group < shape.groups(); group += 2)
            for (std::int64_t phase = 0; phase < shape.phases * shape.phases; ++phase)
                for (std::int64_t y = top; y < std::min(top + few, end); ++y)
                    convolve<split>(shape, high, low, weights, bias, sums, y, group, phase, y == begin && phase == 0,
                                    &moments.about[at], &moments.sums[at], &moments.squares[at]);
    tiles::release();
    moments.counts[part] = static_cast<double>((end - begin) * shape.width * shape.phases * shape.phases);
}

struct Norm {
    const float *weight, *bias;
    float *scale, *shift;
    double eps;
};

// What the norm makes of each output, from the moments of all parts about the mean of all.
void merge(const Moments& moments, std::int64_t outputs, const Norm& norm) {
    const std::size_t parts = moments.counts.size();
    const double total = std::accumulate(moments.counts.begin(), moments.counts.end(), 0.0);
    const double share = 1.0 / total;
    std::vector<double> means(outputs), squares(outputs);
    for (std::size_t part = 0; part < parts; ++part)
        for (std::int64_t i = 0, at = part * outputs; i < outputs; ++i, ++at)
            means[i] += (moments.about[at] * moments.counts[part] + moments.sums[at]) * share;
    for (std::size_t part = 0; part < parts; ++part)
        for (std::int64_t i = 0, at = part * outputs; i < outputs; ++i, ++at) {
            const double apart = moments.about[at] - means[i];
            squares[i] += moments.squares[at] + apart * (2.0 * moments.sums[at] + apart * moments.counts[part]);
        }
    for (std::int64_t i = 0; i < outputs; ++i) {
        const double scale = norm.weight[i] / std::sqrt(std::max(0.0, squares[i]) / total + norm.eps);
        norm.scale[i] = static_cast<float>(scale);
        norm.shift[i] = static_cast<float>(norm.bias[i] - scale * means[i]);
    }
}

}  // namespace
#endif

void tile_convolution(std::uintptr_t high, std::uintptr_t low, std::uintptr_t weights, std::uintptr_t bias,
                      std::uintptr_t sums, std::uintptr_t norm_weight, std::uintptr_t norm_bias, std::uintptr_t scale,
                      std::uintptr_t shift, double eps, std::int64_t channels, std::int64_t pitch, std::int64_t rows,
                      std::int64_t steps, std::int64_t stride_down, std::int64_t stride_across, std::int64_t phases,
                      std::int64_t height, std::int64_t width, std::int64_t outputs, int threads) {
    if (isa() < Isa::amx) throw std::invalid_argument("tile_convolution needs AMX; convolve with torch in its place");
#ifdef AFTERIMAGE_AMX
    const Shape shape{channels, pitch, rows, steps, stride_down, stride_across, phases, height, width, outputs,
                      norm_weight != 0};
    // By sizes alone, so that sums do not depend on the number of threads.
    const std::int64_t parts = std::clamp(height / shape.few(low), std::min(height, least_parts), most_parts);
    Moments moments(parts, outputs);
    const auto run = low ? amx<true> : amx<false>;
    parallel(parts, threads, [&](std::int64_t part) {
        run(shape, reinterpret_cast<const char*>(high), reinterpret_cast<const char*>(low ? low : high),
            reinterpret_cast<const char*>(weights), reinterpret_cast<const float*>(bias),
            reinterpret_cast<float*>(sums), part, moments);
    });
    if (!norm_weight) return;
    const Norm norm{reinterpret_cast<const float*>(norm_weight), reinterpret_cast<const float*>(norm_bias),
                    reinterpret_cast<float*>(scale), reinterpret_cast<float*>(shift), eps};
    merge(moments, outputs, norm);
#endif
}

}  // namespace afterimage::cpu
