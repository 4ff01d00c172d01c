#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/ones_like.h>

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <vector>

#include "worker/data/batch.h"
#include "worker/engine/job_model.h"
#include "worker/engine/model_artifact.h"
#include "worker/engine/steps.h"
#include "worker/models/language_model.h"
#include "worker/models/quantized_base.h"
#include "worker/models/weights.h"
#include "worker/random.h"

namespace finesweep::worker {
namespace {

constexpr std::int64_t probe_rows = 4, probe_tokens = 16;

/// Token ids that are the same for every job: no data is needed to compare a model with itself.
Batch probe(Model& model) {
  const auto vocabulary = model.config().at("vocab_size").get<std::uint64_t>();
  RandomStream stream(0, "merge probe");
  Batch batch;
  batch.input_ids = at::empty({probe_rows, probe_tokens}, at::kLong);
  std::int64_t* ids = batch.input_ids.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < batch.input_ids.numel(); ++i) {
    ids[i] = static_cast<std::int64_t>(stream.next_below(vocabulary));
  }
  batch.attention_mask = at::ones_like(batch.input_ids);
  for (std::int64_t row = 0; row < probe_rows; ++row) batch.row_indices.push_back(row);
  const LanguageModel* text = model.language_model();
  if (text != nullptr && text->is_encoder_decoder()) batch.decoder_input_ids = batch.input_ids;
  return batch;
}

at::Tensor outputs(Model& model, const Batch& batch) {
  return model.logits(batch, Pass()).value.to(at::kCPU);
}

/// The largest difference, as a share of the largest output.
double relative_difference(const at::Tensor& one, const at::Tensor& other) {
  return ((one - other).abs().max() / one.abs().max()).item<double>();
}

/// Every quantised weight becomes a full one.
std::vector<Parameter*> dequantize(Model& model) {
  std::vector<Parameter*> changed;
  for (Parameter* parameter : model.parameters()) {
    if (!parameter->quantized) continue;
    parameter->value = parameter->quantized->dequantize(at::kFloat, 0, parameter->rows());
    parameter->quantized.reset();
    changed.push_back(parameter);
  }
  return changed;
}

/// What the outputs would differ by if the merged weights were quantised again as the base was.
double error_of_requantizing(Model& model, const std::vector<Parameter*>& weights, const BaseQuantization& how,
                             const Batch& batch, const at::Tensor& unmerged) {
  std::vector<at::Tensor> kept;
  for (Parameter* weight : weights) {
    kept.push_back(weight->value);
    quantize_weight(*weight, how);
  }
  const double error = relative_difference(unmerged, outputs(model, batch));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i]->quantized.reset();
    weights[i]->value = kept[i];
  }
  return error;
}

/// To what the base's weights are rounded to, so that the outputs are those of the files.
void round_weights(Model& model, at::ScalarType type) {
  for (Parameter* parameter : model.parameters()) {
    if (parameter->value.dim() < 2 || is_head_module(model, parameter->parts.front().name)) continue;
    parameter->value = parameter->value.to(type).to(at::kFloat);
  }
}

}  // namespace

Outcome merge_step(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                   ExecutionControl& control) {
  auto source = find_model(request, context);
  if (!source) return failed_for_good(source.error().message);
  if (!source->adapter) return failed_for_good("There is no adapter to merge.");
  control.progress({0, 1, "merging", Progress::no_loss});
  const at::NoGradGuard no_graph;
  auto loaded = load_frozen(*source, source->manifest->head, Precision::fp32, request.job.seed.value_or(0), device);
  if (!loaded) return failed_for_good(loaded.error().message);
  Model& model = *loaded->model;
  const Batch batch = probe(model);
  const at::Tensor unmerged = outputs(model, batch);
  std::vector<Parameter*> quantized;
  for (Parameter* parameter : model.parameters()) {
    if (parameter->quantized) quantized.push_back(parameter);
  }
  if (const auto merged = merge(model, *loaded->adapter); !merged) return failed_for_good(merged.error().message);
  dequantize(model);
  if (source->storage) round_weights(model, scalar_type_of(*source->storage));

  Outcome outcome;
  outcome.kind = OutcomeKind::succeeded;
  outcome.has_artifact = true;
  outcome.environment = job_environment(request);
  outcome.metrics["relative_error"] = relative_difference(unmerged, outputs(model, batch));
  if (source->quantization && !quantized.empty()) {
    const double again = error_of_requantizing(model, quantized, *source->quantization, batch, unmerged);
    outcome.metrics["requantized_error"] = again;
    std::fprintf(stderr,
                 "warning: the base is quantised. The merged weights are kept in fp32: outputs differ from the "
                 "unmerged model's by %.2g of the largest. Quantised again as the base was, they would differ by "
                 "%.2g.\n",
                 outcome.metrics["relative_error"], again);
  }
  const std::string method = source->manifest->method;
  const HeadChoice head = source->manifest->head;
  loaded->adapter.reset();
  ModelManifest description = describe_model(*loaded, *source, head, context, method);
  description.storage = source->storage;
  const Status written = write_model_artifact(request, *loaded, *source, description, outcome);
  return written ? outcome : failed_this_time(written.error().message);
}

}  // namespace finesweep::worker
