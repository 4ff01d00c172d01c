#include "worker/kernels/cpu/embedding.h"

#include <ATen/Parallel.h>

#include <algorithm>

#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker::cpu {

template <typename T>
void EmbeddingKernels<T>::gather(const TableRows<T>& words, const TableRows<T>& types,
                                 const TableRows<T>& positions, T* out, std::int64_t tokens, std::int64_t width) {
  at::parallel_for(0, tokens, 32, [=](std::int64_t begin, std::int64_t end) {
    with_widest_vectors([&]<typename F>() {
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t i = 0; i < width; i += kLanes<F>) {
          F sum = load<F>(words.table + words.ids[t] * width + i, width - i);
          if (types.table != nullptr) sum += load<F>(types.table + types.ids[t] * width + i, width - i);
          if (positions.table != nullptr) sum += load<F>(positions.table + positions.ids[t] * width + i, width - i);
          store<F>(out + t * width + i, sum, width - i);
        }
      }
    });
  });
}

template <typename T>
void EmbeddingKernels<T>::add_rows(const T* gradient, const std::int64_t* ids, std::int64_t skipped,
                                   std::int64_t tokens, std::int64_t width, float* grad) {
  // A thread owns columns, so no two add to one number.
  constexpr std::int64_t kColumns = 64;
  at::parallel_for(0, (width + kColumns - 1) / kColumns, 1, [=](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * kColumns, last = std::min(width, end * kColumns);
    with_widest_vectors([&]<typename F>() {
      for (std::int64_t t = 0; t < tokens; ++t) {
        if (ids[t] == skipped) continue;
        for (std::int64_t i = first; i < last; i += kLanes<F>) {
          float* to = grad + ids[t] * width + i;
          store<F>(to, load<F>(to, last - i) + load<F>(gradient + t * width + i, last - i), last - i);
        }
      }
    });
  });
}

template struct EmbeddingKernels<float>;
template struct EmbeddingKernels<c10::BFloat16>;

}  // namespace finesweep::worker::cpu
