// Whole jobs on the first GPU, beside the same jobs on the CPU. Skipped where libtorch sees no GPU.

#include <ATen/ops/empty.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/engine/job_bench.h"
#include "tests/gpu/gpu.h"

namespace finesweep::worker {
namespace {

using ::testing::Contains;
using ::testing::Key;

class ExecuteOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  }

  /// Without dropout, the two devices differ by rounding alone.
  Json settings(const std::string& method, const std::string& precision = "fp32") const {
    Json settings = bench_.finetune_settings(method);
    settings["model_dropout"] = 0.0;
    settings["epochs"] = 4;
    settings["learning_rate"] = 1e-2;
    settings["precision"] = precision;
    if (method == "lora") settings["dropout"] = 0.0;
    settings["evaluate_every"] = "epoch";
    settings["evaluation"] = bench_.evaluate_settings();
    return settings;
  }

  JobBench bench_;
};

TEST_F(ExecuteOnGpu, the_device_is_described) {
  const Json described = describe_device("cuda:0");
  EXPECT_THAT(described.at("name").get<std::string>(), ::testing::HasSubstr("NVIDIA"));
  EXPECT_GT(described.at("memory_mb").get<double>(), 1000);
  EXPECT_TRUE(described.contains("bf16"));
  EXPECT_TRUE(described.contains("cuda"));
}

TEST_F(ExecuteOnGpu, a_training_and_its_evaluation_agree_with_those_on_the_cpu) {
  for (const char* method : {"lora", "full"}) {
    SCOPED_TRACE(method);
    Json chosen = settings(method);
    if (method == std::string("full")) chosen["learning_rate"] = 1e-3;
    const Job on_cpu = bench_.job(StepKind::finetune, chosen);
    const Outcome expected = bench_.run(on_cpu);
    ASSERT_EQ(expected.kind, OutcomeKind::succeeded) << expected.error;

    bench_.device = "cuda:0";
    Job on_gpu = on_cpu;
    on_gpu.id = JobId::of(std::string("gpu ") + method);
    const Outcome trained = bench_.run(on_gpu);
    ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
    EXPECT_NEAR(trained.metrics.at("loss"), expected.metrics.at("loss"), 0.02);
    EXPECT_NEAR(trained.metrics.at("validation_loss"), expected.metrics.at("validation_loss"), 0.05);
    EXPECT_EQ(trained.metrics.at("trainable_parameters"), expected.metrics.at("trainable_parameters"));
    EXPECT_GT(trained.metrics.at("peak_memory_mb"), 0.1);
    EXPECT_LT(trained.metrics.at("peak_memory_mb"), 500);

    Job evaluation = bench_.job(StepKind::evaluate, bench_.evaluate_settings("test"));
    evaluation.id = JobId::of(std::string("gpu evaluation ") + method);
    evaluation.inputs = {on_gpu.id};
    const Outcome there = bench_.run(evaluation);
    ASSERT_EQ(there.kind, OutcomeKind::succeeded) << there.error;
    bench_.device = "cpu";
    const Outcome here = bench_.run(evaluation);
    EXPECT_NEAR(there.metrics.at("loss"), here.metrics.at("loss"), 1e-4);
    EXPECT_EQ(there.metrics.at("accuracy"), here.metrics.at("accuracy"));
  }
}

struct GpuCase {
  std::string model, method, precision;
  friend void PrintTo(const GpuCase& c, std::ostream* out) {
    *out << c.model << ' ' << c.method << ' ' << c.precision;
  }
};

class MethodsOnGpu : public ::testing::TestWithParam<GpuCase> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  }
};

INSTANTIATE_TEST_SUITE_P(Execute, MethodsOnGpu,
                         ::testing::Values(GpuCase{"roberta", "lora", "fp32"}, GpuCase{"gpt2", "full", "fp32"},
                                           GpuCase{"gpt2", "qlora", "fp32"}, GpuCase{"gpt_neo", "lora", "bf16"},
                                           GpuCase{"llama", "ia3", "fp32"}, GpuCase{"llama", "qlora", "bf16"},
                                           GpuCase{"t5", "lora", "fp32"}, GpuCase{"t5_v11", "ia3", "fp32"},
                                           GpuCase{"gpt2", "full", "fp16"}, GpuCase{"bert", "lora", "fp16"}),
                         [](const auto& info) {
                           return info.param.model + "_" + info.param.method + "_" + info.param.precision;
                         });

TEST_P(MethodsOnGpu, a_training_and_what_it_generates_agree_with_those_on_the_cpu) {
  JobBench bench(GetParam().model);
  Json settings = bench.finetune_settings(GetParam().method);
  settings["model_dropout"] = 0.0;
  if (settings.contains("dropout")) settings["dropout"] = 0.0;
  settings["precision"] = GetParam().precision;
  const Job on_cpu = bench.job(StepKind::finetune, settings);
  const Outcome expected = bench.run(on_cpu);
  ASSERT_EQ(expected.kind, OutcomeKind::succeeded) << expected.error;
  bench.device = "cuda:0";
  Job on_gpu = on_cpu;
  on_gpu.id = JobId::of("gpu");
  const Outcome trained = bench.run(on_gpu);
  ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
  EXPECT_NEAR(trained.metrics.at("loss"), expected.metrics.at("loss"), GetParam().precision == "fp32" ? 0.02 : 0.1);

  Job evaluation = bench.job(StepKind::evaluate, bench.evaluate_settings("test"));
  evaluation.inputs = {on_gpu.id};
  const Outcome there = bench.run(evaluation);
  ASSERT_EQ(there.kind, OutcomeKind::succeeded) << there.error;
  bench.device = "cpu";
  const Outcome here = bench.run(evaluation);
  EXPECT_NEAR(there.metrics.at("loss"), here.metrics.at("loss"), 1e-3);
  // A tie between two tokens may fall either way.
  if (!bench.classifies()) {
    EXPECT_NEAR(there.metrics.at("rouge1"), here.metrics.at("rouge1"), 0.1);
  }
}

class DistillOnGpu : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  }
};
INSTANTIATE_TEST_SUITE_P(Execute, DistillOnGpu, ::testing::Values("bert", "gpt2", "t5"),
                         [](const auto& info) { return info.param; });

TEST_P(DistillOnGpu, a_student_learns_what_it_learns_on_the_cpu) {
  JobBench bench(GetParam());
  Json teaching = bench.finetune_settings("full");
  teaching["epochs"] = 4;
  const Job teacher = bench.job(StepKind::finetune, teaching, 3);
  ASSERT_EQ(bench.run(teacher).kind, OutcomeKind::succeeded);
  for (const double alpha : {0.5, 1.0}) {
    SCOPED_TRACE(alpha);
    Json settings = bench.finetune_settings("full");
    settings.erase("method");
    settings.update({{"teacher", (bench.artifact(teacher) / "model").string()},
                     {"temperature", 2.0},
                     {"alpha", alpha},
                     {"epochs", 4},
                     {"model_dropout", 0.0},
                     {"evaluate_every", "epoch"},
                     {"evaluation", bench.evaluate_settings()}});
    const Job on_cpu = bench.job(StepKind::distill, settings);
    const Outcome expected = bench.run(on_cpu);
    ASSERT_EQ(expected.kind, OutcomeKind::succeeded) << expected.error;
    bench.device = "cuda:0";
    Job on_gpu = on_cpu;
    on_gpu.id = JobId::of("gpu " + std::to_string(alpha));
    const Outcome trained = bench.run(on_gpu);
    bench.device = "cpu";
    ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
    EXPECT_NEAR(trained.metrics.at("loss"), expected.metrics.at("loss"), 0.01);
    EXPECT_NEAR(trained.metrics.at("validation_loss"), expected.metrics.at("validation_loss"), 0.05);
  }
}

TEST_F(ExecuteOnGpu, bf16_learns_the_classes) {
  bench_.device = "cuda:0";
  const Outcome trained = bench_.run(bench_.job(StepKind::finetune, settings("lora", "bf16")));
  ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
  EXPECT_LT(trained.metrics.at("validation_loss"), 0.5);
}

TEST_F(ExecuteOnGpu, an_interrupted_training_goes_on_from_its_checkpoint) {
  bench_.device = "cuda:0";
  const Job job = bench_.job(StepKind::finetune, settings("lora"));
  RecordingControl control;
  control.stop = [&] { return control.reports.size() > 4; };
  ASSERT_EQ(bench_.run(job, control).kind, OutcomeKind::interrupted);
  RecordingControl again;
  const Outcome resumed = bench_.run(job, again);
  ASSERT_EQ(resumed.kind, OutcomeKind::succeeded) << resumed.error;
  EXPECT_LT(resumed.metrics.at("validation_loss"), 0.5);
  EXPECT_GT(again.reports[1].done, 1);
}

TEST_F(ExecuteOnGpu, running_out_of_memory_is_a_failure_that_may_be_tried_again_and_leaves_the_runner_usable) {
  bench_.device = "cuda:0";
  std::string text = "rain", rows;
  for (int i = 0; i < 60; ++i) text += " rain";
  for (int i = 0; i < 4000; ++i) rows += Json({{"text", text}, {"label", 2}}).dump() + "\n";
  const Json before = bench_.context;
  bench_.context["data"]["train"] = bench_.folder().write("many.jsonl", rows).string();
  Json greedy = settings("full");
  greedy["batch_size"] = 4000;  // a quarter of a million tokens: gigabytes
  greedy["sequence_length"] = 64;
  Outcome outcome;
  {
    c10::getDeviceAllocator(c10::kCUDA)->emptyCache();  // what earlier tests left would nearly suffice
    const auto [free, total] = c10::getDeviceAllocator(c10::kCUDA)->getMemoryInfo(0);
    const at::Tensor taken = at::empty({static_cast<std::int64_t>(free) - (std::int64_t{256} << 20)},
                                       at::TensorOptions(at::kByte).device(at::kCUDA));
    outcome = bench_.run(bench_.job(StepKind::finetune, greedy));
  }
  EXPECT_EQ(outcome.kind, OutcomeKind::failed);
  EXPECT_FALSE(outcome.permanent) << outcome.error;
  EXPECT_THAT(outcome.error, ::testing::HasSubstr("Out of memory. Lower batch_size"));

  bench_.context = before;
  const Outcome after = bench_.run(bench_.job(StepKind::finetune, settings("lora")));
  EXPECT_EQ(after.kind, OutcomeKind::succeeded) << after.error;
  EXPECT_LT(after.metrics.at("peak_memory_mb"), 500);
}

}  // namespace
}  // namespace finesweep::worker
