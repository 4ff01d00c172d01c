#pragma once

#include <cstdint>

namespace finesweep::worker::cpu {

/// The numbers of one update that all elements share.
struct AdamWStep {
  float decay = 1;  // factor on the weights: 1 - learning rate × weight decay
  float gradient_scale = 1;
  float beta1 = 0, beta2 = 0, one_minus_beta1 = 1, one_minus_beta2 = 1, epsilon = 0;
  float step_size = 0;     // learning rate / (1 - beta1^step)
  float inverse_root = 1;  // 1 / sqrt(1 - beta2^step)
};

/// Updates `count` weights and their moments, on the calling thread.
void adamw_update(float* weight, float* first, float* second, const float* gradient, std::int64_t count,
                  const AdamWStep& step);

/// The sum of squares, on the calling thread.
double sum_of_squares(const float* values, std::int64_t count);

}  // namespace finesweep::worker::cpu
