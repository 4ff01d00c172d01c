// Training on two GPUs, and on all where there are more, summed by NCCL, beside the same training on one. Skipped
// where libtorch sees fewer than two.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/engine/rank_processes.h"
#include "tests/gpu/gpu.h"

namespace finesweep::worker {
namespace {

/// At most eight are looked for.
int gpus_here() {
  static const int found = [] {
    int gpus = has_gpu() ? 1 : 0;
    while (gpus > 0 && gpus < 8 && !describe_device("cuda:" + std::to_string(gpus)).contains("error")) ++gpus;
    return gpus;
  }();
  return found;
}

/// How many take part: two, and all.
std::vector<int> counts_of_gpus() {
  return gpus_here() > 2 ? std::vector{2, gpus_here()} : std::vector{2};
}

std::vector<std::string> first_gpus(int count) {
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.push_back("cuda:" + std::to_string(i));
  return names;
}

#define SKIP_WITHOUT_TWO_GPUS()                                                       \
  if (gpus_here() < 2) {                                                              \
    std::fprintf(stderr, "SKIPPED, NOT TESTED: libtorch sees fewer than two GPUs\n"); \
    GTEST_SKIP() << "libtorch sees fewer than two GPUs here";                         \
  }

struct ParallelGpuCase {
  std::string name, model, method, precision;
  Json settings = Json::object();
  double tolerance = 1e-4;  // of losses
  friend void PrintTo(const ParallelGpuCase& c, std::ostream* out) { *out << c.name; }
};

class DataParallelOnGpus : public testing::TestWithParam<ParallelGpuCase> {};

TEST_P(DataParallelOnGpus, gives_the_losses_of_one) {
  SKIP_WITHOUT_TWO_GPUS();
  const ParallelGpuCase& c = GetParam();
  JobBench bench(c.model);
  bench.device = "cuda:0";
  Json settings = bench.finetune_settings(c.method);
  // Enough steps that shapes come again and their passes are replayed.
  settings.update({{"epochs", 4}, {"precision", c.precision}, {"learning_rate", c.method == "full" ? 1e-3 : 3e-3}});
  if (c.settings.is_object()) settings.update(c.settings);
  const Job alone = bench.job(StepKind::finetune, settings);
  const Outcome one = bench.run(alone);
  ASSERT_EQ(one.kind, OutcomeKind::succeeded) << one.error;
  for (const int gpus : counts_of_gpus()) {
    SCOPED_TRACE(testing::Message() << gpus << " GPUs");
    Job together = alone;
    together.id = JobId::of("together on " + std::to_string(gpus));
    together.gpus = gpus;
    RankBench ranks(bench);
    ranks.devices = first_gpus(gpus);
    const Outcome many = ranks.run(together);
    ASSERT_EQ(many.kind, OutcomeKind::succeeded) << many.error;
    ASSERT_EQ(one.history.size(), many.history.size());
    for (std::size_t i = 0; i < one.history.size(); ++i) {
      EXPECT_NEAR(one.history[i].value, many.history[i].value, c.tolerance * (1 + std::abs(one.history[i].value)))
          << one.history[i].metric << " at step " << one.history[i].global_step;
    }
    if (c.method != "full" || c.precision != "fp32") continue;
    const std::string file = "model/model.safetensors";
    expect_same_weights(bench.artifact(alone) / file, ranks.staging(together) / "artifact" / file);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, DataParallelOnGpus,
    testing::Values(
        ParallelGpuCase{"lora_fp32", "bert", "lora", "fp32", {}, 1e-3},
        ParallelGpuCase{"lora_bf16_with_odd_batches", "gpt2", "lora", "bf16", {{"batch_size", 7}}, 0.05},
        ParallelGpuCase{"full_fp32", "gpt2", "full", "fp32", {}, 1e-3},
        ParallelGpuCase{"full_bf16_accumulated",
                        "bert",
                        "full",
                        "bf16",
                        {{"batch_size", 3}, {"gradient_accumulation", 2}},
                        0.05},
        ParallelGpuCase{"a_batch_of_one_row", "bert", "lora", "fp32", {{"batch_size", 1}, {"epochs", 1}}, 1e-3},
        ParallelGpuCase{"fp16_scaled", "gpt2", "lora", "fp16", {}, 0.05},
        ParallelGpuCase{"qlora", "roberta", "qlora", "bf16", {}, 0.05},
        ParallelGpuCase{"layers_computed_again", "gpt2", "full", "fp32", {{"gradient_checkpointing", true}}, 1e-3},
        ParallelGpuCase{"an_encoder_and_decoder", "t5", "full", "fp32", {}, 1e-3}),
    [](const auto& info) { return info.param.name; });

class StoppedOnGpus : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Methods, StoppedOnGpus, testing::Values("lora", "full"),
                         [](const auto& info) { return info.param; });

TEST_P(StoppedOnGpus, goes_on_from_the_checkpoint) {
  SKIP_WITHOUT_TWO_GPUS();
  JobBench bench;
  bench.device = "cuda:0";
  for (const int gpus : counts_of_gpus()) {
    SCOPED_TRACE(testing::Message() << gpus << " GPUs");
    Job whole = bench.job(StepKind::finetune, bench.finetune_settings(GetParam())), stopped = whole;
    whole.gpus = stopped.gpus = gpus;
    whole.id = JobId::of("whole on " + std::to_string(gpus));
    stopped.id = JobId::of("stopped on " + std::to_string(gpus));
    RankBench ranks(bench);
    ranks.devices = first_gpus(gpus);
    const Outcome expected = ranks.run(whole);
    ASSERT_EQ(expected.kind, OutcomeKind::succeeded) << expected.error;
    ranks.environment[kStopAt] = "5";
    ASSERT_EQ(ranks.run(stopped).kind, OutcomeKind::interrupted);
    ranks.environment.clear();
    const Outcome resumed = ranks.run(stopped);
    ASSERT_EQ(resumed.kind, OutcomeKind::succeeded) << resumed.error;
    EXPECT_NEAR(resumed.metrics.at("loss"), expected.metrics.at("loss"), 1e-3);
  }
}

}  // namespace
}  // namespace finesweep::worker
