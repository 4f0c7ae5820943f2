#pragma once

#include <cstdint>

namespace afterimage::cpu {

// The convolution of one image's maps on matrix tiles and what its instance norm multiplies by and adds.
//
// `high` holds the maps with their edges, `pitch` numbers a row, bfloat16, channels last; `low`, unless 0, what they
// lack to float32, likewise. Behind them lie 32 · `stride_across` pixels and 32 numbers that may be read, and are finite.
// A window is `rows` rows of 32 · `steps` numbers from its first one; `weights` are tiles (phases², groups of 16 outputs,
// rows, steps, 1024 bytes) and lie behind each other, high and, if there is a `low`, low part. With `phases` 2 each window
// gives 2 × 2 pixels, the later ones of a window that begins a row or a pixel further on. `bias` is 0 where there is
// none, `norm_weight` where no norm follows. `sums` is float32 (phases · height, phases · width, outputs). Only on AMX,
// else throws std::invalid_argument.
void tile_convolution(std::uintptr_t high, std::uintptr_t low, std::uintptr_t weights, std::uintptr_t bias,
                      std::uintptr_t sums, std::uintptr_t norm_weight, std::uintptr_t norm_bias, std::uintptr_t scale,
                      std::uintptr_t shift, double eps, std::int64_t channels, std::int64_t pitch, std::int64_t rows,
                      std::int64_t steps, std::int64_t stride_down, std::int64_t stride_across, std::int64_t phases,
                      std::int64_t height, std::int64_t width, std::int64_t outputs, int threads);

// What lies beyond a picture: the pixels within mirrored, the outermost ones again, or zeros.
enum class Edges { reflect, repeat, zero };

// Maps with their edges, as `tile_convolution` takes them, of sums (height, width, channels) · scale + shift, above
// zero only if `rectify`. `kept`, unless 0, float32 (height, width, channels), is added if `add`, and then set.
// On either side there are `edge` pixels more, and so many rows `above` and `below`; `behind` zeros follow.
void tile_maps(std::uintptr_t sums, std::uintptr_t scale, std::uintptr_t shift, std::uintptr_t kept, std::uintptr_t high,
               std::uintptr_t low, std::int64_t height, std::int64_t width, std::int64_t channels, std::int64_t edge,
               std::int64_t above, std::int64_t below, std::int64_t behind, Edges edges, bool rectify, bool add,
               int threads);

}  // namespace afterimage::cpu
