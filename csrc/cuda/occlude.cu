#include "cuda/occlude.h"

#include <algorithm>

#include "cuda/intrinsics.h"
#include "cuda/launch.h"
#include "cuda/pack.h"

namespace afterimage::cuda {
namespace {

constexpr int threads = 256;
constexpr std::int64_t windows_at_once = 16;  // for which a thread reads image and fill once

struct Window {
    std::int64_t y0, x0, y1, x1;
};

// One plane per channel, of `width` elements a row; channels-last has one plane for all, `width` times as many a row.
struct Planes {
    std::int64_t batch, count, rows, row, column;  // elements per row and per column

    __host__ __device__ std::int64_t image() const { return count * rows * row; }
};

Planes planes(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, bool channels_last) {
    if (channels_last) return {batch, 1, height, width * channels, channels};
    return {batch, channels, height, width, 1};
}

// Where a thread's elements lie: all in one row.
struct Place {
    std::int64_t plane, y, x;

    __device__ Place(const Planes& shape, std::int64_t first)
        : plane(first / shape.row / shape.rows), y(first / shape.row % shape.rows), x(first % shape.row) {}

    __device__ bool crosses(const Window& window) const { return y >= window.y0 && y < window.y1; }
};

__device__ __forceinline__ bool covers(const Window& window, const Planes& shape, std::int64_t x) {
    return x >= window.x0 * shape.column && x < window.x1 * shape.column;
}

template <class T, int count>
__global__ void __launch_bounds__(threads)
    fill_windows(Planes shape, const T* image, const T* fill, const Window* windows, T* output, bool picture,
                 std::int64_t blocks) {
    const std::int64_t first = (blockIdx.x % blocks * threads + threadIdx.x) * count;
    if (first >= shape.image()) return;
    const Place place(shape, first);
    const std::int64_t begin = blockIdx.x / blocks * windows_at_once, end = min(shape.batch, begin + windows_at_once);
    const Pack<T, count> original = load<T, count>(image + first);
    const Pack<T, count> filler = load<T, count>(fill + (picture ? first : place.plane * shape.row + place.x));
    for (std::int64_t b = begin; b < end; ++b) {
        const Window window = windows[b];
        Pack<T, count> result = original;
        if (place.crosses(window)) {
#pragma unroll
            for (int i = 0; i < count; ++i)
                if (covers(window, shape, place.x + i)) result[i] = filler[i];
        }
        store(output + b * shape.image() + first, result);
    }
}

template <class T, int count>
__global__ void __launch_bounds__(threads)
    sum_windows(Planes shape, const T* grad_output, const Window* windows, float* grad, bool inside) {
    const std::int64_t first = (std::int64_t{blockIdx.x} * threads + threadIdx.x) * count;
    if (first >= shape.image()) return;
    const Place place(shape, first);
    float sums[count] = {};
#pragma unroll 4
    for (std::int64_t b = 0; b < shape.batch; ++b) {
        const Window window = windows[b];
        const bool crosses = place.crosses(window);
        if (inside && !crosses) continue;
        const Pack<T, count> terms = load<T, count>(grad_output + b * shape.image() + first);
#pragma unroll
        for (int i = 0; i < count; ++i)
            if ((crosses && covers(window, shape, place.x + i)) == inside) sums[i] += to_float<Cuda>(terms[i]);
    }
    constexpr int step = count < 4 ? count : 4;
#pragma unroll
    for (int start = 0; start < count; start += step) {
        Pack<float, step> result;
#pragma unroll
        for (int i = 0; i < step; ++i) result[i] = sums[start + i];
        store(grad + first + start, result);
    }
}

// Whether all packs of 16 bytes are aligned and none reaches into the next row.
template <class T>
bool wide(const Planes& shape, std::uintptr_t first, std::uintptr_t second, std::uintptr_t third) {
    return aligned(first) && aligned(second) && aligned(third) && shape.row % widest<T> == 0;
}

}  // namespace

template <class T>
void occlude(std::uintptr_t image, std::uintptr_t windows, std::uintptr_t fill, std::uintptr_t output,
             std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, bool channels_last,
             bool picture, int device, std::uintptr_t stream) {
    const Queue queue("occlude", device, stream);
    const Planes shape = planes(batch, channels, height, width, channels_last);
    const bool packs = wide<T>(shape, image, fill, output);
    const std::int64_t blocks = ceil_div(shape.image(), threads * (packs ? widest<T> : 1));
    queue.launch(packs ? fill_windows<T, widest<T>> : fill_windows<T, 1>, blocks * ceil_div(batch, windows_at_once),
                 threads, shape, reinterpret_cast<const T*>(image), reinterpret_cast<const T*>(fill),
                 reinterpret_cast<const Window*>(windows), reinterpret_cast<T*>(output), picture, blocks);
}

template <class T>
void occlude_backward(std::uintptr_t grad_output, std::uintptr_t windows, std::uintptr_t grad, std::int64_t batch,
                      std::int64_t channels, std::int64_t height, std::int64_t width, bool channels_last, bool inside,
                      int device, std::uintptr_t stream) {
    const Queue queue("occlude_backward", device, stream);
    const Planes shape = planes(batch, channels, height, width, channels_last);
    const bool packs = wide<T>(shape, grad_output, grad, grad);
    queue.launch(packs ? sum_windows<T, widest<T>> : sum_windows<T, 1>,
                 ceil_div(shape.image(), threads * (packs ? widest<T> : 1)), threads, shape,
                 reinterpret_cast<const T*>(grad_output), reinterpret_cast<const Window*>(windows),
                 reinterpret_cast<float*>(grad), inside);
}

#define INSTANTIATE(T)                                                                                      \
    template void occlude<T>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, \
                             std::int64_t, std::int64_t, std::int64_t, bool, bool, int, std::uintptr_t)
INSTANTIATE(std::uint16_t);
INSTANTIATE(std::uint32_t);
INSTANTIATE(std::uint64_t);
#undef INSTANTIATE
#define INSTANTIATE(T)                                                                                            \
    template void occlude_backward<T>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t, \
                                      std::int64_t, std::int64_t, bool, bool, int, std::uintptr_t)
INSTANTIATE(float);
INSTANTIATE(bfloat16);
INSTANTIATE(float16);
#undef INSTANTIATE

}  // namespace afterimage::cuda
