// The twin of csrc/cuda/intrinsics.h for the host.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>

#include "formula/number.h"

namespace afterimage {

struct Cuda {};

template <class Tag>
float to_float(float16 value) {
    _Float16 number;
    std::memcpy(&number, &value, sizeof number);
    return static_cast<float>(number);
}

template <class Tag>
void assign(float16& to, float number) {
    const _Float16 rounded = static_cast<_Float16>(number);
    std::memcpy(&to, &rounded, sizeof to);
}

namespace cuda {

inline std::uint32_t pack_bfloat16(float low, float high) {
    bfloat16 first, second;
    assign<Cuda>(first, low);
    assign<Cuda>(second, high);
    return first.bits | std::uint32_t{second.bits} << 16;
}

template <class T>
float half_of(std::uint32_t word, int which) {
    return to_float<Cuda>(T{static_cast<std::uint16_t>(word >> 16 * which)});
}

// The layout is written here as PTX has it: element by element, from the matrices' side.
template <class T>
void multiply_add(T, float (&sum)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    const auto& words = emulated::tell({a[0], a[1], a[2], a[3], b[0], b[1]});
    const auto left = [&](int row, int term) {  // 16 × 16
        const int lane = row % 8 * 4 + term % 8 / 2;
        return half_of<T>(words[lane][row / 8 + term / 8 * 2], term % 2);
    };
    const auto right = [&](int term, int column) {  // 16 × 8
        return half_of<T>(words[column * 4 + term % 8 / 2][4 + term / 8], term % 2);
    };
    for (int i = 0; i < 4; ++i) {
        const int row = emulated::lane() / 4 + i / 2 * 8, column = emulated::lane() % 4 * 2 + i % 2;
        for (int term = 0; term < 16; ++term) sum[i] += left(row, term) * right(term, column);
    }
    emulated::heard();
}

}  // namespace cuda
}  // namespace afterimage
