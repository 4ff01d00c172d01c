#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>

#include "jobs/json.h"
#include "jobs/result.h"
#include "worker/kernels/ops.h"

namespace finesweep::worker {

/// A rotary embedding as a config.json asks for it.
struct RotaryFrequencies {
  at::Tensor inverse;  // [head size / 2] fp32, CPU: radians per position
  /// Of cosine and sine: YaRN makes scores sharper.
  double magnitude = 1;
};

/// Reads `rope_parameters`, or `rope_theta` and `rope_scaling` as older files have them: default, linear, llama3,
/// yarn (https://arxiv.org/abs/2309.00071), and dynamic, which within the model's `positions` is the default. The
/// frequencies are those of transformers' modeling_rope_utils, to the last bit of fp32. The Error names the key.
Result<RotaryFrequencies> read_rotary(const Json& config, std::int64_t head_size, std::int64_t positions);

/// For positions 0 … positions - 1.
RotaryTable rotary_table(const RotaryFrequencies& frequencies, std::int64_t positions, c10::Device device);

}  // namespace finesweep::worker
