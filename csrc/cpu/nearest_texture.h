#pragma once

#include <cstdint>

namespace afterimage::cpu {

// Rows [begin, end) of one level of `number` textures, in 8 bits: `sample` is (number, channels, sample_height,
// sample_width), `canvas` and `initial` are (number, channels, height, width), `sources` is (number, height, width), the
// place y * sample_width + x in the sample of what the canvas shows. Rows before `begin` have to be there, `initial` is
// what stands for a pixel before its turn. The coarser level, complete, has half these sizes, rounded up; its addresses
// are 0 at the coarsest. Candidates lie in [window / 2, bottom) × [window / 2, right). With `draws`, (number, height,
// width), each 0 to 2^32 - 1, one of those within (1 + eps) of the least distance is taken, else (0) the first nearest.
// Distances fit in 31 bits.
void nearest_texture(std::uintptr_t sample, std::uintptr_t coarser_sample, std::uintptr_t initial,
                     std::uintptr_t canvas, std::uintptr_t coarser_canvas, std::uintptr_t sources,
                     std::uintptr_t coarser_sources, std::uintptr_t draws, std::int64_t number, std::int64_t channels,
                     std::int64_t sample_height, std::int64_t sample_width, std::int64_t bottom, std::int64_t right,
                     std::int64_t height, std::int64_t width, std::int64_t window, double eps, std::int64_t begin,
                     std::int64_t end, int threads);

}  // namespace afterimage::cpu
