#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

#include "jobs/result.h"

namespace finesweep::worker {

// INT8 with one scale a row: scale = max |w| / 127, q = w × (127 / max |w|) rounded to nearest, ties to even.

struct Int8Tensor {
  std::vector<std::int64_t> shape;  // rows are its first dimension
  /// Of the tensor that was quantised.
  at::ScalarType dtype = at::kFloat;
  at::Tensor codes;  // [rows, values a row] int8, from -127 to 127
  at::Tensor scale;  // [rows] fp32

  /// Of everything that is kept.
  std::int64_t bytes() const;
  Int8Tensor to(c10::Device device) const;
};

/// Quantises fp32, bf16 or fp16. A row of zeros has scale 0. A row that holds NaN or an infinity has scale NaN, so
/// all of it becomes NaN again.
Int8Tensor quantize_int8(const at::Tensor& w);

/// [shape] in fp32, bf16 or fp16: code × scale in fp32, rounded once.
at::Tensor dequantize(const Int8Tensor& tensor, at::ScalarType type = at::kFloat);

/// What bitsandbytes' Linear8bitLt keeps in a file: "weight" [out, in] int8 and "SCB", max |w| of each row, fp32.
/// The Error is what does not fit.
Result<Int8Tensor> int8_from_bitsandbytes(const at::Tensor& weight, const at::Tensor& scb);

namespace reference {

// In plain tensor operations: what the vectorised code computes, and what runs on devices other than the CPU.

Int8Tensor quantize_int8(const at::Tensor& w);
at::Tensor dequantize(const Int8Tensor& tensor, at::ScalarType type);

}  // namespace reference
}  // namespace finesweep::worker
