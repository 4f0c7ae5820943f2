#include <pybind11/pybind11.h>

#include "cpu/guided_relu.h"
#include "cpu/isa.h"
#include "cpu/occlude.h"
#include "formula/number.h"

using namespace afterimage;
using unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;

// Tensors come as the integer addresses of their data.
PYBIND11_MODULE(_cpu, module) {
    module.doc() = "Afterimage's CPU kernels";
    module.def("isa", &isa_name);
    module.def("guided_relu_backward_float32", &cpu::guided_relu_backward<float>, unlocked());
    module.def("guided_relu_backward_bfloat16", &cpu::guided_relu_backward<bfloat16>, unlocked());
    module.def("occlude_float64", &cpu::occlude<std::uint64_t>, unlocked());
    module.def("occlude_float32", &cpu::occlude<std::uint32_t>, unlocked());
    module.def("occlude_float16", &cpu::occlude<std::uint16_t>, unlocked());
    module.def("occlude_bfloat16", &cpu::occlude<std::uint16_t>, unlocked());
    module.def("occlude_backward_float32", &cpu::occlude_backward<float>, unlocked());
    module.def("occlude_backward_bfloat16", &cpu::occlude_backward<bfloat16>, unlocked());
}
