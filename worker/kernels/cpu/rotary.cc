#include "worker/kernels/cpu/rotary.h"

#include <ATen/Parallel.h>

#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker::cpu {
namespace {

template <typename F, typename T>
FINESWEEP_INLINE void rotate_head(T* head, std::int64_t half, const float* cosine, const float* sine, float sign) {
  for (std::int64_t i = 0; i < half; i += kLanes<F>) {
    const std::int64_t n = half - i;
    const F a = load<F>(head + i, n), b = load<F>(head + half + i, n);
    const F c = load<F>(cosine + i, n), s = load<F>(sine + i, n) * sign;
    store<F>(head + i, a * c - b * s, n);
    store<F>(head + half + i, b * c + a * s, n);
  }
}

}  // namespace

template <typename T>
void RotaryKernels<T>::rotate(T* x, std::int64_t tokens, std::int64_t stride, std::int64_t heads, std::int64_t size,
                              const float* cosine, const float* sine, const std::int64_t* positions, float sign) {
  const std::int64_t half = size / 2;
  at::parallel_for(0, tokens, 16, [=](std::int64_t begin, std::int64_t end) {
    with_widest_vectors([&]<typename F>() {
      for (std::int64_t t = begin; t < end; ++t) {
        for (std::int64_t h = 0; h < heads; ++h) {
          rotate_head<F>(x + t * stride + h * size, half, cosine + positions[t] * half, sine + positions[t] * half,
                         sign);
        }
      }
    });
  });
}

template struct RotaryKernels<float>;
template struct RotaryKernels<c10::BFloat16>;

}  // namespace finesweep::worker::cpu
