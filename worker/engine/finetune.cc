#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>

#include "storage/artifact.h"
#include "storage/checkpoint.h"
#include "worker/engine/classification.h"
#include "worker/engine/device.h"
#include "worker/engine/job_model.h"
#include "worker/engine/steps.h"
#include "worker/engine/training_progress.h"
#include "worker/formats/safetensors.h"
#include "worker/tokenizers/tokenizer.h"
#include "worker/training/trainer.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// Caches fill and clocks rise in the first steps: their times are left out.
constexpr std::int64_t untimed_steps = 5;
constexpr const char* state_file = "training.safetensors";

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class FinetuneRun {
 public:
  FinetuneRun(const ExecutionRequest& request, const JobContext& context, c10::Device device,
              ExecutionControl& control)
      : request_(request), context_(context), device_(device), control_(control), start_(Clock::now()) {}

  Outcome run() {
    for (const auto step : {&FinetuneRun::load_data, &FinetuneRun::load_model, &FinetuneRun::restore}) {
      if (Status done = (this->*step)(); !done) return failed_for_good(done.error().message);
    }
    if (auto ended = train()) return std::move(*ended);
    return finish();
  }

 private:
  const TrainingSettings& training() const { return settings_.training; }

  Status load_data() {
    auto settings = read_finetune_settings(request_.job.settings);
    if (!settings) return settings.error();
    settings_ = std::move(*settings);
    if (!request_.job.seed) return Error{"The job has no seed; it was not planned by this version of finesweep."};
    control_.progress({0, 0, "loading", std::numeric_limits<double>::quiet_NaN()});

    auto source = find_model(request_, context_);
    if (!source) return source.error();
    source_ = std::move(*source);
    if (source_.adapter) {
      return Error{"Fine-tuning on top of an adapter is not there yet: merge the adapter into its base first."};
    }
    auto tokenizer = load_tokenizer(source_.folder);
    if (!tokenizer) return tokenizer.error();

    const auto train = read_split(context_.data, "train");
    if (!train) return train.error();
    if (source_.manifest) {
      labels_ = source_.manifest->labels;
    } else {
      auto labels = Labels::find(context_.data, *train, split_path(context_.data, "train"));
      if (!labels) return labels.error();
      labels_ = std::move(*labels);
    }
    auto data = tokenized("train", *train, **tokenizer, training().sequence_length);
    if (!data) return data.error();
    train_ = std::move(*data);
    if (training().evaluation) {
      const auto validation = read_split(context_.data, training().evaluation->split);
      if (!validation) return validation.error();
      data =
          tokenized(training().evaluation->split, *validation, **tokenizer, training().evaluation->sequence_length);
      if (!data) return data.error();
      validation_ = std::move(*data);
    }
    return {};
  }

  Result<ClassificationDataset> tokenized(const std::string& split, const std::vector<Example>& examples,
                                          Tokenizer& tokenizer, std::int64_t sequence_length) const {
    return ClassificationDataset::make(examples, labels_, tokenizer, sequence_length,
                                       split_path(context_.data, split));
  }

  Status load_model() {
    const bool full = settings_.method == Method::full;
    const auto storage = !full && training().precision == Precision::bf16 ? at::kBFloat16 : at::kFloat;
    const auto base = load_base(source_.folder, storage, device_, full ? KeepLoaded::no : KeepLoaded::yes);
    if (!base) return base.error();
    ModelOptions options;
    options.labels = labels_.count();
    options.pooling = training().pooling;
    options.precision = training().precision;
    options.model_dropout = training().model_dropout;
    options.seed = *request_.job.seed;
    options.train_all = full;
    auto model = make_model(*base, options);
    if (!model) return model.error();
    loaded_.model = std::move(*model);
    loaded_.model->label_names = labels_.names();

    parameters_ = trained_parameters(*loaded_.model);
    if (!full) {
      AdapterOptions lora;
      lora.rank = settings_.rank;
      lora.alpha = settings_.alpha;
      lora.dropout = settings_.dropout;
      lora.rslora = settings_.rslora;
      lora.targets = settings_.targets;
      auto adapter = make_adapter(*loaded_.model, lora, *request_.job.seed);
      if (!adapter) return adapter.error();
      loaded_.adapter = std::move(*adapter);
      const auto added = loaded_.adapter->parameters();
      parameters_.insert(parameters_.end(), added.begin(), added.end());
    }
    plan_.emplace(train_->rows(), training().batch_size, training().gradient_accumulation, *request_.job.seed);
    total_steps_ = training().steps ? *training().steps : *training().epochs * plan_->steps_per_epoch();
    trainer_.emplace(*loaded_.model, parameters_, training(), total_steps_, *request_.job.seed);
    return {};
  }

  /// Continues from the newest checkpoint of an earlier attempt, else from what the job before in the chain left.
  Status restore() {
    std::vector<std::string> rejected;
    const auto checkpoint = storage::newest_valid_checkpoint(request_.earlier_checkpoints, &rejected);
    for (const auto& line : rejected) std::fprintf(stderr, "checkpoint passed over: %s\n", line.c_str());
    if (checkpoint) {
      Status restored = restore_from(checkpoint->folder, checkpoint->state);
      if (restored) return restored;
      // Of another version of finesweep, say: what it saved is lost, the job is not.
      std::fprintf(stderr, "checkpoint passed over: %s\n", restored.error().message.c_str());
    }
    if (!request_.job.continues) return {};
    const auto artifact = request_.artifacts.find(*request_.job.continues);
    if (artifact == request_.artifacts.end())
      return Error{"The artifact of the job to continue was not handed over."};
    const auto manifest = storage::read_manifest(artifact->second);
    if (!manifest) return manifest.error();
    const auto described = ModelManifest::from_json(manifest->model);
    if (!described) return described.error();
    if (described->training.is_null()) return Error{"The job to continue has kept no training state."};
    return restore_from(artifact->second / "training", described->training);
  }

  Status restore_from(const fs::path& folder, const Json& state) {
    auto progress = training_progress_from_json(state);
    if (!progress) return progress.error();
    if (progress->steps > total_steps_) {
      return Error{"The training state has " + std::to_string(progress->steps) + " steps, more than the " +
                   std::to_string(total_steps_) + " of this training."};
    }
    const auto file = SafetensorsFile::open(folder / state_file);
    if (!file) return file.error();
    std::map<std::string, at::Tensor> tensors;
    for (const auto& name : file->names()) {
      auto tensor = file->tensor(name);
      if (!tensor) return tensor.error();
      tensors.emplace(name, std::move(*tensor));
    }
    if (Status restored = trainer_->restore(tensors); !restored) return restored;
    progress_ = std::move(*progress);
    seconds_before_ = progress_.seconds;
    return {};
  }

  /// Nothing where the training came to its end.
  std::optional<Outcome> train() {
    last_checkpoint_ = Clock::now();
    while (true) {
      if (evaluation_is_due()) {
        auto went_on = evaluate_validation();
        if (!went_on) return failed_for_good(went_on.error().message);
        if (!*went_on) return stop();
      }
      if (trainer_->steps_done() == total_steps_) return std::nullopt;
      if (control_.stop_requested()) return stop();
      if (progress_.steps > 0 && seconds_since(last_checkpoint_) >= request_.job.checkpoint_every_s) {
        if (Status written = checkpoint(); !written) return failed_this_time(written.error().message);
      }
      if (Status stepped = step(); !stepped) return failed_for_good(stepped.error().message);
    }
  }

  Status step() {
    const auto begin = Clock::now();
    const std::int64_t per_epoch = plan_->steps_per_epoch(), at = trainer_->steps_done();
    std::vector<Batch> batches;
    double rows = 0, tokens = 0;
    for (const auto& batch_rows : plan_->step(at / per_epoch, at % per_epoch)) {
      batches.push_back(train_->batch(batch_rows));
      rows += static_cast<double>(batch_rows.size());
      for (const std::int64_t row : batch_rows) tokens += static_cast<double>(train_->tokens_in_row(row));
    }
    const auto report = trainer_->step(batches);
    if (!report) return report.error();
    if (!report->finite) return Error{not_finite(*report)};
    synchronize(device_);
    const double seconds = seconds_since(begin);
    if (++steps_here_ > untimed_steps) {
      progress_.batch_ms.add(1000 * seconds / static_cast<double>(batches.size()));
      progress_.samples_per_second.add(rows / seconds);
      progress_.timed_tokens += tokens;
      progress_.timed_seconds += seconds;
    }

    progress_.steps = trainer_->steps_done();
    progress_.epoch_loss_sum += report->loss;
    ++progress_.epoch_loss_steps;
    const bool epoch_ends = progress_.steps % per_epoch == 0;
    if (epoch_ends || progress_.steps == total_steps_) {
      progress_.last_epoch_loss = progress_.epoch_loss();
      progress_.epoch_loss_sum = 0;
      progress_.epoch_loss_steps = 0;
      add_history("loss", progress_.last_epoch_loss);
    }
    report_progress("training", report->loss);
    return {};
  }

  std::string not_finite(const StepReport& report) const {
    char numbers[160];
    std::snprintf(numbers, sizeof numbers, "step %lld of %lld (loss %g, gradient norm %g, learning rate %g)",
                  static_cast<long long>(trainer_->steps_done() + 1), static_cast<long long>(total_steps_),
                  report.loss, report.grad_norm, report.learning_rate);
    return std::string("The training diverged: the loss or its gradient is not a finite number at ") + numbers +
           ". Lower the learning rate, warm up longer, clip gradients (max_grad_norm), or train in fp32.";
  }

  bool evaluation_is_due() const {
    if (!validation_ || progress_.steps == 0 || progress_.evaluated_at == progress_.steps) return false;
    if (training().evaluate_every_steps) return progress_.steps % *training().evaluate_every_steps == 0;
    return progress_.steps % plan_->steps_per_epoch() == 0 || progress_.steps == total_steps_;
  }

  /// False where it was stopped: it is done again when the training goes on.
  Result<bool> evaluate_validation() {
    const auto metrics = evaluate_classifier(*loaded_.model, *validation_, labels_, *training().evaluation, [&] {
      report_progress("evaluating", std::numeric_limits<double>::quiet_NaN());
      ++evaluation_batches_;
      return !control_.stop_requested();
    });
    if (!metrics) return metrics.error();
    if (!*metrics) return false;
    for (const auto& [name, value] : **metrics) add_history("validation_" + name, value);
    progress_.validation_loss = (*metrics)->at("loss");
    progress_.evaluated_at = progress_.steps;
    return true;
  }

  void add_history(const std::string& metric, double value) {
    const double epoch = static_cast<double>(progress_.steps) / static_cast<double>(plan_->steps_per_epoch());
    progress_.history.push_back({epoch, progress_.steps, metric, value});
  }

  /// Batches of evaluations count as steps do, so that `done` rises while they go on.
  void report_progress(const std::string& phase, double loss) {
    std::int64_t batches = 0;
    if (validation_) {
      const std::int64_t every = training().evaluate_every_steps.value_or(plan_->steps_per_epoch());
      batches = total_steps_ / every * batches_of(*validation_, *training().evaluation);
    }
    const std::int64_t done = progress_.steps + evaluation_batches_;
    control_.progress({done, std::max(done, total_steps_ + batches), phase, loss});
  }

  void take_measures() {
    progress_.seconds = seconds_before_ + seconds_since(start_);
    progress_.peak_memory_mb = std::max(progress_.peak_memory_mb, peak_memory_mb(device_));
  }

  Status checkpoint() {
    take_measures();
    const auto status = storage::write_checkpoint(
        request_.staging / "checkpoints", progress_.steps, to_json(progress_),
        [&](const fs::path& folder) { return write_safetensors(folder / state_file, trainer_->state()); });
    last_checkpoint_ = Clock::now();
    return status;
  }

  Outcome stop() {
    if (progress_.steps > 0) {
      if (Status written = checkpoint(); !written) return failed_this_time(written.error().message);
    }
    Outcome outcome;
    outcome.kind = OutcomeKind::interrupted;
    return outcome;
  }

  Outcome finish() {
    take_measures();
    Outcome outcome;
    outcome.kind = OutcomeKind::succeeded;
    outcome.has_artifact = true;
    outcome.history = progress_.history;
    outcome.environment = job_environment(request_);
    auto& metrics = outcome.metrics;
    metrics["loss"] = progress_.epoch_loss();
    if (progress_.validation_loss) metrics["validation_loss"] = *progress_.validation_loss;
    metrics["seconds"] = progress_.seconds;
    metrics["peak_memory_mb"] = progress_.peak_memory_mb;
    metrics["trainable_parameters"] = static_cast<double>(count_values(parameters_));
    if (progress_.batch_ms.count > 0) {
      metrics["batch_ms_mean"] = progress_.batch_ms.mean;
      metrics["samples_per_second_mean"] = progress_.samples_per_second.mean;
      metrics["tokens_per_second"] = progress_.timed_tokens / progress_.timed_seconds;
    }
    if (progress_.batch_ms.count > 1) {
      metrics["batch_ms_std"] = progress_.batch_ms.standard_deviation();
      metrics["samples_per_second_std"] = progress_.samples_per_second.standard_deviation();
    }
    report_progress("saving", std::numeric_limits<double>::quiet_NaN());
    if (Status written = write_artifact(outcome); !written) return failed_this_time(written.error().message);
    return outcome;
  }

  Status write_artifact(const Outcome& outcome) {
    const fs::path folder = request_.staging / "artifact";
    storage::Manifest manifest;
    manifest.job = request_.job.id;
    manifest.attempt = request_.attempt;
    manifest.kind = request_.job.kind;
    manifest.outcome = outcome;
    ModelManifest described;
    described.is_adapter = loaded_.adapter != nullptr;
    described.family = std::string(loaded_.model->family());
    described.base = context_.model;
    described.pooling = training().pooling;
    described.labels = labels_;
    if (request_.job.keep_training_state) {
      described.training = to_json(progress_);
      fs::create_directories(folder / "training");
      if (Status written = write_safetensors(folder / "training" / state_file, trainer_->state()); !written) {
        return written;
      }
    }
    if (loaded_.adapter) {
      fs::create_directories(folder / "adapter");
      if (Status written = write_adapter(*loaded_.adapter, context_.model, folder / "adapter"); !written)
        return written;
    } else {
      fs::create_directories(folder / "model");
      if (Status written = save_pretrained(*loaded_.model, folder / "model"); !written) return written;
      copy_tokenizer(folder / "model");
    }
    manifest.model = described.to_json();
    return storage::seal_artifact(folder, manifest);
  }

  /// So that the folder can be used as any Hugging Face directory.
  void copy_tokenizer(const fs::path& to) const {
    for (const char* name :
         {"tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json", "added_tokens.json"}) {
      if (fs::exists(source_.folder / name)) fs::copy_file(source_.folder / name, to / name);
    }
  }

  const ExecutionRequest& request_;
  const JobContext& context_;
  const c10::Device device_;
  ExecutionControl& control_;
  const Clock::time_point start_;

  FinetuneSettings settings_;
  ModelSource source_;
  Labels labels_;
  std::optional<ClassificationDataset> train_, validation_;
  JobModel loaded_;
  std::vector<Parameter*> parameters_;
  std::optional<EpochPlan> plan_;
  std::optional<Trainer> trainer_;
  std::int64_t total_steps_ = 0;

  TrainingProgress progress_;
  double seconds_before_ = 0;    // of earlier attempts
  std::int64_t steps_here_ = 0;  // of this attempt
  std::int64_t evaluation_batches_ = 0;
  Clock::time_point last_checkpoint_;
};

}  // namespace

Outcome finetune(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                 ExecutionControl& control) {
  return FinetuneRun(request, context, device, control).run();
}

}  // namespace finesweep::worker
