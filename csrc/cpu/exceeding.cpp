#include "cpu/exceeding.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <vector>

#include "cpu/found.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "formula/number.h"

namespace afterimage::cpu {
namespace {

constexpr std::int64_t run = 64, share = 32;  // values that are looked at together; rows of a part

struct Block {
    const float *values, *row_limits, *column_limits;
    std::int64_t rows, columns, most;
    std::atomic<std::int64_t>* seen;  // by all parts: what is more than wanted need not be found
};

// Few do, so most runs are left at once.
template <class Tag>
AFTERIMAGE_FORMULA bool any(const float* values, float limit, const float* limits, std::int64_t count) {
    int found = 0;
    for (std::int64_t i = 0; i < count; ++i) found |= (values[i] > limit) | (values[i] > limits[i]);
    return found;
}

template <class Tag>
AFTERIMAGE_FORMULA void look(const Block& block, std::int64_t part, const float* infinite, Found& found) {
    for (std::int64_t row = part * share; row < std::min(block.rows, (part + 1) * share); ++row)
        for (std::int64_t column = 0; column < block.columns; column += run) {
            const float limit = block.row_limits[row], *values = block.values + row * block.columns + column;
            const float* limits = block.column_limits ? block.column_limits + column : infinite;
            const std::int64_t count = std::min(run, block.columns - column);
            if (!(count == run ? any<Tag>(values, limit, limits, run) : any<Tag>(values, limit, limits, count))) continue;
            if (block.seen->load(std::memory_order_relaxed) > block.most) return;
            const std::size_t before = found.size();
            for (std::int64_t i = 0; i < count; ++i)
                if (values[i] > limit || values[i] > limits[i])
                    found.emplace_back(row * block.columns + column + i, values[i]);
            *block.seen += static_cast<std::int64_t>(found.size() - before);
        }
}

using Look = void (*)(const Block&, std::int64_t, const float*, Found&);

template <class Tag>
void baseline(const Block& block, std::int64_t part, const float* infinite, Found& found) {
    look<Tag>(block, part, infinite, found);
}

template <class Tag>
AFTERIMAGE_TARGET_AVX2 void avx2(const Block& block, std::int64_t part, const float* infinite, Found& found) {
    look<Tag>(block, part, infinite, found);
}

template <class Tag>
AFTERIMAGE_TARGET_AVX512 void avx512(const Block& block, std::int64_t part, const float* infinite, Found& found) {
    look<Tag>(block, part, infinite, found);
}

}  // namespace

std::int64_t exceeding(std::uintptr_t block, std::uintptr_t row_limits, std::uintptr_t column_limits,
                       std::uintptr_t places, std::uintptr_t values, std::int64_t rows, std::int64_t columns,
                       std::int64_t most, int threads) {
    std::atomic<std::int64_t> seen{0};
    const Block given{reinterpret_cast<const float*>(block), reinterpret_cast<const float*>(row_limits),
                      reinterpret_cast<const float*>(column_limits), rows, columns, most, &seen};
    const Look looks = isa() >= Isa::avx512 ? avx512<Avx512> : isa() == Isa::avx2 ? avx2<Avx2> : baseline<Baseline>;
    const std::vector<float> infinite(run, std::numeric_limits<float>::infinity());
    std::vector<Found> found((rows + share - 1) / share);
    const auto parts = static_cast<std::int64_t>(found.size());
    parallel(parts, threads, [&](std::int64_t part) { looks(given, part, infinite.data(), found[part]); });
    return gather(found, most, reinterpret_cast<std::int64_t*>(places), reinterpret_cast<float*>(values));
}

}  // namespace afterimage::cpu
