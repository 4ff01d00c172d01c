#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/result.h"
#include "worker/formats/safetensors.h"
#include "worker/kernels/parameter.h"
#include "worker/models/base_quantization.h"
#include "worker/models/pretrained.h"
#include "worker/models/weight_spec.h"
#include "worker/quantization/int8.h"
#include "worker/quantization/nf4.h"

namespace finesweep::worker {

// A base whose linear layers are kept in few bits: what QLoRA (https://arxiv.org/abs/2305.14314) trains on.
// Quantised are exactly the weights that the family calls quantizable: the linear layers inside the transformer
// layers, each module of Hugging Face's model on its own, as bitsandbytes has it, also where several are stacked
// here.

/// A stacked weight in NF4.
class Nf4Weight final : public QuantizedWeight {
 public:
  /// [rows of the part, in] each, one width for all.
  explicit Nf4Weight(std::vector<Nf4Tensor> parts) : parts_(std::move(parts)) {}

  at::Tensor dequantize(at::ScalarType type, std::int64_t begin, std::int64_t count) const override;
  at::Tensor product(const at::Tensor& x, std::int64_t begin, std::int64_t count) const override;
  std::int64_t rows() const override;
  std::int64_t columns() const override { return parts_.front().shape[1]; }
  std::int64_t bytes() const override;
  const std::vector<Nf4Tensor>& parts() const { return parts_; }

 private:
  std::vector<Nf4Tensor> parts_;
};

/// A weight in INT8, one scale a row: stacking makes no difference.
class Int8Weight final : public QuantizedWeight {
 public:
  explicit Int8Weight(Int8Tensor tensor) : tensor_(std::move(tensor)) {}

  at::Tensor dequantize(at::ScalarType type, std::int64_t begin, std::int64_t count) const override;
  std::int64_t rows() const override { return tensor_.codes.size(0); }
  std::int64_t columns() const override { return tensor_.codes.size(1); }
  std::int64_t bytes() const override { return tensor_.bytes(); }
  const Int8Tensor& tensor() const { return tensor_; }

 private:
  Int8Tensor tensor_;
};

/// Puts a quantised copy in place of the value, on the same device.
void quantize_weight(Parameter& weight, const BaseQuantization& how);

/// The base with its quantizable weights quantised; the others are shared. The Error: it is quantised already.
Result<std::shared_ptr<const Pretrained>> quantize_base(const Pretrained& base, const BaseQuantization& how);

/// The base with those weights that `file` holds in bitsandbytes' layout in place of its own. The Error names the
/// tensor that does not fit.
Result<std::shared_ptr<const Pretrained>> with_quantized_weights(const Pretrained& base,
                                                                 const SafetensorsFile& file);

/// config.json and model.safetensors, which load_pretrained and transformers read. What is quantised is in
/// bitsandbytes' layout, names and "quantization_config" are transformers'; the rest as it is kept: fp32, bf16 or
/// fp16. Not of a base in FP8.
Status save_base(const Pretrained& base, const std::filesystem::path& folder);

/// Bytes that the weights take in memory, as they are kept.
std::int64_t bytes_in_memory(const Pretrained& base);

/// Of the weights that are quantised: what they take, and how many values they have.
struct QuantizedSize {
  std::int64_t bytes = 0, values = 0;
};
QuantizedSize quantized_size(const Pretrained& base);

/// Weights in bitsandbytes' layout, as a directory or a file holds them: "NAME" beside "NAME.quant_state.…" (NF4),
/// or int8 "NAME" beside "MODULE.SCB".
struct QuantizedFiles {
  std::function<const TensorEntry*(std::string_view name)> find;
  std::function<Result<at::Tensor>(std::string_view name)> read;

  /// `name` is a quantised weight.
  bool holds(std::string_view name) const;
  /// `name` stands beside a quantised weight, as its scales do.
  bool belongs_to_one(std::string_view name) const;
};

/// Reads the tensors of a weight (`file_names`: as the files name the spec's) and stacks them.
Result<Parameter> read_quantized_weight(const WeightSpec& spec, const std::vector<std::string>& file_names,
                                        const QuantizedFiles& files, c10::Device device);

}  // namespace finesweep::worker
