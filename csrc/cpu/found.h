// Few values of many, with their places, as the parts of a search find them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace afterimage::cpu {

using Found = std::vector<std::pair<std::int64_t, float>>;

// Writes what all parts found, one after the other, unless that is more than `most`; returns how much it is.
inline std::int64_t gather(const std::vector<Found>& parts, std::int64_t most, std::int64_t* places, float* values) {
    std::int64_t count = 0;
    for (const Found& part : parts) count += static_cast<std::int64_t>(part.size());
    if (count > most) return count;
    for (const Found& part : parts)
        for (const auto& [place, value] : part) *places++ = place, *values++ = value;
    return count;
}

}  // namespace afterimage::cpu
