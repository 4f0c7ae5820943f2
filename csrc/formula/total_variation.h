// Total variation: one pixel's term t^(β/2), t = s + eps, and its derivative with respect to the two differences.
#pragma once

#include "formula/number.h"

namespace afterimage::formula {

// Exponents β with a formula of their own, and all others.
enum class Power { one, three_halves, two, five_halves, three, four, any };

// β, and β/2 - 1 = high + low, where `high` has so few digits that its product with an exponent is exact.
struct Exponent {
    float beta, slope, high, low;
};

struct Powers {
    float value, slope;  // t^(β/2) and t^(β/2 - 1), which is 0 at t = 0
};

struct Differential {
    float value, across, down;  // the term, and its derivatives with respect to dx and dy
};

// a b + c, in one rounding where the instruction set has it.
template <class Tag>
AFTERIMAGE_FORMULA float multiply_add(float a, float b, float c) {
    return a * b + c;
}

template <class Tag>
AFTERIMAGE_FORMULA std::int32_t bits_of(float value) {
    std::int32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

template <class Tag>
AFTERIMAGE_FORMULA float number_of(std::int32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Round to nearest, ties to even, by adding 1.5 · 2²³; the sum's lower bits hold the result as an integer.
constexpr float rounder = 12582912.0f;

// log2(1 + f) / f for 1 + f in [√½, √2], error 7e-9 of log2 (minimax fit).
template <class Tag>
AFTERIMAGE_FORMULA float logarithm_over(float f) {
    float sum = 0.12542768f;
    sum = multiply_add<Tag>(sum, f, -0.21028967f);
    sum = multiply_add<Tag>(sum, f, 0.21736577f);
    sum = multiply_add<Tag>(sum, f, -0.2385212f);
    sum = multiply_add<Tag>(sum, f, 0.28765875f);
    sum = multiply_add<Tag>(sum, f, -0.36072114f);
    sum = multiply_add<Tag>(sum, f, 0.48092243f);
    sum = multiply_add<Tag>(sum, f, -0.72134715f);
    return multiply_add<Tag>(sum, f, 1.4426949f);
}

// 2^r for r in [-½, ½], relative error 2e-9 (minimax fit).
template <class Tag>
AFTERIMAGE_FORMULA float exponential(float r) {
    float sum = 0.00015345812f;
    sum = multiply_add<Tag>(sum, r, 0.0013399931f);
    sum = multiply_add<Tag>(sum, r, 0.009618489f);
    sum = multiply_add<Tag>(sum, r, 0.055503286f);
    sum = multiply_add<Tag>(sum, r, 0.24022646f);
    sum = multiply_add<Tag>(sum, r, 0.6931472f);
    return multiply_add<Tag>(sum, r, 1.0f);
}

template <class Tag>
AFTERIMAGE_FORMULA float clamped(float value, float bound) {
    const float below = value < bound ? value : bound;
    return below > -bound ? below : -bound;
}

// t^(β/2 - 1) for finite t > 0, as 2^(exponent · log2 t); over- and underflow as they should.
template <class Tag>
AFTERIMAGE_FORMULA float power(float t, const Exponent& exponent) {
    const bool subnormal = t < 1.17549435e-38f;
    const std::int32_t bits = bits_of<Tag>(subnormal ? t * 16777216.0f : t);
    const std::int32_t octave = (bits - 0x3f3504f3) >> 23;  // t = mantissa · 2^octave, mantissa in [√½, √2)
    const float f = number_of<Tag>(bits - octave * (1 << 23)) - 1.0f;
    const float whole = static_cast<float>(subnormal ? octave - 24 : octave);
    const float high = exponent.high * whole;
    const float low = multiply_add<Tag>(exponent.slope * f, logarithm_over<Tag>(f), exponent.low * whole);
    const float rounded = clamped<Tag>(high + low, 252.0f) + rounder;
    const float rest = clamped<Tag>((high - (rounded - rounder)) + low, 1.0f);
    const std::int32_t twos = bits_of<Tag>(rounded) - bits_of<Tag>(rounder);
    const std::int32_t half = twos >> 1;  // in two steps, as 2^252 has no float
    return exponential<Tag>(rest) * number_of<Tag>((half + 127) << 23) * number_of<Tag>((twos - half + 127) << 23);
}

template <class Tag, Power which>
AFTERIMAGE_FORMULA Powers powers(float t, const Exponent& exponent) {
    if constexpr (which == Power::two) return {t, 1.0f};
    if constexpr (which == Power::four) return {t * t, t};
    if constexpr (which == Power::any) {
        const float finite = power<Tag>(t, exponent);
        const float limit = exponent.slope > 0.0f ? t : 0.0f;  // at infinity
        const float unbounded = t == t ? limit : t;
        const bool bounded = t < __builtin_inff();
        const float value = t * finite;
        const float slope = bounded ? finite : unbounded;
        return {bounded ? value : t, t == 0.0f ? 0.0f : slope};
    }
    const float root = __builtin_sqrtf(t);
    if constexpr (which == Power::three) return {t * root, root};
    if constexpr (which == Power::one) {
        const float slope = 1.0f / root;
        return {root, t == 0.0f ? 0.0f : slope};
    }
    const float fourth = __builtin_sqrtf(root);
    if constexpr (which == Power::five_halves) return {t * fourth, fourth};
    const float slope = 1.0f / fourth;
    return {root * fourth, t == 0.0f ? 0.0f : slope};
}

// `across` and `down` are the differences dx and dy, zero where a neighbor is missing.
template <class Tag, Power which, bool anisotropic>
AFTERIMAGE_FORMULA Differential total_variation(float across, float down, float eps, const Exponent& exponent) {
    if constexpr (anisotropic) {
        const Powers first = powers<Tag, which>(multiply_add<Tag>(across, across, eps), exponent);
        const Powers second = powers<Tag, which>(multiply_add<Tag>(down, down, eps), exponent);
        return {first.value + second.value, exponent.beta * first.slope * across, exponent.beta * second.slope * down};
    } else {
        const float square = multiply_add<Tag>(down, down, multiply_add<Tag>(across, across, eps));
        const Powers both = powers<Tag, which>(square, exponent);
        const float slope = exponent.beta * both.slope;
        return {both.value, slope * across, slope * down};
    }
}

}  // namespace afterimage::formula
