#pragma once

#include <cstdint>

namespace finesweep::worker::cpu {

/// C [rows, columns] (+)= A [rows, depth] B [depth, columns], row-major, small enough for a core's cache: the
/// products of one attention head. `columns` is a multiple of kWidest. A(i, k) = a[i × a_row + k × a_step], so a
/// transposed A costs nothing. Runs on the calling thread.
void multiply(std::int64_t rows, std::int64_t columns, std::int64_t depth, const float* a, std::int64_t a_row,
              std::int64_t a_step, const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride,
              bool accumulate);

}  // namespace finesweep::worker::cpu
