#pragma once

#include <cstdint>

namespace finesweep::worker {

/// Dynamic loss scaling (https://arxiv.org/abs/1710.03740) with the numbers of PyTorch's GradScaler: fp16 has no
/// exponent left for small gradients, so the loss is multiplied before the way back and the gradients divided after
/// it, by a power of two that is halved where a gradient overflows and doubled after `growth_interval` steps in
/// which none did. Plain data: part of a job's checkpoint.
struct LossScale {
  static constexpr double first = 65536, least = 1, most = 16777216;
  static constexpr std::int64_t growth_interval = 2000;

  double scale = 1;
  /// Steps since the scale last changed.
  std::int64_t steady_steps = 0;

  /// False where it is at its least: an overflow is then no matter of scale.
  bool can_shrink() const { return scale > least; }
  void overflowed() {
    scale = scale / 2 < least ? least : scale / 2;
    steady_steps = 0;
  }
  void stepped() {
    if (++steady_steps < growth_interval) return;
    scale = scale * 2 > most ? most : scale * 2;
    steady_steps = 0;
  }
};

}  // namespace finesweep::worker
