// Adapters evaluated together on a CPU get the numbers that they get alone, bit for bit.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <new>
#include <utility>

#include "tests/engine/evaluations.h"
#include "worker/formats/safetensors.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

/// Trained adapters of one base, which differ in rank, scale and seed.
std::vector<Job> trained_adapters(JobBench& bench, std::size_t count, const std::string& method = "lora",
                                  const std::string& precision = "fp32") {
  std::vector<Job> trainings;
  for (std::size_t i = 0; i < count; ++i) {
    Json settings = bench.finetune_settings(method);
    settings.update({{"precision", precision}, {"epochs", 1}, {"learning_rate", 1e-2}});
    if (settings.contains("rank")) settings.update({{"rank", 2 + 3 * i}, {"alpha", 3.0 + static_cast<double>(i)}});
    trainings.push_back(bench.job(StepKind::finetune, settings, 7 + i));
  }
  for (const Outcome& outcome : bench.run_pack(trainings)) {
    EXPECT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
  }
  return trainings;
}

void expect_same_evaluation(const Outcome& alone, const Outcome& packed) {
  ASSERT_EQ(alone.kind, OutcomeKind::succeeded) << alone.error;
  ASSERT_EQ(packed.kind, OutcomeKind::succeeded) << packed.error;
  EXPECT_EQ(reproducible(packed), reproducible(alone));
  EXPECT_THAT(reproducible(packed), Contains(Key("loss")));
}

struct EvaluationCase {
  std::string model, method, precision;
  friend void PrintTo(const EvaluationCase& c, std::ostream* out) {
    *out << c.model << ' ' << c.method << ' ' << c.precision;
  }
};

class EvaluationPacks : public ::testing::TestWithParam<EvaluationCase> {};

INSTANTIATE_TEST_SUITE_P(
    Pack, EvaluationPacks,
    ::testing::Values(EvaluationCase{"bert", "lora", "fp32"}, EvaluationCase{"gpt2", "lora", "fp32"},
                      EvaluationCase{"llama", "lora", "fp32"}, EvaluationCase{"t5", "lora", "fp32"},
                      EvaluationCase{"roberta", "lora", "bf16"}, EvaluationCase{"gpt2", "lora", "fp16"},
                      EvaluationCase{"llama", "qlora", "fp32"}, EvaluationCase{"bert", "qlora", "fp32"},
                      EvaluationCase{"gpt2", "ia3", "fp32"}, EvaluationCase{"bert", "ia3", "fp32"}),
    [](const auto& info) { return info.param.model + "_" + info.param.method + "_" + info.param.precision; });

TEST_P(EvaluationPacks, each_evaluation_gives_what_it_gives_alone) {
  JobBench bench(GetParam().model);
  const std::vector<Job> trainings = trained_adapters(bench, 3, GetParam().method, GetParam().precision);
  std::vector<Json> settings{measuring_settings(bench), measuring_settings(bench, "test"),
                             measuring_settings(bench)};
  settings[1]["batch_size"] = 5;  // another split in other batches
  settings[2].update({{"batch_size", 30}, {"metrics", {"loss"}}, {"sequence_length", 16}});
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < 3; ++i) {
    settings[i]["precision"] = GetParam().precision;
    jobs.push_back(evaluation_of(bench, trainings[i], settings[i]));
  }
  std::vector<RecordingControl> controls(3);
  const std::vector<Outcome> packed = bench.run_pack(jobs, {&controls[0], &controls[1], &controls[2]});
  for (std::size_t i = 0; i < 3; ++i) {
    SCOPED_TRACE(i);
    RecordingControl control;
    const Outcome alone = bench.run(jobs[i], control);
    expect_same_evaluation(alone, packed[i]);
    EXPECT_EQ(packed[i].environment.at("pack"), 3);
    EXPECT_FALSE(alone.environment.contains("pack"));
    EXPECT_THAT(packed[i].metrics, Contains(Key("seconds")));
    EXPECT_THAT(packed[i].metrics, Not(Contains(Key("peak_memory_mb"))));
    EXPECT_FALSE(packed[i].has_artifact);
    ASSERT_EQ(controls[i].reports.size(), control.reports.size());
    for (std::size_t r = 0; r < control.reports.size(); ++r) {
      EXPECT_EQ(controls[i].reports[r].done, control.reports[r].done);
      EXPECT_EQ(controls[i].reports[r].total, control.reports[r].total);
    }
  }
  // Who has fewer batches is done earlier.
  EXPECT_EQ(bench.ended().front(), 2u);
}

TEST(EvaluationPack, a_regression_is_packed_too) {
  JobBench bench("gpt2");  // whose files have no head
  const auto rows = [&](const std::string& name, int count) {
    std::string text;
    for (int i = 0; i < count; ++i) {
      text += Json({{"text", i % 2 == 0 ? "the rain and river" : "the drum"}, {"label", 0.25 * (i % 5)}}).dump();
      text += "\n";
    }
    return bench.folder().write(name, text).string();
  };
  bench.context["task"] = "classification";
  bench.context["data"] = {{"train", rows("numbers.jsonl", 24)},
                           {"validation", rows("held.jsonl", 11)},
                           {"fields", {{"text", "text"}, {"label", "label"}}}};
  Json settings = measuring_settings(bench);
  const std::vector<Job> jobs = evaluations_of(bench, trained_adapters(bench, 2), settings);
  const std::vector<Outcome> packed = bench.run_pack(jobs);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    expect_same_evaluation(bench.run(jobs[i]), packed[i]);
    EXPECT_THAT(packed[i].metrics, Not(Contains(Key("accuracy"))));
    EXPECT_EQ(packed[i].environment.at("pack"), 2);
  }
}

TEST(EvaluationPack, an_adapter_that_cannot_be_read_fails_alone) {
  for (const char* model : {"bert", "t5"}) {
    SCOPED_TRACE(model);
    JobBench bench(model);
    const std::vector<Job> trainings = trained_adapters(bench, 3);
    const std::vector<Job> jobs = evaluations_of(bench, trainings, measuring_settings(bench));
    std::ofstream(bench.artifact(trainings[1]) / "adapter/adapter_model.safetensors") << "no tensors";
    const std::vector<Outcome> packed = bench.run_pack(jobs);
    EXPECT_EQ(packed[1].kind, OutcomeKind::failed);
    EXPECT_EQ(packed[1].error, bench.run(jobs[1]).error);
    EXPECT_TRUE(packed[1].permanent);
    EXPECT_FALSE(packed[1].environment.contains("pack"));
    for (const std::size_t i : {0, 2}) {
      expect_same_evaluation(bench.run(jobs[i]), packed[i]);
      EXPECT_EQ(packed[i].environment.at("pack"), 2);
    }
  }
}

TEST(EvaluationPack, an_adapter_with_numbers_that_are_none_fails_alone) {
  JobBench bench("gpt2");
  const std::vector<Job> trainings = trained_adapters(bench, 3);
  const std::vector<Job> jobs = evaluations_of(bench, trainings, measuring_settings(bench));
  const fs::path file = bench.artifact(trainings[0]) / "adapter/adapter_model.safetensors";
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  {
    const auto opened = SafetensorsFile::open(file);
    ASSERT_TRUE(opened.ok());
    for (const std::string& name : opened->names()) {
      tensors.emplace_back(name, opened->tensor(name)->clone());
      tensors.back().second.flatten()[0].fill_(std::numeric_limits<float>::quiet_NaN());
    }
  }
  ASSERT_TRUE(write_safetensors(file, tensors, {{"format", "pt"}}).ok());
  const std::vector<Outcome> packed = bench.run_pack(jobs);
  EXPECT_EQ(packed[0].kind, OutcomeKind::failed);
  EXPECT_THAT(packed[0].error, HasSubstr("not a finite number"));
  for (const std::size_t i : {1, 2}) expect_same_evaluation(bench.run(jobs[i]), packed[i]);
}

TEST(EvaluationPack, a_member_that_is_stopped_leaves_and_the_others_go_on) {
  JobBench bench("llama");
  const std::vector<Job> jobs = evaluations_of(bench, trained_adapters(bench, 3), measuring_settings(bench));
  RecordingControl control;
  control.stop = [&] { return control.reports.size() > 2; };
  const std::vector<Outcome> packed = bench.run_pack(jobs, {nullptr, &control, nullptr});
  EXPECT_EQ(packed[1].kind, OutcomeKind::interrupted);
  EXPECT_EQ(bench.ended().front(), 1u);
  for (const std::size_t i : {0, 2}) expect_same_evaluation(bench.run(jobs[i]), packed[i]);
}

TEST(EvaluationPack, one_that_runs_out_of_memory_is_split_and_its_members_begin_again) {
  for (const char* phase : {"loading", "evaluating"}) {
    SCOPED_TRACE(phase);
    JobBench bench("bert");
    const std::vector<Job> jobs = evaluations_of(bench, trained_adapters(bench, 4), measuring_settings(bench));
    RecordingControl control;
    bool thrown = false;
    control.on_progress = [&](const Progress& progress) {
      if (progress.phase == phase && !std::exchange(thrown, true)) throw std::bad_alloc();
    };
    const std::vector<Outcome> packed = bench.run_pack(jobs, {nullptr, nullptr, nullptr, &control});
    EXPECT_THAT(bench.ended(), UnorderedElementsAre(0, 1, 2, 3));
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      expect_same_evaluation(bench.run(jobs[i]), packed[i]);
      EXPECT_EQ(packed[i].environment.at("pack"), 2);
    }
  }
}

TEST(EvaluationPack, who_has_too_little_memory_even_alone_fails) {
  JobBench bench("bert");
  const std::vector<Job> jobs = evaluations_of(bench, trained_adapters(bench, 2), measuring_settings(bench));
  RecordingControl never;
  never.on_progress = [](const Progress& progress) {
    if (progress.phase == "evaluating") throw std::bad_alloc();
  };
  const std::vector<Outcome> packed = bench.run_pack(jobs, {&never, nullptr});
  EXPECT_EQ(packed[0].kind, OutcomeKind::failed);
  EXPECT_THAT(packed[0].error, HasSubstr("Out of memory"));
  expect_same_evaluation(bench.run(jobs[1]), packed[1]);
}

TEST(EvaluationPack, what_does_not_fit_together_runs_one_after_the_other) {
  JobBench bench("t5");
  const std::vector<Job> trainings = trained_adapters(bench, 2);
  std::vector<Job> jobs = evaluations_of(bench, trainings, measuring_settings(bench));
  jobs.push_back(evaluation_of(bench, trainings[0], bench.evaluate_settings()));  // generates text
  jobs.push_back(evaluation_of(bench, trainings[1], bench.evaluate_settings()));
  jobs.push_back(bench.job(StepKind::evaluate, measuring_settings(bench)));  // of the base
  jobs.push_back(evaluation_of(bench, trainings[0], measuring_settings(bench, "test")));
  jobs.back().isolate = true;
  const std::vector<Outcome> outcomes = bench.run_pack(jobs);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same_evaluation(bench.run(jobs[i]), outcomes[i]);
    EXPECT_EQ(outcomes[i].environment.contains("pack"), i < 2);
    EXPECT_EQ(outcomes[i].metrics.contains("peak_memory_mb"), i >= 2);
  }
  EXPECT_THAT(outcomes[2].metrics, Contains(Key("rouge1")));
}

TEST(EvaluationPack, adapters_on_bases_that_are_kept_in_another_way_are_not_packed) {
  JobBench bench("bert");
  std::vector<Job> trainings = trained_adapters(bench, 2);
  trainings.push_back(trained_adapters(bench, 1, "qlora").front());
  const std::vector<Job> jobs = evaluations_of(bench, trainings, measuring_settings(bench));
  const std::vector<Outcome> outcomes = bench.run_pack(jobs);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    expect_same_evaluation(bench.run(jobs[i]), outcomes[i]);
    EXPECT_EQ(outcomes[i].environment.contains("pack"), i < 2) << i;
  }
}

}  // namespace
}  // namespace finesweep::worker
