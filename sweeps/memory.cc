#include "sweeps/memory.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

namespace finesweep::sweeps {

namespace {

constexpr double kMega = 1e6;

double elements(const ModelInfo::Tensor& tensor) {
  double count = 1;
  for (std::int64_t size : tensor.shape) count *= static_cast<double>(size);
  return count;
}

/// Each target layer once, however many of the names match it.
std::set<const ModelInfo::Tensor*> target_layers(const Json& settings, const ModelInfo& info) {
  std::set<const ModelInfo::Tensor*> layers;
  for (const Json& target : settings.value("targets", Json::array()))
    for (const ModelInfo::Tensor* layer : info.layers_named(target.get<std::string>())) layers.insert(layer);
  return layers;
}

/// What IA3 trains of a layer: a number for each of its outputs, or of the inputs of a feed-forward layer. GPT-2's
/// files hold matrices the other way round.
std::int64_t scaled_size(const ModelInfo::Tensor& layer, const ModelInfo& info, bool feedforward) {
  const bool transposed = info.family == "gpt2";
  return layer.shape[feedforward == transposed ? 0 : 1];
}

/// Logits of a language model, which are made some tokens at a time; while training with their gradients.
double logit_bytes(const Job& job, const ModelInfo& info, double tokens, bool trains) {
  constexpr double tokens_at_a_time = 2048;
  if (job.context.value("task", "") == "classification") return 0;
  return std::min(tokens, tokens_at_a_time) * static_cast<double>(info.vocabulary) * 4 * (trains ? 2 : 1);
}

double weight_bytes(const Json& settings, const ModelInfo& info, bool trains_all) {
  const std::string precision = settings.value("precision", "fp32");
  // What is trained in 16 bits has its copy in fp32 beside it.
  const double dense = precision == "fp32" ? 4 : trains_all ? 6 : 2;
  double bytes = static_cast<double>(info.parameters) * dense;
  if (settings.value("method", "") != "qlora") return bytes;
  const double block = settings.value("block_size", 64);
  // A scale of 4 bytes to a block; quantised again, one byte and 4 more to 256 blocks.
  const double scale = settings.value("double", true) ? (1 + 4.0 / 256) / block : 4 / block;
  std::set<const ModelInfo::Tensor*> matrices;
  for (const std::string& name : info.layer_names())
    for (const ModelInfo::Tensor* layer : info.layers_named(name)) matrices.insert(layer);
  for (const ModelInfo::Tensor* matrix : matrices) bytes += elements(*matrix) * (0.5 + scale - dense);
  return bytes;
}

}  // namespace

std::int64_t trained_parameters(const Job& job, const ModelInfo& info) {
  const std::string method = job.settings.value("method", "full");
  if (method == "full") return info.parameters;
  std::int64_t count = 0;
  std::set<const ModelInfo::Tensor*> feedforward;
  for (const Json& target : job.settings.value("feedforward_targets", Json::array()))
    for (const ModelInfo::Tensor* layer : info.layers_named(target.get<std::string>())) feedforward.insert(layer);
  const auto is_feedforward = [&](const ModelInfo::Tensor& layer) { return feedforward.contains(&layer); };
  for (const ModelInfo::Tensor* layer : target_layers(job.settings, info)) {
    if (method == "ia3")
      count += scaled_size(*layer, info, is_feedforward(*layer));
    else
      count += job.settings.at("rank").get<std::int64_t>() * (layer->shape[0] + layer->shape[1]);
  }
  return count;
}

namespace {

MemoryEstimate estimate(const Job& job, const ModelInfo& model) {
  const bool trains = job.kind == StepKind::finetune;
  const Json& settings = job.settings;
  const bool trains_all = trains && settings.value("method", "") == "full";

  MemoryEstimate estimate;
  estimate.weights_mb = weight_bytes(settings, model, trains_all) / kMega;
  const double hidden = static_cast<double>(model.hidden), layers = static_cast<double>(model.layers);
  const double rows = settings.at("batch_size").get<double>(),
               tokens = settings.at("sequence_length").get<double>();
  const double width = settings.value("precision", "fp32") == "fp32" ? 4 : 2;
  const double scores =
      settings.value("attention", "flash") == "flash" ? 0 : 2.5 * static_cast<double>(model.heads) * tokens;
  const double of_layer = rows * tokens * (17 * hidden + scores) * width;
  const double logits = logit_bytes(job, model, rows * tokens, trains);
  if (!trains) {
    estimate.activations_mb = (2 * of_layer + logits) / kMega;
    return estimate;
  }
  const double trained = static_cast<double>(trained_parameters(job, model));
  estimate.gradients_mb = 4 * trained / kMega;
  estimate.moments_mb = 8 * trained / kMega;
  estimate.activations_mb = (logits + (settings.value("gradient_checkpointing", false)
                                           ? of_layer + layers * rows * tokens * hidden * width
                                           : layers * of_layer)) /
                            kMega;
  return estimate;
}

}  // namespace

std::optional<MemoryEstimate> estimate_memory(const Job& job, ModelCatalog& models) {
  const bool trains = job.kind == StepKind::finetune;
  if (!trains && job.kind != StepKind::evaluate) return std::nullopt;
  if (trains && !job.inputs.empty()) return std::nullopt;
  const auto& model = models.get(job.context.at("model").get<std::string>());
  if (!model || model->tensors.empty()) return std::nullopt;
  return estimate(job, *model);
}

MemoryEstimate estimate_memory_over(const Job& job, const ModelInfo& model) {
  return estimate(job, model);
}

}  // namespace finesweep::sweeps
