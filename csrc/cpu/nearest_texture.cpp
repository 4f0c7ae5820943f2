#include "cpu/nearest_texture.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "cpu/nearest_texture_neighborhood.h"
#include "cpu/parallel.h"
#include "cpu/workspace.h"

namespace afterimage::cpu {
namespace {

constexpr std::int32_t no_limit = 2147483647;

// What the texture of one image is made of and made into.
struct Picture {
    Sample sample;
    const std::uint8_t *initial, *coarser_canvas;
    std::uint8_t* canvas;
    std::int64_t* sources;
    const std::int64_t *coarser_sources, *draws;
};

struct Found {
    std::int32_t distance, place;
};

// One level, the same for all images.
struct Level {
    std::int64_t channels, height, width, window, bottom, right;
    double eps;
    std::vector<Neighbor> neighbors;
    Layout layout;
    Torus rows, columns, coarser_rows, coarser_columns;
    std::int64_t first, blocks;        // of the candidates
    std::vector<std::uint32_t> valid;  // candidates of each block
    std::uint32_t (*compare)(const Terms&, const Pair*, std::uint32_t, std::int32_t, std::int32_t*);

    Level(const Sample& sample, std::int64_t height, std::int64_t width, std::int64_t window, std::int64_t bottom,
          std::int64_t right, double eps)
        : channels(sample.channels), height(height), width(width), window(window), bottom(bottom), right(right),
          eps(eps), neighbors(cpu::neighbors(window, sample.coarser)), layout(sample, neighbors), rows(height, half()),
          columns(width, half()), coarser_rows(sample.coarser ? (height + 1) / 2 : 0, half()),
          coarser_columns(sample.coarser ? (width + 1) / 2 : 0, half()), first(place(half(), half())),
          blocks((place(bottom - 1, right - 1) - first) / block + 1), valid(blocks) {
        for (std::int64_t y = half(); y < bottom; ++y)
            for (std::int64_t x = half(); x < right; ++x) {
                const std::int64_t at = place(y, x) - first;
                valid[at / block] |= std::uint32_t{1} << at % block;
            }
        compare = isa() >= Isa::avx512 ? avx512<std::int32_t>
                  : isa() == Isa::avx2 ? avx2<std::int32_t>
                                       : baseline<std::int32_t>;
    }

    std::int64_t half() const { return window / 2; }
    std::int64_t place(std::int64_t y, std::int64_t x) const { return y * layout.stride + x; }
    std::int64_t candidates() const { return (bottom - half()) * (right - half()); }

    // Each row begins so many columns after the one above, on whose pixels it waits.
    std::int64_t start(std::int64_t y) const { return y * half() % width; }

    // How many pixels of the row above have to be there for pixel i of a row; all, where the window reaches round.
    std::int64_t needed(std::int64_t i) const {
        return height > half() ? std::min(width, i + 2 * half() + 1) : width;
    }
};

// One row of one image.
class Row {
  public:
    Row(const Level& level, const Picture& picture, const Pair* planes, std::int64_t y)
        : level_(level), picture_(picture), planes_(planes), y_(y) {
        const std::int64_t query = (level.layout.terms() * sizeof(Pair) + 63) / 64 * 64;
        char* memory = static_cast<char*>(workspace(query + (level.candidates() + 1) * sizeof(Found)));
        query_ = reinterpret_cast<Pair*>(memory);
        found_ = reinterpret_cast<Found*>(memory + query);
        std::fill_n(query_, level.layout.terms(), Pair{});
    }

    void pixel(std::int64_t i) {
        const std::int64_t x = (level_.start(y_) + i) % level_.width;
        gather(i, x);
        const std::int64_t place = search(bound(i, x), x);
        const std::int64_t y = place / level_.layout.stride, from = place % level_.layout.stride;
        const Sample& sample = picture_.sample;
        picture_.sources[y_ * level_.width + x] = y * sample.width + from;
        for (std::int64_t c = 0; c < level_.channels; ++c)
            picture_.canvas[(c * level_.height + y_) * level_.width + x] = sample.value(c, y, from, false);
    }

  private:
    // Whether (y, x) has had its turn before pixel i of this row.
    bool done(std::int64_t y, std::int64_t x, std::int64_t i) const {
        return y != y_ ? y < y_ : (x + level_.width - level_.start(y_)) % level_.width < i;
    }

    void gather(std::int64_t i, std::int64_t x) {
        std::int16_t* const query = reinterpret_cast<std::int16_t*>(query_);
        for (std::int64_t k = 0; k < static_cast<std::int64_t>(level_.neighbors.size()); ++k) {
            const Neighbor& neighbor = level_.neighbors[k];
            const std::uint8_t* from = picture_.coarser_canvas;
            std::int64_t plane, place;
            if (neighbor.coarser) {
                const std::int64_t width = (level_.width + 1) / 2;
                plane = (level_.height + 1) / 2 * width;
                place = level_.coarser_rows[y_ / 2 + neighbor.dy] * width + level_.coarser_columns[x / 2 + neighbor.dx];
            } else {
                const std::int64_t row = level_.rows[y_ + neighbor.dy], column = level_.columns[x + neighbor.dx];
                from = done(row, column, i) ? picture_.canvas : picture_.initial;
                plane = level_.height * level_.width;
                place = row * level_.width + column;
            }
            for (std::int64_t c = 0; c < level_.channels; ++c)
                query[level_.layout.slot(k, level_.channels, c)] = from[c * plane + place];
        }
    }

    // The least distance of those candidates that continue what the neighbors were copied from: an upper bound.
    std::int32_t bound(std::int64_t i, std::int64_t x) const {
        std::int32_t limit = no_limit;
        const std::int64_t above = level_.rows[y_ - 1], left = level_.columns[x - 1], width = picture_.sample.width;
        if (done(above, x, i)) limit = nearer(picture_.sources[above * level_.width + x], width, 1, 0, 1, limit);
        if (done(y_, left, i)) limit = nearer(picture_.sources[y_ * level_.width + left], width, 0, 1, 1, limit);
        if (!picture_.coarser_sources) return limit;
        const std::int64_t parent = y_ / 2 * ((level_.width + 1) / 2) + x / 2;
        return nearer(picture_.coarser_sources[parent], picture_.sample.coarser_width, y_ % 2, x % 2, 2, limit);
    }

    std::int32_t nearer(std::int64_t source, std::int64_t width, std::int64_t dy, std::int64_t dx, std::int64_t scale,
                        std::int32_t limit) const {
        const std::int64_t y = source / width * scale + dy, x = source % width * scale + dx, half = level_.half();
        if (y < half || y >= level_.bottom || x < half || x >= level_.right) return limit;
        std::int32_t distances[block];
        const bool near = level_.compare(terms(), planes_ + level_.place(y, x), 1, limit, distances);
        return near ? std::min(limit, distances[0]) : limit;
    }

    std::int64_t search(std::int32_t bound, std::int64_t x) {
        std::int32_t best = bound, limit = picture_.draws ? farthest(bound) : bound, distances[block];
        std::int64_t number = 0;
        for (std::int64_t index = 0; index < level_.blocks && limit >= 0; ++index) {
            const std::int64_t place = level_.first + index * block;
            for (std::uint32_t near = level_.compare(terms(), planes_ + place, level_.valid[index], limit, distances);
                 near; near &= near - 1) {
                const int lane = __builtin_ctz(near);
                if (distances[lane] > limit) continue;
                found_[number] = {distances[lane], static_cast<std::int32_t>(place + lane)};
                best = std::min(best, distances[lane]);
                if (picture_.draws) {
                    limit = farthest(best);
                    ++number;
                } else {
                    limit = best - 1;  // only what is nearer still
                }
            }
        }
        return picture_.draws ? pick(number, limit, picture_.draws[y_ * level_.width + x]) : found_[0].place;
    }

    std::int64_t pick(std::int64_t number, std::int32_t limit, std::int64_t draw) const {
        const auto near = [&](const Found& found) { return found.distance <= limit; };
        std::int64_t left = formula::picked<Baseline>(draw, std::count_if(found_, found_ + number, near));
        return std::find_if(found_, found_ + number, [&](const Found& found) { return near(found) && left-- == 0; })->place;
    }

    std::int32_t farthest(std::int32_t best) const { return formula::farthest<Baseline>(best, level_.eps); }
    Terms terms() const { return {level_.layout.offsets(), query_, level_.layout.terms()}; }

    const Level& level_;
    const Picture& picture_;
    const Pair* planes_;
    std::int64_t y_;
    Pair* query_;
    Found* found_;
};

// How many pixels of a row are there. However its thread leaves it, a row ends, so that nobody waits for ever.
class Progress {
  public:
    std::int64_t get() const { return pixels_.load(std::memory_order_acquire); }
    void set(std::int64_t pixels) { pixels_.store(pixels, std::memory_order_release); }
    void wait(std::int64_t pixels) const {
        for (int looks = 0; get() < pixels; ++looks)
            if (looks % 64 == 63) std::this_thread::yield();
    }

  private:
    alignas(64) std::atomic<std::int64_t> pixels_{0};
};

// Rows at once, each so far behind the one above that what it compares is there: the result is that of one thread.
void fill(const Level& level, const std::vector<Picture>& pictures, std::int64_t begin, std::int64_t end, int threads) {
    const std::int64_t number = pictures.size(), rows = end - begin;
    std::vector<std::vector<Pair>> planes(number);
    parallel(number, threads, [&](std::int64_t n) { planes[n] = level.layout.planes(pictures[n].sample); });
    const std::unique_ptr<Progress[]> progress(new Progress[number * rows]);
    const std::int64_t useful = number * std::max<std::int64_t>(1, level.width / (2 * level.half() + 1));
    parallel(number * rows, static_cast<int>(std::min<std::int64_t>(threads, useful)), [&](std::int64_t part) {
        struct Last {
            Progress& progress;
            std::int64_t pixels;
            ~Last() { progress.set(pixels); }
        } last{progress[part], level.width};
        Row row(level, pictures[part % number], planes[part % number].data(), begin + part / number);
        for (std::int64_t i = 0; i < level.width; ++i) {
            if (part >= number) progress[part - number].wait(level.needed(i));
            row.pixel(i);
            progress[part].set(i + 1);
        }
    });
}

}  // namespace

void nearest_texture(std::uintptr_t sample, std::uintptr_t coarser_sample, std::uintptr_t initial,
                     std::uintptr_t canvas, std::uintptr_t coarser_canvas, std::uintptr_t sources,
                     std::uintptr_t coarser_sources, std::uintptr_t draws, std::int64_t number, std::int64_t channels,
                     std::int64_t sample_height, std::int64_t sample_width, std::int64_t bottom, std::int64_t right,
                     std::int64_t height, std::int64_t width, std::int64_t window, double eps, std::int64_t begin,
                     std::int64_t end, int threads) {
    const std::int64_t halves[] = {(sample_height + 1) / 2, (sample_width + 1) / 2, (height + 1) / 2, (width + 1) / 2};
    // The n-th picture's part of what is there for all, of so many elements each; null stays null.
    const auto bytes = [](std::uintptr_t all, std::int64_t n, std::int64_t size) {
        return all ? reinterpret_cast<std::uint8_t*>(all) + n * size : nullptr;
    };
    const auto numbers = [](std::uintptr_t all, std::int64_t n, std::int64_t size) {
        return all ? reinterpret_cast<std::int64_t*>(all) + n * size : nullptr;
    };
    const auto picture = [&](std::int64_t n) {
        const std::int64_t pixels = height * width, coarser = halves[2] * halves[3];
        return Picture{{bytes(sample, n, channels * sample_height * sample_width),
                        bytes(coarser_sample, n, channels * halves[0] * halves[1]), channels, sample_height,
                        sample_width, halves[0], halves[1]},
                       bytes(initial, n, channels * pixels), bytes(coarser_canvas, n, channels * coarser),
                       bytes(canvas, n, channels * pixels), numbers(sources, n, pixels),
                       numbers(coarser_sources, n, coarser), numbers(draws, n, pixels)};
    };
    if (number == 0) return;
    const Level level(picture(0).sample, height, width, window, bottom, right, eps);
    for (std::int64_t n = 0; n < number;) {  // so many at once that their planes take little memory
        std::vector<Picture> group;
        for (const std::int64_t stop = std::min<std::int64_t>(number, n + threads); n < stop; ++n)
            group.push_back(picture(n));
        fill(level, group, begin, end, threads);
    }
}

}  // namespace afterimage::cpu
