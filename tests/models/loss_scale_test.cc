// fp16: the loss is scaled so that small gradients do not vanish, and no more than lets the large ones stay finite.

#include <ATen/Functions.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "worker/training/trainer.h"

namespace finesweep::worker {
namespace {

/// One weight, whose gradient is 2 for each row and overflows where the loss is multiplied by more than `largest`.
class Overflowing final : public Model {
 public:
  explicit Overflowing(double largest) : largest_(largest) {
    weight_.parts = {{"weight", 1}};
    weight_.value = at::ones({1});
    weight_.train(at::kFloat);
  }

  Var logits(const Batch&, const Pass&) override { return {}; }
  Var loss(const Batch& batch, const Pass& pass, const Denominator& of) override {
    const double denominator = of.number();
    const double scale = static_cast<double>(batch.rows()) / denominator * rows_of_step;
    const double gradient = scale > largest_ ? std::numeric_limits<double>::infinity() : 2;
    pass.tape->record([this, gradient, &batch, denominator] {
      weight_.grad.add_(gradient * static_cast<double>(batch.rows()) / denominator);
    });
    ++passes;
    return Var(at::full({}, loss_value * static_cast<double>(batch.rows()) / denominator));
  }
  std::int64_t counted(const Batch& batch) const override { return batch.rows(); }
  Status check(const Batch&) const override { return {}; }
  std::string_view family() const override { return "overflowing"; }
  std::vector<LinearModule*> linear_modules() override { return {}; }
  std::vector<Parameter*> parameters() override { return {&weight_}; }
  std::vector<std::string> head_modules() const override { return {}; }
  std::vector<std::string> default_lora_targets() const override { return {}; }
  std::vector<std::string> default_ia3_targets() const override { return {}; }
  std::vector<std::string> default_ia3_feedforward() const override { return {}; }
  Json config() const override { return Json::object(); }
  at::ScalarType compute_type() const override { return at::kHalf; }
  c10::Device device() const override { return c10::Device(c10::kCPU); }

  float weight() const { return weight_.master.item<float>(); }

  double loss_value = 3;
  double rows_of_step = 1;
  int passes = 0;

 private:
  double largest_;
  Parameter weight_;
};

Batch rows(std::int64_t count) {
  Batch batch;
  batch.input_ids = at::zeros({count, 1}, at::kLong);
  batch.row_indices.resize(static_cast<std::size_t>(count));
  return batch;
}

TrainingSettings settings_of(Precision precision) {
  TrainingSettings settings;
  settings.precision = precision;
  settings.learning_rate = 0.1;
  settings.schedule = Schedule::constant;
  settings.max_grad_norm = 0;
  return settings;
}

TEST(LossScale, a_step_whose_gradients_overflow_is_done_again_with_half_the_scale) {
  Overflowing model(1024), reference(1e30);
  Trainer fp16(model, model.parameters(), settings_of(Precision::fp16), 10, 1);
  Trainer fp32(reference, reference.parameters(), settings_of(Precision::fp32), 10, 1);
  const auto first = fp16.step({rows(4)});
  ASSERT_TRUE(first.ok());
  EXPECT_TRUE(first->finite);
  EXPECT_EQ(first->overflows, 6);  // 65536 → 1024
  EXPECT_EQ(model.passes, 7);
  EXPECT_EQ(fp16.training().steps_done(), 1);
  EXPECT_EQ(first->loss, 3);
  EXPECT_EQ(first->grad_norm, 2);
  ASSERT_TRUE(fp32.step({rows(4)}).ok());
  EXPECT_EQ(model.weight(), reference.weight());
  EXPECT_EQ(fp16.step({rows(4)})->overflows, 0);
}

TEST(LossScale, what_overflows_at_any_scale_has_diverged) {
  Overflowing model(0.5);
  Trainer trainer(model, model.parameters(), settings_of(Precision::fp16), 10, 1);
  const auto report = trainer.step({rows(1)});
  ASSERT_TRUE(report.ok());
  EXPECT_FALSE(report->finite);
  EXPECT_EQ(report->overflows, 16);
  EXPECT_EQ(trainer.training().steps_done(), 0);
  EXPECT_EQ(model.weight(), 1);
}

TEST(LossScale, a_loss_that_is_no_number_is_not_tried_again) {
  Overflowing model(1e30);
  model.loss_value = std::numeric_limits<double>::quiet_NaN();
  Trainer trainer(model, model.parameters(), settings_of(Precision::fp16), 10, 1);
  EXPECT_FALSE(trainer.step({rows(1)})->finite);
  EXPECT_EQ(model.passes, 1);
}

TEST(LossScale, other_precisions_are_not_scaled) {
  for (const Precision precision : {Precision::fp32, Precision::bf16}) {
    Overflowing model(1);
    Trainer trainer(model, model.parameters(), settings_of(precision), 10, 1);
    EXPECT_EQ(trainer.step({rows(3)})->overflows, 0);
    for (const auto& [name, tensor] : trainer.training().state()) EXPECT_NE(name, "optimizer.loss_scale");
  }
}

TEST(LossScale, a_checkpoint_holds_it) {
  Overflowing model(1024), other(1024);
  Trainer trainer(model, model.parameters(), settings_of(Precision::fp16), 10, 1);
  Trainer restored(other, other.parameters(), settings_of(Precision::fp16), 10, 1);
  ASSERT_TRUE(trainer.step({rows(1)}).ok());
  std::map<std::string, at::Tensor> state;
  for (const auto& [name, tensor] : trainer.training().state()) state.emplace(name, tensor.clone());
  ASSERT_TRUE(restored.training().restore(state).ok());
  EXPECT_EQ(restored.step({rows(1)})->overflows, 0);
  EXPECT_EQ(trainer.step({rows(1)})->overflows, 0);
  EXPECT_EQ(model.weight(), other.weight());
}

TEST(LossScale, after_many_steady_steps_it_doubles) {
  LossScale scale{1024, 0};
  for (std::int64_t i = 0; i + 1 < LossScale::growth_interval; ++i) scale.stepped();
  EXPECT_EQ(scale.scale, 1024);
  scale.stepped();
  EXPECT_EQ(scale.scale, 2048);
  EXPECT_EQ(scale.steady_steps, 0);
}

TEST(Trainer, the_loss_of_a_step_is_the_mean_over_what_counts_in_the_whole_accumulated_batch) {
  Overflowing model(1e30);
  Trainer trainer(model, model.parameters(), settings_of(Precision::fp32), 10, 1);
  const auto report = trainer.step({rows(1), rows(3)});
  EXPECT_EQ(report->loss, 3);
  EXPECT_EQ(report->grad_norm, 2);
}

TEST(Trainer, a_step_in_which_nothing_counts_has_loss_0) {
  Overflowing model(1e30);
  Trainer trainer(model, model.parameters(), settings_of(Precision::fp32), 10, 1);
  const auto report = trainer.step({rows(0)});
  EXPECT_TRUE(report->finite);
  EXPECT_EQ(report->loss, 0);
}

}  // namespace
}  // namespace finesweep::worker
