// What only the device's own instructions do: half numbers and the products of tensor cores.
// tests/ops/emulated holds this header's twin for the host.
#pragma once

#include <cstdint>

#include "formula/number.h"

namespace afterimage {

struct Cuda {};  // the tag of formulas compiled for a GPU

template <class Tag>
__device__ __forceinline__ float to_float(float16 value) {
    float number;
    asm("cvt.f32.f16 %0, %1;" : "=f"(number) : "h"(value.bits));
    return number;
}

template <class Tag>
__device__ __forceinline__ void assign(float16& to, float number) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(number));
}

namespace cuda {

// From compute capability 8.0 on; for older ones no kernel that is launched calls these.
#if __CUDA_ARCH__ >= 800
#define AFTERIMAGE_TENSOR_CORES(...) asm(__VA_ARGS__)
#else
#define AFTERIMAGE_TENSOR_CORES(...) __trap()
#endif

// Two numbers rounded to bfloat16 in one word, the first in its lower half.
__device__ __forceinline__ std::uint32_t pack_bfloat16(float low, float high) {
    std::uint32_t word = 0;
    AFTERIMAGE_TENSOR_CORES("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

// sum += a · b for a tile of 16 × 8 sums over 16 terms, spread over the warp as PTX lays out mma.m16n8k16: with
// g = lane / 4 and t = lane % 4, a holds rows g, g + 8, g, g + 8 at terms 2t, 2t, 2t + 8, 2t + 8 and the next ones,
// b holds column g at terms 2t and 2t + 8, sum holds columns 2t, 2t + 1 of row g, then of row g + 8.
__device__ __forceinline__ void multiply_add(bfloat16, float (&sum)[4], const std::uint32_t (&a)[4],
                                             const std::uint32_t (&b)[2]) {
    AFTERIMAGE_TENSOR_CORES(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ void multiply_add(float16, float (&sum)[4], const std::uint32_t (&a)[4],
                                             const std::uint32_t (&b)[2]) {
    AFTERIMAGE_TENSOR_CORES(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#undef AFTERIMAGE_TENSOR_CORES

}  // namespace cuda
}  // namespace afterimage
