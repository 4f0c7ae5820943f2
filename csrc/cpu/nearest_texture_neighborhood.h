// The neighborhood that pixels are compared by, and the sample laid out for it.
#pragma once

#include <vector>

#include "cpu/nearest_texture_compare.h"

namespace afterimage::cpu {

// Rows and columns on a torus, to be asked for from -margin to size + margin - 1.
class Torus {
  public:
    Torus(std::int64_t size, std::int64_t margin) : margin_(margin), places_(size ? size + 2 * margin : 0) {
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(places_.size()); ++i)
            places_[i] = ((i - margin) % size + size) % size;
    }
    std::int64_t operator[](std::int64_t i) const { return places_[i + margin_]; }

  private:
    std::int64_t margin_;
    std::vector<std::int64_t> places_;
};

// From a pixel, or from its parent at the coarser level.
struct Neighbor {
    std::int64_t dy, dx;
    bool coarser;
};

// What is above or to the left in the window, and the square of half its width around the parent.
inline std::vector<Neighbor> neighbors(std::int64_t window, bool coarser) {
    const std::int64_t half = window / 2, quarter = half / 2;
    std::vector<Neighbor> found;
    for (std::int64_t dy = -quarter; coarser && dy <= quarter; ++dy)
        for (std::int64_t dx = -quarter; dx <= quarter; ++dx) found.push_back({dy, dx, true});
    for (std::int64_t dy = 0; dy >= -half; --dy)
        for (std::int64_t dx = -half; dx <= (dy ? half : -1); ++dx) found.push_back({dy, dx, false});
    return found;
}

// One sample at one level, in 8 bits, plane by plane; `coarser` may be null.
struct Sample {
    const std::uint8_t *here, *coarser;
    std::int64_t channels, height, width, coarser_height, coarser_width;

    int value(std::int64_t c, std::int64_t y, std::int64_t x, bool of_parents) const {
        if (of_parents) y /= 2, x /= 2;
        const std::int64_t rows = of_parents ? coarser_height : height, row = of_parents ? coarser_width : width;
        return y < rows && x < row ? (of_parents ? coarser : here)[(c * rows + y) * row + x] : 0;
    }
};

// Neighbors two by two, so that one instruction multiplies and adds both: each of a neighbor's channels takes the one to
// its right with it, or else the one below, or none. A plane holds such pairs of a whole sample, side by side, so that
// candidates that are neighbors stay so; of parents it holds each four times.
class Layout {
  public:
    Layout(const Sample& sample, const std::vector<Neighbor>& neighbors)
        : stride(sample.coarser ? 2 * sample.coarser_width : sample.width),
          size_((sample.coarser ? 2 * sample.coarser_height : sample.height) * stride),
          slots_(neighbors.size() * sample.channels, -1) {
        for (std::int64_t i = 0; i < static_cast<std::int64_t>(neighbors.size()); ++i)
            for (std::int64_t c = 0; c < sample.channels; ++c) pair(neighbors, sample.channels, i, c);
        spread();
    }

    std::int64_t stride;  // of a row of candidates

    std::int64_t terms() const { return offsets_.size(); }
    const std::int64_t* offsets() const { return offsets_.data(); }

    // Where, in int16, channel c of neighbor i stands in a query.
    std::int64_t slot(std::int64_t i, std::int64_t channels, std::int64_t c) const { return slots_[i * channels + c]; }

    std::vector<Pair> planes(const Sample& sample) const {
        std::vector<Pair> values(planes_.size() * size_ + reach_ + 2 * block);
        Pair* to = values.data();
        for (const Plane& plane : planes_) {
            const std::int64_t step = plane.coarser ? 2 : 1;
            const std::int64_t down = plane.kind == below ? step : 0, across = plane.kind == right ? step : 0;
            for (std::int64_t place = 0; place < size_; ++place, ++to) {
                const std::int64_t y = place / stride, x = place % stride;
                to->first = sample.value(plane.channel, y, x, plane.coarser);
                if (plane.kind != alone) to->second = sample.value(plane.channel, y + down, x + across, plane.coarser);
            }
        }
        return values;
    }

  private:
    enum Kind { right, below, alone };
    struct Plane {
        std::int64_t channel;
        Kind kind;
        bool coarser;
    };

    void pair(const std::vector<Neighbor>& neighbors, std::int64_t channels, std::int64_t i, std::int64_t c) {
        if (slots_[i * channels + c] >= 0) return;
        const Neighbor& first = neighbors[i];
        const auto free = [&](std::int64_t dy, std::int64_t dx) {
            for (std::int64_t j = 0; j < static_cast<std::int64_t>(neighbors.size()); ++j) {
                const Neighbor& other = neighbors[j];
                const bool there = other.dy == first.dy + dy && other.dx == first.dx + dx;
                if (there && other.coarser == first.coarser && slots_[j * channels + c] < 0) return j;
            }
            return std::int64_t{-1};
        };
        Kind kind = right;
        std::int64_t second = free(0, 1);
        if (second < 0) kind = below, second = free(1, 0);
        if (second < 0) kind = alone;
        slots_[i * channels + c] = 2 * terms();
        if (second >= 0) slots_[second * channels + c] = 2 * terms() + 1;
        const std::int64_t step = first.coarser ? 2 : 1, within = step * (first.dy * stride + first.dx);
        offsets_.push_back(plane({c, kind, first.coarser}) * size_ + within);
        reach_ = within > reach_ ? within : reach_;
    }

    // Every 13th term first: together, terms far apart tell sooner than neighbors that a candidate is too far.
    void spread() {
        constexpr std::int64_t apart = 13;
        std::vector<std::int64_t> turns(terms()), offsets;
        for (std::int64_t first = 0; first < apart; ++first)
            for (std::int64_t k = first; k < terms(); k += apart) {
                turns[k] = offsets.size();
                offsets.push_back(offsets_[k]);
            }
        for (std::int64_t& slot : slots_) slot = 2 * turns[slot / 2] + slot % 2;
        offsets_.swap(offsets);
    }

    std::int64_t plane(const Plane& wanted) {
        for (std::int64_t k = 0; k < static_cast<std::int64_t>(planes_.size()); ++k)
            if (planes_[k].channel == wanted.channel && planes_[k].kind == wanted.kind &&
                planes_[k].coarser == wanted.coarser)
                return k;
        planes_.push_back(wanted);
        return planes_.size() - 1;
    }

    std::int64_t size_, reach_ = 0;
    std::vector<std::int64_t> slots_, offsets_;
    std::vector<Plane> planes_;
};

}  // namespace afterimage::cpu
