#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/json.h"
#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/models/base_quantization.h"
#include "worker/models/model.h"
#include "worker/models/weight_spec.h"

namespace finesweep::worker {

/// A model as it stands in a Hugging Face directory or a GGUF file: config and weights, checked against each other.
/// Immutable and shared by the models made from it, so one copy serves job after job.
struct Pretrained {
  std::filesystem::path folder;
  std::string family;  // model_type of config.json
  Json config;
  at::ScalarType storage = at::kFloat;
  c10::Device device = c10::Device(c10::kCPU);
  /// What the family says of each of the weights.
  std::vector<WeightSpec> specs;
  /// The backbone's weights in `storage`, in the family's order, stacked where the family stacks them; the head's
  /// in fp32, absent where the files have none.
  std::vector<Parameter> weights;

  /// The one whose first tensor has this name; null where the files have none.
  const Parameter* find(std::string_view name) const;
};

/// Reads config.json and the safetensors files, or a GGUF file. `storage` is fp32, or bf16 or fp16 where the
/// backbone stays frozen. With `quantization` each quantizable weight is quantised from fp32 as soon as it is read
/// (see quantized_base.h); without it a weight that stands in the files in bitsandbytes' layout stays as it is.
///
/// The Error names the file and the tensor or key: a family that is not there yet, a setting that is not supported,
/// a missing, unknown or ill-shaped tensor.
Result<std::shared_ptr<const Pretrained>> load_pretrained(const std::filesystem::path& folder,
                                                          at::ScalarType storage = at::kFloat,
                                                          c10::Device device = c10::Device(c10::kCPU),
                                                          const std::optional<BaseQuantization>& quantization = {});

enum class ModelHead { classification, language_model };

struct ModelOptions {
  ModelHead head = ModelHead::classification;
  /// Classification. 1: regression.
  std::int64_t labels = 2;
  Pooling pooling = Pooling::cls;
  Precision precision = Precision::fp32;
  /// In what products with quantised weights are computed; absent: as `precision`.
  std::optional<Precision> quantized_products;
  /// All dropouts of the model; absent: as its config has them.
  std::optional<double> model_dropout;
  /// Initialises a head that the files do not have.
  std::uint64_t seed = 0;
  /// Full fine-tuning: everything that reaches the output is trained, on a private copy. Otherwise the head of a
  /// classifier alone (an adapter adds its own).
  bool train_all = false;
  /// Nothing is trained: for evaluation.
  bool frozen = false;
};

/// A model with its head over the pretrained weights. The Error says which option does not fit the model.
Result<std::unique_ptr<Model>> make_model(std::shared_ptr<const Pretrained> pretrained,
                                          const ModelOptions& options);

}  // namespace finesweep::worker
