#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "storage/artifact.h"
#include "storage/checkpoint.h"
#include "tests/engine/job_bench.h"
#include "worker/formats/safetensors.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;

TEST(Execute, a_finetuned_adapter_is_evaluated_and_has_learnt_its_classes) {
  JobBench bench;
  Json settings = bench.finetune_settings("lora");
  settings["epochs"] = 6;
  settings["learning_rate"] = 1e-2;
  Job training = bench.job(StepKind::finetune, settings);
  RecordingControl control;
  const Outcome trained = bench.run(training, control);
  ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
  for (const char* metric :
       {"loss", "seconds", "batch_ms_mean", "batch_ms_std", "samples_per_second_mean", "samples_per_second_std",
        "tokens_per_second", "peak_memory_mb", "trainable_parameters"}) {
    EXPECT_THAT(trained.metrics, Contains(Key(metric)));
  }
  EXPECT_THAT(trained.metrics, Not(Contains(Key("validation_loss"))));
  for (const auto& [name, value] : trained.metrics) EXPECT_TRUE(std::isfinite(value)) << name;
  // Three layers, query and value, A and B of rank 4 at width 48; the head has 3 × 48 weights and 3 biases.
  EXPECT_EQ(trained.metrics.at("trainable_parameters"), 3 * 2 * 2 * 4 * 48 + 3 * 48 + 3);
  EXPECT_EQ(trained.environment.at("device"), "cpu");

  const auto manifest = storage::verify_artifact(bench.artifact(training), training.id);
  ASSERT_TRUE(manifest.ok()) << manifest.error().message;
  EXPECT_EQ(manifest->model.at("kind"), "adapter");
  EXPECT_EQ(manifest->model.at("head").at("label_count"), 3);
  EXPECT_EQ(manifest->outcome.metrics, trained.metrics);
  EXPECT_THAT(manifest->files, Contains(Key("adapter/adapter_config.json")));

  Job evaluation = bench.job(StepKind::evaluate, bench.evaluate_settings("test"));
  evaluation.inputs = {training.id};
  const Outcome evaluated = bench.run(evaluation);
  ASSERT_EQ(evaluated.kind, OutcomeKind::succeeded) << evaluated.error;
  EXPECT_FALSE(evaluated.has_artifact);
  EXPECT_GT(evaluated.metrics.at("accuracy"), 0.9);
  EXPECT_GT(evaluated.metrics.at("f1"), 0.9);
  for (const char* metric : {"loss", "seconds", "peak_memory_mb"})
    EXPECT_THAT(evaluated.metrics, Contains(Key(metric)));

  const auto& reports = control.reports;
  EXPECT_TRUE(std::is_sorted(reports.begin(), reports.end(),
                             [](const Progress& a, const Progress& b) { return a.done < b.done; }));
  EXPECT_EQ(reports.back().done, 48);
  EXPECT_EQ(reports.back().total, 48);
}

TEST(Execute, a_fully_finetuned_model_is_a_hugging_face_directory_that_is_evaluated_and_trained_further) {
  JobBench bench;
  Job training = bench.job(StepKind::finetune, bench.finetune_settings("full"));
  const Outcome trained = bench.run(training);
  ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
  for (const char* name : {"config.json", "model.safetensors", "vocab.txt"}) {
    EXPECT_TRUE(fs::exists(bench.artifact(training) / "model" / name)) << name;
  }
  Job evaluation = bench.job(StepKind::evaluate, bench.evaluate_settings());
  evaluation.inputs = {training.id};
  const Outcome evaluated = bench.run(evaluation);
  EXPECT_EQ(evaluated.kind, OutcomeKind::succeeded) << evaluated.error;
  EXPECT_LT(evaluated.metrics.at("loss"), 1.0);

  Job further = bench.job(StepKind::finetune, bench.finetune_settings("lora"), 8);
  further.inputs = {training.id};
  const Outcome more = bench.run(further);
  EXPECT_EQ(more.kind, OutcomeKind::succeeded) << more.error;
}

/// What must be the same however a training came about.
void expect_same_result(JobBench& bench, const Job& one, const Outcome& first, const Job& other,
                        const Outcome& second) {
  ASSERT_EQ(first.kind, OutcomeKind::succeeded) << first.error;
  ASSERT_EQ(second.kind, OutcomeKind::succeeded) << second.error;
  EXPECT_EQ(reproducible(first), reproducible(second));
  ASSERT_EQ(first.history.size(), second.history.size());
  for (std::size_t i = 0; i < first.history.size(); ++i) {
    EXPECT_EQ(first.history[i].metric, second.history[i].metric);
    EXPECT_EQ(first.history[i].global_step, second.history[i].global_step);
    EXPECT_EQ(first.history[i].epoch, second.history[i].epoch);
    EXPECT_EQ(first.history[i].value, second.history[i].value) << first.history[i].metric;
  }
  for (const char* file : {"adapter/adapter_model.safetensors", "model/model.safetensors"}) {
    const bool exists = fs::exists(bench.artifact(one) / file);
    EXPECT_EQ(exists, fs::exists(bench.artifact(other) / file));
    if (!exists) continue;
    EXPECT_TRUE(read_bytes(bench.artifact(one) / file) == read_bytes(bench.artifact(other) / file)) << file;
  }
}

TEST(Execute, a_checkpoint_is_written_every_so_many_seconds_and_a_torn_one_is_passed_over) {
  JobBench bench;
  const Job undisturbed = bench.job(StepKind::finetune, bench.finetune_settings());
  const Outcome whole = bench.run(undisturbed);
  EXPECT_FALSE(fs::exists(bench.staging(undisturbed) / "checkpoints"));

  Job job = undisturbed;
  job.id = JobId::of("every step");
  job.checkpoint_every_s = 0;
  RecordingControl control;
  control.on_progress = [](const Progress& progress) {
    if (progress.done == 9) throw std::runtime_error("killed");
  };
  const Outcome killed = bench.run(job, control);
  EXPECT_EQ(killed.kind, OutcomeKind::failed);
  EXPECT_FALSE(killed.permanent);
  const fs::path newest = bench.staging(job) / "checkpoints" / "step-8" / "training.safetensors";
  ASSERT_TRUE(fs::exists(newest));
  fs::resize_file(newest, fs::file_size(newest) - 1);
  RecordingControl again;
  const Outcome resumed = bench.run(job, again);
  expect_same_result(bench, undisturbed, whole, job, resumed);
  const auto first_step = std::find_if(again.reports.begin(), again.reports.end(),
                                       [](const Progress& progress) { return progress.phase == "training"; });
  EXPECT_EQ(first_step->done, 8);  // from step 7
}

TEST(Execute, a_checkpoint_of_another_version_is_passed_over_and_the_job_begins_anew) {
  JobBench bench;
  const Job undisturbed = bench.job(StepKind::finetune, bench.finetune_settings());
  const Outcome whole = bench.run(undisturbed);
  Job job = undisturbed;
  job.id = JobId::of("after an update");
  RecordingControl control;
  control.stop = [&] { return control.reports.size() > 3; };
  ASSERT_EQ(bench.run(job, control).kind, OutcomeKind::interrupted);
  ASSERT_TRUE(
      storage::write_checkpoint(bench.staging(job) / "checkpoints", 12, {{"version", 1000}}, [](const auto&) {
        return Status();
      }).ok());
  RecordingControl again;
  expect_same_result(bench, undisturbed, whole, job, bench.run(job, again));
  EXPECT_EQ(again.reports[1].done, 1);
}

TEST(Execute, a_job_of_a_chain_goes_on_from_the_one_before_and_gives_what_training_from_the_start_gives) {
  JobBench bench;
  Json settings = bench.finetune_settings();
  settings["evaluate_every"] = "epoch";
  settings["evaluation"] = bench.evaluate_settings();
  Json longer = settings;
  longer["epochs"] = 4;
  const Job from_start = bench.job(StepKind::finetune, longer);
  const Outcome whole = bench.run(from_start);

  Job first = bench.job(StepKind::finetune, settings);
  first.keep_training_state = true;
  ASSERT_EQ(bench.run(first).kind, OutcomeKind::succeeded);
  Job second = from_start;
  second.id = JobId::of("continued");
  second.continues = first.id;
  RecordingControl control;
  const Outcome continued = bench.run(second, control);
  expect_same_result(bench, from_start, whole, second, continued);
  EXPECT_EQ(std::count_if(control.reports.begin(), control.reports.end(),
                          [](const Progress& progress) { return progress.phase == "training"; }),
            2 * 8);
}

TEST(Execute, a_training_gives_its_device_up_before_it_writes_its_artifact) {
  JobBench bench;
  for (const char* method : {"lora", "full"}) {
    const Job job = bench.job(StepKind::finetune, bench.finetune_settings(method));
    RecordingControl control;
    control.on_computed = [&] {
      EXPECT_EQ(control.reports.back().phase, "training");
      EXPECT_FALSE(fs::exists(bench.staging(job) / "artifact"));
    };
    EXPECT_EQ(bench.run(job, control).kind, OutcomeKind::succeeded);
    EXPECT_EQ(control.times_computed, 1);
    EXPECT_TRUE(fs::exists(bench.staging(job) / "artifact"));
  }
}

TEST(Execute, a_job_that_is_made_ready_ahead_waits_for_its_turn_and_gives_the_same) {
  JobBench bench;
  const Job at_once = bench.job(StepKind::finetune, bench.finetune_settings());
  const Outcome whole = bench.run(at_once);
  Job ahead = at_once;
  ahead.id = JobId::of("ahead");
  RecordingControl control;
  control.turn = false;
  int turns = 0;
  control.on_turn = [&] {
    ++turns;
    ASSERT_EQ(control.reports.size(), 1u);
    EXPECT_EQ(control.reports[0].phase, "loading");
    EXPECT_TRUE(fs::is_empty(bench.staging(ahead))) << "nothing is written before its turn";
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  };
  const auto begin = std::chrono::steady_clock::now();
  const Outcome made_ready = bench.run(ahead, control);
  const std::chrono::duration<double> all = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(turns, 1);
  expect_same_result(bench, at_once, whole, ahead, made_ready);
  EXPECT_LT(made_ready.metrics.at("seconds"), all.count() - 0.3) << "waiting is not its time";

  for (const StepKind kind : {StepKind::evaluate, StepKind::merge}) {
    Job next = bench.job(kind, kind == StepKind::evaluate ? bench.evaluate_settings() : Json::object());
    next.inputs = {ahead.id};
    RecordingControl another;
    another.turn = false;
    turns = 0;
    another.on_turn = [&] {
      ++turns;
      EXPECT_LE(another.reports.size(), 1u);
      EXPECT_TRUE(fs::is_empty(bench.staging(next)));
    };
    const Outcome outcome = bench.run(next, another);
    EXPECT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
    EXPECT_EQ(turns, 1);
  }
}

TEST(Execute, the_seed_alone_decides_what_is_random) {
  JobBench bench;
  const Job one = bench.job(StepKind::finetune, bench.finetune_settings(), 1);
  Job same = one;
  same.id = JobId::of("again");
  const Job other = bench.job(StepKind::finetune, bench.finetune_settings(), 2);
  const Outcome first = bench.run(one);
  expect_same_result(bench, one, first, same, bench.run(same));
  EXPECT_NE(reproducible(first), reproducible(bench.run(other)));
}

TEST(Execute, a_run_of_steps_ends_within_an_epoch_and_says_the_loss_of_what_it_saw) {
  JobBench bench;
  Json settings = bench.finetune_settings();
  settings.erase("epochs");
  settings["steps"] = 11;  // 8 to an epoch
  const Outcome outcome = bench.run(bench.job(StepKind::finetune, settings));
  ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
  ASSERT_EQ(outcome.history.size(), 2u);
  EXPECT_EQ(outcome.history[0].epoch, 1.0);
  EXPECT_EQ(outcome.history[1].epoch, 11.0 / 8);
  EXPECT_EQ(outcome.history[1].global_step, 11);
  EXPECT_EQ(outcome.metrics.at("loss"), outcome.history[1].value);
}

}  // namespace
}  // namespace finesweep::worker
