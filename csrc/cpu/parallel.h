// Work shared out between the threads of one pool, which all calls and all calling threads use.
#pragma once

#include <algorithm>
#include <cstdint>

namespace afterimage {

// Calls body(context, part) once for each part in [0, parts), on the calling thread and up to `threads` - 1 others.
// Which thread takes which part is open, so a result must not depend on it. The first exception is thrown on.
void parallel(std::int64_t parts, int threads, void (*body)(const void* context, std::int64_t part),
              const void* context);

template <class Body>
void parallel(std::int64_t parts, int threads, const Body& body) {
    parallel(
        parts, threads,
        [](const void* context, std::int64_t part) { (*static_cast<const Body*>(context))(part); }, &body);
}

// Below this many elements per part, waking a thread costs more than it saves.
constexpr std::int64_t grain = 1 << 15;

// Ranges per thread: where another process holds a core, its share is taken over in pieces.
constexpr std::int64_t pieces = 8;

// Calls body(begin, end) on disjoint ranges that cover [0, size); all but the last begin and end at multiples of 64.
template <class Body>
void parallel_ranges(std::int64_t size, int threads, const Body& body) {
    const std::int64_t most = threads > 1 ? threads * pieces : 1;
    const std::int64_t parts = std::max<std::int64_t>(1, std::min(most, size / grain));
    const std::int64_t share = (size / parts + 64) / 64 * 64;
    parallel(parts, threads, [&](std::int64_t part) {
        body(std::min(size, part * share), std::min(size, (part + 1) * share));
    });
}

}  // namespace afterimage
