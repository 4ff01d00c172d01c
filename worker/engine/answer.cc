#include "worker/answer.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "storage/artifact.h"
#include "storage/files.h"
#include "worker/engine/generated_text.h"
#include "worker/engine/job_model.h"
#include "worker/engine/model_files.h"
#include "worker/engine/steps.h"
#include "worker/generation/generate.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using Send = std::function<void(const Json&)>;

/// Sends progress on; nobody stops a command but by ending it.
class CommandControl final : public ExecutionControl {
 public:
  explicit CommandControl(const Send& send) : send_(send) {}
  void progress(const Progress& progress) override { send_({{"progress", progress}}); }
  bool stop_requested() override { return false; }

 private:
  const Send& send_;
};

Outcome succeeded() {
  Outcome outcome;
  outcome.kind = OutcomeKind::succeeded;
  return outcome;
}

/// What a model or an adapter of ours is: the manifest of its artifact says so, or the file that `export` writes.
/// Of others, nothing.
Result<std::optional<ModelManifest>> find_description(const fs::path& folder) {
  Json description;
  std::error_code ignored;
  if (fs::exists(folder / kDescriptionName, ignored)) {
    const auto text = storage::read_file(folder / kDescriptionName);
    if (!text) return text.error();
    auto json = parse_json(*text, (folder / kDescriptionName).string());
    if (!json) return json.error();
    description = std::move(*json);
  } else if (fs::exists(folder.parent_path() / storage::kManifestName, ignored)) {
    const auto manifest = storage::read_manifest(folder.parent_path());
    if (!manifest) return std::optional<ModelManifest>();
    description = manifest->model;
  } else {
    return std::optional<ModelManifest>();
  }
  auto described = ModelManifest::from_json(description);
  if (!described) return described.error();
  return std::optional(std::move(*described));
}

Result<ModelSource> find_source(const ModelChoice& choice) {
  ModelSource source;
  source.model = source.tokenizer = choice.model;
  if (!choice.adapter.empty()) source.adapter = choice.adapter;
  auto description = find_description(source.adapter.value_or(source.model));
  if (!description) return description.error();
  if (*description) source.quantization = (*description)->quantization;
  if (*description) source.compute = (*description)->compute;
  source.manifest = std::move(*description);
  if (choice.quantize == "nf4") source.quantization = BaseQuantization{};
  if (choice.quantize == "int8") source.quantization = BaseQuantization{QuantizedFormat::int8};
  return source;
}

GenerationOptions generation_options(const GenerateRequest& request, const TextBounds& bounds) {
  GenerationOptions options = to_options(request.generation);
  options.end_ids = bounds.end_ids;
  options.decoder_start_id = bounds.decoder_start_id;
  options.seed = request.seed;
  return options;
}

Outcome generate_texts(const GenerateRequest& request, c10::Device device, const Send& send) {
  const auto source = find_source(request.choice);
  if (!source) return failed_for_good(source.error().message);
  const auto precision = parse_precision(request.precision);
  if (!precision) return failed_for_good(precision.error().message);
  send({{"progress", Progress{0, 0, "loading", Progress::no_loss}}});
  const auto tokenizer = load_model_tokenizer(source->tokenizer);
  if (!tokenizer) return failed_for_good(tokenizer.error().message);
  const auto loaded = load_frozen(*source, HeadChoice(), *precision, 0, device);
  if (!loaded) return failed_for_good(loaded.error().message);
  LanguageModel* model = loaded->model->language_model();
  if (model == nullptr) {
    return failed_for_good("A " + std::string(loaded->model->family()) + " model generates no text.");
  }
  GenerationOptions options = generation_options(request, text_bounds(source->model, **tokenizer));
  const auto count = static_cast<std::int64_t>(request.prompts.size());
  Generator generator(*model);
  for (std::int64_t first = 0; first < count; first += request.batch_size) {
    Prompts prompts;
    for (const std::int64_t i : consecutive_rows(first, request.batch_size, count)) {
      const auto encoding = (*tokenizer)->encode(request.prompts[static_cast<std::size_t>(i)]);
      if (!encoding) return failed_for_good(encoding.error().message);
      prompts.emplace_back(encoding->ids.begin(), encoding->ids.end());
    }
    options.first_row = first;
    const auto texts = generator.generate(prompts, options, [&] {
      send({{"progress", Progress{first, count, "generating", Progress::no_loss}}});
      return true;
    });
    if (!texts) return failed_for_good(texts.error().message);
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      const auto& tokens = (**texts)[i].front().tokens;
      send({{"result",
             {{"prompt", request.prompts[static_cast<std::size_t>(first) + i]},
              {"text", decode_generated(**tokenizer, tokens)},
              {"tokens", tokens.size()}}}});
    }
  }
  return succeeded();
}

/// The names of the classes in a model's config.json; empty where they say nothing ("LABEL_0").
std::vector<std::string> label_names_of(const fs::path& model) {
  const auto text = storage::read_file(model / "config.json");
  const Json config = text ? Json::parse(*text, nullptr, false) : Json();
  const Json labels = config.is_object() ? config.value("id2label", Json()) : Json();
  std::vector<std::string> names;
  for (std::size_t i = 0; labels.is_object() && i < labels.size(); ++i) {
    const auto name = labels.find(std::to_string(i));
    if (name == labels.end() || !name->is_string() || name->get<std::string>() == "LABEL_" + std::to_string(i)) {
      return {};
    }
    names.push_back(name->get<std::string>());
  }
  return names;
}

Outcome evaluate_rows(const EvaluateRequest& request, c10::Device device, const Send& send) {
  auto source = find_source(request.choice);
  if (!source) return failed_for_good(source.error().message);
  auto context = read_job_context(request.job.context);
  if (!context) return failed_for_good(context.error().message);
  if (context->task == Task::classification && !context->data.labels) {
    if (auto names = label_names_of(source->model); names.size() > 1) context->data.labels = std::move(names);
  }
  ExecutionRequest execution;
  execution.job = request.job;
  CommandControl control(send);
  Outcome outcome = evaluate_model(execution, *context, *source, device, control, {});
  if (outcome.kind == OutcomeKind::succeeded) send({{"result", {{"metrics", outcome.metrics}}}});
  return outcome;
}

Outcome merge_adapter(const MergeRequest& request, c10::Device device, const Send& send) {
  const auto source = find_source(request.choice);
  if (!source) return failed_for_good(source.error().message);
  const HeadChoice head = source->manifest ? source->manifest->head : HeadChoice();
  send({{"progress", Progress{0, 0, "merging", Progress::no_loss}}});
  const auto loaded = load_frozen(*source, head, Precision::fp32, 0, device);
  if (!loaded) return failed_for_good(loaded.error().message);
  const auto merged = merge(*loaded->model, *loaded->adapter);
  if (!merged) return failed_for_good(merged.error().message);
  if (Status saved = save_pretrained(*loaded->model, request.to); !saved)
    return failed_this_time(saved.error().message);
  if (Status copied = copy_model_files(source->tokenizer, request.to); !copied) {
    return failed_this_time(copied.error().message);
  }
  if (source->manifest) {
    ModelManifest description = *source->manifest;
    description.is_adapter = false;
    description.base_job.reset();
    description.quantization.reset();
    description.compute.reset();
    description.training = Json();
    const Status written = storage::write_file_atomically(fs::path(request.to) / kDescriptionName,
                                                          description.to_json().dump(2) + "\n");
    if (!written) return failed_this_time(written.error().message);
  }
  send({{"result",
         {{"largest_rounding", merged->largest_rounding},
          {"largest_weight", merged->largest_weight},
          {"dequantized_weights", merged->dequantized_weights}}}});
  return succeeded();
}

}  // namespace

void answer(const RunnerRequest& request, const std::string& device, const Send& send) {
  const Outcome outcome = guarded(device, request.threads, [&](c10::Device found) {
    if (const auto* generate = std::get_if<GenerateRequest>(&request.what)) {
      return generate_texts(*generate, found, send);
    }
    if (const auto* evaluate = std::get_if<EvaluateRequest>(&request.what)) {
      return evaluate_rows(*evaluate, found, send);
    }
    return merge_adapter(std::get<MergeRequest>(request.what), found, send);
  });
  if (outcome.kind == OutcomeKind::succeeded) return send({{"end", {{"exit_code", 0}}}});
  send({{"end", {{"exit_code", outcome.permanent ? 2 : 4}, {"error", outcome.error}}}});
}

}  // namespace finesweep::worker
