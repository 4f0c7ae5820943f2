// A range of elements shared out between threads.
#pragma once

#include <algorithm>
#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace afterimage {

// Below this many elements per thread, waking a thread costs more than it saves.
constexpr std::int64_t grain = 1 << 15;

// Calls body(begin, end) on disjoint parts of [0, size), on at most `threads` threads.
template <class Body>
void parallel(std::int64_t size, int threads, const Body& body) {
#ifdef _OPENMP
    const std::int64_t parts = std::min<std::int64_t>(threads, size / grain);
    if (parts > 1) {
#pragma omp parallel num_threads(static_cast<int>(parts))
        {
            const std::int64_t share = (size / omp_get_num_threads() + 64) / 64 * 64;
            const std::int64_t begin = std::min(size, omp_get_thread_num() * share);
            body(begin, std::min(size, begin + share));
        }
        return;
    }
#else
    (void)threads;
#endif
    body(std::int64_t{0}, size);
}

}  // namespace afterimage
