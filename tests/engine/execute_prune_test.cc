// Pruning: what is pruned is 0, stays 0 while training goes on, and nothing else is touched.

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/engine/pipeline.h"

namespace finesweep::worker {
namespace {

using ::testing::HasSubstr;
using Tensors = std::map<std::string, at::Tensor>;

/// Where a mask says 0 the tensor is 0.
void expect_pruned(const Tensors& tensors, const Tensors& masks) {
  ASSERT_FALSE(masks.empty());
  for (const auto& [name, mask] : masks) {
    const auto found = tensors.find(name);
    ASSERT_NE(found, tensors.end()) << name;
    EXPECT_EQ(found->second.masked_select(mask.eq(0)).count_nonzero().item<std::int64_t>(), 0) << name;
  }
}

class Prune : public ::testing::TestWithParam<std::string> {
 protected:
  JobBench bench_{GetParam()};
  Pipeline pipeline_{bench_};
};
INSTANTIATE_TEST_SUITE_P(Execute, Prune, ::testing::Values("bert", "gpt2", "t5", "llama"),
                         [](const auto& info) { return info.param; });

TEST_P(Prune, an_adapter_loses_its_smallest_values_and_they_stay_away_when_it_is_trained_further) {
  Json training = bench_.finetune_settings("lora");
  training["weight_decay"] = 0.1;
  pipeline_.run(StepKind::finetune, training);
  const Tensors before = pipeline_.adapter();
  const Outcome outcome = pipeline_.run(StepKind::prune, prune_settings());
  EXPECT_NEAR(outcome.metrics.at("sparsity"), 0.8, 0.01);
  const Tensors masks = pipeline_.tensors("masks.safetensors"), pruned = pipeline_.adapter();
  expect_pruned(pruned, masks);
  for (const auto& [name, tensor] : before) {
    const bool own = name.find(".lora_") != std::string::npos;
    EXPECT_EQ(masks.contains(name), own) << name;  // a head has none
    EXPECT_TRUE(at::equal(pruned.at(name), own ? tensor * masks.at(name) : tensor)) << name;
    if (!own) continue;
    const auto n = static_cast<double>(tensor.numel());
    EXPECT_EQ(tensor.numel() - masks.at(name).sum().item<std::int64_t>(), std::nearbyint(0.8 * n)) << name;
  }
  const Outcome measured = pipeline_.run(StepKind::evaluate, bench_.evaluate_settings());
  EXPECT_TRUE(std::isfinite(measured.metrics.at("loss")));

  pipeline_.run(StepKind::finetune, training);
  const Tensors trained = pipeline_.adapter();
  expect_pruned(trained, masks);
  expect_pruned(trained, pipeline_.tensors("masks.safetensors"));
  bool any_changed = false;
  for (const auto& [name, tensor] : trained) any_changed |= !at::equal(tensor, pruned.at(name));
  EXPECT_TRUE(any_changed);
}

TEST_P(Prune, masks_before_training_are_in_force_from_the_first_step) {
  Json training = bench_.finetune_settings("lora");
  training["prune"] = prune_settings("adapter", 0.5, "per_tensor", "before");
  pipeline_.run(StepKind::finetune, training);
  const Tensors masks = pipeline_.tensors("masks.safetensors"), trained = pipeline_.adapter();
  expect_pruned(trained, masks);
  for (const auto& [name, mask] : masks) {
    if (name.find(".lora_B.") == std::string::npos) continue;
    // B is 0 before training: of equal magnitudes the first go.
    const at::Tensor flat = mask.reshape({-1});
    const std::int64_t pruned = flat.eq(0).sum().item<std::int64_t>();
    EXPECT_EQ(flat.narrow(0, 0, pruned).sum().item<std::int64_t>(), 0) << name;
    EXPECT_GT(trained.at(name).count_nonzero().item<std::int64_t>(), 0) << name;
  }
  const Outcome outcome = pipeline_.run(StepKind::prune, training["prune"]);
  EXPECT_NEAR(outcome.metrics.at("sparsity"), 0.5, 0.01);
  for (const auto& [name, tensor] : pipeline_.adapter()) EXPECT_TRUE(at::equal(tensor, trained.at(name))) << name;
}

TEST_P(Prune, a_model_loses_the_smallest_weights_of_its_layers_and_they_stay_away) {
  Json training = bench_.finetune_settings("full");
  training["learning_rate"] = 1e-3;
  pipeline_.run(StepKind::finetune, training);
  const Tensors before = pipeline_.tensors("model/model.safetensors");
  const Outcome outcome = pipeline_.run(StepKind::prune, prune_settings("model", 0.3, "global"));
  EXPECT_NEAR(outcome.metrics.at("sparsity"), 0.3, 1e-3);
  const Tensors masks = pipeline_.tensors("masks.safetensors");
  const Tensors pruned = pipeline_.tensors("model/model.safetensors");
  expect_pruned(pruned, masks);
  for (const auto& [name, tensor] : before) {
    if (!masks.contains(name)) {
      EXPECT_TRUE(at::equal(tensor, pruned.at(name))) << name;
    }
  }
  pipeline_.run(StepKind::finetune, training);
  expect_pruned(pipeline_.tensors("model/model.safetensors"), masks);
}

TEST(ExecutePrune, a_model_is_pruned_under_its_adapter) {
  JobBench bench("gpt2");
  Pipeline pipeline(bench);
  pipeline.run(StepKind::finetune, bench.finetune_settings("lora"));
  const Tensors adapter = pipeline.adapter();
  const double loss = pipeline.run(StepKind::evaluate, bench.evaluate_settings()).metrics.at("loss");
  pipeline.run(StepKind::prune, prune_settings("model", 0.5));
  for (const auto& [name, tensor] : pipeline.adapter()) EXPECT_TRUE(at::equal(tensor, adapter.at(name))) << name;
  const double pruned = pipeline.run(StepKind::evaluate, bench.evaluate_settings()).metrics.at("loss");
  EXPECT_NE(loss, pruned);
  pipeline.run(StepKind::prune, prune_settings("adapter", 0.5));
  const Outcome both = pipeline.run(StepKind::evaluate, bench.evaluate_settings());
  EXPECT_NE(both.metrics.at("loss"), pruned);
  EXPECT_EQ(pipeline.manifest().at("kind"), "adapter");
}

TEST(ExecutePrune, a_second_pruning_goes_on_from_the_first) {
  JobBench bench("gpt2");
  Pipeline pipeline(bench);
  pipeline.run(StepKind::finetune, bench.finetune_settings("lora"));
  pipeline.run(StepKind::prune, prune_settings("adapter", 0.5));
  const Tensors first = pipeline.tensors("masks.safetensors");
  const Outcome outcome = pipeline.run(StepKind::prune, prune_settings("adapter", 0.75));
  EXPECT_NEAR(outcome.metrics.at("sparsity"), 0.75, 0.01);
  expect_pruned(pipeline.adapter(), first);
}

TEST(ExecutePrune, a_training_with_masks_that_was_stopped_ends_bit_for_bit_as_one_that_was_not) {
  JobBench bench("gpt2");
  Pipeline pipeline(bench);
  Json training = bench.finetune_settings("lora");
  training["prune"] = prune_settings("adapter", 0.5, "global", "before");
  const Job undisturbed = bench.job(StepKind::finetune, training);
  ASSERT_EQ(bench.run(undisturbed).kind, OutcomeKind::succeeded);
  Job job = undisturbed;
  job.id = JobId::of("stopped");
  RecordingControl control;
  control.stop = [&] { return control.reports.size() > 4; };
  ASSERT_EQ(bench.run(job, control).kind, OutcomeKind::interrupted);
  ASSERT_EQ(bench.run(job).kind, OutcomeKind::succeeded);
  for (const char* file : {"adapter/adapter_model.safetensors", "masks.safetensors"}) {
    EXPECT_TRUE(read_bytes(bench.artifact(undisturbed) / file) == read_bytes(bench.artifact(job) / file)) << file;
  }
}

TEST(ExecutePrune, quantised_weights_are_not_pruned) {
  JobBench bench("gpt2");
  Pipeline pipeline(bench);
  pipeline.run(StepKind::quantize, quantize_settings("nf4"));
  const Outcome outcome = bench.run(pipeline.next(StepKind::prune, prune_settings("model")));
  EXPECT_EQ(outcome.kind, OutcomeKind::failed);
  EXPECT_THAT(outcome.error, HasSubstr("Prune before quantising"));
}

}  // namespace
}  // namespace finesweep::worker
