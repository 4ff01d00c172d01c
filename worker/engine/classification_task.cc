#include "worker/engine/classification_task.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "worker/kernels/attention_choice.h"
#include "worker/metrics/classification.h"

namespace finesweep::worker {
namespace {

/// -log softmax(logits)[label].
double cross_entropy(const float* logits, std::int64_t classes, std::int64_t label) {
  const double greatest = *std::max_element(logits, logits + classes);
  double sum = 0;
  for (std::int64_t i = 0; i < classes; ++i) sum += std::exp(logits[i] - greatest);
  return greatest + std::log(sum) - logits[label];
}

class ClassificationData final : public TaskData {
 public:
  ClassificationData(ClassificationDataset rows, Labels labels)
      : dataset_(std::move(rows)), labels_(std::move(labels)) {}

  std::int64_t rows() const override { return dataset_.rows(); }
  std::int64_t tokens_in_row(std::int64_t row) const override { return dataset_.tokens_in_row(row); }
  Batch batch(std::span<const std::int64_t> rows) const override { return dataset_.batch(rows); }

  std::int64_t evaluation_units(const EvaluateSettings& settings) const override {
    return (rows() + settings.batch_size - 1) / settings.batch_size;
  }

  Result<std::optional<Metrics>> evaluate(Model& model, const EvaluationRun& run) const override {
    const bool regression = labels_.is_regression();
    const Status known = regression ? check_metrics(run.settings, {"loss"}, "a regression")
                                    : check_metrics(run.settings, {"loss", "accuracy", "f1"}, "a classification");
    if (!known) return known.error();
    const AttentionChoice attention(run.settings.attention);
    const at::NoGradGuard no_graph;
    std::optional<ForwardGraphs> own;
    ForwardGraphs& forward = run.forward != nullptr ? *run.forward : own.emplace(model);
    std::vector<std::int64_t> expected, predicted;
    double loss = 0;
    std::int64_t units = 0;
    for (std::int64_t first = 0; first < rows(); first += run.settings.batch_size) {
      if (!run.go_on(units++)) return std::optional<Metrics>();
      const auto numbers = consecutive_rows(first, run.settings.batch_size, rows());
      const Batch batch = dataset_.batch(numbers);
      if (auto fits = model.check(batch); !fits) return fits.error();
      const at::Tensor logits = forward.logits(batch).to(at::kCPU, at::kFloat).contiguous();
      const std::int64_t classes = logits.size(1);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const float* row = logits.const_data_ptr<float>() + static_cast<std::int64_t>(i) * classes;
        const double label = dataset_.label(numbers[i]);
        if (regression) {
          loss += (row[0] - label) * (row[0] - label);
          continue;
        }
        loss += cross_entropy(row, classes, static_cast<std::int64_t>(label));
        expected.push_back(static_cast<std::int64_t>(label));
        predicted.push_back(std::max_element(row, row + classes) - row);
      }
    }
    loss /= static_cast<double>(rows());
    if (Status finite = check_loss(loss, run.settings); !finite) return finite.error();
    Metrics metrics{{"loss", loss}};
    if (!regression && wants(run.settings, "accuracy")) metrics["accuracy"] = accuracy(expected, predicted);
    if (!regression && wants(run.settings, "f1")) metrics["f1"] = f1(expected, predicted, labels_.count());
    return std::optional(std::move(metrics));
  }

 private:
  ClassificationDataset dataset_;
  Labels labels_;
};

class ClassificationTask final : public JobTask {
 public:
  ClassificationTask(const DataContext& data, const std::optional<ModelManifest>& manifest, Pooling pooling,
                     std::unique_ptr<Tokenizer> tokenizer, const RowCache& cache)
      : data_(data), tokenizer_(std::move(tokenizer)), cache_(cache), pooling_(pooling) {
    if (!manifest || !manifest->head) return;
    labels_ = manifest->head->labels;
    pooling_ = manifest->head->pooling;
  }

  Result<std::shared_ptr<const TaskData>> read_training(std::int64_t sequence_length) override {
    return read("train", sequence_length);
  }
  Result<std::shared_ptr<const TaskData>> read_evaluation(const EvaluateSettings& settings) override {
    return read(settings.split, settings.sequence_length);
  }
  HeadChoice head() const override { return ClassificationHead{pooling_, *labels_}; }

 private:
  Result<std::shared_ptr<const TaskData>> read(const std::string& split, std::int64_t sequence_length) {
    std::optional<std::vector<Example>> read;  // to settle labels
    if (!labels_) {
      auto examples = read_split(data_, split);
      if (!examples) return examples.error();
      if (Status settled = settle_labels(split, *examples); !settled) return settled.error();
      read = std::move(*examples);
    }
    const auto examples = [&]() -> Result<std::vector<Example>> {
      if (read) return std::move(*read);
      return read_split(data_, split);
    };
    auto rows = load_or_tokenize(data_, split, examples, *labels_, sequence_length, *tokenizer_, cache_);
    if (!rows) return rows.error();
    return std::shared_ptr<const TaskData>(std::make_shared<ClassificationData>(std::move(*rows), *labels_));
  }

  Status settle_labels(const std::string& split, const std::vector<Example>& examples) {
    const bool from_here = split == "train" || !data_.train || data_.labels;
    std::optional<std::vector<Example>> train;
    if (!from_here) {
      auto rows = read_split(data_, "train");
      if (!rows) return rows.error();
      train = std::move(*rows);
    }
    auto labels = Labels::find(data_, train ? *train : examples, split_path(data_, train ? "train" : split));
    if (!labels) return labels.error();
    labels_ = std::move(*labels);
    return {};
  }

  const DataContext& data_;
  std::unique_ptr<Tokenizer> tokenizer_;
  const RowCache cache_;
  Pooling pooling_;
  std::optional<Labels> labels_;
};

}  // namespace

std::unique_ptr<JobTask> make_classification_task(const DataContext& data,
                                                  const std::optional<ModelManifest>& manifest, Pooling pooling,
                                                  std::unique_ptr<Tokenizer> tokenizer, const RowCache& cache) {
  return std::make_unique<ClassificationTask>(data, manifest, pooling, std::move(tokenizer), cache);
}

}  // namespace finesweep::worker
