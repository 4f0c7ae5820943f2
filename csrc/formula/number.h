// The number types of the kernels, and how a formula is compiled.
#pragma once

#include <cstdint>
#include <cstring>

// Formulas are templates on a tag, forced inline into the loop that uses them: none is ever emitted as a function of
// its own, so the linker cannot hand one instruction set's copy to another.
#define AFTERIMAGE_FORMULA inline __attribute__((always_inline))

namespace afterimage {

// The upper half of a float32.
struct bfloat16 {
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

template <class Tag>
AFTERIMAGE_FORMULA float select(bool condition, float value) {
    return condition ? value : 0.0f;
}

template <class Tag>
AFTERIMAGE_FORMULA bfloat16 select(bool condition, bfloat16 value) {
    return {condition ? value.bits : std::uint16_t{0}};
}

}  // namespace afterimage
