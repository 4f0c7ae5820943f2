// Guided ReLU: the input between 0 and a ceiling; backward, the gradient where the rule lets it pass, +0 elsewhere.
#pragma once

#include "formula/number.h"

namespace afterimage::formula {

// Comparisons are such that NaN stays and passes, as in torch's threshold_backward; a NaN ceiling is no ceiling.
template <class Tag, class T>
AFTERIMAGE_FORMULA T guided_relu(T input, T ceiling) {
    const float value = to_float<Tag>(input);
    return value > to_float<Tag>(ceiling) ? ceiling : select<Tag>(!(value < 0.0f), input);
}

template <class Tag, class T>
AFTERIMAGE_FORMULA bool guided_relu_bit(T input, T ceiling) {
    const float value = to_float<Tag>(input);
    return !(value <= 0.0f) & !(value >= to_float<Tag>(ceiling));
}

template <class Tag, class T>
AFTERIMAGE_FORMULA T guided_relu_backward(T grad_output, bool bit, bool use_gradient) {
    return select<Tag>(bit & (!use_gradient | !(to_float<Tag>(grad_output) <= 0.0f)), grad_output);
}

}  // namespace afterimage::formula
