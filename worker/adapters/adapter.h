#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "jobs/result.h"
#include "worker/models/model.h"

namespace finesweep::worker {

enum class AdapterKind { lora, ia3 };

struct AdapterOptions {
  AdapterKind kind = AdapterKind::lora;

  /// LoRA only.
  std::int64_t rank = 8;
  double alpha = 16;
  /// On the input of the adapter, while training.
  double dropout = 0;
  /// Scale alpha / sqrt(rank) in place of alpha / rank (https://arxiv.org/abs/2312.03732).
  bool rslora = false;
  /// Rank or alpha of some modules, by an expression for the end of their paths, the first that matches: PEFT's
  /// rank_pattern and alpha_pattern.
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;

  /// Names of modules: a whole path, or its end after a dot; in any order. The one name "all-linear" means every
  /// linear module but the head and the output embedding. Empty: the family's default.
  std::vector<std::string> targets;
  /// In place of `targets`: a regular expression for whole paths.
  std::string target_expression;
  /// IA3 only: the ends of paths of those targets whose input is scaled in place of their output. Empty: the
  /// family's default.
  std::vector<std::string> feedforward_targets;
  /// In place of `feedforward_targets`: a regular expression for whole paths.
  std::string feedforward_expression;
};

/// What merging cost in precision.
struct MergeReport {
  /// Largest difference between a merged weight as it is kept and the exact one: the rounding of bf16 or fp16.
  double largest_rounding = 0;
  /// The largest merged weight, to compare it with.
  double largest_weight = 0;
  /// Quantised weights that were replaced by full ones in the model's compute type, with the error that the
  /// quantisation of the base had made.
  std::int64_t dequantized_weights = 0;
};

/// What is trained in place of a model's linear weights: LoRA or IA3 on the modules that a target matches, beside
/// the model's head, which is trained and saved whole (PEFT's modules_to_save).
///
/// Belongs to one model and must not outlive it; the model runs with it as long as it lives.
class Adapter {
 public:
  virtual ~Adapter() = default;
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  AdapterKind kind() const { return options_.kind; }
  /// With the family's targets where none were given. No feed-forward targets: there are none.
  const AdapterOptions& options() const { return options_; }
  Model& model() const { return model_; }
  /// The model's modules that are saved whole beside the adapter's tensors.
  std::vector<std::string> head_modules() const { return model_.head_modules(); }

  /// The adapter's own, in the order of the model. Named as PEFT's files name them.
  virtual std::vector<Parameter*> parameters() const = 0;
  /// What PEFT's adapter file holds: the adapter's tensors and the head, fp32. They share the trained memory.
  std::vector<std::pair<std::string, at::Tensor>> tensors() const;

  bool merged() const { return merged_; }

 protected:
  Adapter(Model& model, AdapterOptions options) : model_(model), options_(std::move(options)) {}

  /// Puts what the adapter computes on the model's modules, and takes it off.
  virtual void attach() = 0;
  virtual void detach() = 0;
  /// The modules that it works on, once each.
  virtual std::vector<LinearModule*> modules() const = 0;
  /// Changes copies of a module's weight [out, in] and bias [out] (undefined where there is none), fp32, to what
  /// module and adapter compute together.
  virtual void fold_into(const LinearModule& module, const at::Tensor& weight, const at::Tensor& bias) const = 0;

  Model& model_;
  AdapterOptions options_;

 private:
  friend Result<MergeReport> merge(Model&, Adapter&);
  friend Status unmerge(Model&, Adapter&);
  /// What a parameter held before merging.
  struct Original {
    Parameter* parameter;
    at::Tensor value;
    std::shared_ptr<const QuantizedWeight> quantized;
  };
  std::vector<Original> originals_;
  bool merged_ = false;
};

/// A new adapter, as PEFT initialises it (LoRA: A Kaiming-uniform, each from its own stream, B zero; IA3: ones).
/// `trained`: its parameters are; otherwise it only takes part in the forward pass. The Error says which option or
/// target does not fit the model.
Result<std::unique_ptr<Adapter>> make_adapter(Model& model, const AdapterOptions& options, std::uint64_t seed,
                                              bool trained = true);

/// An adapter directory written by PEFT or by write_adapter, over a model of the same base; its head replaces the
/// model's. The Error names what does not fit: the file, the key or tensor, and what was expected.
Result<std::unique_ptr<Adapter>> read_adapter(Model& model, const std::filesystem::path& folder,
                                              bool trained = false);

/// Gives an adapter, and the model's head, the values that read_adapter would read from a directory whose
/// adapter_config.json is that of the one it was read from. What was captured of the model's passes computes with
/// them from then on. After an Error the values are neither those nor these.
Status read_adapter_values(Adapter& adapter, const std::filesystem::path& folder);

/// adapter_config.json and adapter_model.safetensors, as PEFT writes and loads them. `base_model` is what
/// base_model_name_or_path says.
Status write_adapter(const Adapter& adapter, const std::string& base_model, const std::filesystem::path& folder);
/// The same with `tensors` in place of adapter.tensors(), copies of them say. Nothing of the adapter's device is
/// used.
Status write_adapter(const Adapter& adapter, const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                     const std::string& base_model, const std::filesystem::path& folder);

/// Puts the adapter into the weights of its model, which become the model's own; the model computes the same and
/// without the adapter's work. What is merged outlives the adapter. The Error names a weight that cannot hold it:
/// an output embedding that is the input embedding too, or one that is being trained.
Result<MergeReport> merge(Model& model, Adapter& adapter);

/// Back to exactly what was before merge().
Status unmerge(Model& model, Adapter& adapter);

}  // namespace finesweep::worker
