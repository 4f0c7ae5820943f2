#include "cpu/total_variation.h"

#include <cfloat>
#include <cmath>
#include <memory>
#include <vector>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "formula/total_variation.h"

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

using formula::Exponent;
using formula::Power;

constexpr std::int64_t lanes = 16;
constexpr std::int64_t tile_width = 1024, least_rows = 16;  // six buffers of such a row stay in the first-level cache

// One row of a tile, in float32. All buffers hold whole vectors and `step` more, the distance of a pixel's neighbor.
struct Row {
    const float* here;
    const float* below;
    float* terms;
    float* across;  // from the left neighbor's term, `step` elements on
    float* down;    // from the term above; then from here, for the row below
    float* rest;    // the gradient but for `across`
    std::int64_t count, lead, step;  // elements; the first `lead` belong to the tile on the left
    float eps;
    Exponent exponent;
    double* sums;  // one per lane
};

template <Power which, bool anisotropic, bool gradient>
struct Terms {
    using Arguments = Row;

    // Buffers as parameters, since compilers take no other pointer's word for it that they do not overlap.
    template <class Tag>
    static AFTERIMAGE_FORMULA void loop(const float* __restrict here, const float* __restrict right,
                                        const float* __restrict below, float* __restrict terms,
                                        float* __restrict across, float* __restrict down, float* __restrict rest,
                                        std::int64_t count, float eps, Exponent exponent) {
        for (std::int64_t j = 0; j < count; ++j) {
            const auto term = formula::total_variation<Tag, which, anisotropic>(right[j] - here[j], below[j] - here[j],
                                                                                eps, exponent);
            terms[j] = term.value;
            if constexpr (gradient) {
                across[j] = term.across;
                rest[j] = down[j] - (term.across + term.down);
                down[j] = term.down;
            }
        }
    }

    template <class Tag>
    static AFTERIMAGE_FORMULA void run(const Row& row) {
        const std::int64_t whole = (row.count + lanes - 1) / lanes * lanes;
        float* terms = row.terms;
        loop<Tag>(row.here, row.here + row.step, row.below, terms, row.across + row.step, row.down, row.rest, whole,
                  row.eps, row.exponent);
        for (std::int64_t j = 0; j < row.lead; ++j) terms[j] = 0.0f;
        for (std::int64_t j = row.count; j < whole; ++j) terms[j] = 0.0f;
        float sums[lanes] = {};
        for (std::int64_t j = 0; j < whole; j += lanes)
            for (std::int64_t lane = 0; lane < lanes; ++lane) sums[lane] += terms[j + lane];
        double* __restrict totals = row.sums;
        for (std::int64_t lane = 0; lane < lanes; ++lane) totals[lane] += static_cast<double>(sums[lane]);
    }
};

template <class Tag>
AFTERIMAGE_FORMULA void narrow(float value, float& result) {
    result = value;
}

// To nearest, ties to even; NaN stays NaN.
template <class Tag>
AFTERIMAGE_FORMULA void narrow(float value, bfloat16& result) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    result.bits = static_cast<std::uint16_t>(value == value ? rounded : 0x7fc0);
}

template <class T>
struct Stretch {
    T* image;
    float* buffer;
    const float* other;
    std::int64_t count;
};

template <class T>
struct Load {
    using Arguments = Stretch<const T>;

    template <class Tag>
    static AFTERIMAGE_FORMULA void run(const Arguments& stretch) {
        const T* __restrict image = stretch.image;
        float* __restrict buffer = stretch.buffer;
        for (std::int64_t j = 0; j < stretch.count; ++j) buffer[j] = to_float<Tag>(image[j]);
    }
};

template <class T>
struct Store {
    using Arguments = Stretch<T>;

    template <class Tag>
    static AFTERIMAGE_FORMULA void run(const Arguments& stretch) {
        T* __restrict image = stretch.image;
        const float* __restrict rest = stretch.buffer;
        const float* __restrict across = stretch.other;
        for (std::int64_t j = 0; j < stretch.count; ++j) narrow<Tag>(rest[j] + across[j], image[j]);
    }
};

template <class Work>
void baseline(const typename Work::Arguments& arguments) {
    Work::template run<Baseline>(arguments);
}

template <class Work>
AFTERIMAGE_TARGET_AVX2 void avx2(const typename Work::Arguments& arguments) {
    Work::template run<Avx2>(arguments);
}

template <class Work>
AFTERIMAGE_TARGET_AVX512 void avx512(const typename Work::Arguments& arguments) {
    Work::template run<Avx512>(arguments);
}

template <class Work>
auto chosen() {
    return isa() >= Isa::avx512 ? avx512<Work> : isa() == Isa::avx2 ? avx2<Work> : baseline<Work>;
}

using TermsKernel = void (*)(const Row&);

template <bool anisotropic, bool gradient>
TermsKernel terms_kernel(double beta) {
    if (beta == 1.0) return chosen<Terms<Power::one, anisotropic, gradient>>();
    if (beta == 1.5) return chosen<Terms<Power::three_halves, anisotropic, gradient>>();
    if (beta == 2.0) return chosen<Terms<Power::two, anisotropic, gradient>>();
    if (beta == 2.5) return chosen<Terms<Power::five_halves, anisotropic, gradient>>();
    if (beta == 3.0) return chosen<Terms<Power::three, anisotropic, gradient>>();
    if (beta == 4.0) return chosen<Terms<Power::four, anisotropic, gradient>>();
    return chosen<Terms<Power::any, anisotropic, gradient>>();
}

template <bool gradient>
TermsKernel terms_kernel(double beta, bool anisotropic) {
    return anisotropic ? terms_kernel<true, gradient>(beta) : terms_kernel<false, gradient>(beta);
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

// The rows of one channel, or of all channels side by side, and how they are cut into tiles.
struct Planes {
    std::int64_t number, height, length, step;
    std::int64_t tile_rows, tile_length, down, along;  // tiles per plane

    explicit Planes(const Images& images) {
        number = images.number * (images.channels_last ? 1 : images.channels);
        height = images.height;
        length = images.width * (images.channels_last ? images.channels : 1);
        step = images.channels_last ? std::max<std::int64_t>(images.channels, 1) : 1;
        const std::int64_t most = std::max<std::int64_t>(tile_width / step, 8) * step;
        along = (length + most - 1) / most;
        tile_length = along ? (length / step + along - 1) / along * step : 0;
        tile_rows = tile_length ? std::max(least_rows, grain / tile_length) : 1;
        down = (height + tile_rows - 1) / tile_rows;
    }

    std::int64_t tiles() const { return number * down * along; }
};

template <class T>
struct Problem {
    const T* images;
    T* gradient;  // or null
    Planes planes;
    float eps;
    Exponent exponent;
    TermsKernel terms;
    void (*load)(const Stretch<const T>&);
    void (*store)(const Stretch<T>&);
};

// The sum over one tile; the row above it and the pixel on its left are computed again for what they send into it.
template <class T>
class Tile {
  public:
    Tile(const Problem<T>& problem, std::int64_t index) : problem_(problem), planes_(problem.planes) {
        const std::int64_t plane = index / (planes_.down * planes_.along);
        top_ = index / planes_.along % planes_.down * planes_.tile_rows;
        bottom_ = std::min(planes_.height, top_ + planes_.tile_rows);
        const std::int64_t left = index % planes_.along * planes_.tile_length;
        end_ = std::min(planes_.length, left + planes_.tile_length);
        lead_ = problem.gradient && left > 0 ? planes_.step : 0;
        begin_ = left - lead_;
        plane_ = plane * planes_.height * planes_.length;
    }

    double sum() {
        const std::int64_t count = end_ - begin_, whole = (count + lanes - 1) / lanes * lanes + planes_.step;
        const std::unique_ptr<float[]> buffers(new float[6 * whole]());
        double sums[lanes] = {};
        float *here = buffers.get(), *below = here + whole;
        Row row{here, below, here + 2 * whole, here + 3 * whole, here + 4 * whole, here + 5 * whole,
                count, lead_, planes_.step, problem_.eps, problem_.exponent, sums};
        const std::int64_t first = problem_.gradient && top_ > 0 ? top_ - 1 : top_;
        load(first, here);
        for (std::int64_t i = first; i < bottom_; ++i) {
            if (i + 1 < planes_.height) load(i + 1, below);
            row.here = here;
            row.below = i + 1 < planes_.height ? below : here;
            problem_.terms(row);
            if (i < top_) std::fill_n(sums, lanes, 0.0);
            else if (problem_.gradient) store(i, row);
            std::swap(here, below);
        }
        double sum = 0.0;
        for (double part : sums) sum += part;
        return sum;
    }

  private:
    // At the image's edge the last pixel is its own neighbor: the difference is 0.
    void load(std::int64_t i, float* buffer) const {
        const std::int64_t count = std::min(planes_.length, end_ + planes_.step) - begin_;
        problem_.load({problem_.images + plane_ + i * planes_.length + begin_, buffer, nullptr, count});
        if (end_ == planes_.length) std::copy_n(buffer + count - planes_.step, planes_.step, buffer + count);
    }

    void store(std::int64_t i, const Row& row) const {
        T* image = problem_.gradient + plane_ + i * planes_.length + begin_ + lead_;
        problem_.store({image, row.rest + lead_, row.across + lead_, row.count - lead_});
    }

    const Problem<T>& problem_;
    const Planes& planes_;
    std::int64_t top_, bottom_, begin_, end_, lead_, plane_;
};

template <class T>
void run(const Problem<T>& problem, float* values, std::int64_t number, int threads) {
    std::vector<double> sums(problem.planes.tiles());
    parallel(problem.planes.tiles(), threads,
             [&](std::int64_t index) { sums[index] = Tile<T>(problem, index).sum(); });
    const std::int64_t share = number ? problem.planes.tiles() / number : 0;
    for (std::int64_t n = 0; n < number; ++n) {
        double sum = 0.0;
        for (std::int64_t index = n * share; index < (n + 1) * share; ++index) sum += sums[index];
        values[n] = static_cast<float>(sum);
    }
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
    const TermsKernel terms = gradient ? terms_kernel<true>(beta, anisotropic) : terms_kernel<false>(beta, anisotropic);
    const Problem<T> problem{reinterpret_cast<const T*>(images), reinterpret_cast<T*>(gradient),
                             Planes(Images{number, channels, height, width, channels_last}), static_cast<float>(eps),
                             exponent_of(beta), terms, chosen<Load<T>>(), chosen<Store<T>>()};
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
