#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/data/batch.h"
#include "worker/engine/job_model.h"
#include "worker/models/forward_graphs.h"
#include "worker/models/model.h"
#include "worker/models/pretrained.h"

namespace finesweep::worker {

/// What a model wrote for a row, beside what it should have written.
struct Prediction {
  std::string prompt, text, reference;
};

/// One evaluation of one model.
struct EvaluationRun {
  const EvaluateSettings& settings;
  /// Of what is drawn: sampled tokens, each row from its own stream.
  std::uint64_t seed = 0;
  /// Called between batches, and while text is generated between tokens, with how much of
  /// TaskData::evaluation_units() is done; false stops the evaluation.
  std::function<bool(std::int64_t done)> go_on;
  /// Called for each generated text, in the order of the rows. May be empty.
  std::function<void(const Prediction&)> on_prediction;
  /// Of the model that is evaluated, where several evaluations share what was captured; null: this one's own.
  ForwardGraphs* forward = nullptr;
};

using Metrics = std::map<std::string, double>;

/// The passes of an evaluation through a model, apart from who makes them: a job alone, or a pack together with
/// those of others. Batches come in the order of the rows:
///
///   while not finished: next() … the pass … take()
///
/// Several batches may be out; they are taken in the order in which they were given.
class EvaluationPasses {
 public:
  /// What is asked of the model for each batch.
  enum class Output { logits, loss };
  struct Given {
    at::Tensor logits;         // Model::logits of a classifier: fp32 [rows, labels], on the CPU
    double loss = 0;           // Model::loss, divided by `counted`
    std::int64_t counted = 0;  // Model::counted
  };

  virtual ~EvaluationPasses() = default;
  virtual Output output() const = 0;
  /// No batch is left.
  virtual bool finished() const = 0;
  /// How many of TaskData::evaluation_units() are done.
  virtual std::int64_t done() const = 0;
  /// The next batch of which something counts; absent: there is none. The Error: it does not fit the model.
  virtual Result<std::optional<Batch>> next(const Model& model) = 0;
  /// What the model gave for a batch.
  virtual void take(const Batch& batch, const Given& given) = 0;
  /// Once they are finished and none is out. The Error: a loss that is not a finite number, or nothing counted in
  /// it.
  virtual Result<Metrics> metrics() const = 0;
};

/// The rows of a split as a task has them: all that a job needs to train and to measure, whatever the task is.
class TaskData {
 public:
  virtual ~TaskData() = default;
  virtual std::int64_t rows() const = 0;
  /// Tokens that a pass over the row computes.
  virtual std::int64_t tokens_in_row(std::int64_t row) const = 0;
  /// Padded to the longest of the rows.
  virtual Batch batch(std::span<const std::int64_t> rows) const = 0;

  /// Steps of an evaluation, of roughly equal cost: for progress.
  virtual std::int64_t evaluation_units(const EvaluateSettings& settings) const = 0;
  /// What an evaluation takes from passes: all of it, but what the text that it has the model write is worth. The
  /// settings and this must outlive it. The Error: a metric of another task.
  virtual Result<std::unique_ptr<EvaluationPasses>> passes(const EvaluateSettings& settings) const = 0;
  /// The metrics that the settings ask for, those of the task where they name none, and "loss" always. Nothing
  /// where the run was stopped. The Error: a batch that does not fit the model, a loss that is not a finite number,
  /// a metric of another task.
  virtual Result<std::optional<Metrics>> evaluate(Model& model, const EvaluationRun& run) const = 0;
};

/// A task of a sweep, as jobs see it. What it learns from the first rows that it reads (the labels of a
/// classification) holds for all that follow.
class JobTask {
 public:
  virtual ~JobTask() = default;
  /// The training rows, tokenised and cut to `sequence_length`. The Error names file and line.
  virtual Result<std::shared_ptr<const TaskData>> read_training(std::int64_t sequence_length) = 0;
  /// The rows of settings.split, likewise, with what its metrics need.
  virtual Result<std::shared_ptr<const TaskData>> read_evaluation(const EvaluateSettings& settings) = 0;
  /// The head that a model needs. After rows were read.
  virtual HeadChoice head() const = 0;
};

/// The task of a job over a model. `pooling`: of a classification whose model brings none. `cache`: where tokenised
/// rows are kept, ExecutionRequest::cache; empty: nowhere. The Error: the tokenizer cannot be read.
///
/// The last few tasks stay in memory, with the rows that were read, for jobs over the same files, as long as those
/// are what they were. Not thread-safe.
Result<std::shared_ptr<JobTask>> make_job_task(const JobContext& context, const ModelSource& source,
                                               Pooling pooling, const std::filesystem::path& cache = {});

/// How many passes an evaluation takes.
std::int64_t passes_of(const TaskData& data, const EvaluateSettings& settings);

/// Makes the passes of an evaluation that runs alone: their metrics, results and Errors as TaskData::evaluate has
/// them.
Result<std::optional<Metrics>> run_passes(const TaskData& data, Model& model, const EvaluationRun& run);

/// Rows first … first + count, cut at `rows`.
std::vector<std::int64_t> consecutive_rows(std::int64_t first, std::int64_t count, std::int64_t rows);

/// The Error says that a metric is not among `known`, those of the task `of`.
Status check_metrics(const EvaluateSettings& settings, const std::vector<std::string>& known,
                     const std::string& of);
/// The settings ask for the metric, or name none and it is one of the task's own.
bool wants(const EvaluateSettings& settings, const std::string& metric);
/// The Error says that it is not a finite number, and what to do.
Status check_loss(double loss, const EvaluateSettings& settings);

}  // namespace finesweep::worker
