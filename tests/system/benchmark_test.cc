// A small sweep of benchmarks with the real program over MPI, from the file to the tables.

#include <gtest/gtest.h>

#include <string>

#include "jobs/json.h"
#include "tests/system/csv_table.h"
#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

TEST(BenchmarkSweep, batch_sizes_and_lengths_are_timed_over_mpi_and_come_out_in_the_tables) {
  Workspace workspace;
  workspace.make_small_sweep(10);
  workspace.write("benchmark.yaml", R"(name: shapes
model: model
task: classification
data:
  train: data/train.jsonl
  test: data/test.jsonl
  fields: {text_a: text_a, text_b: text_b, label: label}
pipeline:
  - finetune: {method: lora, rank: 2, steps: 3, batch_size: 4, sequence_length: 32}
  - evaluate: {split: test, profile: true}
  - benchmark: {mode: [forward, train], iterations: 4, warmup: 1, profile: true}
sweep:
  axes:
    - benchmark.batch_size: [1, 4]
    - benchmark.sequence_length: [8, 32]
  repeats: 2
report: {metric: benchmark.forward_ms_mean, goal: minimize}
)");
  Process process({finesweep_program(), "run", workspace / "benchmark.yaml", "--workers", "2"}, workspace.path());
  const auto exit_code = process.wait(180s);
  ASSERT_EQ(exit_code.value_or(-1), 0) << process.output();

  const fs::path run = workspace / "runs/shapes";
  const CsvTable results(run / "reports/results.csv");
  for (const auto& row : results.rows()) {
    for (const char* mode : {"forward", "train"}) {
      for (const char* suffix : {"_ms_mean", "_ms_std", "_ms_p50", "_ms_p99", "_samples_per_second_mean",
                                 "_samples_per_second_std", "_tokens_per_second", "_peak_memory_mb"}) {
        const std::string name = std::string("benchmark.") + mode + suffix;
        ASSERT_TRUE(row.contains(name)) << name;
        EXPECT_GT(std::stod(row.at(name)), 0) << name;
      }
    }
  }
  EXPECT_EQ(results.rows().size(), 8u);
  // A time is a sample: 4 shapes × 2 repeats; the fine-tuning and the evaluation of a repeat are shared by its
  // shapes.
  int benchmarks = 0, evaluations = 0;
  for (const auto& artifact : fs::directory_iterator(run / "artifacts")) {
    if (!fs::exists(artifact.path() / "profile.json")) continue;
    const Json profile = Json::parse(read_text(artifact.path() / "profile.json"));
    (profile.size() == 2 ? benchmarks : evaluations) += 1;
    EXPECT_TRUE(Json::parse(read_text(artifact.path() / "trace.json")).contains("traceEvents"));
  }
  EXPECT_EQ(benchmarks, 8);
  EXPECT_EQ(evaluations, 2);
}

}  // namespace
}  // namespace finesweep::tests
