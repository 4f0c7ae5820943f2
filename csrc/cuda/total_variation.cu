#include "cuda/total_variation.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "cuda/intrinsics.h"
#include "cuda/launch.h"
#include "cuda/pack.h"
#include "formula/total_variation.h"

namespace afterimage::cuda {
namespace {

using formula::Differential;
using formula::Exponent;
using formula::Power;

constexpr int warps = 4;  // of a block; each has a strip of one plane to itself

// A plane is one channel or, channels-last, all of them: its rows are `length` elements, its pixels `step`.
struct Strips {
    std::int64_t number, planes, height, length, step;
    std::int64_t rows, columns;  // of a strip
    std::int64_t down, along;    // strips of a plane

    std::int64_t share() const { return number ? planes / number * down * along : 0; }  // of an image
    __host__ __device__ std::int64_t total() const { return planes * down * along; }
};

// A warp's lanes hold one pack each. Where the neighbor of an element lies at most a pack away the lanes hand on what
// they have, and the first and the last lane are there for that alone; elsewhere each reads and computes it again.
template <class T>
bool hands_on(std::int64_t step) {
    return step == 1 || step == 3;
}

template <class T>
Strips strips(std::int64_t number, std::int64_t channels, std::int64_t height, std::int64_t width,
              bool channels_last) {
    constexpr std::int64_t tall = 32, low = 8, enough = 8192;  // enough warps for 128 multiprocessors
    Strips cut{};
    cut.number = number;
    cut.planes = number * (channels_last ? 1 : channels);
    cut.height = height;
    cut.length = width * (channels_last ? channels : 1);
    cut.step = channels_last ? channels : 1;
    cut.columns = (hands_on<T>(cut.step) ? 30 : 32) * widest<T>;
    cut.along = ceil_div(cut.length, cut.columns);
    cut.rows = cut.planes * cut.along * ceil_div(height, tall) < enough ? low : tall;
    cut.down = ceil_div(height, cut.rows);
    return cut;
}

template <class T>
struct Problem {
    Strips cut;
    const T* images;
    T* gradient;  // or null
    float* sums;  // one per strip
    float eps;
    Exponent exponent;
    bool anisotropic, aligned;
};

template <class T, Power which, int step>
struct Strip {
    static constexpr int size = widest<T>;
    static constexpr bool hand_on = step > 0;
    using Raw = Pack<T, size>;

    const Problem<T>& problem;
    const T* plane;
    std::int64_t column;  // of the lane's first element; left of the plane for the first lane of the first strip
    std::int64_t shift;   // from a pixel to the next
    bool counts;          // not there for its neighbors alone

    __device__ bool inside(int i) const { return column + i >= 0 && column + i < problem.cut.length; }

    // The row's elements `offset` from the lane's own, zero outside.
    __device__ Raw read(std::int64_t row, std::int64_t offset) const {
        const std::int64_t first = column + offset, length = problem.cut.length;
        Raw raw{};
        if (row >= problem.cut.height) return raw;
        const T* const from = plane + row * length + first;
        if (problem.aligned && offset == 0) {
            if (first >= 0 && first < length) raw = load<T, size>(from);
            return raw;
        }
#pragma unroll
        for (int i = 0; i < size; ++i)
            if (first + i >= 0 && first + i < length) raw[i] = from[i];
        return raw;
    }

    __device__ void write(std::int64_t row, const float (&values)[size]) const {
        Raw raw;
#pragma unroll
        for (int i = 0; i < size; ++i) assign<Cuda>(raw[i], values[i]);
        T* const to = problem.gradient + (plane - problem.images) + row * problem.cut.length + column;
        if (problem.aligned) {
            if (inside(0)) store(to, raw);
            return;
        }
#pragma unroll
        for (int i = 0; i < size; ++i)
            if (inside(i)) to[i] = raw[i];
    }

    __device__ Differential term(float across, float down) const {
        if (problem.anisotropic)
            return formula::total_variation<Cuda, which, true>(across, down, problem.eps, problem.exponent);
        return formula::total_variation<Cuda, which, false>(across, down, problem.eps, problem.exponent);
    }

    __device__ static void widen(float (&values)[size], const Raw& raw) {
#pragma unroll
        for (int i = 0; i < size; ++i) values[i] = to_float<Cuda>(raw[i]);
    }

    // Elements `step` to the right, the last ones from the next lane.
    __device__ void from_right(float (&right)[size], const float (&here)[size], std::int64_t row) const {
        if constexpr (hand_on) {
#pragma unroll
            for (int i = 0; i < step; ++i) right[size - step + i] = __shfl_down_sync(0xffffffffu, here[i], 1);
#pragma unroll
            for (int i = 0; i < size - step; ++i) right[i] = here[i + step];
        } else {
            widen(right, read(row, shift));
        }
    }

    // What the terms of the pixels on the left send: their derivative with respect to `across`.
    __device__ void from_left(float (&sent)[size], const float (&across)[size], const float (&here)[size],
                              std::int64_t row) const {
        if constexpr (hand_on) {
#pragma unroll
            for (int i = 0; i < step; ++i) sent[i] = __shfl_up_sync(0xffffffffu, across[size - step + i], 1);
#pragma unroll
            for (int i = step; i < size; ++i) sent[i] = across[i - step];
        } else {
            float left[size], below[size];
            widen(left, read(row, -shift));
            widen(below, read(row + 1, -shift));
            const bool last = row + 1 >= problem.cut.height;
#pragma unroll
            for (int i = 0; i < size; ++i)
                sent[i] = column + i < shift ? 0.0f : term(here[i] - left[i], last ? 0.0f : below[i] - left[i]).across;
        }
    }

    // Rows [first, last), after the one above, which sends into the first.
    __device__ float run(std::int64_t first, std::int64_t last) const {
        const std::int64_t start = problem.gradient != nullptr && first > 0 ? first - 1 : first;
        float here[size], below[size], from_above[size] = {}, sum = 0.0f;
        widen(here, read(start, 0));
        widen(below, read(start + 1, 0));
        Raw next = read(start + 2, 0), after = read(start + 3, 0);
        for (std::int64_t row = start; row < last; ++row) {
            const Raw later = row + 4 <= last ? read(row + 4, 0) : Raw{};
            float right[size], across[size], sent[size], result[size];
            from_right(right, here, row);
#pragma unroll
            for (int i = 0; i < size; ++i) {
                const bool paired = column + i >= 0 && column + i + shift < problem.cut.length;
                const float down = row + 1 < problem.cut.height ? below[i] - here[i] : 0.0f;
                const Differential found = term(paired ? right[i] - here[i] : 0.0f, down);
                if (row >= first && counts && inside(i)) sum += found.value;
                across[i] = found.across;
                result[i] = from_above[i] - found.across - found.down;
                from_above[i] = found.down;
            }
            if (problem.gradient != nullptr) {
                from_left(sent, across, here, row);
#pragma unroll
                for (int i = 0; i < size; ++i) result[i] += sent[i];
                if (row >= first && counts) write(row, result);
            }
#pragma unroll
            for (int i = 0; i < size; ++i) here[i] = below[i];
            widen(below, next);
            next = after;
            after = later;
        }
        return sum;
    }
};

template <class T, Power which, int step>
__global__ void __launch_bounds__(32 * warps) total_variation_strips(Problem<T> problem) {
    const Strips& cut = problem.cut;
    const std::int64_t index = std::int64_t{blockIdx.x} * warps + threadIdx.x / 32;
    const int lane = threadIdx.x % 32, margin = step > 0 ? 1 : 0;
    if (index >= cut.total()) return;
    const std::int64_t plane = index / cut.along / cut.down, top = index / cut.along % cut.down * cut.rows;
    const std::int64_t column = index % cut.along * cut.columns + (lane - margin) * widest<T>;
    const Strip<T, which, step> strip{problem, problem.images + plane * cut.height * cut.length, column,
                                      step > 0 ? step : cut.step, lane >= margin && lane < 32 - margin};
    float sum = strip.run(top, min(top + cut.rows, cut.height));
    for (int reach = 16; reach > 0; reach /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, reach);
    if (lane == 0) problem.sums[index] = sum;
}

// One block per image.
__global__ void __launch_bounds__(256) total_variation_sums(std::int64_t share, const float* sums, float* values) {
    __shared__ double subtotals[256];
    double subtotal = 0.0;
    for (std::int64_t i = threadIdx.x; i < share; i += 256) subtotal += sums[blockIdx.x * share + i];
    subtotals[threadIdx.x] = subtotal;
    for (int reach = 128; reach > 0; reach /= 2) {
        __syncthreads();
        if (threadIdx.x < reach) subtotals[threadIdx.x] += subtotals[threadIdx.x + reach];
    }
    if (threadIdx.x == 0) values[blockIdx.x] = static_cast<float>(subtotals[0]);
}

// Beyond 2^40 every power of a float32 but 1 is 0 or infinite, and stays so.
Exponent exponent_of(double beta) {
    const double slope = std::min(beta / 2 - 1, 0x1p40);
    int octave;
    const double mantissa = std::frexp(slope, &octave);
    const double high = std::ldexp(std::nearbyint(std::ldexp(mantissa, 16)), octave - 16);
    return {static_cast<float>(std::min<double>(beta, FLT_MAX)), static_cast<float>(slope), static_cast<float>(high),
            static_cast<float>(slope - high)};
}

template <class T>
using Kernel = void (*)(Problem<T>);

template <class T, int step>
Kernel<T> kernel(double beta) {
    if (beta == 1.0) return total_variation_strips<T, Power::one, step>;
    if (beta == 2.0) return total_variation_strips<T, Power::two, step>;
    return total_variation_strips<T, Power::any, step>;
}

template <class T>
Kernel<T> kernel(double beta, std::int64_t step) {
    if (!hands_on<T>(step)) return total_variation_strips<T, Power::any, 0>;
    return step == 1 ? kernel<T, 1>(beta) : kernel<T, 3>(beta);
}

}  // namespace

template <class T>
void total_variation(std::uintptr_t images, std::uintptr_t values, std::int64_t number, std::int64_t channels,
                     std::int64_t height, std::int64_t width, bool channels_last, double beta, double eps,
                     bool anisotropic, std::uintptr_t workspace, int device, std::uintptr_t stream) {
    total_variation_with_gradient<T>(images, values, 0, number, channels, height, width, channels_last, beta, eps,
                                     anisotropic, workspace, device, stream);
}

template <class T>
void total_variation_with_gradient(std::uintptr_t images, std::uintptr_t values, std::uintptr_t gradient,
                                   std::int64_t number, std::int64_t channels, std::int64_t height,
                                   std::int64_t width, bool channels_last, double beta, double eps, bool anisotropic,
                                   std::uintptr_t workspace, int device, std::uintptr_t stream) {
    const Queue queue("total_variation", device, stream);
    const Strips cut = strips<T>(number, channels, height, width, channels_last);
    float* const sums = reinterpret_cast<float*>(workspace);
    const bool whole = aligned(images) && aligned(gradient) && cut.length % widest<T> == 0;
    const Problem<T> problem{cut, reinterpret_cast<const T*>(images), reinterpret_cast<T*>(gradient), sums,
                             static_cast<float>(eps), exponent_of(beta), anisotropic, whole};
    queue.launch(kernel<T>(beta, cut.step), ceil_div(cut.total(), warps), 32 * warps, problem);
    queue.launch(total_variation_sums, number, 256, cut.share(), sums, reinterpret_cast<float*>(values));
}

template <class T>
std::int64_t total_variation_workspace(std::uintptr_t, std::uintptr_t, std::int64_t number, std::int64_t channels,
                                       std::int64_t height, std::int64_t width, bool channels_last, double, double,
                                       bool, int) {
    return strips<T>(number, channels, height, width, channels_last).total() * static_cast<std::int64_t>(sizeof(float));
}

template <class T>
std::int64_t total_variation_with_gradient_workspace(std::uintptr_t, std::uintptr_t, std::uintptr_t,
                                                     std::int64_t number, std::int64_t channels, std::int64_t height,
                                                     std::int64_t width, bool channels_last, double, double, bool,
                                                     int) {
    return total_variation_workspace<T>(0, 0, number, channels, height, width, channels_last, 0, 0, false, 0);
}

#define INSTANTIATE(T)                                                                                              \
    template void total_variation<T>(std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t, std::int64_t,      \
                                     std::int64_t, bool, double, double, bool, std::uintptr_t, int,                 \
                                     std::uintptr_t);                                                               \
    template void total_variation_with_gradient<T>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t,    \
                                                   std::int64_t, std::int64_t, std::int64_t, bool, double, double,  \
                                                   bool, std::uintptr_t, int, std::uintptr_t);                      \
    template std::int64_t total_variation_workspace<T>(std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t,  \
                                                       std::int64_t, std::int64_t, bool, double, double, bool, int); \
    template std::int64_t total_variation_with_gradient_workspace<T>(                                               \
        std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool, \
        double, double, bool, int)
INSTANTIATE(float);
INSTANTIATE(bfloat16);
INSTANTIATE(float16);
#undef INSTANTIATE

}  // namespace afterimage::cuda
