#include "worker/kernels/cpu/adamw.h"

#include "worker/kernels/cpu/vector.h"

namespace finesweep::worker::cpu {
namespace {

// A plain loop: the compiler vectorises it for each instruction set.
template <typename F>
FINESWEEP_INLINE void update(float* __restrict weight, float* __restrict first, float* __restrict second,
                             const float* __restrict gradient, std::int64_t count, const AdamWStep& step) {
  const float decay = step.decay, scale = step.gradient_scale, beta1 = step.beta1, beta2 = step.beta2;
  const float rest1 = step.one_minus_beta1, rest2 = step.one_minus_beta2;
  const float epsilon = step.epsilon, step_size = step.step_size, inverse_root = step.inverse_root;
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = gradient[i] * scale;
    const float m = beta1 * first[i] + rest1 * g;
    const float v = beta2 * second[i] + rest2 * g * g;
    first[i] = m;
    second[i] = v;
    weight[i] = decay * weight[i] - step_size * m / (__builtin_sqrtf(v) * inverse_root + epsilon);
  }
}

}  // namespace

void adamw_update(float* weight, float* first, float* second, const float* gradient, std::int64_t count,
                  const AdamWStep& step) {
  with_widest_vectors([&]<typename F>() { update<F>(weight, first, second, gradient, count, step); });
}

double sum_of_squares(const float* values, std::int64_t count) {
  constexpr std::int64_t kRun = 256;  // floats summed in fp32 before they go to the double
  double total = 0;
  with_widest_vectors([&]<typename F>() {
    for (std::int64_t begin = 0; begin < count; begin += kRun) {
      const std::int64_t n = count - begin < kRun ? count - begin : kRun;
      F squares{};
      for (std::int64_t i = 0; i < n; i += kLanes<F>) {
        const F v = load<F>(values + begin + i, n - i);
        squares += v * v;
      }
      total += sum(squares);
    }
  });
  return total;
}

}  // namespace finesweep::worker::cpu
