#pragma once

#include <cstdint>

namespace finesweep::worker {

/// fp8: see fp8_weight.h. It is a way to train adapters, no format of files.
enum class QuantizedFormat { nf4, int8, fp8 };

/// How the linear layers of a frozen base are kept.
struct BaseQuantization {
  QuantizedFormat format = QuantizedFormat::nf4;
  /// NF4 alone: values that share a scale, and whether the scales are quantised too.
  std::int64_t block_size = 64;
  bool double_quantization = true;
  bool operator==(const BaseQuantization&) const = default;
};

}  // namespace finesweep::worker
