#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <optional>
#include <utility>

#include "worker/engine/benchmark_rows.h"
#include "worker/engine/device.h"
#include "worker/engine/model_files.h"
#include "worker/engine/profile_artifact.h"
#include "worker/engine/steps.h"
#include "worker/engine/timings.h"
#include "worker/kernels/attention_choice.h"
#include "worker/training/trainer.h"

namespace finesweep::worker {
namespace {

using Clock = std::chrono::steady_clock;

/// A profile takes so many calls beside those that are timed: enough to see where the time goes.
constexpr std::int64_t most_profiled = 5;
/// How many classes the head in the files of a model has: 2 where they do not say.
std::int64_t labels_in_files(const std::filesystem::path& model) {
  std::ifstream file(model / "config.json");
  const Json config = Json::parse(file, nullptr, false);
  if (!config.is_object() || !config.contains("id2label")) return 2;
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(config["id2label"].size()));
}

/// The settings under which the model is trained as it stands: its adapter, else all of it.
FinetuneSettings training_as_it_stands(const Adapter* adapter, const BenchmarkSettings& benchmark) {
  FinetuneSettings settings;
  settings.method = Method::full;
  if (adapter != nullptr) {
    const AdapterOptions& options = adapter->options();
    settings.method = options.kind == AdapterKind::ia3 ? Method::ia3 : Method::lora;
    settings.rank = options.rank;
    settings.alpha = options.alpha;
    settings.dropout = options.dropout;
    settings.rslora = options.rslora;
    settings.targets = options.targets;
    settings.feedforward_targets = options.feedforward_targets;
  }
  TrainingSettings& training = settings.training;
  training.batch_size = benchmark.batch_size;
  training.sequence_length = benchmark.sequence_length;
  training.learning_rate = 1e-6;  // what it learns does not matter, that it goes on does
  training.schedule = Schedule::constant;
  training.weight_decay = 0.01;
  training.precision = benchmark.precision;
  training.attention = benchmark.attention;
  return settings;
}

/// An adapter must not outlive its model.
void drop(JobModel& loaded) {
  loaded.adapter.reset();
  loaded.model.reset();
}

class BenchmarkRun {
 public:
  BenchmarkRun(const ExecutionRequest& request, const JobContext& context, c10::Device device,
               ExecutionControl& control)
      : request_(request), context_(context), device_(device), control_(control) {}

  Outcome run() {
    if (Status loaded = load(); !loaded) return failed_for_good(loaded.error().message);
    if (settings_.profile) profiler_.emplace(device_);
    const AttentionChoice attention(settings_.attention);
    Outcome outcome;
    for (const BenchmarkMode mode : settings_.modes) {
      if (Status prepared = prepare(mode); !prepared) return failed_for_good(prepared.error().message);
      if (Status measured = measure(mode, outcome); !measured) return failed_for_good(measured.error().message);
      if (stopped_) return interrupted();
    }
    outcome.kind = OutcomeKind::succeeded;
    outcome.environment = job_environment(request_);
    if (device_.is_cpu()) {
      outcome.environment["benchmark_memory"] =
          peak_of_each_mode_ ? "peak resident memory of each mode" : "peak resident memory of the process";
    }
    if (!profiler_) return outcome;
    if (Status kept = keep_profile(request_, *profiler_, outcome); !kept)
      return failed_this_time(kept.error().message);
    return outcome;
  }

 private:
  /// A call: how many tokens it computed.
  using Work = std::function<Result<std::int64_t>()>;

  Status load() {
    auto settings = read_benchmark_settings(request_.job.settings);
    if (!settings) return settings.error();
    settings_ = std::move(*settings);
    if (!request_.job.seed) return Error{"The job has no seed; it was not planned by this version of finesweep."};
    control_.progress({0, calls_in_all(), "loading", Progress::no_loss});
    auto source = find_model(request_, context_);
    if (!source) return source.error();
    source_ = std::move(*source);
    auto tokenizer = load_model_tokenizer(source_.tokenizer);
    if (!tokenizer) return tokenizer.error();
    bounds_ = text_bounds(source_.model, **tokenizer);
    return read_rows();
  }

  /// The first split that the sweep has, as its plan says it too.
  Status read_rows() {
    const DataContext& data = context_.data;
    const char* split = data.train ? "train" : data.validation ? "validation" : data.test ? "test" : nullptr;
    if (split == nullptr) return settle_head_without_rows();
    auto task = make_job_task(context_, source_, Pooling::cls, request_.cache);
    if (!task) return task.error();
    EvaluateSettings reading;
    reading.split = split;
    reading.sequence_length = settings_.sequence_length;
    const auto rows = (*task)->read_evaluation(reading);
    if (!rows) return rows.error();
    head_ = (*task)->head();
    batch_ = benchmark_batch(**rows, context_.task, settings_, *request_.job.seed);
    return {};
  }

  Status settle_head_without_rows() {
    if (context_.task != Task::classification) return {};
    if (source_.manifest && source_.manifest->head) {
      head_ = source_.manifest->head;
      return {};
    }
    auto labels =
        context_.data.labels
            ? Labels::find(context_.data, {}, {})
            : Labels::from_json(
                  {{"regression", false}, {"count", labels_in_files(source_.model)}, {"names", Json::array()}});
    if (!labels) return labels.error();
    head_ = ClassificationHead{Pooling::cls, std::move(*labels)};
    return {};
  }

  /// Model and work of a mode; a model that two modes share stays.
  Status prepare(BenchmarkMode mode) {
    const bool trains = mode == BenchmarkMode::train;
    generator_.reset();
    if (trains || !loaded_.model || trainer_) {
      trainer_.reset();
      forward_.reset();
      drop(loaded_);
      if (Status loaded = trains ? load_to_train() : load_frozen_model(); !loaded) return loaded;
    }
    if (!batch_.input_ids.defined()) {
      const auto vocabulary = loaded_.model->config().at("vocab_size").get<std::int64_t>();
      batch_ = random_benchmark_batch(vocabulary, context_.task, settings_, *request_.job.seed);
    }
    if (trains) {
      const auto training = training_as_it_stands(loaded_.adapter.get(), settings_).training;
      trainer_.emplace(*loaded_.model, loaded_.trained_parameters(), training, calls(), *request_.job.seed,
                       TrainingLoss(), loaded_.masks);
    }
    if (mode == BenchmarkMode::generate && loaded_.model->language_model() == nullptr) {
      return Error{"A " + std::string(loaded_.model->family()) + " model generates no text."};
    }
    return loaded_.model->check(batch_);
  }

  Status load_frozen_model() {
    auto loaded = load_frozen(source_, head_, settings_.precision, *request_.job.seed, device_);
    if (!loaded) return loaded.error();
    loaded_ = std::move(*loaded);
    return {};
  }

  Status load_to_train() {
    // What the adapter is stands in its files; reading it needs the model.
    JobModel with_adapter;
    if (source_.adapter) {
      auto read = load_frozen(source_, head_, settings_.precision, *request_.job.seed, device_);
      if (!read) return read.error();
      with_adapter = std::move(*read);
    }
    const FinetuneSettings settings = training_as_it_stands(with_adapter.adapter.get(), settings_);
    drop(with_adapter);
    auto loaded = load_trained(source_, head_, settings, *request_.job.seed, device_);
    if (!loaded) return loaded.error();
    loaded_ = std::move(*loaded);
    return {};
  }

  Work work_of(BenchmarkMode mode) {
    const std::int64_t sides = context_.task == Task::seq2seq ? 2 : 1;
    const std::int64_t tokens = sides * settings_.batch_size * settings_.sequence_length;
    if (mode == BenchmarkMode::train) return [this, tokens] { return train(tokens); };
    if (mode == BenchmarkMode::generate) return [this] { return generate_tokens(); };
    return [this, tokens] { return forward(tokens); };
  }

  /// As an evaluation passes through the model: of a language model the logits of some tokens at a time, and their
  /// loss.
  Result<std::int64_t> forward(std::int64_t tokens) {
    Model& model = *loaded_.model;
    if (!forward_) forward_.emplace(model);
    if (context_.task == Task::classification) {
      forward_->logits(batch_);
    } else {
      forward_->loss(batch_, static_cast<double>(std::max<std::int64_t>(1, model.counted(batch_))));
    }
    return tokens;
  }

  /// No token ends a row: every row gets new_tokens.
  Result<std::int64_t> generate_tokens() {
    GenerationOptions options;
    options.max_new_tokens = settings_.new_tokens;
    options.kv_cache = settings_.kv_cache;
    options.decoder_start_id = bounds_.decoder_start_id;
    if (!generator_) generator_.emplace(*loaded_.model->language_model());
    const auto answers = generator_->generate(benchmark_prompts(batch_), options, [this] {
      report("timing generate");
      return !control_.stop_requested();
    });
    if (!answers) return answers.error();
    std::int64_t tokens = 0;
    if (!*answers) return tokens;
    for (const auto& answer : **answers) tokens += static_cast<std::int64_t>(answer.front().tokens.size());
    return tokens;
  }

  Result<std::int64_t> train(std::int64_t tokens) {
    const auto report = trainer_->step({batch_});
    if (!report) return report.error();
    if (!report->finite) {
      return Error{
          "The loss of the model, or its gradient, is not a finite number, so a training step has nothing "
          "to do. Benchmark it in fp32 or bf16, or leave mode train out."};
    }
    return tokens;
  }

  Status measure(BenchmarkMode mode, Outcome& outcome) {
    const std::string name(benchmark_mode_name(mode));
    const Work work = work_of(mode);
    peak_of_each_mode_ = restart_memory_peak(device_) && peak_of_each_mode_;
    Timings timings;
    timings.rows = settings_.batch_size;
    for (std::int64_t call = -settings_.warmup; call < settings_.iterations; ++call) {
      if (!go_on(name)) return {};
      synchronize(device_);
      const auto begin = Clock::now();
      const auto tokens = work();
      if (!tokens) return tokens.error();
      synchronize(device_);
      if (call < 0) continue;
      timings.seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
      timings.tokens += *tokens;
    }
    outcome.metrics[name + "_peak_memory_mb"] = peak_memory_mb(device_);
    // A call of the last iteration that was told to stop did less than it should have.
    if (!go_on(name)) return {};
    outcome.metrics.merge(timings.metrics(name));
    return profile(name, work);
  }

  Status profile(const std::string& name, const Work& work) {
    if (!profiler_) return {};
    const std::int64_t count = profiled_calls();
    profiler_->start(name);
    for (std::int64_t call = 0; call < count; ++call) {
      if (!go_on(name)) return {};
      const ProfileScope scope("iteration", OperatorGroup::other);
      if (const auto tokens = work(); !tokens) return tokens.error();
      synchronize(device_);
    }
    profiler_->stop(count);
    return {};
  }

  std::int64_t profiled_calls() const {
    return settings_.profile ? std::min(settings_.iterations, most_profiled) : 0;
  }
  std::int64_t calls() const { return settings_.warmup + settings_.iterations + profiled_calls(); }
  std::int64_t calls_in_all() const { return calls() * static_cast<std::int64_t>(settings_.modes.size()); }

  bool go_on(const std::string& name) {
    report("timing " + name);
    ++done_;
    stopped_ = control_.stop_requested();
    return !stopped_;
  }

  void report(const std::string& phase) {
    control_.progress({std::min(done_, calls_in_all()), calls_in_all(), phase, Progress::no_loss});
  }

  static Outcome interrupted() {
    Outcome outcome;
    outcome.kind = OutcomeKind::interrupted;
    return outcome;
  }

  const ExecutionRequest& request_;
  const JobContext& context_;
  const c10::Device device_;
  ExecutionControl& control_;

  BenchmarkSettings settings_;
  ModelSource source_;
  TextBounds bounds_;
  HeadChoice head_;
  Batch batch_;
  JobModel loaded_;
  std::optional<Trainer> trainer_;  // these go before the model
  std::optional<ForwardGraphs> forward_;
  std::optional<Generator> generator_;
  std::optional<Profiler> profiler_;
  std::int64_t done_ = 0;
  bool stopped_ = false, peak_of_each_mode_ = true;
};

}  // namespace

Outcome benchmark(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                  ExecutionControl& control) {
  return BenchmarkRun(request, context, device, control).run();
}

}  // namespace finesweep::worker
