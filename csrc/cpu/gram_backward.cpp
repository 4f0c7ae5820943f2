// The gradient of the features, (G + Gᵀ) F for the gradient G of the products, on matrix tiles.
#include <algorithm>
#include <memory>
#include <stdexcept>
#include <type_traits>

#include "cpu/gram.h"
#include "cpu/gram_step.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"

#ifdef AFTERIMAGE_AMX
#include "cpu/tiles.h"
#endif

namespace afterimage::cpu {
#ifdef AFTERIMAGE_AMX
namespace {

using tiles::tile;

constexpr std::int64_t group = 16;  // channels or positions: half a panel

template <class T>
struct Problem {
    const float* grad_products;
    const T* features;
    const float* means;  // null: none are subtracted
    T* grad_features;
    std::int64_t images, channels, positions;
    bool channels_last;
    float scale;

    std::int64_t panels() const { return panels_of(channels); }
    std::int64_t channel_stride() const { return channels_last ? 1 : positions; }
    std::int64_t position_stride() const { return channels_last ? channels : 1; }

    // Positions in a block, whole tiles of 32, which take a small part of a second-level cache.
    std::int64_t depth() const { return std::clamp<std::int64_t>(2048 / panels() / 32 * 32, 128, 1024); }
    std::int64_t blocks() const { return (positions + depth() - 1) / depth(); }
    std::int64_t matrix_bytes() const { return panels() * panels() * square * 4; }
};

// The symmetric matrix's tiles, each of 16 channels and 32; which of them are rows depends on the side they multiply
// from. The pairs are channels r and r + 16 of the 32, here and in the features' tiles.
AFTERIMAGE_INLINE_AMX void pack_square(const float (&values)[panel][panel], bool channels_last, std::int64_t steps,
                                       char* target) {
    for (std::int64_t half = 0; half < 2; ++half)
        for (std::int64_t row = 0; row < group; ++row) {
            const float* first = channels_last ? &values[row][half * group] : &values[half * group + row][0];
            const float* second = channels_last ? &values[row + group][half * group] : first + group;
            const tiles::Halves halves = tiles::split(tiles::load16(first), tiles::load16(second));
            tiles::store(halves, target + half * steps * 2 * tile + 64 * row);
        }
}

template <class T>
AFTERIMAGE_INLINE_AMX void pack_matrix(const Problem<T>& problem, std::int64_t image, std::int64_t index, char* matrix) {
    const std::int64_t channels = problem.channels, steps = problem.panels();
    const float* gradient = problem.grad_products + image * channels * channels;
    for (std::int64_t step = 0; step < steps; ++step) {
        alignas(64) float values[panel][panel] = {};  // rows: of the 32 channels summed over, if channels last
        const std::int64_t rows = (problem.channels_last ? step : index) * panel;
        const std::int64_t columns = (problem.channels_last ? index : step) * panel;
        for (std::int64_t i = 0; i < panel && rows + i < channels; ++i)
            for (std::int64_t j = 0; j < panel && columns + j < channels; ++j) {
                const std::int64_t row = rows + i, column = columns + j;
                values[i][j] = (gradient[row * channels + column] + gradient[column * channels + row]) * problem.scale;
            }
        pack_square(values, problem.channels_last, steps, matrix + (2 * index * steps + step) * 2 * tile);
    }
}

// A tile of features, 16 positions of 32 channels, from rows of either; what `means` are given is subtracted.
template <bool split, class T>
AFTERIMAGE_INLINE_AMX void pack_tile(const T* source, std::int64_t row_stride, std::int64_t second, const float* means,
                                     bool channels_last, char* target) {
    for (std::int64_t row = 0; row < group; ++row, source += row_stride, target += 64) {
        if constexpr (split) {
            __m512 left = tiles::load16(source), right = tiles::load16(source + second);
            if (means) {
                left = _mm512_sub_ps(left, channels_last ? tiles::load16(means) : _mm512_set1_ps(means[row]));
                right = _mm512_sub_ps(
                    right, channels_last ? tiles::load16(means + group) : _mm512_set1_ps(means[row + group]));
            }
            tiles::store(tiles::split(left, right), target);
        } else {
            _mm512_store_si512(target, tiles::interleave(source, source + second));
        }
    }
}

// One of which some is missing: from a copy with zeros there.
template <bool split, class T>
AFTERIMAGE_INLINE_AMX void pack_edge(const Problem<T>& problem, const T* source, const float* means,
                                     std::int64_t channels, std::int64_t positions, char* target) {
    using Staged = std::conditional_t<split, float, T>;
    alignas(64) Staged staged[panel * group] = {};
    for (std::int64_t c = 0; c < std::min(channels, panel); ++c)
        for (std::int64_t k = 0; k < std::min(positions, group); ++k) {
            const T value = source[c * problem.channel_stride() + k * problem.position_stride()];
            Staged& copy = staged[problem.channels_last ? k * panel + c : c * group + k];
            if constexpr (split)
                copy = to_float<Avx512>(value) - (means ? means[c] : 0.0f);
            else
                copy = value;
        }
    tiles::fence();
    pack_tile<split>(staged, problem.channels_last ? panel : group, problem.channels_last ? group : group * group,
                     nullptr, problem.channels_last, target);
}

template <bool split, class T>
AFTERIMAGE_INLINE_AMX void pack_features(const Problem<T>& problem, std::int64_t image, std::int64_t begin,
                                         std::int64_t count, char* target) {
    const std::int64_t steps = problem.panels(), groups = (count + panel - 1) / panel * 2;
    const T* features = problem.features + image * problem.channels * problem.positions;
    const std::int64_t row_stride = problem.channels_last ? problem.channels : problem.positions;
    const std::int64_t second = problem.channels_last ? group : group * problem.positions;
    for (std::int64_t step = 0; step < steps; ++step)
        for (std::int64_t i = 0; i < groups; ++i) {
            const std::int64_t position = begin + i * group, channel = step * panel;
            const T* source = features + channel * problem.channel_stride() + position * problem.position_stride();
            const float* means = problem.means ? problem.means + image * problem.channels + channel : nullptr;
            char* to = target + (i * steps + step) * (split ? 2 : 1) * tile;
            if (channel + panel <= problem.channels && position + group <= begin + count)
                pack_tile<split>(source, row_stride, second, means, problem.channels_last, to);
            else
                pack_edge<split>(problem, source, means, problem.channels - channel, begin + count - position, to);
        }
}

AFTERIMAGE_INLINE_AMX void write(const float* values, float* target, std::int64_t width) {
    for (std::int64_t i = 0; i < width; ++i) target[i] = values[i];
}

AFTERIMAGE_INLINE_AMX void write(const float* values, bfloat16* target, std::int64_t width) {
    const __mmask32 mask = static_cast<__mmask32>((std::uint64_t{1} << width) - 1);
    const __m512bh halves = _mm512_cvtne2ps_pbh(_mm512_load_ps(values + group), _mm512_load_ps(values));
    _mm512_mask_storeu_epi16(target, mask, (__m512i)halves);
}

template <bool split, class T>
AFTERIMAGE_INLINE_AMX void multiply(const Problem<T>& problem, const char* matrix, const char* features, T* target,
                                    std::int64_t height, std::int64_t width) {
    alignas(64) float values[square];
    const std::int64_t steps = problem.panels();
    const std::int64_t row_stride = problem.channels_last ? problem.channels : problem.positions;
    tiles::zero_sums();
    if (problem.channels_last)
        tiles::multiply<split, true, false>(features, matrix, steps);
    else
        tiles::multiply<true, split, false>(matrix, features, steps);
    if constexpr (std::is_same_v<T, float>)
        if (height >= panel && width >= panel) return tiles::store_sums(target, row_stride * sizeof(float));
    tiles::store_sums(values, panel * sizeof(float));
    tiles::fence();
    for (std::int64_t row = 0; row < std::min(height, panel); ++row)
        write(values + row * panel, target + row * row_stride, std::min(width, panel));
}

template <class T, bool split>
AFTERIMAGE_TARGET_AMX void amx(const Problem<T>& problem, std::int64_t block, const char* matrices, void* memory) {
    const std::int64_t image = block / problem.blocks(), begin = block % problem.blocks() * problem.depth();
    const std::int64_t count = std::min(problem.depth(), problem.positions - begin), steps = problem.panels();
    char* features = static_cast<char*>(memory);
    T* output = problem.grad_features + image * problem.channels * problem.positions;
    pack_features<split>(problem, image, begin, count, features);
    tiles::configure();
    tiles::fence();
    for (std::int64_t i = 0; i < steps; ++i)
        for (std::int64_t k = 0; k < count; k += panel) {
            const char* matrix = matrices + image * problem.matrix_bytes() + 2 * i * steps * 2 * tile;
            const char* columns = features + k / group * steps * (split ? 2 : 1) * tile;
            const std::int64_t channel = i * panel, channels = problem.channels - channel, positions = count - k;
            T* target = output + channel * problem.channel_stride() + (begin + k) * problem.position_stride();
            multiply<split>(problem, matrix, columns, target, problem.channels_last ? positions : channels,
                            problem.channels_last ? channels : positions);
        }
    tiles::fence();
    tiles::release();
}

template <class T>
AFTERIMAGE_TARGET_AMX void amx(const Problem<T>& problem, std::int64_t task, char* matrices) {
    const std::int64_t image = task / problem.panels();
    pack_matrix(problem, image, task % problem.panels(), matrices + image * problem.matrix_bytes());
}

template <class T>
void run(const Problem<T>& problem, int threads) {
    const std::size_t bytes = problem.images * problem.matrix_bytes();
    const std::unique_ptr<char[], decltype(&std::free)> matrices(
        static_cast<char*>(std::aligned_alloc(64, bytes)), &std::free);
    if (!matrices) throw std::bad_alloc();
    parallel(problem.images * problem.panels(), threads,
             [&](std::int64_t task) { amx<T>(problem, task, matrices.get()); });
    const bool split = std::is_same_v<T, float> || problem.means;
    const auto kernel = split ? amx<T, true> : amx<T, std::is_same_v<T, float>>;
    parallel(problem.images * problem.blocks(), threads, [&](std::int64_t block) {
        kernel(problem, block, matrices.get(), workspace(problem.depth() * problem.panels() * panel * 4));
    });
}

}  // namespace
#endif

template <class T>
void gram_backward(std::uintptr_t grad_products, std::uintptr_t features, std::uintptr_t means,
                   std::uintptr_t grad_features, std::int64_t images, std::int64_t channels, std::int64_t positions,
                   bool channels_last, double scale, int threads) {
    if (isa() < Isa::amx) throw std::invalid_argument("gram_backward needs AMX; multiply matrices in its place");
#ifdef AFTERIMAGE_AMX
    if (images * channels * positions == 0) return;
    const Problem<T> problem{reinterpret_cast<const float*>(grad_products), reinterpret_cast<const T*>(features),
                             reinterpret_cast<const float*>(means), reinterpret_cast<T*>(grad_features),
                             images, channels, positions, channels_last, static_cast<float>(scale)};
    run(problem, threads);
#endif
}

template void gram_backward<float>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t,
                                   std::int64_t, std::int64_t, bool, double, int);
template void gram_backward<bfloat16>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t,
                                      std::int64_t, std::int64_t, bool, double, int);

}  // namespace afterimage::cpu
