#include <chrono>

#include "worker/engine/classification.h"
#include "worker/engine/device.h"
#include "worker/engine/job_model.h"
#include "worker/engine/steps.h"
#include "worker/tokenizers/tokenizer.h"

namespace finesweep::worker {
namespace {

/// Those of the training that came before; without one, those of the data.
Result<Labels> find_labels(const ModelSource& source, const DataContext& data, const std::string& split,
                           const std::vector<Example>& examples) {
  if (source.manifest) return source.manifest->labels;
  if (split == "train" || !data.train) return Labels::find(data, examples, split_path(data, split));
  const auto train = read_split(data, "train");
  if (!train) return train.error();
  return Labels::find(data, *train, *data.train);
}

Result<JobModel> load_model(const ModelSource& source, const Labels& labels, const EvaluateSettings& settings,
                            std::uint64_t seed, c10::Device device) {
  const auto storage = settings.precision == Precision::bf16 ? at::kBFloat16 : at::kFloat;
  const auto base = load_base(source.folder, storage, device, KeepLoaded::yes);
  if (!base) return base.error();
  ModelOptions options;
  options.labels = labels.count();
  options.pooling = source.manifest ? source.manifest->pooling : settings.pooling;
  options.precision = settings.precision;
  options.seed = seed;
  options.frozen = true;
  JobModel loaded;
  auto model = make_model(*base, options);
  if (!model) return model.error();
  loaded.model = std::move(*model);
  if (source.adapter) {
    auto adapter = read_adapter(*loaded.model, *source.adapter);
    if (!adapter) return adapter.error();
    loaded.adapter = std::move(*adapter);
  }
  return loaded;
}

}  // namespace

Outcome evaluate(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control) {
  const auto start = std::chrono::steady_clock::now();
  const auto settings = read_evaluate_settings(request.job.settings);
  if (!settings) return failed_for_good(settings.error().message);
  const auto source = find_model(request, context);
  if (!source) return failed_for_good(source.error().message);

  control.progress({0, 0, "loading", std::numeric_limits<double>::quiet_NaN()});
  const auto examples = read_split(context.data, settings->split);
  if (!examples) return failed_for_good(examples.error().message);
  const auto labels = find_labels(*source, context.data, settings->split, *examples);
  if (!labels) return failed_for_good(labels.error().message);
  auto tokenizer = load_tokenizer(source->folder);
  if (!tokenizer) return failed_for_good(tokenizer.error().message);
  const auto data = ClassificationDataset::make(*examples, *labels, **tokenizer, settings->sequence_length,
                                                split_path(context.data, settings->split));
  if (!data) return failed_for_good(data.error().message);

  auto loaded = load_model(*source, *labels, *settings, request.job.seed.value_or(0), device);
  if (!loaded) return failed_for_good(loaded.error().message);

  Progress progress{0, batches_of(*data, *settings), "evaluating", std::numeric_limits<double>::quiet_NaN()};
  const auto metrics = evaluate_classifier(*loaded->model, *data, *labels, *settings, [&] {
    control.progress(progress);
    ++progress.done;
    return !control.stop_requested();
  });
  if (!metrics) return failed_for_good(metrics.error().message);
  Outcome outcome;
  if (!*metrics) {
    outcome.kind = OutcomeKind::interrupted;
    return outcome;
  }
  outcome.kind = OutcomeKind::succeeded;
  outcome.metrics = **metrics;
  outcome.metrics["seconds"] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  outcome.metrics["peak_memory_mb"] = peak_memory_mb(device);
  return outcome;
}

}  // namespace finesweep::worker
