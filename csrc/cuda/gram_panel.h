// A panel of features on its way from memory to the tensor cores: `tile` channels at `terms` positions, as pairs of
// 16-bit numbers in shared memory; float32 becomes the sum of two bfloat16, its upper and its lower half.
#pragma once

#include "cuda/gram_plan.h"
#include "cuda/intrinsics.h"
#include "cuda/pack.h"

namespace afterimage::cuda {

// One tile's channels over one block's range of positions.
template <class T>
struct Features {
    const T* data;
    const float* means;  // one per channel, or null
    int channels, positions;
    std::int64_t pitch;  // elements from a channel to the next or, channels-last, from a position to the next
    bool channels_last, aligned;
};

template <class T, bool split, int tile>
struct Panel {
    static constexpr int planes = split ? 2 : 1;
    static constexpr int words = split ? 8 : 16;   // pairs of positions
    static constexpr int terms = 2 * words;
    static constexpr int stride = words + 4;       // eight rows by four words lie in 32 different banks
    static constexpr int threads = 2 * tile;
    static constexpr int pieces = terms / 8;       // packs of four elements per thread

    using Words = std::uint32_t[planes][tile][stride];
    Pack<T, 4> packs[pieces];

    // Where a pack lies: channel and position of its first element, from the panel's own.
    struct Place {
        int channel, position;
    };

    // Channels-last: two packs that follow are two positions of the same four channels.
    __device__ static Place place(int piece, bool channels_last) {
        if (!channels_last) {
            const int index = threadIdx.x + piece * threads;
            return {index / (terms / 4), index % (terms / 4) * 4};
        }
        const int index = threadIdx.x + piece / 2 * threads;
        return {(index % 4 + index / (4 * words) * 4) * 4, index / 4 % words * 2 + piece % 2};
    }

    __device__ void read(const Features<T>& features, int position) {
#pragma unroll
        for (int piece = 0; piece < pieces; ++piece) {
            const Place at = place(piece, features.channels_last);
            packs[piece] = pack(features, {at.channel, position + at.position});
        }
    }

    // Zero outside of the channels and positions.
    __device__ static Pack<T, 4> pack(const Features<T>& features, Place at) {
        const bool last = features.channels_last;
        Pack<T, 4> values{};
        if (at.channel >= features.channels || at.position >= features.positions) return values;
        const T* const from = features.data + (last ? at.position * features.pitch + at.channel
                                                    : at.channel * features.pitch + at.position);
        if (features.aligned) return load<T, 4>(from);
        const int count = last ? features.channels - at.channel : features.positions - at.position;
#pragma unroll
        for (int i = 0; i < 4; ++i)
            if (i < count) values[i] = from[i];
        return values;
    }

    __device__ void write(Words& to, const Features<T>& features, int position) const {
#pragma unroll
        for (int piece = 0; piece < pieces; ++piece) {
            const Place at = place(piece, features.channels_last);
            if (!features.channels_last) {
                put(to, at, packs[piece][0], packs[piece][1], features, position);
                put(to, {at.channel, at.position + 2}, packs[piece][2], packs[piece][3], features, position);
            } else if (piece % 2 == 0) {
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    put(to, {at.channel + i, at.position}, packs[piece][i], packs[piece + 1][i], features, position);
            }
        }
    }

    // One channel at two positions.
    __device__ static void put(Words& to, Place at, T first, T second, const Features<T>& features, int position) {
        if constexpr (split) {
            float low = to_float<Cuda>(first), high = to_float<Cuda>(second);
            if (features.means != nullptr && at.channel < features.channels) {
                const float mean = features.means[at.channel];
                low = position + at.position < features.positions ? low - mean : 0.0f;
                high = position + at.position + 1 < features.positions ? high - mean : 0.0f;
            }
            const std::uint32_t upper = pack_bfloat16(low, high);
            to[0][at.channel][at.position / 2] = upper;
            to[1][at.channel][at.position / 2] =
                pack_bfloat16(rest(low, upper << 16), rest(high, upper & 0xffff0000u));
        } else {
            to[0][at.channel][at.position / 2] = first.bits | std::uint32_t{second.bits} << 16;
        }
    }

    // What the upper half leaves: no number where that is infinite.
    __device__ static float rest(float number, std::uint32_t upper) {
        float rounded;
        memcpy(&rounded, &upper, sizeof rounded);
        return number - rounded;
    }
};

}  // namespace afterimage::cuda
