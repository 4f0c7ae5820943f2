// Stands in for CUDA's header: kernels run on the host, one block after the other, each thread of a block a coroutine
// that goes on until it waits for others. AFTERIMAGE_EMULATED_ORDER=last begins each round at the last thread, so that
// what depends on the order between two barriers shows as a difference; a wait that never ends throws.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#define __CUDA_ARCH__ 900
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    dim3(unsigned x = 1) : x(x) {}
};

inline dim3 blockIdx, threadIdx;

namespace emulated {

// The threads of a block or of a warp that wait for each other.
struct Barrier {
    int arrived = 0;
    long round = 0;
};

struct Warp {
    Barrier barrier;
    std::uint32_t words[32][8];
};

struct Block {
    std::vector<ucontext_t> threads;
    std::vector<std::unique_ptr<char[]>> stacks;
    std::vector<bool> done;
    std::vector<Warp> warps;
    Barrier barrier;
    ucontext_t scheduler;
    int current = 0, size = 0;
    bool moved = false;
    std::function<void()> body;
};

inline Block block;

inline void pause() { swapcontext(&block.threads[block.current], &block.scheduler); }

inline void wait(Barrier& barrier, int members) {
    block.moved = true;
    const long round = barrier.round;
    if (++barrier.arrived == members) {
        barrier.arrived = 0;
        ++barrier.round;
        return;
    }
    while (barrier.round == round) pause();
    block.moved = true;
}

inline Warp& warp() { return block.warps[block.current / 32]; }
inline int lane() { return block.current % 32; }

// What each lane says, to be read by all of them until `heard`.
template <int count>
auto& tell(const std::uint32_t (&words)[count]) {
    static_assert(count <= 8);
    std::copy_n(words, count, warp().words[lane()]);
    wait(warp().barrier, 32);
    return warp().words;
}

inline void heard() { wait(warp().barrier, 32); }

inline void enter() {
    block.body();
    block.done[block.current] = block.moved = true;
    setcontext(&block.scheduler);
}

inline void run_block(int size) {
    constexpr std::size_t stack = 64 << 10;
    block.size = size;
    block.threads.resize(size);
    block.done.assign(size, false);
    block.warps.assign((size + 31) / 32, {});
    block.barrier = {};
    while (block.stacks.size() < static_cast<std::size_t>(size)) block.stacks.emplace_back(new char[stack]);
    for (int i = 0; i < size; ++i) {
        getcontext(&block.threads[i]);
        block.threads[i].uc_stack.ss_sp = block.stacks[i].get();
        block.threads[i].uc_stack.ss_size = stack;
        makecontext(&block.threads[i], enter, 0);
    }
    const char* const order = std::getenv("AFTERIMAGE_EMULATED_ORDER");
    const bool backwards = order && std::string(order) == "last";
    do {
        block.moved = false;
        for (int i = 0; i < size; ++i) {
            block.current = backwards ? size - 1 - i : i;
            threadIdx = dim3(block.current);
            if (!block.done[block.current]) swapcontext(&block.scheduler, &block.threads[block.current]);
        }
        if (!block.moved) throw std::runtime_error("threads wait at a barrier that others never reach");
    } while (std::count(block.done.begin(), block.done.end(), false));
}

}  // namespace emulated

inline void __syncthreads() { emulated::wait(emulated::block.barrier, emulated::block.size); }

inline float shuffled(float value, int lane) {
    std::uint32_t word[1];
    std::memcpy(word, &value, sizeof word);
    const auto& words = emulated::tell(word);
    if (lane >= 0 && lane < 32) std::memcpy(&value, words[lane], sizeof value);
    emulated::heard();
    return value;
}

inline float __shfl_xor_sync(unsigned, float value, int mask) { return shuffled(value, emulated::lane() ^ mask); }
inline float __shfl_up_sync(unsigned, float value, int by) { return shuffled(value, emulated::lane() - by); }
inline float __shfl_down_sync(unsigned, float value, int by) { return shuffled(value, emulated::lane() + by); }

using std::isinf;
using std::max;
using std::min;

enum cudaError_t { cudaSuccess };
enum cudaDeviceAttr { cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor };
typedef struct CUstream_st* cudaStream_t;

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    cudaStream_t stream;
};

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

// AFTERIMAGE_EMULATED_CAPABILITY: 75, 80, 90.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const char* const asked = std::getenv("AFTERIMAGE_EMULATED_CAPABILITY");
    const int capability = asked ? std::atoi(asked) : 90;
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? capability / 10 : capability % 10;
    return cudaSuccess;
}

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments... arguments) {
    emulated::block.body = [=] { kernel(static_cast<Parameters>(arguments)...); };
    for (unsigned i = 0; i < config->gridDim.x; ++i) {
        blockIdx = dim3(i);
        emulated::run_block(config->blockDim.x);
    }
    return cudaSuccess;
}
