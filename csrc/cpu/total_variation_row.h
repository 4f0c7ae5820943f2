// Total variation of one row, in plain C++ that compilers make vectors of.
#pragma once

#include "formula/total_variation.h"

namespace afterimage::cpu {

using formula::Exponent;
using formula::Power;

constexpr std::int64_t lanes = 16;          // the buffers hold whole vectors of so many
constexpr std::int64_t chunk = 64 * lanes;  // elements summed in float32 before they are added up in double

template <class T>
struct Row {
    const T* here;
    const T* below;
    T* gradient;    // null: not wanted
    float* down;    // in: the row above's derivatives with respect to dy; out: this one's
    float* across;  // room for `step` elements and a row
    std::int64_t length, step;  // in elements; a pixel's right neighbor is `step` elements on
    bool last;                  // nothing is below
    float eps;
    Exponent exponent;
    double* sums;  // one per lane
};

template <class Tag>
AFTERIMAGE_FORMULA void narrow(float value, float& result) {
    result = value;
}

// To nearest, ties to even; NaN stays NaN.
template <class Tag>
AFTERIMAGE_FORMULA void narrow(float value, bfloat16& result) {
    const std::uint32_t bits = static_cast<std::uint32_t>(formula::bits_of<Tag>(value));
    const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    result.bits = static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0);
}

// Buffers come as parameters: of no other pointer do compilers believe that nothing else overlaps it.
template <class Tag, class T>
AFTERIMAGE_FORMULA void differences(const T* __restrict ahead, const T* __restrict here, float* __restrict result,
                                    std::int64_t count, std::int64_t whole) {
    for (std::int64_t j = 0; j < count; ++j) result[j] = to_float<Tag>(ahead[j]) - to_float<Tag>(here[j]);
    for (std::int64_t j = count; j < whole; ++j) result[j] = 0.0f;
}

template <class Tag, Power which, bool anisotropic, bool gradient>
AFTERIMAGE_FORMULA void terms(const float* __restrict dx, const float* __restrict dy, float* __restrict values,
                              float* __restrict across, float* __restrict down, float* __restrict rest,
                              std::int64_t whole, float eps, Exponent exponent) {
    for (std::int64_t j = 0; j < whole; ++j) {
        const auto term = formula::total_variation<Tag, which, anisotropic>(dx[j], dy[j], eps, exponent);
        values[j] = term.value;
        if constexpr (gradient) {
            across[j] = term.across;
            rest[j] = down[j] - (term.across + term.down);
            down[j] = term.down;
        }
    }
}

template <class Tag>
AFTERIMAGE_FORMULA void add(float* __restrict values, std::int64_t count, std::int64_t whole, double* __restrict sums) {
    for (std::int64_t j = count; j < whole; ++j) values[j] = 0.0f;
    float partial[lanes] = {};
    for (std::int64_t j = 0; j < whole; j += lanes)
        for (std::int64_t lane = 0; lane < lanes; ++lane) partial[lane] += values[j + lane];
    for (std::int64_t lane = 0; lane < lanes; ++lane) sums[lane] += static_cast<double>(partial[lane]);
}

template <class Tag, class T>
AFTERIMAGE_FORMULA void store(const float* __restrict rest, const float* __restrict across, T* __restrict gradient,
                              std::int64_t count) {
    for (std::int64_t j = 0; j < count; ++j) narrow<Tag>(rest[j] + across[j], gradient[j]);
}

template <class Tag, class T, Power which, bool anisotropic, bool gradient>
AFTERIMAGE_FORMULA void total_variation_row(const Row<T>& row) {
    float dx[chunk], dy[chunk], values[chunk], rest[chunk];
    for (std::int64_t j = 0; j < row.step; ++j) row.across[j] = 0.0f;
    for (std::int64_t begin = 0; begin < row.length; begin += chunk) {
        const std::int64_t left = row.length - begin, count = left < chunk ? left : chunk;
        const std::int64_t whole = (count + lanes - 1) / lanes * lanes;
        const std::int64_t neighbors = left - row.step < 0 ? 0 : left - row.step < count ? left - row.step : count;
        differences<Tag>(row.here + begin + row.step, row.here + begin, dx, neighbors, whole);
        differences<Tag>(row.below + begin, row.here + begin, dy, row.last ? 0 : count, whole);
        terms<Tag, which, anisotropic, gradient>(dx, dy, values, row.across + row.step + begin, row.down + begin, rest,
                                                 whole, row.eps, row.exponent);
        add<Tag>(values, count, whole, row.sums);
        if constexpr (gradient)
            if (row.gradient) store<Tag>(rest, row.across + begin, row.gradient + begin, count);
    }
}

}  // namespace afterimage::cpu
