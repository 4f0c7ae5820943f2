#include <pybind11/pybind11.h>

#include "cpu/gram.h"
#include "cpu/guided_relu.h"
#include "cpu/isa.h"
#include "formula/number.h"

using namespace afterimage;
using unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;

// Tensors come as the integer addresses of their data.
PYBIND11_MODULE(_cpu, module) {
    module.doc() = "Afterimage's CPU kernels";
    module.def("isa", &isa_name);
    module.def("gram_float32", &cpu::gram<float>, unlocked());
    module.def("gram_bfloat16", &cpu::gram<bfloat16>, unlocked());
    module.def("gram_backward_float32", &cpu::gram_backward<float>, unlocked());
    module.def("gram_backward_bfloat16", &cpu::gram_backward<bfloat16>, unlocked());
    module.def("guided_relu_backward_float32", &cpu::guided_relu_backward<float>, unlocked());
    module.def("guided_relu_backward_bfloat16", &cpu::guided_relu_backward<bfloat16>, unlocked());
}
