#include "cpu/total_variation.h"

#include <cfloat>
#include <cmath>
#include <memory>
#include <numeric>
#include <type_traits>
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
constexpr std::int64_t chunk = 64 * lanes;  // what is computed of a row at a time stays in the first-level cache
constexpr std::int64_t least_rows = 32;

// A piece of one row in float32. The buffers hold whole vectors.
struct Piece {
    const float* here;
    const float* below;
    float* across;  // out: derivatives with respect to the differences to the right
    float* down;    // in: the derivatives from the row above; out: those to the row below
    float* rest;    // out: the gradient but for what comes from the left
    std::int64_t count, step;  // elements; the distance of the right neighbor
    float eps;
    Exponent exponent;
    double* sums;  // one per lane
};

template <Power which, bool anisotropic, bool gradient>
struct Terms {
    using Arguments = Piece;

    template <class Tag>
    static AFTERIMAGE_FORMULA void run(const Piece& piece) {
        const std::int64_t whole = piece.count / lanes * lanes;
        vectors<Tag>(piece, 0, whole / lanes, lanes);
        if (whole < piece.count) vectors<Tag>(piece, whole, 1, piece.count - whole);
    }

    template <class Tag>
    static AFTERIMAGE_FORMULA void vectors(const Piece& piece, std::int64_t first, std::int64_t count,
                                           std::int64_t counted) {
        float sums[lanes] = {};
        const float* here = piece.here + first;
        loop<Tag>(here, here + piece.step, piece.below + first, piece.across + first, piece.down + first,
                  piece.rest + first, sums, count, piece.eps, piece.exponent);
        for (std::int64_t lane = 0; lane < counted; ++lane) piece.sums[lane] += static_cast<double>(sums[lane]);
    }

    // Buffers as parameters, since compilers take no other pointer's word for it that they do not overlap.
    template <class Tag>
    static AFTERIMAGE_FORMULA void loop(const float* __restrict here, const float* __restrict right,
                                        const float* __restrict below, float* __restrict across,
                                        float* __restrict down, float* __restrict rest, float* __restrict sums,
                                        std::int64_t vectors, float eps, Exponent exponent) {
        for (std::int64_t vector = 0; vector < vectors; ++vector) {
            for (std::int64_t lane = 0; lane < lanes; ++lane) {
                const std::int64_t j = vector * lanes + lane;
                const auto term = formula::total_variation<Tag, which, anisotropic>(
                    right[j] - here[j], below[j] - here[j], eps, exponent);
                sums[lane] += term.value;
                if constexpr (gradient) {
                    across[j] = term.across;
                    rest[j] = down[j] - (term.across + term.down);
                    down[j] = term.down;
                }
            }
        }
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
    const float* across;
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
        const float* __restrict across = stretch.across;
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

using TermsKernel = void (*)(const Piece&);

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

// The rows of one channel, or of all channels side by side, cut into tiles of so many rows.
struct Planes {
    std::int64_t number, height, length, step, rows, tiles;

    explicit Planes(const Images& images) {
        number = images.number * (images.channels_last ? 1 : images.channels);
        height = images.height;
        length = images.width * (images.channels_last ? images.channels : 1);
        step = images.channels_last ? images.channels : 1;
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
    TermsKernel terms;
    void (*load)(const Stretch<const T>&);
    void (*store)(const Stretch<T>&);
};

// Elements of a row that the kernel reads where they are: whole vectors whose neighbors exist, of float32.
std::int64_t in_place(const float*, const Planes& planes) { return (planes.length - planes.step) / lanes * lanes; }
std::int64_t in_place(const bfloat16*, const Planes&) { return 0; }

// Computes one tile; the row above it is computed again for what it sends down.
template <class T>
class Tile {
  public:
    Tile(const Problem<T>& problem, std::int64_t index)
        : problem_(problem),
          planes_(problem.planes),
          top_(index % planes_.tiles * planes_.rows),
          bottom_(std::min(planes_.height, top_ + planes_.rows)),
          plane_(index / planes_.tiles * planes_.height * planes_.length),
          in_place_(in_place(problem.images, planes_)),
          copied_((planes_.length - in_place_ + lanes - 1) / lanes * lanes + planes_.step),
          buffers_(new float[2 * copied_ + planes_.length + 3 * lanes + 2 * chunk + planes_.step]()),
          here_(buffers_.get()),
          below_(here_ + copied_),
          down_(below_ + copied_),
          rest_(down_ + planes_.length + lanes),
          across_(rest_ + chunk + lanes) {}

    double sum() {
        const std::int64_t first = problem_.gradient && top_ > 0 ? top_ - 1 : top_;
        load(first, here_);
        for (std::int64_t i = first; i < bottom_; ++i) {
            const bool last = i + 1 == planes_.height;
            if (!last) load(i + 1, below_);
            row(i, last);
            if (i < top_) std::fill_n(sums_, lanes, 0.0);
            std::swap(here_, below_);
        }
        return std::accumulate(sums_, sums_ + lanes, 0.0);
    }

  private:
    std::int64_t at(std::int64_t i) const { return plane_ + i * planes_.length; }

    // Copies the end of a row; at the edge the last pixel is its own neighbor: the difference is 0.
    void load(std::int64_t i, float* buffer) const {
        const std::int64_t count = planes_.length - in_place_;
        problem_.load({problem_.images + at(i) + in_place_, buffer, nullptr, count});
        std::copy_n(buffer + count - planes_.step, planes_.step, buffer + count);
    }

    void row(std::int64_t i, bool last) {
        std::fill_n(across_, planes_.step, 0.0f);
        const std::int64_t next = last ? i : i + 1;
        for (std::int64_t begin = 0, end; begin < planes_.length; begin = end) {
            end = std::min(begin + chunk, begin < in_place_ ? in_place_ : planes_.length);
            piece(begin, end, pixels(i, here_, begin), pixels(next, last ? here_ : below_, begin));
            if (problem_.gradient && i >= top_) store(at(i) + begin, end - begin);
            std::copy_n(across_ + (end - begin), planes_.step, across_);
        }
    }

    const float* pixels(std::int64_t i, const float* copied, std::int64_t begin) const {
        if constexpr (std::is_same_v<T, float>)
            if (begin < in_place_) return problem_.images + at(i) + begin;
        return copied + (begin - in_place_);
    }

    void piece(std::int64_t begin, std::int64_t end, const float* here, const float* below) {
        problem_.terms({here, below, across_ + planes_.step, down_ + begin, rest_, end - begin, planes_.step,
                        problem_.eps, problem_.exponent, sums_});
    }

    void store(std::int64_t offset, std::int64_t count) const {
        problem_.store({problem_.gradient + offset, rest_, across_, count});
    }

    const Problem<T>& problem_;
    const Planes& planes_;
    const std::int64_t top_, bottom_, plane_, in_place_, copied_;
    const std::unique_ptr<float[]> buffers_;
    float *here_, *below_, *down_, *rest_, *across_;
    double sums_[lanes] = {};
};

template <class T>
void run(const Problem<T>& problem, float* values, std::int64_t number, int threads) {
    const std::int64_t tiles = problem.planes.number * problem.planes.tiles;
    std::vector<double> sums(tiles);
    parallel(tiles, threads, [&](std::int64_t index) { sums[index] = Tile<T>(problem, index).sum(); });
    const std::int64_t share = number ? tiles / number : 0;
    for (std::int64_t n = 0; n < number; ++n)
        values[n] = static_cast<float>(std::accumulate(&sums[0] + n * share, &sums[0] + (n + 1) * share, 0.0));
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
