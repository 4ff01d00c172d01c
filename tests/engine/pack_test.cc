// Jobs trained together on a CPU are what they are alone, bit for bit.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <new>
#include <stdexcept>

#include "storage/artifact.h"
#include "tests/engine/job_bench.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

/// Three trainings that differ in everything that jobs of a pack may differ in.
std::vector<Json> different_trainings(const JobBench& bench, const std::string& method = "lora") {
  std::vector<Json> all(3, bench.finetune_settings(method));
  if (all[0].contains("rank")) {
    all[1].update({{"rank", 2}, {"alpha", 3.0}, {"rslora", true}});
    all[2].update({{"rank", 7}, {"alpha", 16.0}});
  }
  all[0].update({{"evaluate_every", "epoch"}, {"evaluation", bench.evaluate_settings()}});
  all[1].update({{"batch_size", 5}, {"gradient_accumulation", 3}, {"schedule", "linear"}, {"learning_rate", 1e-2}});
  all[2].update({{"batch_size", 4},
                 {"epochs", 1},
                 {"schedule", "cosine"},
                 {"weight_decay", 0.1},
                 {"warmup", 0},
                 {"max_grad_norm", 0.05},
                 {"beta2", 0.9},
                 {"sequence_length", 16}});
  return all;
}

std::vector<Job> jobs_of(const JobBench& bench, const std::vector<Json>& settings) {
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < settings.size(); ++i)
    jobs.push_back(bench.job(StepKind::finetune, settings[i], 7 + i));
  return jobs;
}

/// The same job under another id, so that both artifacts can be looked at.
Job twin(const Job& job) {
  Job other = job;
  other.id = JobId::of("twin of " + job.id.hex());
  return other;
}

void expect_same_training(JobBench& bench, const Job& one, const Outcome& first, const Job& other,
                          const Outcome& second) {
  ASSERT_EQ(first.kind, OutcomeKind::succeeded) << first.error;
  ASSERT_EQ(second.kind, OutcomeKind::succeeded) << second.error;
  EXPECT_EQ(reproducible(first), reproducible(second));
  ASSERT_EQ(first.history.size(), second.history.size());
  for (std::size_t i = 0; i < first.history.size(); ++i) {
    EXPECT_EQ(first.history[i].value, second.history[i].value) << first.history[i].metric;
  }
  const char* file = "adapter/adapter_model.safetensors";
  EXPECT_TRUE(read_bytes(bench.artifact(one) / file) == read_bytes(bench.artifact(other) / file));
}

struct PackCase {
  std::string model, method, precision;
  bool checkpointing = false;
  friend void PrintTo(const PackCase& c, std::ostream* out) {
    *out << c.model << ' ' << c.method << ' ' << c.precision << (c.checkpointing ? " checkpointing" : "");
  }
};

class Packs : public ::testing::TestWithParam<PackCase> {};

INSTANTIATE_TEST_SUITE_P(Pack, Packs,
                         ::testing::Values(PackCase{"gpt2", "lora", "fp32"}, PackCase{"bert", "lora", "fp32"},
                                           PackCase{"roberta", "lora", "fp32", true},
                                           PackCase{"llama", "lora", "fp32"}, PackCase{"t5", "lora", "fp32"},
                                           PackCase{"gpt2", "lora", "bf16", true}, PackCase{"bert", "lora", "fp16"},
                                           PackCase{"llama", "qlora", "fp32"}, PackCase{"bert", "qlora", "fp32"},
                                           PackCase{"gpt2", "ia3", "fp32"}, PackCase{"roberta", "ia3", "fp32"},
                                           PackCase{"gpt2", "lora", "fp8_base"},
                                           PackCase{"bert", "ia3", "fp8_base"}),
                         [](const auto& info) {
                           return info.param.model + "_" + info.param.method + "_" + info.param.precision;
                         });

TEST_P(Packs, each_job_comes_to_what_it_comes_to_alone) {
  JobBench bench(GetParam().model);
  std::vector<Json> settings = different_trainings(bench, GetParam().method);
  for (Json& one : settings) {
    one["precision"] = GetParam().precision;
    one["gradient_checkpointing"] = GetParam().checkpointing;
  }
  const std::vector<Job> jobs = jobs_of(bench, settings);
  std::vector<Outcome> alone;
  for (const Job& job : jobs) alone.push_back(bench.run(twin(job)));
  const std::vector<Outcome> packed = bench.run_pack(jobs);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same_training(bench, twin(jobs[i]), alone[i], jobs[i], packed[i]);
    EXPECT_EQ(packed[i].environment.at("pack"), 3);
    EXPECT_THAT(packed[i].metrics, Not(Contains(Key("peak_memory_mb"))));
    EXPECT_THAT(packed[i].metrics, Contains(Key("batch_ms_mean")));
    EXPECT_FALSE(alone[i].environment.contains("pack"));
    EXPECT_TRUE(storage::verify_artifact(bench.artifact(jobs[i]), jobs[i].id).ok());
  }
}

TEST(Pack, who_is_done_leaves_at_once_and_the_others_go_on) {
  JobBench bench("bert");
  std::vector<Json> settings(3, bench.finetune_settings());
  settings[0]["epochs"] = 3;
  settings[1]["epochs"] = 1;
  const std::vector<Job> jobs = jobs_of(bench, settings);
  std::vector<RecordingControl> controls(jobs.size());
  const std::vector<Outcome> packed = bench.run_pack(jobs, {&controls[0], &controls[1], &controls[2]});
  for (const Outcome& outcome : packed) EXPECT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
  EXPECT_THAT(bench.ended(), ElementsAre(1, 2, 0));
  for (const RecordingControl& control : controls) EXPECT_EQ(control.times_computed, 1);
}

/// A short training and one that has a while to go when that ends, and what comes then.
std::vector<Json> short_and_long(const JobBench& bench, int steps) {
  std::vector<Json> settings(2, bench.finetune_settings());
  for (Json& one : settings) one.erase("epochs");
  settings[0]["steps"] = 3;
  settings[1].update({{"steps", steps}, {"rank", 2}});
  return settings;
}

TEST(Pack, others_join_those_that_have_a_while_to_go_and_all_come_to_what_they_come_to_alone) {
  for (const char* model : {"bert", "gpt2", "t5"}) {
    SCOPED_TRACE(model);
    JobBench bench(model);
    const std::vector<Job> jobs = jobs_of(bench, short_and_long(bench, 130));
    std::vector<Job> joining = jobs_of(bench, different_trainings(bench));
    joining.push_back(bench.job(StepKind::finetune, bench.finetune_settings("ia3"), 3));
    std::vector<Job> all = jobs;
    all.insert(all.end(), joining.begin(), joining.end());
    const std::vector<Outcome> packed = bench.run_pack(jobs, {}, {joining});
    ASSERT_EQ(packed.size(), all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      SCOPED_TRACE(i);
      expect_same_training(bench, twin(all[i]), bench.run(twin(all[i])), all[i], packed[i]);
      if (i + 1 < all.size()) {
        EXPECT_EQ(packed[i].environment.at("pack"), i == 0 ? 2 : 4) << "of which one had left";
      } else {
        EXPECT_FALSE(packed[i].environment.contains("pack")) << "of another method: alone, behind the others";
      }
    }
    EXPECT_EQ(bench.ended().front(), 0u);
    EXPECT_EQ(bench.ended().back(), 5u);
    EXPECT_GT(std::ranges::find(bench.ended(), 1u), std::ranges::find(bench.ended(), 2u))
        << "they did not wait for it";
  }
}

TEST(Pack, nobody_is_asked_for_where_the_others_are_as_good_as_done) {
  JobBench bench("bert");
  const std::vector<Job> jobs = jobs_of(bench, short_and_long(bench, 40));
  const std::vector<Outcome> packed =
      bench.run_pack(jobs, {}, {{bench.job(StepKind::finetune, bench.finetune_settings(), 3)}});
  EXPECT_EQ(packed.size(), jobs.size());
}

TEST(Pack, who_joins_may_fail_or_be_stopped_alone) {
  JobBench bench("bert");
  const std::vector<Job> jobs = jobs_of(bench, short_and_long(bench, 150));
  std::vector<Job> joining = jobs_of(bench, std::vector<Json>(3, bench.finetune_settings()));
  joining[0].context["data"]["train"] =
      bench.folder().write("broken.jsonl", "{\"text\": \"rain\", \"label\"").string();
  RecordingControl stopped;
  stopped.stop = [&] { return stopped.reports.size() > 2; };
  const std::vector<Outcome> packed =
      bench.run_pack(jobs, {nullptr, nullptr, nullptr, &stopped, nullptr}, {joining});
  EXPECT_EQ(packed[2].kind, OutcomeKind::failed);
  EXPECT_THAT(packed[2].error, HasSubstr("broken.jsonl"));
  EXPECT_EQ(packed[3].kind, OutcomeKind::interrupted);
  for (const std::size_t i : {1, 4}) {
    const Job& job = i == 1 ? jobs[1] : joining[2];
    expect_same_training(bench, twin(job), bench.run(twin(job)), job, packed[i]);
  }
  const Outcome resumed = bench.run(joining[1]);
  expect_same_training(bench, twin(joining[1]), bench.run(twin(joining[1])), joining[1], resumed);
}

TEST(Pack, a_pack_of_one_is_a_job) {
  JobBench bench("bert");
  const std::vector<Job> jobs = jobs_of(bench, {bench.finetune_settings()});
  const std::vector<Outcome> outcomes = bench.run_pack(jobs);
  EXPECT_FALSE(outcomes[0].environment.contains("pack"));
  EXPECT_THAT(outcomes[0].metrics, Contains(Key("peak_memory_mb")));
}

TEST(Pack, a_member_that_is_stopped_goes_on_alone_or_in_another_pack) {
  JobBench bench("gpt2");
  const std::vector<Job> jobs = jobs_of(bench, different_trainings(bench));
  std::vector<Outcome> alone;
  for (const Job& job : jobs) alone.push_back(bench.run(twin(job)));

  RecordingControl stopped, also_stopped;
  stopped.stop = [&] { return stopped.reports.size() > 5; };
  also_stopped.stop = [&] { return also_stopped.reports.size() > 3; };
  const std::vector<Outcome> first = bench.run_pack(jobs, {&stopped, &also_stopped, nullptr});
  EXPECT_EQ(first[0].kind, OutcomeKind::interrupted);
  EXPECT_EQ(first[1].kind, OutcomeKind::interrupted);
  expect_same_training(bench, twin(jobs[2]), alone[2], jobs[2], first[2]);
  EXPECT_TRUE(fs::exists(bench.staging(jobs[0]) / "checkpoints"));

  RecordingControl again;
  const Outcome resumed = bench.run(jobs[0], again);
  EXPECT_GT(again.reports[1].done, 4);
  expect_same_training(bench, twin(jobs[0]), alone[0], jobs[0], resumed);
  EXPECT_EQ(resumed.environment.at("pack"), 3);  // a part of its time was spent there
  EXPECT_THAT(resumed.metrics, Not(Contains(Key("peak_memory_mb"))));

  Job other = jobs[2];
  other.id = JobId::of("one more");
  const std::vector<Outcome> second = bench.run_pack({other, jobs[1]});
  expect_same_training(bench, twin(jobs[1]), alone[1], jobs[1], second[1]);
  expect_same_training(bench, twin(jobs[2]), alone[2], other, second[0]);
}

TEST(Pack, a_job_that_was_stopped_alone_goes_on_in_a_pack) {
  JobBench bench("bert");
  const std::vector<Job> jobs = jobs_of(bench, different_trainings(bench));
  const Outcome alone = bench.run(twin(jobs[1]));
  RecordingControl control;
  control.stop = [&] { return control.reports.size() > 3; };
  ASSERT_EQ(bench.run(jobs[1], control).kind, OutcomeKind::interrupted);
  const std::vector<Outcome> packed = bench.run_pack(jobs);
  expect_same_training(bench, twin(jobs[1]), alone, jobs[1], packed[1]);
}

TEST(Pack, a_job_that_diverges_fails_alone) {
  for (const char* model : {"gpt2", "roberta"}) {
    SCOPED_TRACE(model);
    JobBench bench(model);
    std::vector<Json> settings = different_trainings(bench);
    settings.push_back(bench.finetune_settings());
    settings[3]["learning_rate"] = 1e30;
    const std::vector<Job> jobs = jobs_of(bench, settings);
    const Outcome diverged = bench.run(twin(jobs[3]));
    const std::vector<Outcome> packed = bench.run_pack(jobs);
    EXPECT_EQ(packed[3].kind, OutcomeKind::failed);
    EXPECT_TRUE(packed[3].permanent);
    EXPECT_THAT(packed[3].error, HasSubstr("The training diverged"));
    EXPECT_EQ(packed[3].error, diverged.error);
    EXPECT_EQ(bench.ended().front(), 3);
    for (std::size_t i = 0; i < 3; ++i) {
      expect_same_training(bench, twin(jobs[i]), bench.run(twin(jobs[i])), jobs[i], packed[i]);
    }
  }
}

TEST(Pack, in_fp16_each_job_has_its_own_loss_scale) {
  JobBench bench("bert");
  std::vector<Json> settings = different_trainings(bench);
  for (Json& one : settings) one["precision"] = "fp16";
  settings.push_back(settings[0]);
  settings[3]["learning_rate"] = 1e30;
  const std::vector<Job> jobs = jobs_of(bench, settings);
  const std::vector<Outcome> packed = bench.run_pack(jobs);
  EXPECT_EQ(packed[3].kind, OutcomeKind::failed);
  for (std::size_t i = 0; i < 3; ++i) {
    expect_same_training(bench, twin(jobs[i]), bench.run(twin(jobs[i])), jobs[i], packed[i]);
  }
}

TEST(Pack, a_job_whose_data_is_broken_fails_alone) {
  JobBench bench("bert");
  std::vector<Job> jobs = jobs_of(bench, different_trainings(bench));
  jobs[1].context["data"]["train"] =
      bench.folder().write("broken.jsonl", "{\"text\": \"rain\", \"label\"").string();
  const std::vector<Outcome> packed = bench.run_pack(jobs);
  EXPECT_EQ(packed[0].kind, OutcomeKind::succeeded) << packed[0].error;
  EXPECT_EQ(packed[1].kind, OutcomeKind::failed);
  EXPECT_THAT(packed[1].error, HasSubstr("broken.jsonl"));
  EXPECT_EQ(packed[2].kind, OutcomeKind::succeeded) << packed[2].error;
  EXPECT_EQ(packed[0].environment.at("pack"), 2);
  EXPECT_FALSE(packed[1].environment.contains("pack"));
}

TEST(Pack, what_does_not_fit_together_runs_one_after_the_other) {
  JobBench bench("bert");
  std::vector<Json> settings(6, bench.finetune_settings());
  settings[1]["model_dropout"] = 0.2;
  settings[2] = bench.finetune_settings("full");
  settings[3] = bench.finetune_settings("qlora");
  settings[4]["pooling"] = "mean";
  std::vector<Job> jobs = jobs_of(bench, settings);
  jobs.push_back(bench.job(StepKind::evaluate, bench.evaluate_settings()));
  const std::vector<Outcome> outcomes = bench.run_pack(jobs);
  for (std::size_t i = 0; i + 1 < jobs.size(); ++i) {
    EXPECT_EQ(outcomes[i].kind, OutcomeKind::succeeded) << i << ": " << outcomes[i].error;
    EXPECT_EQ(outcomes[i].environment.contains("pack"), i == 0 || i == 5) << i;
  }
  EXPECT_EQ(outcomes[6].kind, OutcomeKind::succeeded) << outcomes[6].error;
  EXPECT_EQ(bench.ended().size(), jobs.size());
}

TEST(Pack, heads_of_another_shape_do_not_fit) {
  JobBench bench("gpt2");  // whose files have no head
  const auto rows_of = [&](const std::string& name, int labels) {
    std::string text;
    for (int i = 0; i < 12; ++i) text += Json({{"text", "rain and soup"}, {"label", i % labels}}).dump() + "\n";
    return bench.folder().write(name, text).string();
  };
  bench.context["task"] = "classification";
  bench.context["data"] = {{"train", rows_of("three.jsonl", 3)},
                           {"fields", {{"text", "text"}, {"label", "label"}}}};
  std::vector<Job> jobs = jobs_of(bench, std::vector<Json>(3, bench.finetune_settings()));
  jobs[1].context["data"]["train"] = rows_of("four.jsonl", 4);
  const std::vector<Outcome> outcomes = bench.run_pack(jobs);
  for (const Outcome& outcome : outcomes) EXPECT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
  EXPECT_EQ(outcomes[0].environment.at("pack"), 2);
  EXPECT_EQ(outcomes[2].environment.at("pack"), 2);
  EXPECT_FALSE(outcomes[1].environment.contains("pack"));
}

TEST(Pack, adapters_that_are_trained_further_share_their_base) {
  JobBench bench("gpt2");
  const std::vector<Job> before = jobs_of(bench, std::vector<Json>(2, bench.finetune_settings()));
  for (const Job& job : before) ASSERT_EQ(bench.run(job).kind, OutcomeKind::succeeded);
  std::vector<Job> further = jobs_of(bench, std::vector<Json>(2, bench.finetune_settings()));
  for (std::size_t i = 0; i < 2; ++i) {
    further[i].id = JobId::of("further " + std::to_string(i));
    further[i].inputs = {before[i].id};
  }
  const std::vector<Outcome> packed = bench.run_pack(further);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(packed[i].environment.at("pack"), 2);
    expect_same_training(bench, twin(further[i]), bench.run(twin(further[i])), further[i], packed[i]);
  }
}

TEST(Pack, what_is_made_ready_for_nothing_ends_when_its_turn_would_come_and_leaves_nothing) {
  JobBench bench;
  const std::vector<Job> trainings = jobs_of(bench, different_trainings(bench));
  std::vector<RecordingControl> controls(trainings.size());
  std::vector<ExecutionControl*> given;
  for (RecordingControl& control : controls) {
    control.turn = false;
    control.on_turn = [] { throw NotWanted(); };
    given.push_back(&control);
  }
  EXPECT_THROW(bench.run_pack(trainings, given), NotWanted);
  const Outcome alone = bench.run(trainings[0], controls[0]);
  EXPECT_EQ(alone.kind, OutcomeKind::failed);
  EXPECT_THAT(alone.error, HasSubstr(NotWanted().what()));
  for (const Job& job : trainings) EXPECT_TRUE(std::filesystem::is_empty(bench.staging(job)));
  EXPECT_TRUE(bench.ended().empty());
  EXPECT_EQ(bench.run(trainings[0]).kind, OutcomeKind::succeeded);
}

TEST(Pack, a_pack_that_runs_out_of_memory_is_split_and_goes_on) {
  for (const std::size_t at : {std::size_t{1}, std::size_t{5}}) {  // while it loads; while it trains
    SCOPED_TRACE(at);
    JobBench bench("bert");
    std::vector<Json> settings = different_trainings(bench);
    settings.push_back(bench.finetune_settings());
    const std::vector<Job> jobs = jobs_of(bench, settings);
    RecordingControl control, other;
    int questions = 0;
    control.on_progress = [&](const Progress&) {
      if (at == 1 && control.reports.size() == 1) throw std::bad_alloc();
    };
    control.stop = [&]() -> bool {
      if (at == 5 && ++questions == 5) throw std::bad_alloc();
      return false;
    };
    const std::vector<Outcome> packed = bench.run_pack(jobs, {nullptr, &control, nullptr, &other});
    EXPECT_THAT(bench.ended(), UnorderedElementsAre(0, 1, 2, 3));
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      SCOPED_TRACE(i);
      expect_same_training(bench, twin(jobs[i]), bench.run(twin(jobs[i])), jobs[i], packed[i]);
      EXPECT_EQ(packed[i].environment.at("pack"), at == 1 ? 2 : 4);
    }
    // What was trained before is not done again.
    if (at == 5) {
      const auto restart = std::find_if(other.reports.begin() + 1, other.reports.end(),
                                        [](const Progress& p) { return p.phase == "loading"; });
      ASSERT_NE(restart, other.reports.end());
      EXPECT_GT((restart + 1)->done, 4);
    }
  }
}

TEST(Pack, where_memory_lacks_as_somebody_joins_all_go_on_in_halves) {
  JobBench bench("bert");
  const std::vector<Job> jobs = jobs_of(bench, short_and_long(bench, 150));
  const std::vector<Job> joining = jobs_of(bench, std::vector<Json>(2, bench.finetune_settings()));
  RecordingControl joins;
  joins.on_progress = [&](const Progress&) {
    if (joins.reports.size() == 1) throw std::bad_alloc();
  };
  const std::vector<Outcome> packed = bench.run_pack(jobs, {nullptr, nullptr, nullptr, &joins}, {joining, joining});
  ASSERT_EQ(packed.size(), 4u) << "nobody is asked for any more";
  const std::vector<Job> all{jobs[0], jobs[1], joining[0], joining[1]};
  for (std::size_t i = 0; i < all.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same_training(bench, twin(all[i]), bench.run(twin(all[i])), all[i], packed[i]);
  }
}

TEST(Pack, who_has_too_little_memory_even_alone_fails) {
  JobBench bench("bert");
  const std::vector<Job> jobs = jobs_of(bench, std::vector<Json>(3, bench.finetune_settings()));
  RecordingControl never;
  never.on_progress = [](const Progress& progress) {
    if (progress.phase == "training") throw std::bad_alloc();
  };
  const std::vector<Outcome> packed = bench.run_pack(jobs, {nullptr, nullptr, &never});
  EXPECT_EQ(packed[0].kind, OutcomeKind::succeeded) << packed[0].error;
  EXPECT_EQ(packed[1].kind, OutcomeKind::succeeded) << packed[1].error;
  EXPECT_EQ(packed[2].kind, OutcomeKind::failed);
  EXPECT_THAT(packed[2].error, HasSubstr("Out of memory"));
  EXPECT_FALSE(packed[2].permanent);
}

}  // namespace
}  // namespace finesweep::worker
