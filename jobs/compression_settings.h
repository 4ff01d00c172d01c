#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "jobs/settings.h"

namespace finesweep {

// Typed views, as in jobs/settings.h, of the steps that make a model smaller.

enum class PruneTarget { adapter, model };
enum class PruneScope { per_tensor, global };

struct PruneSettings {
  PruneTarget target = PruneTarget::adapter;
  double amount = 0.5;  // share of the weights
  PruneScope scope = PruneScope::per_tensor;
  /// The training step before has had the masks in force from its start.
  bool before_training = false;
};

enum class WeightFormat { fp16, bf16, int8, nf4 };

struct QuantizeSettings {
  WeightFormat format = WeightFormat::nf4;
  bool double_quantization = true;      // nf4
  std::int64_t block_size = 64;         // nf4
  Precision compute = Precision::fp32;  // nf4
};

struct DistillSettings {
  std::string teacher;                         // absolute path
  std::optional<std::string> student;          // absolute path; absent: the model that the step acts on
  std::optional<std::int64_t> student_layers;  // instead: so many layers of the teacher
  double temperature = 2;
  double alpha = 0.5;  // share of the teacher's loss
  TrainingSettings training;
};

Result<DistillSettings> read_distill_settings(const Json& settings);
Result<PruneSettings> read_prune_settings(const Json& settings);
/// Of a finetune step: masks on the adapter as it is initialised, in force while it trains.
Result<std::optional<PruneSettings>> read_masks_while_training(const Json& finetune_settings);
Result<QuantizeSettings> read_quantize_settings(const Json& settings);

}  // namespace finesweep
