#include "worker/engine/language_task.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "worker/data/sequence_dataset.h"
#include "worker/engine/generated_text.h"
#include "worker/engine/model_files.h"
#include "worker/kernels/attention_choice.h"
#include "worker/metrics/bleu.h"
#include "worker/metrics/perplexity.h"
#include "worker/metrics/rouge.h"

namespace finesweep::worker {
namespace {

/// Compares what was generated with what should have been.
class TextComparison {
 public:
  void add(const Prediction& prediction) {
    rouge_.add(rouge(prediction.text, prediction.reference));
    bleu_.add(bleu_counts(prediction.text, {prediction.reference}));
  }
  void add_to(Metrics& metrics, const EvaluateSettings& settings) const {
    const RougeScores mean = rouge_.mean();
    const std::pair<const char*, double> scores[] = {{"rouge1", mean.rouge1.f},
                                                     {"rouge2", mean.rouge2.f},
                                                     {"rougeL", mean.rouge_l.f},
                                                     {"rougeLsum", mean.rouge_lsum.f},
                                                     {"bleu", corpus_bleu(bleu_).score}};
    for (const auto& [name, value] : scores) {
      if (wants(settings, name)) metrics[name] = value;
    }
  }

 private:
  RougeMean rouge_;
  BleuCounts bleu_;
};

/// The real tokens of each row.
Prompts prompts_of(const Batch& batch) {
  Prompts prompts(static_cast<std::size_t>(batch.rows()));
  const std::int64_t length = batch.input_ids.size(1);
  const std::int64_t* ids = batch.input_ids.const_data_ptr<std::int64_t>();
  const std::int64_t* mask = batch.attention_mask.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < batch.input_ids.numel(); ++i) {
    if (mask[i] != 0) prompts[static_cast<std::size_t>(i / length)].push_back(ids[i]);
  }
  return prompts;
}

/// What the rows of all splits have in common.
struct TextModel {
  std::unique_ptr<Tokenizer> tokenizer;
  TextBounds bounds;
};

/// The loss of the counted tokens of all rows.
class LanguagePasses final : public EvaluationPasses {
 public:
  LanguagePasses(const SequenceDataset& dataset, const EvaluateSettings& settings)
      : dataset_(dataset), settings_(settings) {}

  Output output() const override { return Output::loss; }
  bool finished() const override { return first_ >= dataset_.rows(); }
  std::int64_t done() const override { return done_; }

  Result<std::optional<Batch>> next(const Model& model) override {
    while (!finished()) {
      Batch batch = dataset_.batch(consecutive_rows(first_, settings_.batch_size, dataset_.rows()));
      first_ += settings_.batch_size;
      ++done_;
      if (Status fits = model.check(batch); !fits) return fits.error();
      if (model.counted(batch) > 0) return std::optional(std::move(batch));
    }
    return std::optional<Batch>();
  }

  void take(const Batch&, const Given& given) override {
    total_.add(given.loss * static_cast<double>(given.counted), given.counted);
  }

  Result<Metrics> metrics() const override {
    if (total_.tokens == 0) {
      return Error{"No token of the " + settings_.split + " split counts in the loss. Raise sequence_length."};
    }
    Metrics metrics{{"loss", total_.mean()}};
    if (Status finite = check_loss(metrics["loss"], settings_); !finite) return finite.error();
    if (wants(settings_, "perplexity")) metrics["perplexity"] = total_.perplexity();
    return metrics;
  }

 private:
  const SequenceDataset& dataset_;
  const EvaluateSettings& settings_;
  std::int64_t first_ = 0, done_ = 0;
  TokenLoss total_;
};

class LanguageData final : public TaskData {
 public:
  LanguageData(SequenceDataset rows, std::shared_ptr<TextModel> text)
      : dataset_(std::move(rows)), text_(std::move(text)) {}

  std::int64_t rows() const override { return dataset_.rows(); }
  std::int64_t tokens_in_row(std::int64_t row) const override { return dataset_.tokens_in_row(row); }
  Batch batch(std::span<const std::int64_t> rows) const override { return dataset_.batch(rows); }

  std::int64_t evaluation_units(const EvaluateSettings& settings) const override {
    return batches(settings) * (1 + (generates(settings) ? settings.generation->max_new_tokens : 0));
  }

  Result<std::unique_ptr<EvaluationPasses>> passes(const EvaluateSettings& settings) const override {
    if (Status fit = check_settings(settings); !fit) return fit.error();
    return std::unique_ptr<EvaluationPasses>(std::make_unique<LanguagePasses>(dataset_, settings));
  }

  Result<std::optional<Metrics>> evaluate(Model& model, const EvaluationRun& run) const override {
    auto metrics = run_passes(*this, model, run);
    if (!metrics || !*metrics || !generates(run.settings)) return metrics;
    const AttentionChoice attention(run.settings.attention);
    const at::NoGradGuard no_graph;
    const auto compared = compare_texts(model, run);
    if (!compared) return compared.error();
    if (!*compared) return std::optional<Metrics>();
    (*compared)->add_to(**metrics, run.settings);
    return metrics;
  }

 private:
  std::int64_t batches(const EvaluateSettings& settings) const { return passes_of(*this, settings); }

  bool generates(const EvaluateSettings& settings) const {
    return dataset_.can_generate() && wants_generation(settings);
  }

  Status check_settings(const EvaluateSettings& settings) const {
    if (!dataset_.can_generate()) {
      return check_metrics(settings, {"loss", "perplexity"},
                           settings.generation ? "plain text" : "text that is not generated");
    }
    return check_metrics(settings, {"loss", "perplexity", "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu"},
                         "a language model");
  }

  Result<std::optional<TextComparison>> compare_texts(Model& model, const EvaluationRun& run) const {
    LanguageModel* writer = model.language_model();
    if (writer == nullptr) return Error{"A " + std::string(model.family()) + " model generates no text."};
    GenerationOptions options = to_options(*run.settings.generation);
    options.end_ids = text_->bounds.end_ids;
    options.decoder_start_id = text_->bounds.decoder_start_id;
    options.seed = run.seed;
    TextComparison comparison;
    Generator generator(*writer);
    for (std::int64_t first = 0; first < rows(); first += run.settings.batch_size) {
      const auto numbers = consecutive_rows(first, run.settings.batch_size, rows());
      const Prompts prompts = prompts_of(dataset_.prompts(numbers));
      std::int64_t units = batches(run.settings) + first / run.settings.batch_size * options.max_new_tokens;
      options.first_row = first;
      const auto texts = generator.generate(prompts, options, [&] { return run.go_on(units++); });
      if (!texts) return texts.error();
      if (!*texts) return std::optional<TextComparison>();
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const Prediction prediction{decode_generated(*text_->tokenizer, prompts[i]),
                                    decode_generated(*text_->tokenizer, (**texts)[i].front().tokens),
                                    dataset_.reference(numbers[i])};
        comparison.add(prediction);
        if (run.on_prediction) run.on_prediction(prediction);
      }
    }
    return std::optional(std::move(comparison));
  }

  SequenceDataset dataset_;
  std::shared_ptr<TextModel> text_;
};

class LanguageTask final : public JobTask {
 public:
  LanguageTask(const JobContext& context, const ModelSource& source, std::unique_ptr<Tokenizer> tokenizer,
               const RowCache& cache)
      : context_(context), source_(source), cache_(cache), text_(std::make_shared<TextModel>()) {
    text_->bounds = text_bounds(source.model, *tokenizer);
    text_->tokenizer = std::move(tokenizer);
  }

  Result<std::shared_ptr<const TaskData>> read_training(std::int64_t sequence_length) override {
    return read("train", sequence_length, std::nullopt);
  }

  Result<std::shared_ptr<const TaskData>> read_evaluation(const EvaluateSettings& settings) override {
    return read(settings.split, settings.sequence_length, settings.generation);
  }

  HeadChoice head() const override { return std::nullopt; }

 private:
  SequenceModel reader() const {
    return context_.task == Task::seq2seq ? SequenceModel::encoder_decoder : SequenceModel::decoder_only;
  }

  Result<std::shared_ptr<const TaskData>> read(const std::string& split, std::int64_t sequence_length,
                                               const std::optional<GenerationSettings>& generation) {
    SequenceOptions options = sequence_options(context_.data, reader(), sequence_length);
    if (generation) options.prompt_length = prompt_length(sequence_length, *generation);
    auto dataset = load_or_tokenize(context_.data, split, options, *text_->tokenizer, cache_);
    if (!dataset) return dataset.error();
    return std::shared_ptr<const TaskData>(std::make_shared<LanguageData>(std::move(*dataset), text_));
  }

  /// A decoder goes on behind its prompt: both must find room.
  std::int64_t prompt_length(std::int64_t sequence_length, const GenerationSettings& generation) const {
    if (reader() == SequenceModel::encoder_decoder) return sequence_length;
    const auto positions = decoder_positions(source_.model);
    if (!positions) return sequence_length;
    return std::max<std::int64_t>(1, std::min(sequence_length, *positions - generation.max_new_tokens));
  }

  const JobContext& context_;
  const ModelSource source_;
  const RowCache cache_;
  std::shared_ptr<TextModel> text_;
};

}  // namespace

std::unique_ptr<JobTask> make_language_task(const JobContext& context, const ModelSource& source,
                                            std::unique_ptr<Tokenizer> tokenizer, const RowCache& cache) {
  return std::make_unique<LanguageTask>(context, source, std::move(tokenizer), cache);
}

}  // namespace finesweep::worker
