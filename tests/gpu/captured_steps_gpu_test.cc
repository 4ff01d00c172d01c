// Training steps and evaluations that are captured on the first GPU beside the same ones on the CPU. Skipped where
// libtorch sees no GPU.

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "tests/gpu/gpu.h"
#include "tests/gpu/trained_model.h"
#include "tests/kernels/support.h"
#include "worker/kernels/gpu/graph.h"
#include "worker/models/forward_graphs.h"

namespace finesweep::worker {
namespace {

class StepsOnGpu : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  }
};

INSTANTIATE_TEST_SUITE_P(Models, StepsOnGpu,
                         ::testing::Values("bert", "roberta", "gpt2", "gpt_neo", "llama", "t5", "t5_v11"),
                         [](const auto& info) { return info.param; });

TEST_P(StepsOnGpu, captured_steps_are_those_of_the_cpu_with_the_same_dropout) {
  for (const bool lora : {true, false}) {
    SCOPED_TRACE(lora ? "lora" : "full");
    TrainedModel here(GetParam(), c10::Device(c10::kCPU), {.lora = lora}), gpu(GetParam(), kGpu, {.lora = lora});
    for (int step = 0; step < 10; ++step) {
      SCOPED_TRACE(step);
      // Two shapes in turn; each is run, captured and then replayed with other numbers. Two batches a step.
      std::vector<Batch> batches;
      if (step % 2 == 0) {
        batches = {batch_of(GetParam(), {20, 9, 14}, step), batch_of(GetParam(), {11, 20, 5}, step + 50)};
      } else {
        batches = {batch_of(GetParam(), {32, 32, 32}, step)};
      }
      // What is rehearsed changes nothing.
      if (lora && step % 5 == 0) gpu.trainer->rehearse(batches);
      const auto expected = here.trainer->step(batches), mine = gpu.trainer->step(batches);
      ASSERT_TRUE(expected && mine);
      EXPECT_NEAR(mine->loss, expected->loss, 2e-3 * std::abs(expected->loss));
      EXPECT_NEAR(mine->grad_norm, expected->grad_norm, 1e-2 * expected->grad_norm);
      EXPECT_EQ(mine->learning_rate, expected->learning_rate);
      EXPECT_TRUE(mine->finite);
    }
    ASSERT_NE(gpu.trainer->graphs(), nullptr);
    EXPECT_GE(gpu.trainer->graphs()->captured(), 2);
  }
}

TEST_P(StepsOnGpu, adapters_in_one_matrix_with_their_base_learn_what_they_learn_on_the_cpu) {
  const TrainedAs how{.rank = 5, .learning_rate = 3e-3, .type = at::kBFloat16, .adapter_dropout = 0};
  TrainedModel here(GetParam(), c10::Device(c10::kCPU), how), gpu(GetParam(), kGpu, how);
  for (int step = 0; step < 6; ++step) {
    SCOPED_TRACE(step);
    // Rows of one length go through other kernels of attention.
    const std::vector<std::int64_t> lengths =
        step % 2 == 0 ? std::vector<std::int64_t>{20, 9, 14} : std::vector<std::int64_t>{32, 32, 32};
    const std::vector<Batch> batches{batch_of(GetParam(), lengths, step)};
    const auto expected = here.trainer->step(batches), mine = gpu.trainer->step(batches);
    ASSERT_TRUE(expected && mine);
    EXPECT_NEAR(mine->loss, expected->loss, 2e-2 * std::abs(expected->loss));
    EXPECT_NEAR(mine->grad_norm, expected->grad_norm, 0.1 * expected->grad_norm);
  }
  const auto modules = gpu.model->linear_modules();
  EXPECT_TRUE(std::any_of(modules.begin(), modules.end(), [](const LinearModule* m) { return m->room() > 0; }));
  gpu.trainer.reset();
  for (const Parameter* parameter : gpu.adapter->parameters()) {
    EXPECT_TRUE(parameter->value.is_contiguous());
    EXPECT_TRUE(at::equal(parameter->value, parameter->master.to(at::kBFloat16)));
  }
}

TEST_P(StepsOnGpu, adapters_on_a_base_in_fp8_learn_what_they_learn_on_the_cpu) {
  for (const double dropout : {0.0, 0.2}) {
    SCOPED_TRACE(dropout);
    const TrainedAs how{
        .rank = 5, .learning_rate = 3e-3, .type = at::kBFloat16, .adapter_dropout = dropout, .fp8_base = true};
    TrainedModel here(GetParam(), c10::Device(c10::kCPU), how), gpu(GetParam(), kGpu, how);
    for (int step = 0; step < 6; ++step) {
      SCOPED_TRACE(step);
      const std::vector<std::int64_t> lengths =
          step % 2 == 0 ? std::vector<std::int64_t>{20, 9, 14} : std::vector<std::int64_t>{32, 32, 32};
      const std::vector<Batch> batches{batch_of(GetParam(), lengths, step)};
      const auto expected = here.trainer->step(batches), mine = gpu.trainer->step(batches);
      ASSERT_TRUE(expected && mine);
      // A number of bf16 that falls the other way may fall into another code of FP8; the loss carries that on.
      EXPECT_NEAR(mine->loss, expected->loss, (step == 0 ? 4e-2 : 0.15) * std::abs(expected->loss));
      EXPECT_NEAR(mine->grad_norm, expected->grad_norm, 0.2 * expected->grad_norm);
    }
    ASSERT_NE(gpu.trainer->graphs(), nullptr);
    EXPECT_GE(gpu.trainer->graphs()->captured(), 2);
  }
}

TEST_P(StepsOnGpu, steps_with_recomputed_layers_are_captured_too) {
  TrainedModel here(GetParam(), c10::Device(c10::kCPU)), gpu(GetParam(), kGpu, {.recompute = true});
  for (int step = 0; step < 4; ++step) {
    const std::vector<Batch> batches{batch_of(GetParam(), {20, 9, 14}, step)};
    const auto expected = here.trainer->step(batches), mine = gpu.trainer->step(batches);
    ASSERT_TRUE(expected && mine);
    EXPECT_NEAR(mine->loss, expected->loss, 2e-3 * std::abs(expected->loss));
    EXPECT_NEAR(mine->grad_norm, expected->grad_norm, 1e-2 * expected->grad_norm);
  }
}

TEST_P(StepsOnGpu, captured_evaluations_are_those_of_the_cpu) {
  TrainedModel here(GetParam(), c10::Device(c10::kCPU)), gpu(GetParam(), kGpu);
  ForwardGraphs expected(*here.model), mine(*gpu.model);
  for (int step = 0; step < 6; ++step) {
    SCOPED_TRACE(step);
    const Batch batch =
        batch_of(GetParam(),
                 step % 2 == 0 ? std::vector<std::int64_t>{20, 9, 14, 3} : std::vector<std::int64_t>{32, 32}, step);
    if (here.model->language_model() == nullptr) {
      EXPECT_LE(relative_difference(mine.logits(batch).cpu(), expected.logits(batch)), 1e-3);
    } else {
      EXPECT_NEAR(mine.loss(batch, 5 + step).item<double>(), expected.loss(batch, 5 + step).item<double>(), 2e-3);
    }
  }
}

TEST(GraphsOnGpu, what_cannot_be_captured_says_why_and_leaves_the_device_usable) {
  if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  ASSERT_TRUE(CapturedGraph::available());
  const at::Tensor x = there(at::arange(5, at::kFloat));
  const Result<CapturedGraph> refused = CapturedGraph::capture(kGpu, [&] { x.sum().item<float>(); });
  EXPECT_FALSE(refused);
  const Result<CapturedGraph> thrown =
      CapturedGraph::capture(kGpu, [&] { throw std::runtime_error("not today\nmore"); });
  ASSERT_FALSE(thrown);
  EXPECT_EQ(thrown.error().message, "not today");
  EXPECT_EQ(x.sum().item<float>(), 10);
  const at::Tensor out = at::zeros_like(x);
  const Result<CapturedGraph> graph = CapturedGraph::capture(kGpu, [&] { out.copy_(x * 2 + 1); });
  ASSERT_TRUE(graph) << graph.error().message;
  x.add_(1);
  graph->replay();
  EXPECT_EQ(out.cpu().sum().item<float>(), 35);
}

}  // namespace
}  // namespace finesweep::worker
