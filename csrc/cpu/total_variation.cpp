#include "cpu/total_variation.h"

#include <cfloat>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/total_variation_avx512.h"
#include "cpu/total_variation_row.h"

namespace afterimage::formula {

template <>
AFTERIMAGE_FORMULA float multiply_add<Avx2>(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}

template <>
AFTERIMAGE_FORMULA float multiply_add<Avx512>(float a, float b, float c) {
    return __builtin_fmaf(a, b, c);
}

}  // namespace afterimage::formula

namespace afterimage::cpu {
namespace {

template <class T, Power which, bool anisotropic, bool gradient>
void baseline(const Row<T>& row) {
    total_variation_row<Baseline, T, which, anisotropic, gradient>(row);
}

template <class T, Power which, bool anisotropic, bool gradient>
AFTERIMAGE_TARGET_AVX2 void avx2(const Row<T>& row) {
    total_variation_row<Avx2, T, which, anisotropic, gradient>(row);
}

template <class T, Power which, bool anisotropic, bool gradient>
AFTERIMAGE_TARGET_AVX512 void avx512(const Row<T>& row) {
#ifdef AFTERIMAGE_X86
    wide::total_variation_row<T, which, anisotropic, gradient>(row);
#else
    total_variation_row<Baseline, T, which, anisotropic, gradient>(row);
#endif
}

template <class T>
using Kernel = void (*)(const Row<T>&);

template <class T, bool anisotropic, bool gradient, Power which>
Kernel<T> kernel() {
    if (isa() >= Isa::avx512) return avx512<T, which, anisotropic, gradient>;
    return isa() == Isa::avx2 ? avx2<T, which, anisotropic, gradient> : baseline<T, which, anisotropic, gradient>;
}

template <class T, bool anisotropic, bool gradient>
Kernel<T> kernel(double beta) {
    if (beta == 1.0) return kernel<T, anisotropic, gradient, Power::one>();
    if (beta == 1.5) return kernel<T, anisotropic, gradient, Power::three_halves>();
    if (beta == 2.0) return kernel<T, anisotropic, gradient, Power::two>();
    if (beta == 2.5) return kernel<T, anisotropic, gradient, Power::five_halves>();
    if (beta == 3.0) return kernel<T, anisotropic, gradient, Power::three>();
    if (beta == 4.0) return kernel<T, anisotropic, gradient, Power::four>();
    return kernel<T, anisotropic, gradient, Power::any>();
}

template <class T>
Kernel<T> kernel(double beta, bool anisotropic, bool gradient) {
    if (anisotropic) return gradient ? kernel<T, true, true>(beta) : kernel<T, true, false>(beta);
    return gradient ? kernel<T, false, true>(beta) : kernel<T, false, false>(beta);
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

constexpr std::int64_t least_rows = 32;  // of a tile, so that the row above it costs little

// The rows of one channel, or of all channels side by side, cut into tiles of so many rows.
struct Planes {
    std::int64_t number, height, length, step, rows, tiles;

    Planes(std::int64_t images, std::int64_t channels, std::int64_t rows_of_plane, std::int64_t width,
           bool channels_last) {
        number = images * (channels_last ? 1 : channels);
        height = rows_of_plane;
        length = width * (channels_last ? channels : 1);
        step = channels_last ? channels : 1;
        rows = std::max(least_rows, grain / std::max<std::int64_t>(length, 1));
        tiles = length ? (height + rows - 1) / rows : 0;  // of one plane
    }
};

template <class T>
struct Problem {
    const T* images;
    T* gradient;  // or null
    Planes planes;
    float eps;
    Exponent exponent;
    Kernel<T> kernel;
};

struct alignas(64) Vector {
    float lanes[cpu::lanes];
};

// Fetches what the next row will need while this one is computed from the first-level cache.
template <class T>
void prefetch(const T* row, T* gradient, std::int64_t length) {
    constexpr std::int64_t line = 64 / sizeof(T), most = 128 * line;
    for (std::int64_t j = 0; j < std::min(length, most); j += line) {
        __builtin_prefetch(row + j);
        if (gradient) __builtin_prefetch(gradient + j, 1);
    }
}

// Sums one tile; the row above it is computed again for what it sends down.
template <class T>
double sum(const Problem<T>& problem, std::int64_t index) {
    const Planes& planes = problem.planes;
    const std::int64_t top = index % planes.tiles * planes.rows, bottom = std::min(planes.height, top + planes.rows);
    const std::int64_t plane = index / planes.tiles * planes.height;
    const std::int64_t whole = (planes.length / lanes + 1) * lanes;
    const std::unique_ptr<Vector[]> buffers(new Vector[(2 * whole + planes.step) / lanes + 1]);
    float* down = buffers[0].lanes;
    std::fill_n(down, whole, 0.0f);
    double sums[lanes] = {};
    for (std::int64_t i = problem.gradient && top > 0 ? top - 1 : top; i < bottom; ++i) {
        const std::int64_t at = (plane + i) * planes.length;
        const bool last = i + 1 == planes.height, outside = i < top;
        const T* here = problem.images + at;
        T* gradient = problem.gradient && !outside ? problem.gradient + at : nullptr;
        if (i + 2 < std::min(planes.height, bottom + 1))
            prefetch(problem.images + at + 2 * planes.length, gradient ? gradient + planes.length : nullptr,
                     planes.length);
        problem.kernel({here, last ? here : here + planes.length, gradient, down, down + whole, planes.length,
                        planes.step, last, problem.eps, problem.exponent, sums});
        if (outside) std::fill_n(sums, lanes, 0.0);
    }
    return std::accumulate(sums, sums + lanes, 0.0);
}

template <class T>
void run(const Problem<T>& problem, float* values, std::int64_t number, int threads) {
    const std::int64_t tiles = problem.planes.number * problem.planes.tiles;
    std::vector<double> sums(tiles);
    parallel(tiles, threads, [&](std::int64_t index) { sums[index] = sum(problem, index); });
    const std::int64_t share = number ? tiles / number : 0;
    for (std::int64_t n = 0; n < number; ++n)
        values[n] = static_cast<float>(std::accumulate(sums.data() + n * share, sums.data() + (n + 1) * share, 0.0));
}

}  // namespace

template <class T>
void total_variation(std::uintptr_t images, std::uintptr_t values, std::int64_t number, std::int64_t channels,
                     std::int64_t height, std::int64_t width, bool channels_last, double beta, double eps,
                     bool anisotropic, int threads) {
    total_variation_with_gradient<T>(images, values, 0, number, channels, height, width, channels_last, beta, eps,
                                     anisotropic, threads);
}

template <class T>
void total_variation_with_gradient(std::uintptr_t images, std::uintptr_t values, std::uintptr_t gradient,
                                   std::int64_t number, std::int64_t channels, std::int64_t height,
                                   std::int64_t width, bool channels_last, double beta, double eps, bool anisotropic,
                                   int threads) {
    const Problem<T> problem{reinterpret_cast<const T*>(images), reinterpret_cast<T*>(gradient),
                             Planes(number, channels, height, width, channels_last), static_cast<float>(eps),
                             exponent_of(beta), kernel<T>(beta, anisotropic, gradient != 0)};
    run(problem, reinterpret_cast<float*>(values), number, threads);
}

template void total_variation<float>(std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t, std::int64_t,
                                     std::int64_t, bool, double, double, bool, int);
template void total_variation<bfloat16>(std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t, std::int64_t,
                                        std::int64_t, bool, double, double, bool, int);
template void total_variation_with_gradient<float>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t,
                                                   std::int64_t, std::int64_t, std::int64_t, bool, double, double,
                                                   bool, int);
template void total_variation_with_gradient<bfloat16>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t,
                                                      std::int64_t, std::int64_t, std::int64_t, bool, double, double,
                                                      bool, int);

}  // namespace afterimage::cpu
