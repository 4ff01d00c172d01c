#include "worker/engine/job_model.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "storage/artifact.h"
#include "worker/engine/loaded_base.h"
#include "worker/engine/masks.h"
#include "worker/engine/model_files.h"
#include "worker/models/student.h"
#include "worker/models/weights.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;

Result<fs::path> artifact_of(const ExecutionRequest& request, const JobId& job) {
  const auto found = request.artifacts.find(job);
  if (found == request.artifacts.end()) return Error{"The artifact of an input of the job was not handed over."};
  return found->second;
}

AdapterOptions adapter_options(const FinetuneSettings& settings) {
  AdapterOptions options;
  options.targets = settings.targets;
  if (settings.method == Method::ia3) {
    options.kind = AdapterKind::ia3;
    options.feedforward_targets = settings.feedforward_targets;
    return options;
  }
  options.rank = settings.rank;
  options.alpha = settings.alpha;
  options.dropout = settings.dropout;
  options.rslora = settings.rslora;
  return options;
}

std::vector<std::string> sorted(std::vector<std::string> names, const std::vector<std::string>& fallback) {
  if (names.empty()) names = fallback;
  std::sort(names.begin(), names.end());
  return names;
}

/// An adapter that is trained further stays what it is: other options would make it another one.
Status check_same_adapter(Model& model, const AdapterOptions& there, const AdapterOptions& asked) {
  const auto differs = [](const std::string& what) {
    return Error{
        "The adapter of the step before was trained with another " + what +
        ". Training it further needs the same method, rank, alpha, dropout, rslora and targets; to train a new "
        "one on top of it, merge it into its base first."};
  };
  if (there.kind != asked.kind) return differs("method");
  const bool ia3 = asked.kind == AdapterKind::ia3;
  const auto fallback = ia3 ? model.default_ia3_targets() : model.default_lora_targets();
  if (sorted(there.targets, fallback) != sorted(asked.targets, fallback)) return differs("list of targets");
  if (ia3) {
    const auto feedforward = asked.targets.empty() ? model.default_ia3_feedforward() : std::vector<std::string>();
    if (sorted(there.feedforward_targets, feedforward) != sorted(asked.feedforward_targets, feedforward)) {
      return differs("list of feedforward_targets");
    }
    return {};
  }
  if (there.rank != asked.rank) return differs("rank");
  if (there.alpha != asked.alpha) return differs("alpha");
  if (there.dropout != asked.dropout) return differs("dropout");
  if (there.rslora != asked.rslora) return differs("rslora");
  return {};
}

/// The method against how the base is kept; settles the latter.
Status settle_quantization(ModelSource& source, const FinetuneSettings& settings) {
  if (settings.training.precision == Precision::fp8_base) {
    if (settings.method == Method::full || settings.method == Method::qlora) {
      return Error{"Precision fp8_base is for adapters beside a frozen base: methods lora and ia3."};
    }
    if (source.quantization || holds_quantized_weights(source.model)) {
      return Error{"The base is quantised already and does not go with precision fp8_base. Use bf16."};
    }
  }
  if (settings.method == Method::full && (source.quantization || source.adapter)) {
    return Error{source.quantization
                     ? "Quantised weights cannot be trained. Use method lora, which trains beside them."
                     : "All weights cannot be trained beside an adapter. Merge it into its base first."};
  }
  if (settings.method != Method::qlora) return {};
  if (source.quantization) return Error{"The base is quantised already. Use method lora, which trains on it."};
  if (source.adapter) {
    return Error{
        "The adapter of the step before stands on a base in full precision. Train it further with method lora, "
        "or merge it first."};
  }
  source.quantization = BaseQuantization{QuantizedFormat::nf4, settings.block_size, settings.double_quantization};
  source.compute = settings.compute;
  return {};
}

/// What stands quantised in its files is not quantised again.
std::optional<BaseQuantization> quantization_to_do(const ModelSource& source, Precision precision) {
  if (precision == Precision::fp8_base) return BaseQuantization{.format = QuantizedFormat::fp8};
  return holds_quantized_weights(source.model) ? std::nullopt : source.quantization;
}

/// What earlier steps pruned.
Result<NamedMasks> earlier_masks(const ModelSource& source) {
  return source.masks ? read_masks(*source.masks) : Result<NamedMasks>(NamedMasks());
}

/// What earlier steps pruned of what is trained stays so.
Status keep_masks(const ModelSource& source, JobModel& loaded) {
  const auto masks = earlier_masks(source);
  if (!masks) return masks.error();
  loaded.masks = apply_masks(*masks, loaded.trained_parameters());
  return {};
}

/// The weights that a model with these options is made of.
BaseRequest weights_of(const ModelSource& source, const ModelOptions& options) {
  // Weights that are trained are kept in fp32, the others in what the model computes in.
  const bool rounded = source.adapter && source.storage;
  const at::ScalarType storage =
      options.train_all ? at::kFloat : scalar_type_of(rounded ? *source.storage : options.precision);
  return {source.model, storage, quantization_to_do(source, options.precision)};
}

Result<std::shared_ptr<const Pretrained>> load_weights(const ModelSource& source, const ModelOptions& options,
                                                       c10::Device device) {
  return load_base(weights_of(source, options), device, options.train_all ? KeepLoaded::no : KeepLoaded::yes);
}

ModelOptions trained_options(const FinetuneSettings& settings, std::uint64_t seed) {
  ModelOptions options;
  options.precision = settings.training.precision;
  options.model_dropout = settings.training.model_dropout;
  options.seed = seed;
  options.train_all = settings.method == Method::full;
  return options;
}

Result<JobModel> make(std::shared_ptr<const Pretrained> weights, const HeadChoice& head, ModelOptions options) {
  options.head = head ? ModelHead::classification : ModelHead::language_model;
  if (head) {
    options.labels = head->labels.count();
    options.pooling = head->pooling;
  }
  auto model = make_model(std::move(weights), options);
  if (!model) return model.error();
  JobModel loaded;
  loaded.model = std::move(*model);
  if (head) loaded.model->label_names = head->labels.names();
  return loaded;
}

Result<JobModel> load(const ModelSource& source, const HeadChoice& head, ModelOptions options, c10::Device device) {
  options.quantized_products = source.compute;
  const auto weights = load_weights(source, options, device);
  if (!weights) return weights.error();
  return make(*weights, head, options);
}

}  // namespace

std::vector<Parameter*> JobModel::trained_parameters() const {
  std::vector<Parameter*> parameters = worker::trained_parameters(*model);
  if (adapter) {
    const auto added = adapter->parameters();
    parameters.insert(parameters.end(), added.begin(), added.end());
  }
  return parameters;
}

Result<ModelSource> find_model(const ExecutionRequest& request, const JobContext& context) {
  ModelSource source;
  source.model = source.tokenizer = context.model;
  if (request.job.inputs.empty()) return source;
  const auto artifact = artifact_of(request, request.job.inputs.front());
  if (!artifact) return artifact.error();
  auto manifest = storage::read_manifest(*artifact);
  if (!manifest) return manifest.error();
  auto described = ModelManifest::from_json(manifest->model);
  if (!described) return described.error();
  source.quantization = described->quantization;
  source.compute = described->compute;
  source.storage = described->storage;
  if (fs::exists(*artifact / kMasksName)) source.masks = *artifact / kMasksName;
  if (described->is_adapter) {
    source.adapter = *artifact / "adapter";
    source.model_job = described->base_job;
  } else {
    source.model_job = request.job.inputs.front();
  }
  if (source.model_job) {
    const auto holder = artifact_of(request, *source.model_job);
    if (!holder) return holder.error();
    source.model = *holder / "model";
    if (holds_tokenizer(source.model)) source.tokenizer = source.model;
  }
  source.manifest = std::move(*described);
  return source;
}

Result<JobModel> load_frozen(const ModelSource& source, const HeadChoice& head, Precision precision,
                             std::uint64_t seed, c10::Device device) {
  ModelOptions options;
  options.precision = precision;
  options.seed = seed;
  options.frozen = true;
  auto loaded = load(source, head, options, device);
  if (!loaded || !source.adapter) return loaded;
  auto adapter = read_adapter(*loaded->model, *source.adapter);
  if (!adapter) return adapter.error();
  loaded->adapter = std::move(*adapter);
  return loaded;
}

Result<std::shared_ptr<const Pretrained>> load_frozen_weights(const ModelSource& source, Precision precision,
                                                              c10::Device device) {
  ModelOptions options;
  options.precision = precision;
  return load_weights(source, options, device);
}

Result<JobModel> load_trained(ModelSource& source, const HeadChoice& head, const FinetuneSettings& settings,
                              std::uint64_t seed, c10::Device device, const std::optional<PruneSettings>& masks) {
  if (Status settled = settle_quantization(source, settings); !settled) return settled.error();
  const ModelOptions options = trained_options(settings, seed);
  auto loaded = load(source, head, options, device);
  if (!loaded) return loaded;
  if (options.train_all) {
    if (Status pruned = keep_masks(source, *loaded); !pruned) return pruned.error();
    return loaded;
  }
  const AdapterOptions asked = adapter_options(settings);
  auto adapter = source.adapter ? read_adapter(*loaded->model, *source.adapter, /*trained=*/true)
                                : make_adapter(*loaded->model, asked, seed);
  if (!adapter) return adapter.error();
  if (source.adapter) {
    if (Status same = check_same_adapter(*loaded->model, (*adapter)->options(), asked); !same) return same.error();
  }
  loaded->adapter = std::move(*adapter);
  if (!masks) {
    if (Status pruned = keep_masks(source, *loaded); !pruned) return pruned.error();
    return loaded;
  }
  const auto earlier = earlier_masks(source);
  if (!earlier) return earlier.error();
  const auto chosen = masks_before_training(*loaded->adapter, *masks, *earlier);
  if (!chosen) return chosen.error();
  loaded->masks = apply_masks(*chosen, loaded->adapter->parameters());
  return loaded;
}

void begin_load_trained(ModelSource source, const FinetuneSettings& settings, c10::Device device) {
  const ModelOptions options = trained_options(settings, /*seed=*/0);
  if (options.train_all || !settle_quantization(source, settings)) return;
  begin_load_base(weights_of(source, options), device);
}

Result<JobModel> load_host(const ModelSource& source, const HeadChoice& head, Precision precision,
                           std::optional<double> model_dropout, c10::Device device) {
  ModelOptions options;
  options.precision = precision;
  options.model_dropout = model_dropout;
  options.frozen = true;
  return load(source, head, options, device);
}

Result<JobModel> load_student(const ModelSource& source, const HeadChoice& head, const DistillSettings& settings,
                              std::uint64_t seed, c10::Device device) {
  if (source.adapter) return Error{"All weights of a student are trained. Merge its adapter into its base first."};
  if (source.quantization || holds_quantized_weights(source.model)) {
    return Error{"Quantised weights cannot be trained. Quantise after distilling."};
  }
  ModelOptions options;
  options.precision = settings.training.precision;
  options.model_dropout = settings.training.model_dropout;
  options.seed = seed;
  options.train_all = true;
  auto weights = load_weights(source, options, device);
  if (!weights) return weights.error();
  if (settings.student_layers) {
    auto fewer = student_of_layers(**weights, *settings.student_layers);
    if (!fewer) return fewer.error();
    weights = std::move(fewer);
  }
  auto loaded = make(*weights, head, options);
  if (!loaded) return loaded;
  if (Status pruned = keep_masks(source, *loaded); !pruned) return pruned.error();
  return loaded;
}

}  // namespace finesweep::worker
