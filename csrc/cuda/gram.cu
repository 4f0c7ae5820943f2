#include "cuda/gram.h"

#include "cuda/gram_tensor.h"

namespace afterimage::cuda {
namespace {

// Without tensor cores for bfloat16: 64 × 64 products per block, 4 × 4 per thread, 16 positions at a time.
template <class T>
__global__ void __launch_bounds__(256)
    gram_plain(GramPlan plan, const T* features, const float* means, float* partial) {
    constexpr int tile = 64, terms = 16;
    __shared__ float rows[terms][tile + 4], columns[terms][tile + 4];
    const std::int64_t block = blockIdx.x, image = block / (plan.pairs * plan.ranges);
    const Pair pair = pair_of(static_cast<int>(block % plan.pairs));
    const std::int64_t begin = block / plan.pairs % plan.ranges * plan.range;
    const std::int64_t end = min(plan.positions, begin + plan.range);
    const T* const source = features + image * plan.channels * plan.positions;
    const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
    const auto value = [&](std::int64_t channel, std::int64_t position) {
        if (channel >= plan.channels || position >= end) return 0.0f;
        const std::int64_t at =
            plan.channels_last ? position * plan.channels + channel : channel * plan.positions + position;
        const float mean = means == nullptr ? 0.0f : means[image * plan.channels + channel];
        return to_float<Cuda>(source[at]) - mean;
    };
    float sums[4][4] = {};
    for (std::int64_t position = begin; position < end; position += terms) {
        for (int i = threadIdx.x; i < tile * terms; i += 256) {
            const int channel = plan.channels_last ? i % tile : i / terms;
            const int term = plan.channels_last ? i / tile : i % terms;
            rows[term][channel] = value(std::int64_t{pair.first} * tile + channel, position + term);
            columns[term][channel] = value(std::int64_t{pair.second} * tile + channel, position + term);
        }
        __syncthreads();
#pragma unroll
        for (int term = 0; term < terms; ++term)
#pragma unroll
            for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] += rows[term][row + i / 4] * columns[term][column + i % 4];
        __syncthreads();
    }
    for (int i = 0; i < 16; ++i) partial[(block * tile + row + i / 4) * tile + column + i % 4] = sums[i / 4][i % 4];
}

// A block has 32 products, one a lane; each of its 16 warps adds every 16th range.
__global__ void __launch_bounds__(512) gram_sum(GramPlan plan, const float* partial, float scale, float* products) {
    __shared__ double subtotals[16][32];
    const std::int64_t size = plan.tile * plan.tile;
    const std::int64_t index = std::int64_t{blockIdx.x} * 32 + threadIdx.x % 32;
    const std::int64_t image = index / size / plan.pairs, pair = index / size % plan.pairs, element = index % size;
    const float* const terms = partial + (image * plan.ranges * plan.pairs + pair) * size + element;
    double subtotal = 0.0;
#pragma unroll 4
    for (std::int64_t range = threadIdx.x / 32; range < plan.ranges; range += 16)
        subtotal += terms[range * plan.pairs * size];
    subtotals[threadIdx.x / 32][threadIdx.x % 32] = subtotal;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    double total = 0.0;
    for (int i = 0; i < 16; ++i) total += subtotals[i][threadIdx.x];
    const Pair tiles = pair_of(static_cast<int>(pair));
    const std::int64_t row = std::int64_t{tiles.first} * plan.tile + element / plan.tile;
    const std::int64_t column = std::int64_t{tiles.second} * plan.tile + element % plan.tile;
    if (row > column || column >= plan.channels) return;
    float* const product = products + image * plan.channels * plan.channels;
    product[row * plan.channels + column] = product[column * plan.channels + row] = static_cast<float>(total * scale);
}

// Sums of 32 channels over a chunk of positions by 8 warps: [image][chunk][channel].
template <class T>
__global__ void __launch_bounds__(256) channel_sums(GramPlan plan, const T* features, float* sums) {
    __shared__ float subtotals[8][32];
    const std::int64_t groups = ceil_div(plan.channels, 32), block = blockIdx.x;
    const std::int64_t image = block / groups / plan.means_chunks, chunk = block / groups % plan.means_chunks;
    const std::int64_t share = ceil_div(plan.positions, plan.means_chunks);
    const std::int64_t begin = chunk * share, end = min(plan.positions, begin + share);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const T* const source = features + image * plan.channels * plan.positions;
    const std::int64_t first = block % groups * 32;
    if (plan.channels_last) {
        float sum = 0.0f;
        if (first + lane < plan.channels)
            for (std::int64_t position = begin + warp; position < end; position += 8)
                sum += to_float<Cuda>(source[position * plan.channels + first + lane]);
        subtotals[warp][lane] = sum;
    } else {
        for (int i = 0; i < 4; ++i) {
            const std::int64_t channel = first + warp * 4 + i;
            float sum = 0.0f;
            if (channel < plan.channels)
                for (std::int64_t position = begin + lane; position < end; position += 32)
                    sum += to_float<Cuda>(source[channel * plan.positions + position]);
            for (int reach = 16; reach > 0; reach /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, reach);
            if (lane < 8) subtotals[lane][warp * 4 + i] = lane == 0 ? sum : 0.0f;
        }
    }
    __syncthreads();
    if (warp != 0 || first + lane >= plan.channels) return;
    float total = 0.0f;
    for (int i = 0; i < 8; ++i) total += subtotals[i][lane];
    sums[(image * plan.means_chunks + chunk) * plan.channels + first + lane] = total;
}

__global__ void __launch_bounds__(256) channel_means(GramPlan plan, const float* sums, float* means) {
    const std::int64_t index = std::int64_t{blockIdx.x} * 256 + threadIdx.x;
    if (index >= plan.images * plan.channels) return;
    const std::int64_t image = index / plan.channels, channel = index % plan.channels;
    double total = 0.0;
    for (std::int64_t chunk = 0; chunk < plan.means_chunks; ++chunk)
        total += sums[(image * plan.means_chunks + chunk) * plan.channels + channel];
    means[index] = static_cast<float>(total / static_cast<double>(plan.positions));
}

// Tensor cores take float32 in two halves; differences of half numbers from their means would be float32 too, and as
// that is rarely wanted, they have no kernel there.
template <class T>
bool on_tensor_cores(const Queue& queue, bool center) {
    return queue.capability() >= 80 && (sizeof(T) == 4 || !center);
}

template <class T>
void launch_tensor(const Queue& queue, const GramPlan& plan, const T* features, const float* means, bool aligned,
                   float* partial) {
    const auto kernel = plan.tile == 64 ? gram_tensor<T, sizeof(T) == 4, 64> : gram_tensor<T, sizeof(T) == 4, 128>;
    queue.launch(kernel, plan.blocks(), 2 * plan.tile, plan, features, means, aligned, partial);
}

}  // namespace

template <class T>
void gram(std::uintptr_t features, std::uintptr_t products, std::int64_t images, std::int64_t channels,
          std::int64_t positions, bool channels_last, bool center, double scale, std::uintptr_t workspace, int device,
          std::uintptr_t stream) {
    const Queue queue("gram", device, stream);
    const bool tensor_cores = on_tensor_cores<T>(queue, center);
    const GramPlan plan = gram_plan(images, channels, positions, channels_last, tensor_cores);
    const T* const source = reinterpret_cast<const T*>(features);
    float* const partial = reinterpret_cast<float*>(workspace);
    float* means = nullptr;
    if (center) {
        means = partial + plan.partial();
        float* const sums = means + images * channels;
        queue.launch(channel_sums<T>, images * plan.means_chunks * ceil_div(channels, 32), 256, plan, source, sums);
        queue.launch(channel_means, ceil_div(images * channels, 256), 256, plan, sums, means);
    }
    const bool whole = aligned(features) && (channels_last ? channels : positions) % 4 == 0;
    if (tensor_cores) {
        launch_tensor(queue, plan, source, means, whole, partial);
    } else {
        queue.launch(gram_plain<T>, plan.blocks(), 256, plan, source, means, partial);
    }
    queue.launch(gram_sum, images * plan.pairs * plan.tile * plan.tile / 32, 512, plan, partial,
                 static_cast<float>(scale), reinterpret_cast<float*>(products));
}

template <class T>
std::int64_t gram_workspace(std::uintptr_t, std::uintptr_t, std::int64_t images, std::int64_t channels,
                            std::int64_t positions, bool channels_last, bool center, double, int device) {
    const bool tensor_cores = on_tensor_cores<T>(Queue("gram", device, 0), center);
    const GramPlan plan = gram_plan(images, channels, positions, channels_last, tensor_cores);
    const std::int64_t means = center ? images * channels * (1 + plan.means_chunks) : 0;
    return (plan.partial() + means) * static_cast<std::int64_t>(sizeof(float));
}

#define INSTANTIATE(T)                                                                                         \
    template void gram<T>(std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t, std::int64_t, bool, bool, \
                          double, std::uintptr_t, int, std::uintptr_t);                                        \
    template std::int64_t gram_workspace<T>(std::uintptr_t, std::uintptr_t, std::int64_t, std::int64_t,         \
                                            std::int64_t, bool, bool, double, int)
INSTANTIATE(float);
INSTANTIATE(bfloat16);
INSTANTIATE(float16);
#undef INSTANTIATE

}  // namespace afterimage::cuda
