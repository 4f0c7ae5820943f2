#include <pybind11/pybind11.h>

PYBIND11_MODULE(_cpu, module) { module.doc() = "Afterimage's CPU kernels"; }
