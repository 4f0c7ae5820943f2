// Launching a kernel on torch's stream, with its failure thrown.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace afterimage::cuda {

inline void check(const char* name, cudaError_t status) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // or the next launch would report it again
    throw std::runtime_error(std::string(name) + ": " + cudaGetErrorString(status));
}

// Where a call runs; the device becomes the thread's current one.
class Queue {
  public:
    Queue(const char* name, int device, std::uintptr_t stream)
        : name_(name), device_(device), stream_(reinterpret_cast<cudaStream_t>(stream)) {
        check(name, cudaSetDevice(device));
    }

    // No blocks: nothing is launched.
    template <class... Parameters, class... Arguments>
    void launch(void (*kernel)(Parameters...), std::int64_t blocks, int threads, Arguments... arguments) const {
        if (blocks == 0) return;
        if (blocks > INT32_MAX) throw std::runtime_error(std::string(name_) + ": more elements than a launch can take");
        cudaLaunchConfig_t config{};
        config.gridDim = dim3(static_cast<unsigned>(blocks));
        config.blockDim = dim3(static_cast<unsigned>(threads));
        config.stream = stream_;
        check(name_, cudaLaunchKernelEx(&config, kernel, arguments...));
        check(name_, cudaGetLastError());
    }

    // Of the device: 75 for compute capability 7.5.
    int capability() const {
        int major = 0, minor = 0;
        check(name_, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device_));
        check(name_, cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device_));
        return 10 * major + minor;
    }

  private:
    const char* name_;
    int device_;
    cudaStream_t stream_;
};

__host__ __device__ inline std::int64_t ceil_div(std::int64_t number, std::int64_t by) {
    return (number + by - 1) / by;
}

}  // namespace afterimage::cuda
