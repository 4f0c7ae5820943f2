// Gram products on tensor cores (compute capability 8.0 and newer).
#pragma once

#include "cuda/gram_panel.h"

namespace afterimage::cuda {

// The warps of a block and the rectangle of products that each computes: tile / 2 rows by 32 columns.
template <int tile>
struct Share {
    int row, column;

    __device__ static Share of(int warp) {
        if constexpr (tile == 64) return {warp / 2 * 32, warp % 2 * 32};
        // Warps w and w + 4 run on the same quarter of a multiprocessor: on the diagonal, where what lies below it is
        // left out, each such pair has about as much to do.
        return {(0xb8 >> warp & 1) * 64, (0x84f9 >> 2 * warp & 3) * 32};
    }
};

template <class T, bool split, int tile>
struct Products {
    using Side = Panel<T, split, tile>;
    using Words = typename Side::Words;
    static constexpr int bands = tile / 32;  // of 16 rows

    float sums[bands][4][4];
    Share<tile> share;

    __device__ Products() : sums{}, share(Share<tile>::of(threadIdx.x / 32)) {}

    // On the diagonal the bands that lie below it are left out.
    __device__ void add(const Words& rows, const Words& columns, bool diagonal) {
        const int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
#pragma unroll
        for (int start = 0; start < Side::words; start += 8) {
            std::uint32_t b[Side::planes][4][2];
#pragma unroll
            for (int plane = 0; plane < Side::planes; ++plane)
#pragma unroll
                for (int i = 0; i < 4; ++i)
#pragma unroll
                    for (int half = 0; half < 2; ++half)
                        b[plane][i][half] = columns[plane][share.column + 8 * i + group][start + pair + 4 * half];
#pragma unroll
            for (int band = 0; band < bands; ++band) {
                const int row = share.row + 16 * band;
                if (diagonal && row > share.column + 31) continue;
                std::uint32_t a[Side::planes][4];
#pragma unroll
                for (int plane = 0; plane < Side::planes; ++plane)
#pragma unroll
                    for (int i = 0; i < 4; ++i)
                        a[plane][i] = rows[plane][row + group + i % 2 * 8][start + pair + i / 2 * 4];
                multiply(sums[band], a, b);
            }
        }
    }

    // Tensor cores round their sums toward zero: with both halves of a float32 at stake they add few terms only.
    __device__ static void multiply(float (&totals)[4][4], const std::uint32_t (&a)[Side::planes][4],
                                    const std::uint32_t (&b)[Side::planes][4][2]) {
        if constexpr (split) {
            float few[4][4] = {};
#pragma unroll
            for (int i = 0; i < 4; ++i) multiply_add(bfloat16{}, few[i], a[1], b[0][i]);
#pragma unroll
            for (int i = 0; i < 4; ++i) multiply_add(bfloat16{}, few[i], a[0], b[1][i]);
#pragma unroll
            for (int i = 0; i < 4; ++i) multiply_add(bfloat16{}, few[i], a[0], b[0][i]);
#pragma unroll
            for (int i = 0; i < 16; ++i) totals[i / 4][i % 4] += few[i / 4][i % 4];
        } else {
#pragma unroll
            for (int i = 0; i < 4; ++i) multiply_add(T{}, totals[i], a[0], b[0][i]);
        }
    }

    __device__ void write(float* partial) const {
        const int group = threadIdx.x % 32 / 4, pair = threadIdx.x % 4;
#pragma unroll
        for (int band = 0; band < bands; ++band)
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int row = share.row + 16 * band + group + 8 * half, column = share.column + 8 * i + 2 * pair;
                    const Pack<float, 2> two{sums[band][i][2 * half], sums[band][i][2 * half + 1]};
                    store(partial + row * tile + column, two);
                }
    }
};

// The two panels of a step are those of the two tiles or, on the diagonal, two in a row of the one tile.
template <class T, bool split, int tile>
__global__ void __launch_bounds__(2 * tile, 256 / tile)
    gram_tensor(GramPlan plan, const T* features, const float* means, bool aligned, float* partial) {
#if __CUDA_ARCH__ >= 800
    using Side = Panel<T, split, tile>;
    __shared__ typename Side::Words words[2][2];
    const std::int64_t block = blockIdx.x, image = block / (plan.pairs * plan.ranges);
    const Pair pair = pair_of(static_cast<int>(block % plan.pairs));
    const std::int64_t begin = block / plan.pairs % plan.ranges * plan.range;
    const int end = static_cast<int>(min(plan.range, plan.positions - begin));
    const bool diagonal = pair.first == pair.second;
    const auto source = [&](int index) {
        const std::int64_t first = std::int64_t{index} * tile, channel = image * plan.channels + first;
        return Features<T>{features + (plan.channels_last ? (image * plan.positions + begin) * plan.channels + first
                                                          : channel * plan.positions + begin),
                           means == nullptr ? nullptr : means + channel,
                           static_cast<int>(min(plan.channels - first, std::int64_t{tile})), end,
                           plan.channels_last ? plan.channels : plan.positions, plan.channels_last, aligned};
    };
    const Features<T> first = source(pair.first), second = source(pair.second);
    const int ahead = diagonal ? Side::terms : 0, step = Side::terms + ahead;

    Side panels[2];
    Products<T, split, tile> products;
    panels[0].read(first, 0);
    panels[1].read(second, ahead);
    int buffer = 0;
    for (int position = 0; position < end; position += step) {
        panels[0].write(words[buffer][0], first, position);
        panels[1].write(words[buffer][1], second, position + ahead);
        __syncthreads();
        if (position + step < end) {
            panels[0].read(first, position + step);
            panels[1].read(second, position + step + ahead);
        }
        products.add(words[buffer][0], words[buffer][!diagonal], diagonal);
        if (diagonal) products.add(words[buffer][1], words[buffer][1], true);
        buffer ^= 1;
    }
    products.write(partial + block * tile * tile);
#endif
}

}  // namespace afterimage::cuda
