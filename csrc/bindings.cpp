#include <pybind11/pybind11.h>

#include <functional>
#include <vector>

#include "cpu/exceeding.h"
#include "cpu/gram.h"
#include "cpu/guided_relu.h"
#include "cpu/isa.h"
#include "cpu/nearest_texture.h"
#include "cpu/occlude.h"
#include "cpu/tile_convolution.h"
#include "cpu/total_variation.h"
#include "formula/number.h"

using namespace afterimage;
using unlocked = pybind11::call_guard<pybind11::gil_scoped_release>;

namespace {

// Calls of kernels with their arguments, made one after the other: threads that wait for the next one are still awake.
struct Program {
    std::vector<std::function<void()>> calls;
    void run() const {
        for (const auto& call : calls) call();
    }
};

template <class... Arguments>
auto recorded(void (*kernel)(Arguments...)) {
    return [kernel](Program& program, Arguments... arguments) {
        program.calls.push_back([=] { kernel(arguments...); });
    };
}

}  // namespace

// Tensors come as the integer addresses of their data.
PYBIND11_MODULE(_cpu, module) {
    module.doc() = "Afterimage's CPU kernels";
    module.def("isa", &isa_name);
    module.def("exceeding_float32", &cpu::exceeding, unlocked());
    module.def("guided_relu_float32", &cpu::guided_relu<float>, unlocked());
    module.def("guided_relu_bfloat16", &cpu::guided_relu<bfloat16>, unlocked());
    module.def("gram_float32", &cpu::gram<float>, unlocked());
    module.def("gram_bfloat16", &cpu::gram<bfloat16>, unlocked());
    module.def("gram_backward_float32", &cpu::gram_backward<float>, unlocked());
    module.def("gram_backward_bfloat16", &cpu::gram_backward<bfloat16>, unlocked());
    module.def("guided_relu_backward_float32", &cpu::guided_relu_backward<float>, unlocked());
    module.def("guided_relu_backward_bfloat16", &cpu::guided_relu_backward<bfloat16>, unlocked());
    module.def("nearest_texture_uint8", &cpu::nearest_texture, unlocked());
    module.def("occlude_float64", &cpu::occlude<std::uint64_t>, unlocked());
    module.def("occlude_float32", &cpu::occlude<std::uint32_t>, unlocked());
    module.def("occlude_float16", &cpu::occlude<std::uint16_t>, unlocked());
    module.def("occlude_bfloat16", &cpu::occlude<std::uint16_t>, unlocked());
    module.def("occlude_backward_float32", &cpu::occlude_backward<float>, unlocked());
    module.def("occlude_backward_bfloat16", &cpu::occlude_backward<bfloat16>, unlocked());
    pybind11::enum_<cpu::Edges>(module, "Edges")
        .value("reflect", cpu::Edges::reflect)
        .value("repeat", cpu::Edges::repeat)
        .value("zero", cpu::Edges::zero);
    module.def("tile_convolution", &cpu::tile_convolution, unlocked());
    module.def("tile_maps", &cpu::tile_maps, unlocked());
    module.def("tile_exceeding", &cpu::tile_exceeding, unlocked());
    pybind11::class_<Program>(module, "Program")
        .def(pybind11::init<>())
        .def("tile_convolution", recorded(&cpu::tile_convolution))
        .def("tile_maps", recorded(&cpu::tile_maps))
        .def("run", &Program::run, unlocked());
    module.def("total_variation_float32", &cpu::total_variation<float>, unlocked());
    module.def("total_variation_bfloat16", &cpu::total_variation<bfloat16>, unlocked());
    module.def("total_variation_with_gradient_float32", &cpu::total_variation_with_gradient<float>, unlocked());
    module.def("total_variation_with_gradient_bfloat16", &cpu::total_variation_with_gradient<bfloat16>, unlocked());
}
