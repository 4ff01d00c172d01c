#include <ATen/ops/equal.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "storage/artifact.h"
#include "tests/engine/job_bench.h"
#include "worker/engine/benchmark_rows.h"
#include "worker/engine/job_model.h"
#include "worker/kernels/attention_choice.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;

constexpr const char* kSuffixes[] = {"_ms_mean",
                                     "_ms_std",
                                     "_ms_p50",
                                     "_ms_p99",
                                     "_samples_per_second_mean",
                                     "_samples_per_second_std",
                                     "_tokens_per_second",
                                     "_peak_memory_mb"};

Json benchmark_settings(const Json& modes) {
  return {{"mode", modes}, {"batch_size", 2},     {"sequence_length", 16}, {"new_tokens", 4},  {"iterations", 3},
          {"warmup", 1},   {"precision", "fp32"}, {"attention", "flash"},  {"kv_cache", true}, {"profile", false}};
}

Json modes_of(const JobBench& bench) {
  return bench.classifies() ? Json{"forward", "train"} : Json{"forward", "generate", "train"};
}

/// What holds for any times at all.
void expect_sane(const std::map<std::string, double>& metrics, const std::string& mode, double tokens_of_a_call) {
  for (const char* suffix : kSuffixes) {
    ASSERT_THAT(metrics, Contains(Key(mode + suffix)));
    EXPECT_TRUE(std::isfinite(metrics.at(mode + suffix))) << mode << suffix;
    EXPECT_GE(metrics.at(mode + suffix), 0) << mode << suffix;
  }
  const auto of = [&](const char* suffix) { return metrics.at(mode + suffix); };
  EXPECT_GT(of("_ms_mean"), 0);
  EXPECT_GT(of("_peak_memory_mb"), 1);
  EXPECT_LE(of("_ms_p50"), of("_ms_p99"));
  // Of three values none is above three times their mean.
  EXPECT_LE(of("_ms_p99"), 3 * of("_ms_mean"));
  EXPECT_NEAR(of("_tokens_per_second") * of("_ms_mean") / 1000 / tokens_of_a_call, 1, 1e-9);
  // The mean of the reciprocals is at least the reciprocal of the mean.
  EXPECT_GE(of("_samples_per_second_mean") * of("_ms_mean") / 1000 / 2, 1 - 1e-9);
}

class BenchmarkOf : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Families, BenchmarkOf, ::testing::Values("bert", "gpt2", "t5", "llama"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(BenchmarkOf, every_mode_runs_in_every_precision_with_either_attention_and_with_or_without_a_cache) {
  JobBench bench(GetParam());
  const double sides = bench.context["task"] == "seq2seq" ? 2 : 1;
  for (const char* precision : {"fp32", "bf16", "fp16"}) {
    for (const char* attention : {"flash", "math"}) {
      for (const bool cache : {true, false}) {
        if (bench.classifies() && !cache) continue;
        SCOPED_TRACE(std::string(precision) + " " + attention + (cache ? " with" : " without") + " cache");
        Json settings = benchmark_settings(modes_of(bench));
        settings.update({{"precision", precision}, {"attention", attention}, {"kv_cache", cache}});
        const Outcome outcome = bench.run(bench.job(StepKind::benchmark, settings));
        ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
        EXPECT_FALSE(outcome.has_artifact);
        expect_sane(outcome.metrics, "forward", sides * 2 * 16);
        expect_sane(outcome.metrics, "train", sides * 2 * 16);
        if (!bench.classifies()) expect_sane(outcome.metrics, "generate", 2 * 4);
        EXPECT_EQ(outcome.metrics.size(), 8 * settings["mode"].size());
      }
    }
  }
}

class GenerationOf : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Families, GenerationOf, ::testing::Values("gpt2", "t5", "llama"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(GenerationOf, prompts_go_on_with_the_same_tokens_with_and_without_a_cache_and_with_either_attention) {
  JobBench bench(GetParam());
  ModelSource source;
  source.model = source.tokenizer = bench.model();
  const auto loaded = load_frozen(source, HeadChoice(), Precision::fp32, 1, c10::kCPU);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  LanguageModel& model = *loaded->model->language_model();
  BenchmarkSettings settings;
  settings.batch_size = 3;
  settings.sequence_length = 12;
  const Prompts prompts =
      benchmark_prompts(random_benchmark_batch(model.vocabulary(), Task::causal_lm, settings, 5));
  std::vector<std::vector<std::int64_t>> first;
  for (const bool cache : {true, false}) {
    for (const AttentionKind kind : {AttentionKind::flash, AttentionKind::math}) {
      const AttentionChoice choice(kind);
      GenerationOptions options;
      options.max_new_tokens = 8;
      options.kv_cache = cache;
      const auto answers = generate(model, prompts, options);
      ASSERT_TRUE(answers.ok() && *answers);
      std::vector<std::vector<std::int64_t>> tokens;
      for (const auto& answer : **answers) tokens.push_back(answer.front().tokens);
      if (first.empty()) first = tokens;
      EXPECT_EQ(tokens, first);
      for (const auto& row : tokens) EXPECT_EQ(row.size(), 8u);
    }
  }
}

TEST(Benchmark, training_steps_an_adapter_and_leaves_its_artifact_as_it_is) {
  for (const char* method : {"lora", "qlora", "ia3", "full"}) {
    SCOPED_TRACE(method);
    JobBench bench("gpt2");
    Json training = bench.finetune_settings(method);
    training["epochs"] = 1;
    const Job before = bench.job(StepKind::finetune, training);
    const Outcome trained = bench.run(before);
    ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
    const fs::path weights =
        bench.artifact(before) /
        (method == std::string("full") ? "model/model.safetensors" : "adapter/adapter_model.safetensors");
    const std::string bytes = read_bytes(weights);
    Job job = bench.job(StepKind::benchmark, benchmark_settings({"train", "forward", "generate", "train"}));
    job.inputs = {before.id};
    const Outcome outcome = bench.run(job);
    ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
    EXPECT_THAT(outcome.metrics, Contains(Key("generate_ms_mean")));
    EXPECT_TRUE(read_bytes(weights) == bytes);
    EXPECT_TRUE(storage::verify_artifact(bench.artifact(before), before.id).ok());
  }
}

TEST(Benchmark, a_sweep_without_rows_times_random_tokens) {
  for (const char* name : {"bert", "gpt2", "t5"}) {
    SCOPED_TRACE(name);
    JobBench bench(name);
    for (const char* split : {"train", "validation", "test"}) bench.context["data"].erase(split);
    const Outcome outcome = bench.run(bench.job(StepKind::benchmark, benchmark_settings(modes_of(bench))));
    ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
    EXPECT_GT(outcome.metrics.at("train_ms_mean"), 0);
  }
}

TEST(Benchmark, it_stops_where_it_is_told_to_and_starts_anew) {
  JobBench bench;
  const Job job = bench.job(StepKind::benchmark, benchmark_settings({"forward", "train"}));
  RecordingControl control;
  control.stop = [&] { return control.reports.size() > 4; };
  EXPECT_EQ(bench.run(job, control).kind, OutcomeKind::interrupted);
  RecordingControl again;
  EXPECT_EQ(bench.run(job, again).kind, OutcomeKind::succeeded);
  EXPECT_TRUE(std::is_sorted(again.reports.begin(), again.reports.end(),
                             [](const Progress& a, const Progress& b) { return a.done < b.done; }));
  EXPECT_LE(again.reports.back().done, again.reports.back().total);
}

TEST(Benchmark, what_cannot_be_done_is_said) {
  JobBench encoder;
  const Outcome outcome = encoder.run(encoder.job(StepKind::benchmark, benchmark_settings({"generate"})));
  EXPECT_EQ(outcome.kind, OutcomeKind::failed);
  EXPECT_THAT(outcome.error, HasSubstr("bert model generates no text"));

  JobBench decoder("gpt2");
  Json settings = benchmark_settings({"forward"});
  settings["sequence_length"] = 4000;
  const Outcome long_rows = decoder.run(decoder.job(StepKind::benchmark, settings));
  EXPECT_EQ(long_rows.kind, OutcomeKind::failed);
  EXPECT_THAT(long_rows.error, HasSubstr("4000"));
}

/// Rows 1; 2 2; 3 3 3; … with one padded token each; targets ten times as much.
class StairData final : public TaskData {
 public:
  std::int64_t rows() const override { return 4; }
  std::int64_t tokens_in_row(std::int64_t row) const override { return row + 1; }
  Batch batch(std::span<const std::int64_t> rows) const override {
    const std::int64_t row = rows.front();
    std::vector<std::int64_t> ids(static_cast<std::size_t>(row) + 2, row + 1), mask(ids.size(), 1);
    ids.back() = mask.back() = 0;
    Batch batch;
    batch.input_ids = at::tensor(ids, at::kLong).unsqueeze(0);
    batch.attention_mask = at::tensor(mask, at::kLong).unsqueeze(0);
    batch.labels = at::tensor({10 * (row + 1), ignored_label}, at::kLong).unsqueeze(0);
    batch.row_indices = {row};
    return batch;
  }
  std::int64_t evaluation_units(const EvaluateSettings&) const override { return 0; }
  Result<std::unique_ptr<EvaluationPasses>> passes(const EvaluateSettings&) const override {
    return Error{"these rows have no metrics"};
  }
  Result<std::optional<Metrics>> evaluate(Model&, const EvaluationRun&) const override {
    return std::optional<Metrics>();
  }
};

TEST(BenchmarkRows, are_rows_of_the_data_in_one_after_the_other_that_have_exactly_the_length) {
  BenchmarkSettings settings;
  settings.batch_size = 6;
  settings.sequence_length = 7;
  const Batch batch = benchmark_batch(StairData(), Task::seq2seq, settings, 3);
  EXPECT_THAT(batch.input_ids.sizes().vec(), ElementsAre(6, 7));
  EXPECT_TRUE(batch.attention_mask.eq(1).all().item<bool>());
  EXPECT_THAT(batch.labels.sizes().vec(), ElementsAre(6, 7));
  EXPECT_EQ(batch.rows(), 6);
  std::set<std::int64_t> begins;
  for (std::int64_t r = 0; r < 6; ++r) {
    const std::int64_t* ids = batch.input_ids.const_data_ptr<std::int64_t>() + r * 7;
    begins.insert(ids[0]);
    EXPECT_EQ(batch.labels.const_data_ptr<std::int64_t>()[r * 7], 10 * ids[0]);
    // Row k has k tokens k.
    std::int64_t at = 0;
    while (at < 7) {
      const std::int64_t value = ids[at];
      ASSERT_GE(value, 1);
      ASSERT_LE(value, 4);
      for (std::int64_t i = 0; i < value && at < 7; ++i, ++at) EXPECT_EQ(ids[at], value);
    }
  }
  EXPECT_THAT(begins, ElementsAre(1, 2, 3, 4)) << "more rows than the data has: from the start again";
  EXPECT_TRUE(at::equal(batch.input_ids, benchmark_batch(StairData(), Task::seq2seq, settings, 3).input_ids));
}

TEST(BenchmarkRows, random_ids_follow_from_the_seed_and_are_in_the_vocabulary) {
  BenchmarkSettings settings;
  settings.batch_size = 4;
  settings.sequence_length = 50;
  const Batch batch = random_benchmark_batch(20, Task::causal_lm, settings, 1);
  EXPECT_TRUE(batch.input_ids.ge(0).all().item<bool>());
  EXPECT_TRUE(batch.input_ids.lt(20).all().item<bool>());
  EXPECT_TRUE(at::equal(batch.input_ids, random_benchmark_batch(20, Task::causal_lm, settings, 1).input_ids));
  EXPECT_FALSE(at::equal(batch.input_ids, random_benchmark_batch(20, Task::causal_lm, settings, 2).input_ids));
}

}  // namespace
}  // namespace finesweep::worker
