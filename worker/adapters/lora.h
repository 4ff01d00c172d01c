#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "jobs/result.h"
#include "worker/models/model.h"

namespace finesweep::worker {

struct LoraOptions {
  std::int64_t rank = 8;
  double alpha = 16;
  /// On the input of the adapter, while training.
  double dropout = 0;
  /// Scale alpha / sqrt(rank) in place of alpha / rank (https://arxiv.org/abs/2312.03732).
  bool rslora = false;
  /// Names of modules: a whole path, or its end after a dot. Empty: the family's default.
  std::vector<std::string> targets;
};

/// LoRA (https://arxiv.org/abs/2106.09685) as PEFT has it: y = W x + b + scale · B A dropout(x) on every module
/// that a target matches, beside the model's head, which is trained and saved whole (modules_to_save).
///
/// Belongs to one model and must not outlive it; the model runs with it as long as it lives.
class LoraAdapter {
 public:
  ~LoraAdapter();
  LoraAdapter(const LoraAdapter&) = delete;
  LoraAdapter& operator=(const LoraAdapter&) = delete;

  const LoraOptions& options() const { return options_; }
  double scale() const;
  /// The model's modules that are saved whole beside A and B.
  std::vector<std::string> head_modules() const { return model_.head_modules(); }
  /// A and B of every module, in the order of the model. Named as PEFT's files name them.
  std::vector<Parameter*> parameters();
  /// What PEFT's adapter file holds: A and B and the head, fp32.
  std::vector<std::pair<std::string, at::Tensor>> tensors() const;

 private:
  friend Result<std::unique_ptr<LoraAdapter>> make_lora(Model&, const LoraOptions&, std::uint64_t, bool);
  friend Result<std::unique_ptr<LoraAdapter>> read_lora(Model&, const std::filesystem::path&, bool);
  friend void merge_lora(Model&, LoraAdapter&);
  LoraAdapter(Model& model, LoraOptions options);
  /// Finds the targets and puts an adapter with A and B of zeros on each.
  Status attach(bool trained);

  struct Layer;
  Model& model_;
  LoraOptions options_;
  std::vector<std::unique_ptr<Layer>> layers_;
};

/// A new adapter, as PEFT initialises it (A: Kaiming-uniform, B: zero), each A from its own stream. `trained`: its
/// parameters are; otherwise it only takes part in the forward pass.
Result<std::unique_ptr<LoraAdapter>> make_lora(Model& model, const LoraOptions& options, std::uint64_t seed,
                                               bool trained = true);

/// An adapter directory written by PEFT or by write_lora, over a model of the same base; its head replaces the
/// model's. The Error names what does not fit: the file, the key or tensor, and what was expected.
Result<std::unique_ptr<LoraAdapter>> read_lora(Model& model, const std::filesystem::path& folder,
                                               bool trained = false);

/// adapter_config.json and adapter_model.safetensors, as PEFT writes and loads them. `base_model` is what
/// base_model_name_or_path says.
Status write_lora(const LoraAdapter& adapter, const std::string& base_model, const std::filesystem::path& folder);

/// Adds scale · B A to the weights of the model and leaves the adapter without effect (B zero). The weights become
/// the model's own.
void merge_lora(Model& model, LoraAdapter& adapter);

/// PEFT's rule: `target` is the whole module path or its end after a dot.
bool target_matches(std::string_view target, std::string_view module_path);

}  // namespace finesweep::worker
