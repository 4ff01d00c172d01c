// What a user reads when a job cannot be done.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <new>

#include "tests/engine/job_bench.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

class ExecuteErrors : public ::testing::Test {
 protected:
  void expect_permanent(const Job& job, const std::string& message) {
    const Outcome outcome = bench_.run(job);
    EXPECT_EQ(outcome.kind, OutcomeKind::failed);
    EXPECT_TRUE(outcome.permanent) << outcome.error;
    EXPECT_THAT(outcome.error, HasSubstr(message));
    EXPECT_THAT(outcome.error, Not(HasSubstr("staging/")));
    EXPECT_FALSE(outcome.has_artifact);
  }
  void expect_permanent_finetune(const Json& settings, const std::string& message) {
    expect_permanent(bench_.job(StepKind::finetune, settings, ++seed_), message);
  }
  /// A finetune as it is, over data as the test made it.
  void expect_permanent_data(const std::string& split, const std::string& rows, const std::string& message,
                             const std::string& name = "bad.jsonl") {
    const Json before = bench_.context;
    bench_.context["data"][split] = bench_.folder().write(name, rows).string();
    Json settings = bench_.finetune_settings();
    settings["evaluate_every"] = "epoch";
    settings["evaluation"] = bench_.evaluate_settings();
    expect_permanent_finetune(settings, message);
    bench_.context = before;
  }

  JobBench bench_;
  std::uint64_t seed_ = 100;
};

TEST_F(ExecuteErrors, a_model_family_that_is_not_there_is_named) {
  bench_.folder().write("model/config.json", R"({"model_type": "mamba"})");
  expect_permanent_finetune(bench_.finetune_settings(), "\"mamba\" is not supported");
}

TEST_F(ExecuteErrors, an_encoder_generates_no_text) {
  bench_.context["task"] = "causal_lm";
  bench_.context["data"]["fields"] = {{"text", "text"}};
  bench_.context["data"]["rows"] = "samples";
  expect_permanent_finetune(bench_.finetune_settings(), "bert");
}

/// A finetune over what a finetune with `before` left.
class OnTop : public ::testing::Test {
 protected:
  void expect_refused(const Json& before, const Json& after, const std::string& message) {
    const Job first = bench_.job(StepKind::finetune, before);
    const Outcome trained = bench_.run(first);
    ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
    Job second = bench_.job(StepKind::finetune, after, 8);
    second.inputs = {first.id};
    const Outcome refused = bench_.run(second);
    EXPECT_EQ(refused.kind, OutcomeKind::failed);
    EXPECT_TRUE(refused.permanent);
    EXPECT_THAT(refused.error, HasSubstr(message));
  }
  JobBench bench_;
};

TEST_F(OnTop, an_adapter_stays_what_it_is) {
  const Json lora = bench_.finetune_settings("lora");
  Json other = lora;
  other["rank"] = 2;
  expect_refused(lora, other, "trained with another rank");
  other = lora;
  other["targets"] = {"key"};
  expect_refused(lora, other, "trained with another list of targets");
  expect_refused(lora, bench_.finetune_settings("ia3"), "trained with another method");
  expect_refused(lora, bench_.finetune_settings("full"), "Merge it into its base first");
  expect_refused(lora, bench_.finetune_settings("qlora"), "stands on a base in full precision");
}

TEST_F(OnTop, quantised_weights_stay_what_they_are) {
  const Json qlora = bench_.finetune_settings("qlora");
  expect_refused(qlora, bench_.finetune_settings("full"), "Quantised weights cannot be trained");
  expect_refused(qlora, qlora, "quantised already");
  Json fp8 = bench_.finetune_settings("lora");
  fp8["precision"] = "fp8_base";
  expect_refused(qlora, fp8, "does not go with precision fp8_base");
}

TEST_F(ExecuteErrors, a_base_in_fp8_is_for_adapters) {
  for (const char* method : {"full", "qlora"}) {
    Json settings = bench_.finetune_settings(method);
    settings["precision"] = "fp8_base";
    expect_permanent_finetune(settings, "fp8_base is for adapters");
  }
}

TEST_F(ExecuteErrors, missing_files_are_named) {
  const Json before = bench_.context;
  bench_.context["data"]["train"] = "/nowhere/train.jsonl";
  expect_permanent_finetune(bench_.finetune_settings(), "cannot read train.jsonl: No such file");
  bench_.context = before;
  bench_.context["data"].erase("test");
  expect_permanent(bench_.job(StepKind::evaluate, bench_.evaluate_settings("test")), "names no data.test");
  bench_.context["model"] = "/nowhere/model";
  expect_permanent_finetune(bench_.finetune_settings(), "Cannot find a tokenizer in model:");
}

TEST_F(ExecuteErrors, broken_rows_and_unknown_labels_are_named_by_file_and_line) {
  const std::string good = R"({"text": "rain", "label": 0})"
                           "\n"
                           R"({"text": "soup", "label": 2})"
                           "\n";
  expect_permanent_data("train", good + "{broken\n", "bad.jsonl:3: not valid JSON");
  expect_permanent_data("train",
                        good + R"({"text": "song"})"
                               "\n",
                        "bad.jsonl:3: the row has no field 'label'");
  expect_permanent_data("train",
                        good + R"({"text": 5, "label": 1})"
                               "\n",
                        "bad.jsonl:3: field 'text' holds 5");
  expect_permanent_data("validation",
                        good + R"({"text": "song", "label": 7})"
                               "\n",
                        "bad.jsonl:3: the label '7' is not known; the training split has 0 to 2");
  expect_permanent_data("train", "", "bad.jsonl: the train split has no rows");
  expect_permanent_data("validation", "", "bad.jsonl: the validation split has no rows");
}

TEST_F(ExecuteErrors, a_head_of_another_number_of_labels_is_refused) {
  expect_permanent_data("train",
                        R"({"text": "rain", "label": 0})"
                        "\n"
                        R"({"text": "soup", "label": 4})"
                        "\n",
                        "labels");
}

TEST_F(ExecuteErrors, a_token_or_a_position_that_the_model_lacks_is_named) {
  Json settings = bench_.finetune_settings();
  settings["sequence_length"] = 80;  // the model has 64 positions
  std::string text;
  for (int i = 0; i < 100; ++i) text += "rain ";
  bench_.context["data"]["train"] =
      bench_.folder().write("long.jsonl", Json({{"text", text}, {"label", 2}}).dump() + "\n").string();
  expect_permanent_finetune(settings, "64");
}

TEST_F(ExecuteErrors, a_target_that_matches_nothing_is_named) {
  Json settings = bench_.finetune_settings();
  settings["targets"] = {"c_attn"};
  expect_permanent_finetune(settings, "c_attn");
}

TEST_F(ExecuteErrors, a_training_that_diverges_says_where_and_what_to_do) {
  Json settings = bench_.finetune_settings("full");
  settings["learning_rate"] = 1e30;
  settings["warmup"] = 0;
  settings["epochs"] = 10;
  const Outcome outcome = bench_.run(bench_.job(StepKind::finetune, settings));
  EXPECT_EQ(outcome.kind, OutcomeKind::failed);
  EXPECT_TRUE(outcome.permanent);
  EXPECT_THAT(outcome.error, HasSubstr("not a finite number at step"));
  EXPECT_THAT(outcome.error, HasSubstr("Lower the learning rate"));
}

TEST_F(ExecuteErrors, running_out_of_memory_may_be_tried_again) {
  RecordingControl control;
  control.on_progress = [](const Progress& progress) {
    if (progress.phase == "training") throw std::bad_alloc();
  };
  const Outcome outcome = bench_.run(bench_.job(StepKind::finetune, bench_.finetune_settings()), control);
  EXPECT_EQ(outcome.kind, OutcomeKind::failed);
  EXPECT_FALSE(outcome.permanent);
  EXPECT_THAT(outcome.error, HasSubstr("Out of memory. Lower batch_size"));
}

TEST_F(ExecuteErrors, a_staging_folder_that_cannot_be_written_to_fails_the_attempt_without_saying_where_it_lies) {
  Job job = bench_.job(StepKind::finetune, bench_.finetune_settings());
  RecordingControl control;
  // In the way of the folder that the artifact wants.
  control.on_progress = [&](const Progress& progress) {
    if (progress.phase == "saving") std::ofstream(bench_.staging(job) / "artifact") << "x";
  };
  const Outcome outcome = bench_.run(job, control);
  EXPECT_EQ(outcome.kind, OutcomeKind::failed);
  EXPECT_FALSE(outcome.permanent);
  EXPECT_THAT(outcome.error, Not(HasSubstr(bench_.staging(job).string())));
}

TEST_F(ExecuteErrors, a_metric_of_another_task_is_refused) {
  Json settings = bench_.evaluate_settings();
  settings["metrics"] = {"rouge1"};
  expect_permanent(bench_.job(StepKind::evaluate, settings), "'rouge1' is no metric of a classification");
}

TEST_F(ExecuteErrors, a_device_that_is_not_there_is_named) {
  const Json described = describe_device("cuda:63");
  EXPECT_THAT(described.at("error").get<std::string>(), HasSubstr("cuda:63"));
  EXPECT_THAT(describe_device("tpu").at("error").get<std::string>(), HasSubstr("neither cpu nor cuda:N"));
  const Json cpu = describe_device("cpu");
  EXPECT_FALSE(cpu.contains("error"));
  EXPECT_GT(cpu.at("memory_mb").get<double>(), 100);
}

}  // namespace
}  // namespace finesweep::worker
