#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace finesweep::worker {

// NF4 with optional double quantisation (QLoRA, https://arxiv.org/abs/2305.14314), as bitsandbytes 0.50 defines it.
//
// The matrix is cut, flattened by rows, into blocks; a block may span rows and the last may be short. A block keeps
// its largest absolute value (absmax), and of each value, divided by that, the nearest of 16 levels. Double
// quantisation keeps absmax - offset, offset = mean(absmax), in blocks of 256 that share their largest absolute
// value, as the nearest of 256 levels.

struct Nf4Options {
  std::int64_t block_size = 64;
  /// Quantises absmax too: about 4.13 instead of 4.5 bits a value.
  bool double_quantization = true;
};

/// absmax, quantised.
struct NestedScales {
  at::Tensor codes;   // [blocks] uint8
  at::Tensor absmax;  // [blocks / block_size, rounded up] fp32
  at::Tensor map;     // [256] fp32: the level of each code
  /// fp32. From libtorch's mean, whose last bit may depend on the number of threads above 32768 blocks, as it does
  /// in bitsandbytes.
  float offset = 0;
  std::int64_t block_size = 256;
};

/// A quantised matrix; its tensors are contiguous and on one device. Copies share them.
struct Nf4Tensor {
  std::vector<std::int64_t> shape;
  /// Of the tensor that was quantised.
  at::ScalarType dtype = at::kFloat;
  std::int64_t block_size = 64;
  at::Tensor packed;  // [values / 2, rounded up] uint8, the first of two values in the high nibble
  at::Tensor absmax;  // [blocks] fp32; undefined where `nested` has it
  std::optional<NestedScales> nested;

  std::int64_t values() const;
  std::int64_t blocks() const;
  /// Of everything that is kept for this matrix; the levels, shared by all matrices, not counted.
  std::int64_t bytes() const;
  Nf4Tensor to(c10::Device device) const;
};

/// The 16 levels, rising.
const float* nf4_levels();
/// [256] fp32 on the CPU, rising: the signed dynamic map of bitsandbytes (create_dynamic_map), which is shared.
at::Tensor dynamic_map();

/// Quantises fp32, bf16 or fp16. A block that holds NaN or an infinity has absmax NaN, so all of it becomes NaN
/// again (with double quantisation: the whole matrix). A block of zeros has absmax 0.
Nf4Tensor quantize_nf4(const at::Tensor& w, const Nf4Options& options = {});

/// [shape] in fp32, bf16 or fp16, on the device of the tensor: level × absmax in fp32, rounded once.
at::Tensor dequantize(const Nf4Tensor& tensor, at::ScalarType type = at::kFloat);

/// absmax [blocks] fp32, without double quantisation: level × nested absmax + offset, each rounded.
at::Tensor block_scales(const Nf4Tensor& tensor);

}  // namespace finesweep::worker
