#pragma once

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "worker/adapters/adapter.h"
#include "worker/data/batch.h"
#include "worker/models/pretrained.h"
#include "worker/training/trainer.h"

namespace finesweep::worker {

/// How a test's model is trained.
struct TrainedAs {
  bool lora = true;
  bool recompute = false;
  std::int64_t rank = 3;
  double alpha = 16;
  std::uint64_t seed = 77;
  double learning_rate = 0;  // 0: one that suits
  at::ScalarType type = at::kFloat;
  double adapter_dropout = 0.2;
  /// The base in FP8; `type` is bf16 then.
  bool fp8_base = false;
  AdapterKind kind = AdapterKind::lora;  // where `lora`: an adapter, with a frozen base

  Precision precision() const;
};

inline Precision TrainedAs::precision() const {
  if (fp8_base) return Precision::fp8_base;
  return type == at::kFloat ? Precision::fp32 : type == at::kHalf ? Precision::fp16 : Precision::bf16;
}

/// A small model of tests/fixtures and its trainer.
struct TrainedModel {
  std::shared_ptr<const Pretrained> pretrained;
  std::unique_ptr<Model> model;
  std::unique_ptr<Adapter> adapter;
  std::unique_ptr<Trainer> trainer;

  TrainedModel(const std::string& name, c10::Device device, const TrainedAs& how = {},
               std::shared_ptr<const Pretrained> base = nullptr) {
    pretrained =
        base != nullptr
            ? std::move(base)
            : *load_pretrained(
                  fixture(name), how.lora ? how.type : at::kFloat, device,
                  how.fp8_base ? std::optional(BaseQuantization{.format = QuantizedFormat::fp8}) : std::nullopt);
    const std::vector<Parameter*> parameters = make(name, how, /*frozen=*/false);
    TrainingSettings settings;
    settings.precision = how.precision();
    settings.learning_rate = how.learning_rate > 0 ? how.learning_rate : how.lora ? 1e-2 : 1e-3;
    settings.weight_decay = 0.01;
    settings.schedule = Schedule::linear;
    settings.max_grad_norm = 0.5;
    settings.gradient_checkpointing = how.recompute;
    trainer = std::make_unique<Trainer>(*model, parameters, settings, 40, how.seed);
  }

  /// A model of the base alone, that the batches of a pack go through.
  static std::unique_ptr<Model> host(const std::string& name, const TrainedModel& like, const TrainedAs& how) {
    TrainedModel made;
    made.pretrained = like.pretrained;
    made.make(name, how, /*frozen=*/true);
    return std::move(made.model);
  }

  static std::filesystem::path fixture(const std::string& name) {
    const char* folder = std::getenv("FINESWEEP_FIXTURES");
    return (folder != nullptr ? std::filesystem::path(folder) : std::filesystem::path("tests/fixtures")) /
           "models" / name;
  }

 private:
  TrainedModel() = default;
  std::vector<Parameter*> make(const std::string& name, const TrainedAs& how, bool frozen) {
    ModelOptions options;
    const bool classifies = name == "bert" || name == "roberta";
    options.head = classifies ? ModelHead::classification : ModelHead::language_model;
    options.labels = 3;
    options.pooling = name == "bert" ? Pooling::mean : Pooling::cls;
    options.precision = how.precision();
    options.train_all = !how.lora && !frozen;
    options.frozen = frozen;
    options.seed = how.seed;
    options.model_dropout = 0.1;
    model = *make_model(pretrained, options);
    std::vector<Parameter*> parameters;
    if (how.lora && !frozen) {
      AdapterOptions adapts;
      adapts.kind = how.kind;
      adapts.rank = how.rank;
      adapts.alpha = how.alpha;
      adapts.dropout = how.adapter_dropout;
      adapter = *make_adapter(*model, adapts, how.seed);
      parameters = adapter->parameters();
    }
    for (Parameter* parameter : trained_parameters(*model)) parameters.push_back(parameter);
    return parameters;
  }
};

/// Rows of these lengths; labels of the second half of each row where it is text.
inline Batch batch_of(const std::string& model, const std::vector<std::int64_t>& lengths, int salt) {
  const auto rows = static_cast<std::int64_t>(lengths.size());
  const std::int64_t length = *std::max_element(lengths.begin(), lengths.end());
  Batch batch;
  batch.input_ids = ((at::arange(rows * length, at::kLong) * 7 + salt) % 50 + 3).view({rows, length});
  batch.attention_mask = at::zeros({rows, length}, at::kLong);
  batch.labels = batch.input_ids.clone();
  for (std::int64_t r = 0; r < rows; ++r) {
    const std::int64_t real = lengths[static_cast<std::size_t>(r)];
    batch.attention_mask.select(0, r).narrow(0, 0, real).fill_(1);
    batch.labels.select(0, r).narrow(0, 0, real / 2).fill_(-100);
    batch.labels.select(0, r).narrow(0, real, length - real).fill_(-100);
    batch.row_indices.push_back(r);
  }
  if (model == "bert" || model == "roberta") batch.labels = at::arange(rows, at::kLong) % 3;
  if (model == "roberta")
    batch.input_ids = at::where(batch.attention_mask.ne(0), batch.input_ids, at::ones({}, at::kLong));
  return batch;
}

}  // namespace finesweep::worker
