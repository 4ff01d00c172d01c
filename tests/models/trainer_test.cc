#include "worker/training/trainer.h"

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>

#include "tests/parity/models.h"
#include "worker/adapters/adapter.h"
#include "worker/formats/safetensors.h"

namespace finesweep::parity {
namespace {

namespace fs = std::filesystem;

/// A model in training, with dropout everywhere.
struct TrainingRun {
  std::unique_ptr<worker::Model> model;
  std::unique_ptr<worker::Adapter> adapter;
  std::unique_ptr<worker::Trainer> trainer;

  explicit TrainingRun(bool lora, Pooling pooling = Pooling::cls, Precision precision = Precision::fp32,
                       double rate = 0.01, bool checkpointing = false) {
    auto pretrained = worker::load_pretrained(repository_fixtures() / "models" / "bert");
    worker::ModelOptions options;
    options.labels = 3;
    options.pooling = pooling;
    options.precision = precision;
    options.model_dropout = 0.1;
    options.train_all = !lora;
    model = std::move(*worker::make_model(*pretrained, options));
    std::vector<worker::Parameter*> parameters;
    if (lora) {
      worker::AdapterOptions options;
      options.rank = 4;
      options.alpha = 8;
      options.dropout = 0.1;
      adapter = std::move(*worker::make_adapter(*model, options, 5));
      parameters = adapter->parameters();
    }
    for (worker::Parameter* parameter : worker::trained_parameters(*model)) parameters.push_back(parameter);
    TrainingSettings settings;
    settings.learning_rate = rate;
    settings.weight_decay = 0.01;
    settings.schedule = Schedule::constant;
    settings.gradient_checkpointing = checkpointing;
    trainer = std::make_unique<worker::Trainer>(*model, parameters, settings, 100, 77);
  }

  double step(const std::vector<worker::Batch>& batches) { return trainer->step(batches)->loss; }
  Tensors state() const {
    Tensors tensors;
    for (const auto& [name, tensor] : trainer->training().state()) tensors[name] = tensor.clone();
    return tensors;
  }
};

worker::Batch batch(int step) {
  static const Tensors all =
      read_tensors(repository_fixtures() / "adapters" / "bert_lora" / "train_batches.safetensors");
  return batch_of(all, std::to_string(step % 10) + ".");
}

worker::Batch rows_of(const worker::Batch& whole, std::int64_t begin, std::int64_t count) {
  worker::Batch part;
  part.input_ids = whole.input_ids.narrow(0, begin, count).contiguous();
  part.attention_mask = whole.attention_mask.narrow(0, begin, count).contiguous();
  part.token_type_ids = whole.token_type_ids.narrow(0, begin, count).contiguous();
  part.labels = whole.labels.narrow(0, begin, count).contiguous();
  part.row_indices.assign(whole.row_indices.begin() + begin, whole.row_indices.begin() + begin + count);
  return part;
}

void expect_same_bits(const Tensors& a, const Tensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) EXPECT_TRUE(at::equal(tensor, b.at(name))) << name;
}

class Training : public testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Methods, Training, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "lora" : "full"; });

TEST_P(Training, the_same_seed_gives_the_same_bits) {
  TrainingRun one(GetParam()), other(GetParam());
  for (int step = 0; step < 4; ++step) EXPECT_EQ(one.step({batch(step)}), other.step({batch(step)}));
  expect_same_bits(one.state(), other.state());
}

TEST_P(Training, another_number_of_threads_gives_the_same_to_rounding) {
  TrainingRun one(GetParam()), other(GetParam());
  const auto alone = one.trainer->step({batch(0)});
  at::set_num_threads(2);
  const auto together = other.trainer->step({batch(0)});
  at::set_num_threads(1);
  EXPECT_NEAR(alone->loss, together->loss, 1e-6);
  EXPECT_NEAR(alone->grad_norm, together->grad_norm, 1e-5 * alone->grad_norm);
}

TEST_P(Training, continued_from_a_written_state_it_is_bit_identical) {
  TrainingRun whole(GetParam()), first(GetParam()), second(GetParam());
  const fs::path file = fs::path(testing::TempDir()) / (GetParam() ? "lora_state" : "full_state");
  for (int step = 0; step < 6; ++step) whole.step({batch(step)});
  for (int step = 0; step < 3; ++step) first.step({batch(step)});
  ASSERT_TRUE(worker::write_safetensors(file, first.trainer->training().state()).ok());
  second.step({batch(9)});  // what was there before is overwritten
  const Status restored = second.trainer->training().restore(read_tensors(file));
  ASSERT_TRUE(restored.ok()) << restored.error().message;
  EXPECT_EQ(second.trainer->training().steps_done(), 3);
  for (int step = 3; step < 6; ++step) second.step({batch(step)});
  expect_same_bits(whole.state(), second.state());
}

TEST_P(Training, padding_does_not_change_a_bit) {
  TrainingRun one(GetParam()), other(GetParam());
  for (int step = 0; step < 3; ++step) {
    worker::Batch padded = batch(step);
    for (at::Tensor* tensor : {&padded.input_ids, &padded.attention_mask, &padded.token_type_ids}) {
      *tensor = at::constant_pad_nd(*tensor, {0, 11}, 0).contiguous();
    }
    one.step({batch(step)});
    other.step({padded});
  }
  expect_same_bits(one.state(), other.state());
}

TEST_P(Training, gradient_checkpointing_changes_no_bit) {
  TrainingRun one(GetParam()), other(GetParam(), Pooling::cls, Precision::fp32, 0.01, true);
  for (int step = 0; step < 3; ++step) EXPECT_EQ(one.step({batch(step)}), other.step({batch(step)}));
  expect_same_bits(one.state(), other.state());
}

TEST_P(Training, an_accumulated_batch_is_the_whole_batch) {
  TrainingRun whole(GetParam()), parts(GetParam());
  const worker::Batch rows = batch(0);
  const auto one = whole.trainer->step({rows});
  const auto other = parts.trainer->step({rows_of(rows, 0, 3), rows_of(rows, 3, 1)});
  EXPECT_NEAR(one->loss, other->loss, 1e-6);
  EXPECT_NEAR(one->grad_norm, other->grad_norm, 1e-5 * one->grad_norm);
}

TEST_P(Training, a_loss_that_is_not_finite_is_reported_and_changes_nothing) {
  TrainingRun run(GetParam());
  run.step({batch(0)});
  worker::Parameter& head = *worker::trained_parameters(*run.model).back();
  head.master.fill_(INFINITY);
  const Tensors before = run.state();
  const auto report = run.trainer->step({batch(1)});
  ASSERT_TRUE(report.ok());
  EXPECT_FALSE(report->finite);
  EXPECT_EQ(run.trainer->training().steps_done(), 1);
  expect_same_bits(before, run.state());
}

TEST_P(Training, a_batch_that_does_not_fit_is_an_error) {
  TrainingRun run(GetParam());
  worker::Batch bad = batch(0);
  bad.labels = at::full({bad.rows()}, 9, at::kLong);
  const auto report = run.trainer->step({bad});
  ASSERT_FALSE(report.ok());
  EXPECT_THAT(report.error().message, testing::HasSubstr("label 9"));
}

TEST_P(Training, learns_in_bf16_too) {
  TrainingRun run(GetParam(), Pooling::cls, Precision::bf16, GetParam() ? 0.01 : 0.001);
  double first = 0, last = 0;
  for (int step = 0; step < 40; ++step) {
    const double loss = run.step({batch(0)});
    if (step < 5) first += loss / 5;
    if (step >= 35) last += loss / 5;
  }
  EXPECT_LT(last, 0.6 * first);
}

TEST(Trainer, a_state_of_another_run_is_refused_before_anything_changes) {
  TrainingRun lora(true), full(false);
  const Tensors before = lora.state();
  const Status status = lora.trainer->training().restore(full.state());
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, testing::HasSubstr("lora_A"));
  expect_same_bits(before, lora.state());
}

TEST(Trainer, training_leaves_the_shared_weights_as_they_were) {
  const auto pretrained = *worker::load_pretrained(repository_fixtures() / "models" / "bert");
  std::vector<at::Tensor> before;
  for (const worker::Parameter& weight : pretrained->weights) before.push_back(weight.value.clone());
  for (const bool all : {false, true}) {
    worker::ModelOptions options;
    options.labels = 3;
    options.train_all = all;
    const auto model = std::move(*worker::make_model(pretrained, options));
    TrainingSettings settings;
    settings.learning_rate = 0.1;
    settings.schedule = Schedule::constant;
    worker::Trainer trainer(*model, worker::trained_parameters(*model), settings, 10, 1);
    ASSERT_TRUE(trainer.step({batch(0)}).ok());
  }
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(at::equal(before[i], pretrained->weights[i].value)) << pretrained->weights[i].parts[0].name;
  }
}

TEST(Trainer, with_the_first_token_pooled_the_last_layer_computes_the_same_for_it_alone) {
  const at::NoGradGuard no_graph;
  TrainingRun run(false);
  worker::Pass pass;
  pass.dropout = {true, 3, 4};
  std::vector<at::Tensor> hidden;
  const at::Tensor alone = run.model->logits(batch(0), pass).value;
  pass.hidden_states = &hidden;
  const at::Tensor whole = run.model->logits(batch(0), pass).value;
  EXPECT_LE(largest_difference(alone, whole), 2e-5);
  EXPECT_GT(largest_difference(alone, logits_of(*run.model, batch(0))), 1e-3) << "dropout was off";
}

TEST(Trainer, mean_pooling_averages_real_tokens_and_leaves_the_pooler_alone) {
  const at::NoGradGuard no_graph;
  TrainingRun run(false, Pooling::mean);
  std::vector<at::Tensor> hidden;
  worker::Pass pass;
  pass.hidden_states = &hidden;
  const worker::Batch rows = batch(0);
  const at::Tensor logits = run.model->logits(rows, pass).value;
  const auto parameters = run.model->parameters();
  const at::Tensor weight = parameters[parameters.size() - 2]->value, bias = parameters.back()->value;
  std::int64_t begin = 0;
  for (std::int64_t r = 0; r < rows.rows(); ++r) {
    const std::int64_t tokens = rows.attention_mask[r].sum().item<std::int64_t>();
    const at::Tensor mean = hidden.back().narrow(0, begin, tokens).mean(0);
    EXPECT_LE(largest_difference(logits[r], at::mv(weight, mean) + bias), 1e-4);
    begin += tokens;
  }

  const at::Tensor pooler = parameters[parameters.size() - 4]->value.clone();
  EXPECT_FALSE(parameters[parameters.size() - 4]->trained);
  for (int step = 0; step < 3; ++step) run.step({batch(step)});
  const fs::path saved = fs::path(testing::TempDir()) / "mean_pooled";
  ASSERT_TRUE(worker::save_pretrained(*run.model, saved).ok());
  EXPECT_TRUE(at::equal(read_tensors(saved / "model.safetensors").at("bert.pooler.dense.weight"), pooler));
}

TEST(Trainer, schedules_warm_up_and_then_stay_or_fall) {
  using worker::learning_rate_at;
  for (const Schedule schedule : {Schedule::constant, Schedule::linear, Schedule::cosine}) {
    EXPECT_EQ(learning_rate_at(schedule, 2, 0, 4, 20), 0);
    EXPECT_EQ(learning_rate_at(schedule, 2, 1, 4, 20), 0.5);
    EXPECT_EQ(learning_rate_at(schedule, 2, 4, 4, 20), 2);
  }
  EXPECT_EQ(learning_rate_at(Schedule::constant, 2, 19, 4, 20), 2);
  EXPECT_EQ(learning_rate_at(Schedule::linear, 2, 12, 4, 20), 1);
  EXPECT_NEAR(learning_rate_at(Schedule::cosine, 2, 8, 4, 20), 1 + std::cos(std::acos(-1.0) / 4), 1e-12);
  EXPECT_NEAR(learning_rate_at(Schedule::cosine, 2, 20, 4, 20), 0, 1e-12);
  EXPECT_EQ(learning_rate_at(Schedule::linear, 2, 0, 0, 20), 2);
}

}  // namespace
}  // namespace finesweep::parity
