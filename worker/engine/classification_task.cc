#include "worker/engine/classification_task.h"

#include <algorithm>
#include <cmath>
#include <utility>

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

/// Logits of all rows, beside their labels.
class ClassificationPasses final : public EvaluationPasses {
 public:
  ClassificationPasses(const ClassificationDataset& dataset, const Labels& labels, const EvaluateSettings& settings)
      : dataset_(dataset), labels_(labels), settings_(settings) {}

  Output output() const override { return Output::logits; }
  bool finished() const override { return first_ >= dataset_.rows(); }
  std::int64_t done() const override { return done_; }

  Result<std::optional<Batch>> next(const Model& model) override {
    if (finished()) return std::optional<Batch>();
    Batch batch = dataset_.batch(consecutive_rows(first_, settings_.batch_size, dataset_.rows()));
    first_ += settings_.batch_size;
    ++done_;
    if (Status fits = model.check(batch); !fits) return fits.error();
    return std::optional(std::move(batch));
  }

  void take(const Batch& batch, const Given& given) override {
    const std::int64_t classes = given.logits.size(1);
    for (std::size_t i = 0; i < batch.row_indices.size(); ++i) {
      const float* row = given.logits.const_data_ptr<float>() + static_cast<std::int64_t>(i) * classes;
      const double label = dataset_.label(batch.row_indices[i]);
      if (labels_.is_regression()) {
        loss_ += (row[0] - label) * (row[0] - label);
        continue;
      }
      loss_ += cross_entropy(row, classes, static_cast<std::int64_t>(label));
      expected_.push_back(static_cast<std::int64_t>(label));
      predicted_.push_back(std::max_element(row, row + classes) - row);
    }
  }

  Result<Metrics> metrics() const override {
    const double loss = loss_ / static_cast<double>(dataset_.rows());
    if (Status finite = check_loss(loss, settings_); !finite) return finite.error();
    Metrics metrics{{"loss", loss}};
    if (labels_.is_regression()) return metrics;
    if (wants(settings_, "accuracy")) metrics["accuracy"] = accuracy(expected_, predicted_);
    if (wants(settings_, "f1")) metrics["f1"] = f1(expected_, predicted_, labels_.count());
    return metrics;
  }

 private:
  const ClassificationDataset& dataset_;
  const Labels& labels_;
  const EvaluateSettings& settings_;
  std::int64_t first_ = 0, done_ = 0;
  std::vector<std::int64_t> expected_, predicted_;
  double loss_ = 0;
};

class ClassificationData final : public TaskData {
 public:
  ClassificationData(ClassificationDataset rows, Labels labels)
      : dataset_(std::move(rows)), labels_(std::move(labels)) {}

  std::int64_t rows() const override { return dataset_.rows(); }
  std::int64_t tokens_in_row(std::int64_t row) const override { return dataset_.tokens_in_row(row); }
  Batch batch(std::span<const std::int64_t> rows) const override { return dataset_.batch(rows); }

  std::int64_t evaluation_units(const EvaluateSettings& settings) const override {
    return passes_of(*this, settings);
  }

  Result<std::unique_ptr<EvaluationPasses>> passes(const EvaluateSettings& settings) const override {
    const Status known = labels_.is_regression()
                             ? check_metrics(settings, {"loss"}, "a regression")
                             : check_metrics(settings, {"loss", "accuracy", "f1"}, "a classification");
    if (!known) return known.error();
    return std::unique_ptr<EvaluationPasses>(std::make_unique<ClassificationPasses>(dataset_, labels_, settings));
  }

  Result<std::optional<Metrics>> evaluate(Model& model, const EvaluationRun& run) const override {
    return run_passes(*this, model, run);
  }

 private:
  ClassificationDataset dataset_;
  Labels labels_;
};

class ClassificationTask final : public JobTask {
 public:
  ClassificationTask(const DataContext& data, const std::optional<ModelManifest>& manifest, Pooling pooling,
                     std::optional<TokenId> end_padding, std::unique_ptr<Tokenizer> tokenizer,
                     const RowCache& cache)
      : data_(data), tokenizer_(std::move(tokenizer)), cache_(cache), pooling_(pooling), end_padding_(end_padding) {
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
    if (end_padding_ && pooling_ != Pooling::mean) rows->leave_off_at_end(*end_padding_);
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
  std::optional<TokenId> end_padding_;
  std::optional<Labels> labels_;
};

}  // namespace

std::unique_ptr<JobTask> make_classification_task(const DataContext& data,
                                                  const std::optional<ModelManifest>& manifest, Pooling pooling,
                                                  std::optional<TokenId> end_padding,
                                                  std::unique_ptr<Tokenizer> tokenizer, const RowCache& cache) {
  return std::make_unique<ClassificationTask>(data, manifest, pooling, end_padding, std::move(tokenizer), cache);
}

}  // namespace finesweep::worker
