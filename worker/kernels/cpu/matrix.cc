#include "worker/kernels/cpu/matrix.h"

#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker::cpu {
namespace {

/// A few rows at a time, kColumns vectors wide, all sums in registers.
template <typename F, int kRows, int kColumns>
FINESWEEP_INLINE void tile(const float* a, std::int64_t a_row, std::int64_t a_step, const float* b,
                           std::int64_t b_stride, std::int64_t depth, float* c, std::int64_t c_stride,
                           bool accumulate) {
  F sums[kRows][kColumns];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) {
      sums[i][j] = accumulate ? load<F>(c + i * c_stride + j * kLanes<F>) : F{};
    }
  }
  for (std::int64_t k = 0; k < depth; ++k, a += a_step, b += b_stride) {
    F right[kColumns];
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) right[j] = load<F>(b + j * kLanes<F>);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const F left = splat<F>(a[i * a_row]);
#pragma GCC unroll 16
      for (int j = 0; j < kColumns; ++j) sums[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kColumns; ++j) store<F>(c + i * c_stride + j * kLanes<F>, sums[i][j]);
  }
}

template <typename F, int kRows, int kColumns>
FINESWEEP_INLINE void panel(std::int64_t rows, const float* a, std::int64_t a_row, std::int64_t a_step,
                            const float* b, std::int64_t b_stride, std::int64_t depth, float* c,
                            std::int64_t c_stride, bool accumulate) {
  std::int64_t i = 0;
  for (; i + kRows <= rows; i += kRows) {
    tile<F, kRows, kColumns>(a + i * a_row, a_row, a_step, b, b_stride, depth, c + i * c_stride, c_stride,
                             accumulate);
  }
  if constexpr (kRows > 1) {
    panel<F, kRows / 2, kColumns>(rows - i, a + i * a_row, a_row, a_step, b, b_stride, depth, c + i * c_stride,
                                  c_stride, accumulate);
  }
}

}  // namespace

void multiply(std::int64_t rows, std::int64_t columns, std::int64_t depth, const float* a, std::int64_t a_row,
              std::int64_t a_step, const float* b, std::int64_t b_stride, float* c, std::int64_t c_stride,
              bool accumulate) {
  with_widest_vectors([&]<typename F>() {
    // The sums of a tile and the vectors of B fill the 32 registers of AVX-512, or 16 of the others.
    constexpr int kRows = kLanes<F> == 16 ? 8 : 4, kColumns = kLanes<F> == 16 ? 2 : 3;
    std::int64_t j = 0;
    for (; j + kColumns * kLanes<F> <= columns; j += kColumns * kLanes<F>) {
      panel<F, kRows, kColumns>(rows, a, a_row, a_step, b + j, b_stride, depth, c + j, c_stride, accumulate);
    }
    for (; kColumns > 2 && j + 2 * kLanes<F> <= columns; j += 2 * kLanes<F>) {
      panel<F, kRows, 2>(rows, a, a_row, a_step, b + j, b_stride, depth, c + j, c_stride, accumulate);
    }
    for (; j < columns; j += kLanes<F>) {
      panel<F, 8, 1>(rows, a, a_row, a_step, b + j, b_stride, depth, c + j, c_stride, accumulate);
    }
  });
}

}  // namespace finesweep::worker::cpu
