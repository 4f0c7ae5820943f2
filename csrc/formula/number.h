// The number types of the kernels, and how a formula is compiled.
#pragma once

#include <cstdint>
#include <cstring>

// Formulas are templates on a tag, forced inline into the loop that uses them: none is ever emitted as a function of
// its own, so the linker cannot hand one instruction set's copy to another.
#ifdef __CUDACC__
#define AFTERIMAGE_FORMULA __host__ __device__ __forceinline__
#else
#define AFTERIMAGE_FORMULA inline __attribute__((always_inline))
#endif

namespace afterimage {

// The upper half of a float32.
struct bfloat16 {
    std::uint16_t bits;
};

// IEEE's half precision; arithmetic for it exists on GPUs alone.
struct float16 {
    std::uint16_t bits;
};

template <class Tag>
AFTERIMAGE_FORMULA float to_float(float value) {
    return value;
}

template <class Tag>
AFTERIMAGE_FORMULA float to_float(bfloat16 value) {
    const std::uint32_t bits = std::uint32_t{value.bits} << 16;
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
}

// To the nearest, ties to even; any NaN becomes the one that torch makes.
template <class Tag>
AFTERIMAGE_FORMULA void assign(bfloat16& to, float number) {
    std::uint32_t bits;
    std::memcpy(&bits, &number, sizeof bits);
    bits += 0x7fff + ((bits >> 16) & 1);
    to.bits = number != number ? std::uint16_t{0x7fc0} : static_cast<std::uint16_t>(bits >> 16);
}

template <class Tag>
AFTERIMAGE_FORMULA void assign(float& to, float number) {
    to = number;
}

template <class Tag>
AFTERIMAGE_FORMULA float select(bool condition, float value) {
    return condition ? value : 0.0f;
}

template <class Tag>
AFTERIMAGE_FORMULA bfloat16 select(bool condition, bfloat16 value) {
    return {condition ? value.bits : std::uint16_t{0}};
}

template <class Tag>
AFTERIMAGE_FORMULA float16 select(bool condition, float16 value) {
    return {condition ? value.bits : std::uint16_t{0}};
}

}  // namespace afterimage
