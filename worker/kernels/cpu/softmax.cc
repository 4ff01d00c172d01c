#include "worker/kernels/cpu/softmax.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker::cpu {
namespace {

/// Columns whose exponentials are summed in fp32 before they go to a double: a sum over a large vocabulary would
/// lose digits.
constexpr std::int64_t kRun = 1024;

/// The logarithm of the sum of exponentials of a row, which stays in the core's cache.
template <typename F, typename T>
FINESWEEP_INLINE float log_sum(const T* row, std::int64_t count) {
  const std::int64_t whole = count / kLanes<F> * kLanes<F>;
  F best = splat<F>(-INFINITY);
  for (std::int64_t j = 0; j < whole; j += kLanes<F>) best = max(best, load<F>(row + j));
  float top = largest(best);
  for (std::int64_t j = whole; j < count; ++j) top = std::max(top, static_cast<float>(row[j]));
  double total = 0;
  for (std::int64_t begin = 0; begin < whole; begin += kRun) {
    F sums{};
    for (std::int64_t j = begin; j < std::min(whole, begin + kRun); j += kLanes<F>) {
      sums += exponential<F>(load<F>(row + j) - top);
    }
    total += sum(sums);
  }
  for (std::int64_t j = whole; j < count; ++j) total += std::exp(static_cast<float>(row[j]) - top);
  return top + static_cast<float>(std::log(total));
}

template <typename F, typename T>
FINESWEEP_INLINE float token(T* row, std::int64_t label, std::int64_t count, bool gradient, float factor) {
  const float normaliser = log_sum<F>(row, count);
  const float score = static_cast<float>(row[label]);
  if (gradient) {
    for (std::int64_t j = 0; j < count; j += kLanes<F>) {
      store<F>(row + j, exponential<F>(load<F>(row + j, count - j) - normaliser) * factor, count - j);
    }
    row[label] = static_cast<T>((std::exp(score - normaliser) - 1.0f) * factor);
  }
  return normaliser - score;
}

}  // namespace

template <typename T>
void CrossEntropyKernels<T>::forward(T* logits, const std::int64_t* labels, std::int64_t tokens,
                                     std::int64_t vocabulary, bool gradients, float factor, float* losses) {
  at::parallel_for(0, tokens, 1, [=](std::int64_t begin, std::int64_t end) {
    with_widest_vectors([&]<typename F>() {
      for (std::int64_t t = begin; t < end; ++t) {
        losses[t] = token<F>(logits + t * vocabulary, labels[t], vocabulary, gradients, factor);
      }
    });
  });
}

template struct CrossEntropyKernels<float>;
template struct CrossEntropyKernels<c10::BFloat16>;

}  // namespace finesweep::worker::cpu
