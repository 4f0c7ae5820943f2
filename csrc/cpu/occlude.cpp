#include "cpu/occlude.h"

#include <algorithm>

#include "cpu/isa.h"
#include "cpu/parallel.h"
#include "formula/number.h"

namespace afterimage::cpu {
namespace {

struct Window {
    std::int64_t y0, x0, y1, x1;
};

// One plane per channel, of `width` elements a row; channels-last has one plane for all, `width` times as many a row.
struct Planes {
    std::int64_t batch, count, rows, row, column;  // elements per row and per column

    std::int64_t plane() const { return rows * row; }
    std::int64_t image() const { return count * plane(); }
};

Planes planes(std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, bool channels_last) {
    if (channels_last) return {batch, 1, height, width * channels, channels};
    return {batch, channels, height, width, 1};
}

// Calls outside(begin, end) and inside(y, begin, end) on the runs of elements that make up [begin, end) of a plane.
template <class Runs>
AFTERIMAGE_FORMULA void walk(const Runs& runs, const Planes& shape, const Window& window, std::int64_t begin,
                             std::int64_t end) {
    const std::int64_t first = std::max(window.y0, begin / shape.row);
    const std::int64_t last = std::min(window.y1, (end + shape.row - 1) / shape.row);
    for (std::int64_t y = first; y < last; ++y) {
        const std::int64_t left = std::max(y * shape.row + window.x0 * shape.column, begin);
        const std::int64_t right = std::min(y * shape.row + window.x1 * shape.column, end);
        if (left >= right) continue;
        runs.outside(begin, left);
        runs.inside(y, left, right);
        begin = right;
    }
    runs.outside(begin, end);
}

template <class Tag>
constexpr int bytes = 16;
template <>
constexpr int bytes<Avx2> = 32;
template <>
constexpr int bytes<Avx512> = 64;

// Vectors of any alignment over memory of any type.
template <int size>
struct Vector {
    typedef char type __attribute__((vector_size(size), aligned(1), may_alias));
};

template <int size>
AFTERIMAGE_FORMULA void move_one(char* to, const char* from) {
    *reinterpret_cast<typename Vector<size>::type*>(to) = *reinterpret_cast<const typename Vector<size>::type*>(from);
}

// Ends with a vector that overlaps the one before.
template <int size>
AFTERIMAGE_FORMULA void move(char* __restrict to, const char* __restrict from, std::int64_t count) {
    if (count < size) {
        if constexpr (size > 2) move<size / 2>(to, from, count);
        return;
    }
    std::int64_t i = 0;
    for (; i + 4 * size <= count; i += 4 * size) {
        typedef typename Vector<size>::type Bytes;
        const Bytes* const source = reinterpret_cast<const Bytes*>(from + i);
        const Bytes a = source[0], b = source[1], c = source[2], d = source[3];
        Bytes* const target = reinterpret_cast<Bytes*>(to + i);
        target[0] = a, target[1] = b, target[2] = c, target[3] = d;
    }
    for (; i + size <= count; i += size) move_one<size>(to + i, from + i);
    if (i < count) move_one<size>(to + count - size, from + count - size);
}

// The addresses are those of one plane.
template <class Tag, class T>
struct Fill {
    const T *image, *fill;
    T* output;
    std::int64_t back;  // a row's elements if the fill is one row for all, else 0

    AFTERIMAGE_FORMULA void outside(std::int64_t begin, std::int64_t end) const {
        copy(image + begin, output + begin, end - begin);
    }
    AFTERIMAGE_FORMULA void inside(std::int64_t y, std::int64_t begin, std::int64_t end) const {
        copy(fill + begin - y * back, output + begin, end - begin);
    }
    AFTERIMAGE_FORMULA static void copy(const T* from, T* to, std::int64_t count) {
        move<bytes<Tag>>(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(from), count * sizeof(T));
    }
};

template <class Tag, class T, bool take_inside>
struct Add {
    const T* grad_output;
    float* sums;

    AFTERIMAGE_FORMULA void outside(std::int64_t begin, std::int64_t end) const {
        if constexpr (!take_inside) add(begin, end);
    }
    AFTERIMAGE_FORMULA void inside(std::int64_t, std::int64_t begin, std::int64_t end) const {
        if constexpr (take_inside) add(begin, end);
    }
    AFTERIMAGE_FORMULA void add(std::int64_t begin, std::int64_t end) const {
        const T* __restrict terms = grad_output;
        float* __restrict totals = sums;
        for (std::int64_t i = begin; i < end; ++i) totals[i] += to_float<Tag>(terms[i]);
    }
};

template <class T>
struct Forward {
    Planes shape;
    const T *image, *fill;
    const Window* windows;
    T* output;
    bool picture;

    static constexpr std::int64_t chunk = (1 << 18) / sizeof(T);  // of the image, read for every window from the cache

    // Ordinary stores: streaming ones are the faster only beyond some 100 MB, where the pages are most often fresh and
    // they are the slower; and what is written is read next.
    template <class Tag>
    AFTERIMAGE_FORMULA void part(std::int64_t index, std::int64_t begin, std::int64_t end) const {
        const std::int64_t plane = index / shape.batch, window = index % shape.batch;
        const T* const filler = fill + plane * (picture ? shape.plane() : shape.row);
        T* const target = output + window * shape.image() + plane * shape.plane();
        walk(Fill<Tag, T>{image + plane * shape.plane(), filler, target, picture ? 0 : shape.row}, shape,
             windows[window], begin, end);
    }
    std::int64_t parts() const { return shape.batch; }
};

template <class T>
struct Backward {
    Planes shape;
    const T* grad_output;
    const Window* windows;
    float* grad;
    bool inside;

    static constexpr std::int64_t chunk = 1 << 12;  // these sums stay in the nearest cache

    template <class Tag>
    AFTERIMAGE_FORMULA void part(std::int64_t plane, std::int64_t begin, std::int64_t end) const {
        inside ? sum<Tag, true>(plane, begin, end) : sum<Tag, false>(plane, begin, end);
    }
    template <class Tag, bool take_inside>
    AFTERIMAGE_FORMULA void sum(std::int64_t plane, std::int64_t begin, std::int64_t end) const {
        float* const sums = grad + plane * shape.plane();
        for (std::int64_t i = begin; i < end; ++i) sums[i] = 0.0f;
        for (std::int64_t b = 0; b < shape.batch; ++b) {
            const T* const terms = grad_output + b * shape.image() + plane * shape.plane();
            walk(Add<Tag, T, take_inside>{terms, sums}, shape, windows[b], begin, end);
        }
    }
    std::int64_t parts() const { return 1; }
};

template <class Problem>
void baseline(const Problem& problem, std::int64_t index, std::int64_t begin, std::int64_t end) {
    problem.template part<Baseline>(index, begin, end);
}

template <class Problem>
AFTERIMAGE_TARGET_AVX2 void avx2(const Problem& problem, std::int64_t index, std::int64_t begin, std::int64_t end) {
    problem.template part<Avx2>(index, begin, end);
}

template <class Problem>
AFTERIMAGE_TARGET_AVX512 void avx512(const Problem& problem, std::int64_t index, std::int64_t begin,
                                     std::int64_t end) {
    problem.template part<Avx512>(index, begin, end);
}

// Cuts every plane into chunks, and these into the problem's parts.
template <class Problem>
void run(const Problem& problem, int threads) {
    const Planes& shape = problem.shape;
    if (shape.image() == 0) return;
    const auto kernel = isa() >= Isa::avx512 ? avx512<Problem> : isa() == Isa::avx2 ? avx2<Problem> : baseline<Problem>;
    const std::int64_t chunks = (shape.plane() + Problem::chunk - 1) / Problem::chunk, parts = problem.parts();
    const std::int64_t worth = std::max<std::int64_t>(1, shape.batch * shape.image() / grain);
    const int useful = static_cast<int>(std::min<std::int64_t>(threads, worth));
    parallel(shape.count * chunks * parts, useful, [&](std::int64_t place) {
        const std::int64_t part = place % parts, chunk = place / parts % chunks, plane = place / parts / chunks;
        const std::int64_t begin = chunk * Problem::chunk;
        kernel(problem, plane * parts + part, begin, std::min(shape.plane(), begin + Problem::chunk));
    });
}

}  // namespace

template <class T>
void occlude(std::uintptr_t image, std::uintptr_t windows, std::uintptr_t fill, std::uintptr_t output,
             std::int64_t batch, std::int64_t channels, std::int64_t height, std::int64_t width, bool channels_last,
             bool picture, int threads) {
    run(Forward<T>{planes(batch, channels, height, width, channels_last), reinterpret_cast<const T*>(image),
                   reinterpret_cast<const T*>(fill), reinterpret_cast<const Window*>(windows),
                   reinterpret_cast<T*>(output), picture},
        threads);
}

template <class T>
void occlude_backward(std::uintptr_t grad_output, std::uintptr_t windows, std::uintptr_t grad, std::int64_t batch,
                      std::int64_t channels, std::int64_t height, std::int64_t width, bool channels_last, bool inside,
                      int threads) {
    run(Backward<T>{planes(batch, channels, height, width, channels_last), reinterpret_cast<const T*>(grad_output),
                    reinterpret_cast<const Window*>(windows), reinterpret_cast<float*>(grad), inside},
        threads);
}

#define INSTANTIATE(T)                                                                                            \
    template void occlude<T>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t,        \
                             std::int64_t, std::int64_t, std::int64_t, bool, bool, int)
INSTANTIATE(std::uint16_t);
INSTANTIATE(std::uint32_t);
INSTANTIATE(std::uint64_t);
#undef INSTANTIATE
#define INSTANTIATE(T)                                                                                            \
    template void occlude_backward<T>(std::uintptr_t, std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t, \
                                      std::int64_t, std::int64_t, bool, bool, int)
INSTANTIATE(float);
INSTANTIATE(bfloat16);
#undef INSTANTIATE

}  // namespace afterimage::cpu
