// Benchmarks and profiles on the first GPU. Skipped where libtorch sees none.

#include <gtest/gtest.h>

#include "tests/engine/job_bench.h"
#include "tests/gpu/gpu.h"

namespace finesweep::worker {
namespace {

TEST(BenchmarkOnGpu, every_mode_is_timed_and_profiled_on_the_device) {
  if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  JobBench bench("gpt2");
  bench.device = "cuda:0";
  for (const char* precision : {"fp32", "bf16"}) {
    SCOPED_TRACE(precision);
    const Json modes = {"forward", "generate", "train"};
    const Job job = bench.job(StepKind::benchmark, {{"mode", modes},
                                                    {"batch_size", 4},
                                                    {"sequence_length", 16},
                                                    {"new_tokens", 8},
                                                    {"iterations", 5},
                                                    {"warmup", 3},
                                                    {"precision", precision},
                                                    {"attention", "flash"},
                                                    {"kv_cache", true},
                                                    {"profile", true}});
    const Outcome outcome = bench.run(job);
    ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
    for (const std::string mode : modes) {
      EXPECT_GT(outcome.metrics.at(mode + "_ms_mean"), 0) << mode;
      EXPECT_GT(outcome.metrics.at(mode + "_peak_memory_mb"), 0.1) << mode;
      EXPECT_LT(outcome.metrics.at(mode + "_peak_memory_mb"), 500) << mode;
    }
    EXPECT_FALSE(outcome.environment.contains("benchmark_memory"));
    const Json profile = Json::parse(read_bytes(bench.artifact(job) / "profile.json"));
    ASSERT_EQ(profile.size(), 3u);
    for (const Json& mode : profile) {
      double share = 0, device_share = 0, device_ms = 0;
      for (const Json& group : mode.at("groups")) {
        share += group.at("share").get<double>();
        device_share += group.at("device_share").get<double>();
        device_ms += group.at("device_ms").get<double>();
        EXPECT_GE(group.at("device_ms").get<double>(), -0.1);
      }
      EXPECT_NEAR(share, 1, 1e-6);
      EXPECT_NEAR(device_share, 1, 1e-6);
      EXPECT_GT(device_ms, 0);
      EXPECT_NEAR(device_ms, mode.at("total_device_ms").get<double>(), 1e-3);
    }
    const Json trace = Json::parse(read_bytes(bench.artifact(job) / "trace.json"));
    int on_device = 0;
    for (const Json& event : trace.at("traceEvents")) on_device += event.at("tid") == 2 && event.at("ph") == "X";
    EXPECT_GT(on_device, 0);
  }
}

TEST(BenchmarkOnGpu, an_evaluation_is_profiled) {
  if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  JobBench bench("bert");
  bench.device = "cuda:0";
  Json settings = bench.evaluate_settings();
  settings["profile"] = true;
  const Job job = bench.job(StepKind::evaluate, settings);
  const Outcome outcome = bench.run(job);
  ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
  const Json profile = Json::parse(read_bytes(bench.artifact(job) / "profile.json"));
  ASSERT_EQ(profile.size(), 1u);
  EXPECT_GT(profile[0].at("total_device_ms").get<double>(), 0);
}

}  // namespace
}  // namespace finesweep::worker
