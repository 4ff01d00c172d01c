#pragma once

#include <cstdint>

namespace finesweep::worker {

enum class QuantizedFormat { nf4, int8 };

/// How the linear layers of a frozen base are kept.
struct BaseQuantization {
  QuantizedFormat format = QuantizedFormat::nf4;
  /// NF4 alone: values that share a scale, and whether the scales are quantised too.
  std::int64_t block_size = 64;
  bool double_quantization = true;
};

}  // namespace finesweep::worker
