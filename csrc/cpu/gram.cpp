#include "cpu/gram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/gram_step.h"
#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"

namespace afterimage::cpu {
namespace {

// Positions that share one set of sums. Few enough for float32, and four parts an image if it is not small: a part
// costs a pass over its squares.
std::int64_t part_length(std::int64_t positions) {
    constexpr std::int64_t least = 512, most = 4096;
    return std::clamp((positions / 4 + least - 1) / least * least, least, most);
}

// The squares of all parts of an image, and what there is to correct.
struct Total {
    const float* squares;
    std::int64_t parts, distance;  // between one part's and the next one's
    const double *rows, *columns;  // offsets of the mean, of 32 channels each
    double positions, scale;
};

// In float64: there may be hundreds of parts.
template <bool center>
AFTERIMAGE_FORMULA void add(const Total& total, float* values) {
    double sums[square] = {};
    for (std::int64_t part = 0; part < total.parts; ++part)
        for (std::int64_t i = 0; i < square; ++i) sums[i] += total.squares[part * total.distance + i];
    for (std::int64_t row = 0; row < panel; ++row)
        for (std::int64_t column = 0; column < panel; ++column) {
            const double correction = center ? total.positions * total.rows[row] * total.columns[column] : 0.0;
            const double sum = sums[row * panel + column] - correction;
            values[row * panel + column] = static_cast<float>(sum * total.scale);
        }
}

template <bool center>
void baseline(const Total& total, float* values) {
    add<center>(total, values);
}

template <bool center>
AFTERIMAGE_TARGET_AVX2 void avx2(const Total& total, float* values) {
    add<center>(total, values);
}

template <bool center>
AFTERIMAGE_TARGET_AVX512 void avx512(const Total& total, float* values) {
    add<center>(total, values);
}

template <bool center>
auto adder() {
    return isa() >= Isa::avx512 ? avx512<center> : isa() == Isa::avx2 ? avx2<center> : baseline<center>;
}

template <class T>
class Gram {
  public:
    Gram(const T* features, float* products, std::int64_t images, std::int64_t channels, std::int64_t positions,
         bool channels_last, bool center, double scale, int threads)
        : features_(features), products_(products), images_(images), channels_(channels), positions_(positions),
          channel_stride_(channels_last ? 1 : positions), position_stride_(channels_last ? channels : 1),
          center_(center), scale_(scale), threads_(threads), panels_(panels_of(channels)),
          length_(part_length(positions)), parts_((positions + length_ - 1) / length_),
          step_(isa() >= Isa::amx ? gram_step_amx<T>(channels, center) : gram_step_vector<T>(channels)),
          add_(center ? adder<true>() : adder<false>()),
          squares_(new float[images * parts_ * squares_of(panels_) * square]) {
        if (!center) return;
        shift_.resize(images * panels_ * panel);
        sums_.resize(images * parts_ * panels_ * panel);
    }

    void run() {
        if (center_) parallel(images_ * panels_, threads_, [&](std::int64_t task) { estimate(task); });
        parallel(images_ * parts_, threads_, [&](std::int64_t part) { multiply(part); });
        parallel(images_ * panels_, threads_, [&](std::int64_t task) { finish(task / panels_, task % panels_); });
    }

  private:
    Block<T> block(std::int64_t image, std::int64_t position, std::int64_t count) const {
        const T* first = features_ + image * channels_ * positions_ + position * position_stride_;
        const float* shift = center_ ? &shift_[image * panels_ * panel] : nullptr;
        return {first, channels_, channel_stride_, count, position_stride_, shift};
    }

    // A bfloat16: rectified features hold many zeros, and what the tiles round off at one would add up over all.
    static float coarse(float value) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        bits &= 0xffff0000u;
        std::memcpy(&value, &bits, sizeof value);
        return value;
    }

    static std::int64_t scattered(std::int64_t sample, std::int64_t positions) {
        const double turns = (sample + 0.5) * 0.61803398874989485;
        return static_cast<std::int64_t>((turns - std::floor(turns)) * positions);
    }

    // The mean of a few positions, so that little is left to correct: subtracting P·m·mᵀ from the plain sums would
    // cancel where means are large. The golden ratio scatters them: at even distances they could all lie in one column.
    void estimate(std::int64_t task) {
        const std::int64_t samples = std::min<std::int64_t>(16, positions_);
        Block<T> all = block(task / panels_, 0, positions_);
        all.shift = nullptr;
        for (std::int64_t lane = 0; lane < panel; ++lane) {
            double sum = 0.0;
            for (std::int64_t sample = 0; sample < samples; ++sample)
                sum += value<Baseline>(all, task % panels_ * panel + lane, scattered(sample, positions_));
            shift_[task * panel + lane] = samples ? coarse(static_cast<float>(sum / samples)) : 0.0f;
        }
    }

    void multiply(std::int64_t part) {
        const std::int64_t image = part / parts_, begin = part % parts_ * length_;
        const std::int64_t end = std::min(begin + length_, positions_);
        float* squares = &squares_[part * squares_of(panels_) * square];
        std::fill_n(squares, squares_of(panels_) * square, 0.0f);
        float* sums = center_ ? &sums_[part * panels_ * panel] : nullptr;
        step_.run(block(image, begin, end - begin), workspace(step_.bytes), squares, sums);
    }

    // How far the estimated means were off.
    void offsets(std::int64_t image, std::int64_t index, double* offsets) const {
        for (std::int64_t lane = 0; center_ && lane < panel; ++lane) {
            offsets[lane] = 0.0;
            for (std::int64_t part = image * parts_; part < (image + 1) * parts_; ++part)
                offsets[lane] += sums_[(part * panels_ + index) * panel + lane] / static_cast<double>(positions_);
        }
    }

    void finish(std::int64_t image, std::int64_t row) {
        double rows[panel], columns[panel];
        float values[square];
        const std::int64_t distance = squares_of(panels_) * square;
        offsets(image, row, rows);
        for (std::int64_t column = row; column < panels_; ++column) {
            offsets(image, column, columns);
            const float* squares = &squares_[image * parts_ * distance + square_index(panels_, row, column) * square];
            add_({squares, parts_, distance, rows, columns, static_cast<double>(positions_), scale_}, values);
            write(image, row * panel, column * panel, values);
        }
    }

    // A square and its mirror image; of those on the diagonal only the upper triangle is taken.
    void write(std::int64_t image, std::int64_t row, std::int64_t column, float* values) {
        float* products = products_ + image * channels_ * channels_;
        const std::int64_t height = std::min(panel, channels_ - row), width = std::min(panel, channels_ - column);
        if (row == column)
            for (std::int64_t i = 1; i < panel; ++i)
                for (std::int64_t j = 0; j < i; ++j) values[i * panel + j] = values[j * panel + i];
        for (std::int64_t i = 0; i < height; ++i)
            std::copy_n(values + i * panel, width, products + (row + i) * channels_ + column);
        if (row == column) return;
        for (std::int64_t j = 0; j < width; ++j)
            for (std::int64_t i = 0; i < height; ++i)
                products[(column + j) * channels_ + row + i] = values[i * panel + j];
    }

    const T* features_;
    float* products_;
    std::int64_t images_, channels_, positions_, channel_stride_, position_stride_;
    bool center_;
    double scale_;
    int threads_;
    std::int64_t panels_, length_, parts_;
    Step<T> step_;
    void (*add_)(const Total&, float*);
    std::unique_ptr<float[]> squares_;
    std::vector<float> shift_, sums_;
};

}  // namespace

template <class T>
void gram(std::uintptr_t features, std::uintptr_t products, std::int64_t images, std::int64_t channels,
          std::int64_t positions, bool channels_last, bool center, double scale, int threads) {
    if (images * channels == 0) return;
    Gram<T>(reinterpret_cast<const T*>(features), reinterpret_cast<float*>(products), images, channels, positions,
            channels_last, center, scale, threads)
        .run();
}

template void gram<float>(std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t, std::int64_t, bool, bool, double,
                          int);
template void gram<bfloat16>(std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t, std::int64_t, bool, bool,
                             double, int);

}  // namespace afterimage::cpu
