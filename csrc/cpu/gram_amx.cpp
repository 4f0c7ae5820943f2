// The Gram product on matrix tiles, which multiply bfloat16 and add float32: float32 features are split in two.
#include <algorithm>
#include <type_traits>

#include "cpu/gram_step.h"
#include "cpu/isa.h"

#ifdef AFTERIMAGE_AMX
#include "cpu/tiles.h"
#endif

namespace afterimage::cpu {
namespace {

constexpr std::int64_t group = 16, stride = 32;  // channels and positions of a tile

template <class T>
constexpr bool is_split(bool shifted) {
    return shifted || std::is_same_v<T, float>;
}

// Positions whose tiles, left and right factors, take about half of a second-level cache of 2 MiB.
std::int64_t depth(std::int64_t channels, bool split) {
    const std::int64_t bytes = (split ? 8 : 4) * panels_of(channels) * panel;
    return std::clamp<std::int64_t>((1 << 20) / bytes / 256 * 256, 256, 1024);
}

#ifdef AFTERIMAGE_AMX
using tiles::tile;

// Bytes of one tile, with its low part behind its high one if it is split.
template <bool split>
constexpr std::int64_t step_bytes = (split ? 2 : 1) * tile;

struct Tiles {
    char* rows;     // left factors: 16 channels of 32 positions
    char* columns;  // right factors: 16 pairs of positions of 16 channels
};

// One row of a tile: pairs of a channel's positions or, channels last, pairs of positions' channels.
template <bool planar, bool shifted, class T>
AFTERIMAGE_INLINE_AMX void pack_row(const T* first, const T* second, __m512 shift, __m512& sum, char* target) {
    if constexpr (is_split<T>(shifted)) {
        __m512 left = tiles::load16(first), right = tiles::load16(second);
        if constexpr (shifted) {
            left = _mm512_sub_ps(left, shift), right = _mm512_sub_ps(right, shift);
            sum = _mm512_add_ps(sum, _mm512_add_ps(left, right));
        }
        tiles::store(tiles::split(left, right), target);
    } else {
        _mm512_store_si512(target, planar ? tiles::neighbours(first) : tiles::interleave(first, second));
    }
}

template <bool split>
AFTERIMAGE_INLINE_AMX void transpose(const char* source, char* target) {
    tiles::transpose(source, target);
    if constexpr (split) tiles::transpose(source + tile, target + tile);
}

// Whole tiles of 16 channels, each channel's positions in one go, for that is how memory is read fastest.
template <bool shifted, class T>
AFTERIMAGE_INLINE_AMX void pack_planar(const T* source, std::int64_t channel_stride, std::int64_t count,
                                       const float* shift, float* sums, Tiles target) {
    constexpr std::int64_t bytes = step_bytes<is_split<T>(shifted)>;
    for (std::int64_t row = 0; row < group; ++row, source += channel_stride) {
        const __m512 subtracted = shifted ? _mm512_set1_ps(shift[row]) : _mm512_setzero_ps();
        __m512 sum = _mm512_setzero_ps();
        for (std::int64_t step = 0; step < count; ++step) {
            const T* first = source + step * stride;
            for (std::size_t ahead = 0; ahead < stride * sizeof(T); ahead += 64)
                _mm_prefetch(reinterpret_cast<const char*>(first + channel_stride) + ahead, _MM_HINT_T0);
            pack_row<true, shifted>(first, first + 16, subtracted, sum, target.rows + step * bytes + 64 * row);
        }
        if constexpr (shifted) sums[row] += _mm512_reduce_add_ps(sum);
    }
    for (std::int64_t step = 0; step < count; ++step)
        transpose<is_split<T>(shifted)>(target.rows + step * bytes, target.columns + step * bytes);
}

template <bool shifted, class T>
AFTERIMAGE_INLINE_AMX void pack_last(const T* source, std::int64_t position_stride, const float* shift, float* sums,
                                     Tiles target) {
    const __m512 subtracted = shifted ? _mm512_loadu_ps(shift) : _mm512_setzero_ps();
    __m512 sum = _mm512_setzero_ps();
#pragma GCC unroll 4
    for (std::int64_t row = 0; row < 16; ++row, source += 2 * position_stride)
        pack_row<false, shifted>(source, source + position_stride, subtracted, sum, target.columns + 64 * row);
    if constexpr (shifted) _mm512_storeu_ps(sums, _mm512_add_ps(_mm512_loadu_ps(sums), sum));
    transpose<is_split<T>(shifted)>(target.columns, target.rows);
}

// A tile of which some is missing: from a copy with zeros there.
template <bool shifted, class T>
AFTERIMAGE_INLINE_AMX void pack_edge(const Block<T>& block, std::int64_t channel, std::int64_t position, float* sums,
                                     Tiles target) {
    using Staged = std::conditional_t<is_split<T>(shifted), float, T>;
    constexpr float none[group] = {};
    const bool planar = block.position_stride == 1;
    Staged staged[group * stride] = {};
    for (std::int64_t c = 0; c < group && channel + c < block.channels; ++c)
        for (std::int64_t k = 0; k < stride && position + k < block.positions; ++k) {
            Staged& value = staged[planar ? c * stride + k : k * group + c];
            const std::int64_t at = (channel + c) * block.channel_stride + (position + k) * block.position_stride;
            if constexpr (shifted)
                value = to_float<Avx512>(block.features[at]) - block.shift[channel + c];
            else
                value = block.features[at];
        }
    tiles::fence();
    if (planar)
        pack_planar<shifted>(staged, stride, 1, none, sums, target);
    else
        pack_last<shifted>(staged, group, none, sums, target);
}

template <bool shifted, class T>
AFTERIMAGE_INLINE_AMX void pack(const Block<T>& block, std::int64_t steps, float* sums, Tiles target) {
    constexpr std::int64_t bytes = step_bytes<is_split<T>(shifted)>, run = 8;
    const std::int64_t groups = 2 * panels_of(block.channels), whole_groups = block.channels / group;
    const std::int64_t whole_steps = block.positions / stride;
    const bool planar = block.position_stride == 1;
    for (std::int64_t outer = 0; outer < (planar ? whole_groups : whole_steps); ++outer)
        for (std::int64_t inner = 0; inner < (planar ? whole_steps : whole_groups); inner += planar ? run : 1) {
            const std::int64_t channel = (planar ? outer : inner) * group, step = planar ? inner : outer;
            const std::int64_t at = (channel / group * steps + step) * bytes;
            const T* source = block.features + channel * block.channel_stride + step * stride * block.position_stride;
            const float* shift = shifted ? block.shift + channel : nullptr;
            const Tiles tiles{target.rows + at, target.columns + at};
            if (planar)
                pack_planar<shifted>(source, block.channel_stride, std::min(run, whole_steps - step), shift,
                                     sums + channel, tiles);
            else
                pack_last<shifted>(source, block.position_stride, shift, sums + channel, tiles);
        }
    for (std::int64_t i = 0; i < groups; ++i)
        for (std::int64_t step = i < whole_groups ? whole_steps : 0; step < steps; ++step) {
            const std::int64_t at = (i * steps + step) * bytes;
            pack_edge<shifted>(block, i * group, step * stride, sums + i * group,
                               {target.rows + at, target.columns + at});
        }
}

template <bool split, bool diagonal>
AFTERIMAGE_INLINE_AMX void multiply(const char* rows, const char* columns, std::int64_t steps, float* sums) {
    constexpr std::int64_t pitch = panel * sizeof(float);
    tiles::load_sums(sums, pitch);
    tiles::multiply<split, split, diagonal>(rows, columns, steps);
    tiles::store_sums(sums, pitch);
}

template <class T, bool shifted>
AFTERIMAGE_TARGET_AMX void amx(const Block<T>& part, void* workspace, float* squares, float* sums) {
    constexpr bool split = is_split<T>(shifted);
    const std::int64_t panels = panels_of(part.channels), positions = depth(part.channels, split);
    char* rows = static_cast<char*>(workspace);
    char* columns = rows + panels * panel * positions * step_bytes<split> / (group * stride);
    tiles::configure();
    for (std::int64_t begin = 0; begin < part.positions; begin += positions) {
        const Block<T> block = slice(part, begin, positions);
        const std::int64_t steps = (block.positions + stride - 1) / stride, size = 2 * steps * step_bytes<split>;
        pack<shifted>(block, steps, sums, {rows, columns});
        tiles::fence();
        float* sum = squares;
        for (std::int64_t i = 0; i < panels; ++i) {
            multiply<split, true>(rows + i * size, columns + i * size, steps, sum);
            sum += square;
            for (std::int64_t j = i + 1; j < panels; ++j, sum += square)
                multiply<split, false>(rows + i * size, columns + j * size, steps, sum);
        }
        tiles::fence();
    }
    tiles::release();
}
#endif

}  // namespace

template <class T>
Step<T> gram_step_amx(std::int64_t channels, bool center) {
    const bool split = is_split<T>(center);
    const std::size_t bytes = (split ? 8 : 4) * depth(channels, split) * panels_of(channels) * panel;
#ifdef AFTERIMAGE_AMX
    return {bytes, center ? amx<T, true> : amx<T, false>};
#else
    return {bytes, nullptr};  // never chosen
#endif
}

template Step<float> gram_step_amx<float>(std::int64_t, bool);
template Step<bfloat16> gram_step_amx<bfloat16>(std::int64_t, bool);

}  // namespace afterimage::cpu
