#include <ATen/ops/ones_like.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "jobs/compression_settings.h"
#include "worker/engine/loaded_base.h"
#include "worker/engine/masks.h"
#include "worker/engine/model_artifact.h"
#include "worker/engine/model_files.h"
#include "worker/engine/steps.h"
#include "worker/formats/safetensors.h"
#include "worker/models/quantized_base.h"
#include "worker/models/weights.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

constexpr const char* adapter_weights = "adapter_model.safetensors";
/// Of a language model: it is, or it could be, the input embedding too.
constexpr const char* output_embedding = "lm_head.weight";

/// A tensor of PEFT's file that is the adapter's own; others are the head's, or repeat the base.
bool belongs_to_adapter(const std::string& name) {
  return name.find(".lora_A.") != std::string::npos || name.find(".lora_B.") != std::string::npos ||
         name.ends_with(".ia3_l");
}

bool is_pruned(const WeightSpec& spec) {
  return spec.role == WeightRole::matrix && spec.names.front() != output_embedding;
}

/// Masks for `named` tensors, beside those of earlier steps.
Result<NamedMasks> choose_masks(const std::vector<std::pair<std::string, at::Tensor>>& named,
                                const PruneSettings& settings, const NamedMasks& earlier, Outcome& outcome) {
  std::vector<at::Tensor> tensors;
  for (const auto& [name, tensor] : named) tensors.push_back(tensor);
  const auto chosen = magnitude_masks(tensors, settings.amount, settings.scope);
  if (!chosen) return chosen.error();
  NamedMasks masks;
  for (std::size_t i = 0; i < named.size(); ++i) masks.emplace_back(named[i].first, (*chosen)[i]);
  NamedMasks all = both(masks, earlier);
  // Those of this step come first.
  outcome.metrics["sparsity"] = sparsity({all.begin(), all.begin() + static_cast<std::ptrdiff_t>(masks.size())});
  return all;
}

/// Rewrites the adapter's file with 0 for what is pruned. The base is not needed for it.
Result<NamedMasks> prune_adapter(const ModelSource& source, const PruneSettings& settings,
                                 const NamedMasks& earlier, const fs::path& artifact, Outcome& outcome) {
  const auto file = SafetensorsFile::open(*source.adapter / adapter_weights);
  if (!file) return file.error();
  std::vector<std::pair<std::string, at::Tensor>> own, all;
  for (const std::string& name : file->names()) {
    auto tensor = file->tensor(name);
    if (!tensor) return tensor.error();
    (belongs_to_adapter(name) ? own : all).emplace_back(name, std::move(*tensor));
  }
  auto masks = choose_masks(own, settings, earlier, outcome);
  if (!masks) return masks;
  for (std::size_t i = 0; i < own.size(); ++i) {
    all.emplace_back(own[i].first, own[i].second.masked_fill((*masks)[i].second.eq(0), 0));
  }
  if (Status copied = copy_adapter(source, artifact); !copied) return copied.error();
  const Status written = write_safetensors(artifact / "adapter" / adapter_weights, all, file->metadata());
  if (!written) return written.error();
  return masks;
}

/// Writes the model with 0 for what is pruned; an unmerged adapter stays beside it.
Result<NamedMasks> prune_model(const ModelSource& source, const PruneSettings& settings, const NamedMasks& earlier,
                               c10::Device device, const fs::path& artifact, Outcome& outcome) {
  if (source.quantization || holds_quantized_weights(source.model)) {
    return Error{"Quantised weights cannot be pruned. Prune before quantising."};
  }
  const auto storage = source.storage ? scalar_type_of(*source.storage) : at::kFloat;
  const auto base = load_base({source.model, storage, std::nullopt}, device, KeepLoaded::no);
  if (!base) return base.error();
  Pretrained pruned = **base;
  std::vector<std::pair<std::string, at::Tensor>> matrices;
  std::vector<Parameter*> parameters;
  for (std::size_t i = 0; i < pruned.weights.size(); ++i) {
    Parameter& weight = pruned.weights[i];
    if (!is_pruned(pruned.specs[i]) || !weight.present()) continue;
    parameters.push_back(&weight);
    for (std::size_t part = 0; part < weight.parts.size(); ++part) {
      matrices.emplace_back(weight.parts[part].name, weight.in_file_layout(weight.value, part));
    }
  }
  auto masks = choose_masks(matrices, settings, earlier, outcome);
  if (!masks) return masks;
  apply_masks(*masks, parameters);
  if (Status saved = save_base(pruned, artifact / "model"); !saved) return saved.error();
  if (Status copied = copy_model_files(source.tokenizer, artifact / "model"); !copied) return copied.error();
  if (!source.adapter) return masks;
  if (Status copied = copy_adapter(source, artifact); !copied) return copied.error();
  return masks;
}

/// The training step before has had the masks in force: its adapter is what this step leaves.
Result<NamedMasks> keep_pruned(const ModelSource& source, const NamedMasks& earlier, const fs::path& artifact,
                               Outcome& outcome) {
  if (earlier.empty() || !source.adapter) {
    return Error{"The training before has left no masks; it was not planned by this version of finesweep."};
  }
  NamedMasks own;
  for (const auto& mask : earlier) {
    if (belongs_to_adapter(mask.first)) own.push_back(mask);
  }
  outcome.metrics["sparsity"] = sparsity(own);
  if (Status copied = copy_adapter(source, artifact); !copied) return copied.error();
  return earlier;
}

}  // namespace

Outcome prune(const ExecutionRequest& request, const JobContext& context, c10::Device device,
              ExecutionControl& control) {
  const auto settings = read_prune_settings(request.job.settings);
  if (!settings) return failed_for_good(settings.error().message);
  const auto source = find_model(request, context);
  if (!source) return failed_for_good(source.error().message);
  const bool of_adapter = settings->target == PruneTarget::adapter;
  if (of_adapter && !source->adapter) return failed_for_good("There is no adapter to prune.");
  control.progress({0, 1, "pruning", Progress::no_loss});
  NamedMasks earlier;
  if (source->masks) {
    auto read = read_masks(*source->masks);
    if (!read) return failed_for_good(read.error().message);
    earlier = std::move(*read);
  }

  Outcome outcome;
  outcome.kind = OutcomeKind::succeeded;
  outcome.has_artifact = true;
  outcome.environment = job_environment(request);
  const fs::path artifact = request.staging / "artifact";
  fs::create_directories(artifact);
  const auto masks = settings->before_training ? keep_pruned(*source, earlier, artifact, outcome)
                     : of_adapter              ? prune_adapter(*source, *settings, earlier, artifact, outcome)
                                  : prune_model(*source, *settings, earlier, device, artifact, outcome);
  if (!masks) return failed_for_good(masks.error().message);
  if (Status written = write_masks(*masks, artifact); !written) return failed_this_time(written.error().message);
  ModelManifest description = describe_source(*source, context, family_of(source->model));
  if (!of_adapter && description.is_adapter) description.base_job = request.job.id;  // the base stands beside it
  const Status sealed = seal_model_artifact(request, description, outcome);
  return sealed ? outcome : failed_this_time(sealed.error().message);
}

}  // namespace finesweep::worker
