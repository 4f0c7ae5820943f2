#pragma once

#include <cstdint>

namespace afterimage::cpu {

// Finds the values of a (rows, columns) block that exceed their row's limit or, unless `column_limits` is 0, their
// column's. Writes their places, row · columns + column in rising order, and them, and returns how many they are; where
// that is more than `most`, nothing is written and any number above it returned.
std::int64_t exceeding(std::uintptr_t block, std::uintptr_t row_limits, std::uintptr_t column_limits,
                       std::uintptr_t places, std::uintptr_t values, std::int64_t rows, std::int64_t columns,
                       std::int64_t most, int threads);

// The same of the products of rows with columns, which are `tile_convolution`'s maps, of one row of pixels, and weights;
// with `diagonal` none is that of a row with the column of its own number. Only on AMX, else throws
// std::invalid_argument.
std::int64_t tile_exceeding(std::uintptr_t high, std::uintptr_t low, std::uintptr_t weights, std::uintptr_t row_limits,
                            std::uintptr_t column_limits, std::uintptr_t places, std::uintptr_t values,
                            std::int64_t rows, std::int64_t columns, std::int64_t length, std::int64_t steps,
                            bool diagonal, std::int64_t most, int threads);

}  // namespace afterimage::cpu
