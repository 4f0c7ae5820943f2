#pragma once

#include <cstdint>

namespace afterimage::cpu {

// Finds the values of a (rows, columns) block that exceed their row's limit or, unless `column_limits` is 0, their
// column's. Writes their places, row · columns + column in rising order, and them, and returns how many they are; where
// that is more than `most`, nothing is written and any number above it returned.
std::int64_t exceeding(std::uintptr_t block, std::uintptr_t row_limits, std::uintptr_t column_limits,
                       std::uintptr_t places, std::uintptr_t values, std::int64_t rows, std::int64_t columns,
                       std::int64_t most, int threads);

}  // namespace afterimage::cpu
