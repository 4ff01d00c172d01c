#include "worker/engine/task_data.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <list>
#include <numeric>
#include <utility>

#include "worker/data/tokenized_cache.h"
#include "worker/engine/classification_task.h"
#include "worker/engine/language_task.h"
#include "worker/engine/loaded_base.h"
#include "worker/engine/model_files.h"
#include "worker/kernels/attention_choice.h"
#include "worker/kernels/gpu/matmul.h"
#include "worker/kernels/host_copy.h"

namespace finesweep::worker {

namespace {

constexpr std::size_t most_kept_tasks = 4;

/// What rows follow from, beside the split and how it is read.
struct TaskKey {
  JobContext context;
  std::string files;  // fingerprints of data and tokenizer
  std::string head;   // that the model brings
  std::filesystem::path model, cache;
  Pooling pooling = Pooling::cls;
  bool operator==(const TaskKey&) const = default;
};

TaskKey key_of(const JobContext& context, const ModelSource& source, Pooling pooling,
               const std::filesystem::path& cache) {
  TaskKey key{context, fingerprint(source.tokenizer), "", source.model, cache, pooling};
  for (const auto& file : {context.data.train, context.data.validation, context.data.test}) {
    key.files += "\n" + (file ? fingerprint(*file) : "");
  }
  if (source.manifest) key.head = source.manifest->to_json().value("head", Json()).dump();
  return key;
}

/// Whatever is read first, the rows are the same.
bool may_be_kept(const JobContext& context, const ModelSource& source) {
  return context.task != Task::classification || context.data.train || context.data.labels ||
         (source.manifest && source.manifest->head);
}

Result<std::unique_ptr<JobTask>> make_task(const JobContext& context, const ModelSource& source, Pooling pooling,
                                           const std::filesystem::path& cache) {
  auto tokenizer = load_model_tokenizer(source.tokenizer);
  if (!tokenizer) return tokenizer.error();
  RowCache rows{cache, ""};
  if (!cache.empty()) {
    auto digest = tokenizer_digest(source.tokenizer);
    if (!digest) return digest.error();
    rows.tokenizer_digest = std::move(*digest);
  }
  if (context.task == Task::classification) {
    return make_classification_task(context.data, source.manifest, pooling, end_padding_of(source.model),
                                    std::move(*tokenizer), rows);
  }
  return make_language_task(context, source, std::move(*tokenizer), rows);
}

/// Reads each split once.
class KeptTask final : public JobTask {
 public:
  static Result<std::shared_ptr<KeptTask>> make(TaskKey key, const ModelSource& source) {
    auto task = std::shared_ptr<KeptTask>(new KeptTask(std::move(key)));
    auto reader = make_task(task->key_.context, source, task->key_.pooling, task->key_.cache);
    if (!reader) return reader.error();
    task->reader_ = std::move(*reader);
    return task;
  }
  const TaskKey& key() const { return key_; }

  Result<std::shared_ptr<const TaskData>> read_training(std::int64_t sequence_length) override {
    return once("train " + std::to_string(sequence_length),
                [&] { return reader_->read_training(sequence_length); });
  }
  Result<std::shared_ptr<const TaskData>> read_evaluation(const EvaluateSettings& settings) override {
    std::string how = settings.split + " " + std::to_string(settings.sequence_length) + " evaluated";
    if (settings.generation) how += " " + std::to_string(settings.generation->max_new_tokens);
    return once(how, [&] { return reader_->read_evaluation(settings); });
  }
  HeadChoice head() const override { return reader_->head(); }

 private:
  explicit KeptTask(TaskKey key) : key_(std::move(key)) {}

  Result<std::shared_ptr<const TaskData>> once(
      const std::string& how, const std::function<Result<std::shared_ptr<const TaskData>>()>& read) {
    if (const auto found = splits_.find(how); found != splits_.end()) return found->second;
    auto data = read();
    if (data) splits_[how] = *data;
    return data;
  }

  const TaskKey key_;
  std::unique_ptr<JobTask> reader_;
  std::map<std::string, std::shared_ptr<const TaskData>> splits_;
};

}  // namespace

Result<std::shared_ptr<JobTask>> make_job_task(const JobContext& context, const ModelSource& source,
                                               Pooling pooling, const std::filesystem::path& cache) {
  static std::list<std::shared_ptr<KeptTask>> kept;  // the last used first
  TaskKey key = key_of(context, source, pooling, cache);
  const auto found = std::find_if(kept.begin(), kept.end(), [&](const auto& task) { return task->key() == key; });
  if (found != kept.end()) {
    kept.splice(kept.begin(), kept, found);
    return std::shared_ptr<JobTask>(kept.front());
  }
  auto task = KeptTask::make(std::move(key), source);
  if (!task) return task.error();
  if (may_be_kept(context, source)) {
    kept.push_front(*task);
    if (kept.size() > most_kept_tasks) kept.pop_back();
  }
  return std::shared_ptr<JobTask>(std::move(*task));
}

std::int64_t passes_of(const TaskData& data, const EvaluateSettings& settings) {
  return (data.rows() + settings.batch_size - 1) / settings.batch_size;
}

Result<std::optional<Metrics>> run_passes(const TaskData& data, Model& model, const EvaluationRun& run) {
  const auto made = data.passes(run.settings);
  if (!made) return made.error();
  EvaluationPasses& passes = **made;
  const AttentionChoice attention(run.settings.attention);
  const at::NoGradGuard no_graph;
  std::optional<ForwardGraphs> own;
  ForwardGraphs& forward = run.forward != nullptr ? *run.forward : own.emplace(model);
  const gpu::RepeatedProducts repeats(passes_of(data, run.settings));
  const bool gives_logits = passes.output() == EvaluationPasses::Output::logits;
  struct Out {
    Batch batch;
    std::int64_t counted = 0;
    HostCopy output;
  };
  std::optional<Out> out;  // a GPU computes it while the next batch is drawn
  const auto take = [&] {
    if (!out) return;
    EvaluationPasses::Given given;
    if (gives_logits) {
      given.logits = out->output.get().to(at::kFloat).contiguous();
    } else {
      given.loss = out->output.get().item<double>();
      given.counted = out->counted;
    }
    passes.take(out->batch, given);
  };
  while (!passes.finished()) {
    if (!run.go_on(passes.done())) return std::optional<Metrics>();
    auto batch = passes.next(model);
    if (!batch) return batch.error();
    if (!*batch) break;
    const std::int64_t counted = gives_logits ? 0 : model.counted(**batch);
    HostCopy output(gives_logits ? forward.logits(**batch) : forward.loss(**batch, static_cast<double>(counted)));
    take();
    out = Out{std::move(**batch), counted, std::move(output)};
  }
  take();
  auto metrics = passes.metrics();
  if (!metrics) return metrics.error();
  return std::optional(std::move(*metrics));
}

std::vector<std::int64_t> consecutive_rows(std::int64_t first, std::int64_t count, std::int64_t rows) {
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(std::min(count, rows - first)));
  std::iota(numbers.begin(), numbers.end(), first);
  return numbers;
}

Status check_metrics(const EvaluateSettings& settings, const std::vector<std::string>& known,
                     const std::string& of) {
  for (const std::string& metric : settings.metrics) {
    if (std::find(known.begin(), known.end(), metric) != known.end()) continue;
    std::string names;
    for (const std::string& name : known) names += (names.empty() ? "" : ", ") + name;
    return Error{"evaluate.metrics: '" + metric + "' is no metric of " + of + "; it has: " + names +
                 ". Set evaluate.metrics to these."};
  }
  return {};
}

bool wants(const EvaluateSettings& settings, const std::string& metric) {
  return settings.metrics.empty() ||
         std::find(settings.metrics.begin(), settings.metrics.end(), metric) != settings.metrics.end();
}

Status check_loss(double loss, const EvaluateSettings& settings) {
  if (std::isfinite(loss)) return {};
  return Error{
      "The loss on the " + settings.split +
      " split is not a finite number: the model has diverged. Train it with a lower learning rate, or in fp32."};
}

}  // namespace finesweep::worker
