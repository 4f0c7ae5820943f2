#include <pybind11/pybind11.h>

#include "cuda/gram.h"
#include "cuda/guided_relu.h"
#include "cuda/occlude.h"
#include "cuda/total_variation.h"
#include "formula/number.h"

using namespace afterimage;
using unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;

// Names and arguments are those of _cpu, with device and stream in the place of threads. Where there is a
// NAME_workspace it tells, of the same arguments and the device, how many bytes NAME takes before these two.
PYBIND11_MODULE(_cuda, module) {
    module.doc() = "Afterimage's CUDA kernels";
    module.def("gram_float32", &cuda::gram<float>, unlocked());
    module.def("gram_bfloat16", &cuda::gram<bfloat16>, unlocked());
    module.def("gram_float16", &cuda::gram<float16>, unlocked());
    module.def("gram_float32_workspace", &cuda::gram_workspace<float>, unlocked());
    module.def("gram_bfloat16_workspace", &cuda::gram_workspace<bfloat16>, unlocked());
    module.def("gram_float16_workspace", &cuda::gram_workspace<float16>, unlocked());
    module.def("guided_relu_float32", &cuda::guided_relu<float>, unlocked());
    module.def("guided_relu_bfloat16", &cuda::guided_relu<bfloat16>, unlocked());
    module.def("guided_relu_float16", &cuda::guided_relu<float16>, unlocked());
    module.def("guided_relu_backward_float32", &cuda::guided_relu_backward<float>, unlocked());
    module.def("guided_relu_backward_bfloat16", &cuda::guided_relu_backward<bfloat16>, unlocked());
    module.def("guided_relu_backward_float16", &cuda::guided_relu_backward<float16>, unlocked());
    module.def("occlude_float64", &cuda::occlude<std::uint64_t>, unlocked());
    module.def("occlude_float32", &cuda::occlude<std::uint32_t>, unlocked());
    module.def("occlude_bfloat16", &cuda::occlude<std::uint16_t>, unlocked());
    module.def("occlude_float16", &cuda::occlude<std::uint16_t>, unlocked());
    module.def("occlude_backward_float32", &cuda::occlude_backward<float>, unlocked());
    module.def("occlude_backward_bfloat16", &cuda::occlude_backward<bfloat16>, unlocked());
    module.def("occlude_backward_float16", &cuda::occlude_backward<float16>, unlocked());
    module.def("total_variation_float32", &cuda::total_variation<float>, unlocked());
    module.def("total_variation_bfloat16", &cuda::total_variation<bfloat16>, unlocked());
    module.def("total_variation_float16", &cuda::total_variation<float16>, unlocked());
    module.def("total_variation_float32_workspace", &cuda::total_variation_workspace<float>, unlocked());
    module.def("total_variation_bfloat16_workspace", &cuda::total_variation_workspace<bfloat16>, unlocked());
    module.def("total_variation_float16_workspace", &cuda::total_variation_workspace<float16>, unlocked());
    module.def("total_variation_with_gradient_float32", &cuda::total_variation_with_gradient<float>, unlocked());
    module.def("total_variation_with_gradient_bfloat16", &cuda::total_variation_with_gradient<bfloat16>, unlocked());
    module.def("total_variation_with_gradient_float16", &cuda::total_variation_with_gradient<float16>, unlocked());
    module.def("total_variation_with_gradient_float32_workspace",
               &cuda::total_variation_with_gradient_workspace<float>);
    module.def("total_variation_with_gradient_bfloat16_workspace",
               &cuda::total_variation_with_gradient_workspace<bfloat16>);
    module.def("total_variation_with_gradient_float16_workspace",
               &cuda::total_variation_with_gradient_workspace<float16>);
}
