#include <algorithm>
#include <atomic>
#include <limits>
#include <stdexcept>
#include <vector>

#include "cpu/exceeding.h"
#include "cpu/found.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"

#ifdef AFTERIMAGE_AMX
#include "cpu/tile_multiply.h"
#endif

namespace afterimage::cpu {

#ifdef AFTERIMAGE_AMX
namespace {

constexpr std::int64_t share = 256;  // rows of a part: they stay in the second-level cache

struct Task {
    Shape shape;
    const char *high, *low, *weights;
    const float *row_limits, *column_limits;
    std::int64_t rows, most;
    bool diagonal;
    std::atomic<std::int64_t>* seen;  // by all parts: what is more than wanted need not be found
};

// The limits of a block's columns; there is none beyond the last.
void limits_of(const Task& task, std::int64_t base, float* limits) {
    std::fill_n(limits, block, std::numeric_limits<float>::infinity());
    if (task.column_limits)
        std::copy_n(task.column_limits + base, std::min(block, task.shape.outputs - base), limits);
}

AFTERIMAGE_INLINE_AMX void collect(const Task& task, const float* sums, const float* limits, std::int64_t row,
                                   std::int64_t base, Found& found) {
    for (std::int64_t i = row; i < std::min(row + block, task.rows); ++i, sums += block)
        for (std::int64_t half = 0; half < block && base + half < task.shape.outputs; half += lanes) {
            const __m512 value = _mm512_load_ps(sums + half), limit = _mm512_set1_ps(task.row_limits[i]);
            const __mmask16 above = _mm512_cmp_ps_mask(value, limit, _CMP_GT_OQ) |
                                    _mm512_cmp_ps_mask(value, _mm512_load_ps(limits + half), _CMP_GT_OQ);
            for (unsigned left = above & tiles::first(task.shape.outputs - base - half); left; left &= left - 1) {
                const std::int64_t column = base + half + __builtin_ctz(left);
                if (task.diagonal && column == i) continue;
                found.emplace_back(i * task.shape.outputs + column, sums[column - base]);
            }
        }
}

AFTERIMAGE_TARGET_AMX void amx(const Task& task, std::int64_t part, Found& found) {
    alignas(64) float sums[block * block], limits[block];
    constexpr float none[block] = {};
    tiles::configure();
    for (std::int64_t group = 0; group < task.shape.groups(); group += 2) {
        limits_of(task, group * lanes, limits);
        const char* weights = task.weights + group * task.shape.group_bytes();
        for (std::int64_t row = part * share; row < std::min(task.rows, (part + 1) * share); row += block) {
            if (task.seen->load(std::memory_order_relaxed) > task.most) break;
            const std::size_t before = found.size();
            const std::int64_t at = 2 * row * task.shape.channels, distance = block * sizeof(float);
            const char *high = task.high + at, *low = task.low + at;
            if (group + 1 < task.shape.groups())
                multiply<true, true>(task.shape, high, low, weights, none, sums, distance);
            else
                multiply<true, false>(task.shape, high, low, weights, none, sums, distance);
            collect(task, sums, limits, row, group * lanes, found);
            if (found.size() > before) *task.seen += static_cast<std::int64_t>(found.size() - before);
        }
    }
    tiles::release();
}

}  // namespace
#endif

std::int64_t tile_exceeding(std::uintptr_t high, std::uintptr_t low, std::uintptr_t weights, std::uintptr_t row_limits,
                            std::uintptr_t column_limits, std::uintptr_t places, std::uintptr_t values,
                            std::int64_t rows, std::int64_t columns, std::int64_t length, std::int64_t steps,
                            bool diagonal, std::int64_t most, int threads) {
    if (isa() < Isa::amx) throw std::invalid_argument("tile_exceeding needs AMX; take exceeding in its place");
#ifdef AFTERIMAGE_AMX
    const Shape shape{length, length * rows, 1, steps, 1, 1, 1, 1, rows, columns, false};
    std::atomic<std::int64_t> seen{0};
    const Task task{shape, reinterpret_cast<const char*>(high), reinterpret_cast<const char*>(low),
                    reinterpret_cast<const char*>(weights), reinterpret_cast<const float*>(row_limits),
                    reinterpret_cast<const float*>(column_limits), rows, most, diagonal,
                    &seen};
    std::vector<Found> found((rows + share - 1) / share);
    parallel(static_cast<std::int64_t>(found.size()), threads, [&](std::int64_t part) {
        amx(task, part, found[part]);
        std::sort(found[part].begin(), found[part].end());
    });
    return gather(found, most, reinterpret_cast<std::int64_t*>(places), reinterpret_cast<float*>(values));
#else
    return 0;
#endif
}

}  // namespace afterimage::cpu
