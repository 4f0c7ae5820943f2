// Guided ReLU, backward: the gradient where the rule lets it pass, +0 elsewhere.
#pragma once

#include "formula/number.h"

namespace afterimage::formula {

// Comparisons are negated so that NaN passes, as in torch's threshold_backward; a NaN ceiling is no ceiling.
template <class Tag, bool use_forward, bool use_gradient, class T>
AFTERIMAGE_FORMULA T guided_relu_backward(T grad_output, T output, float ceiling) {
    const float gradient = to_float<Tag>(grad_output);
    const float value = to_float<Tag>(output);
    const bool forward_passes = (!use_forward) | (!(value <= 0.0f) & !(value >= ceiling));
    const bool gradient_passes = (!use_gradient) | !(gradient <= 0.0f);
    return select<Tag>(forward_passes & gradient_passes, grad_output);
}

}  // namespace afterimage::formula
