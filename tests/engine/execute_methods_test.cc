// Jobs of every task, family and method: what a training leaves is what is measured, however the training came
// about.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "storage/artifact.h"
#include "tests/engine/job_bench.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;

struct MethodCase {
  std::string model, method;
  std::string precision = "fp32";
  friend void PrintTo(const MethodCase& c, std::ostream* out) {
    *out << c.model << ' ' << c.method << ' ' << c.precision;
  }
};

std::string name_of(const ::testing::TestParamInfo<MethodCase>& info) {
  return info.param.model + "_" + info.param.method +
         (info.param.precision == "fp32" ? "" : "_" + info.param.precision);
}

std::vector<MethodCase> every_family_and_method() {
  std::vector<MethodCase> cases;
  for (const char* model : {"bert", "roberta", "gpt2", "gpt_neo", "llama", "t5", "t5_v11"}) {
    for (const char* method : {"full", "lora", "qlora", "ia3"}) cases.push_back({model, method});
  }
  return cases;
}

class Methods : public ::testing::TestWithParam<MethodCase> {
 protected:
  JobBench bench_{GetParam().model};

  Json settings() const {
    Json settings = bench_.finetune_settings(GetParam().method);
    settings["precision"] = GetParam().precision;
    return settings;
  }
  Json evaluation() const {
    Json settings = bench_.evaluate_settings();
    settings["precision"] = GetParam().precision;
    return settings;
  }
};

INSTANTIATE_TEST_SUITE_P(Execute, Methods, ::testing::ValuesIn(every_family_and_method()), name_of);

TEST_P(Methods, an_evaluation_of_what_a_training_left_gives_what_the_training_measured_at_its_end) {
  Json settings = this->settings();
  settings["evaluate_every"] = "epoch";
  settings["evaluation"] = evaluation();
  const Job training = bench_.job(StepKind::finetune, settings);
  const Outcome trained = bench_.run(training);
  ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
  const Json manifest = storage::read_manifest(bench_.artifact(training))->model;
  EXPECT_EQ(manifest.at("kind"), GetParam().method == "full" ? "model" : "adapter");
  EXPECT_EQ(manifest.at("method"), GetParam().method);
  EXPECT_EQ(manifest.at("task"), bench_.context.at("task"));
  EXPECT_EQ(manifest.contains("quantization"), GetParam().method == "qlora");
  EXPECT_EQ(manifest.contains("head"), bench_.classifies());

  Job measuring = bench_.job(StepKind::evaluate, evaluation());
  measuring.inputs = {training.id};
  const Outcome measured = bench_.run(measuring);
  ASSERT_EQ(measured.kind, OutcomeKind::succeeded) << measured.error;
  std::map<std::string, double> at_the_end;
  for (const HistoryPoint& point : trained.history) at_the_end[point.metric] = point.value;
  for (const auto& [metric, value] : reproducible(measured)) {
    EXPECT_TRUE(std::isfinite(value)) << metric;
    EXPECT_EQ(value, at_the_end.at("validation_" + metric)) << metric;
  }
  if (bench_.classifies()) {
    EXPECT_THAT(measured.metrics, Contains(Key("accuracy")));
    return;
  }
  EXPECT_NEAR(measured.metrics.at("perplexity"), std::exp(measured.metrics.at("loss")), 1e-9);
  for (const char* metric : {"rouge1", "rouge2", "rougeL", "rougeLsum"}) {
    EXPECT_GE(measured.metrics.at(metric), 0);
    EXPECT_LE(measured.metrics.at(metric), 1);
  }
  EXPECT_GE(measured.metrics.at("bleu"), 0);
}

std::vector<MethodCase> every_task_and_method() {
  std::vector<MethodCase> cases;
  for (const char* model : {"bert", "gpt2", "t5"}) {
    for (const char* method : {"full", "lora", "qlora", "ia3"}) cases.push_back({model, method});
  }
  cases.push_back({"gpt2", "lora", "bf16"});
  cases.push_back({"gpt2", "full", "fp16"});
  cases.push_back({"bert", "lora", "fp16"});
  return cases;
}

class Interrupted : public Methods {};
INSTANTIATE_TEST_SUITE_P(Execute, Interrupted, ::testing::ValuesIn(every_task_and_method()), name_of);

void expect_same_history(const Outcome& one, const Outcome& other) {
  ASSERT_EQ(one.history.size(), other.history.size());
  for (std::size_t i = 0; i < one.history.size(); ++i) {
    EXPECT_EQ(one.history[i].metric, other.history[i].metric);
    EXPECT_EQ(one.history[i].global_step, other.history[i].global_step);
    EXPECT_EQ(one.history[i].epoch, other.history[i].epoch);
    EXPECT_EQ(one.history[i].value, other.history[i].value) << one.history[i].metric;
  }
}

void expect_same_weights(const fs::path& one, const fs::path& other) {
  for (const char* file : {"adapter/adapter_model.safetensors", "model/model.safetensors"}) {
    const bool exists = fs::exists(one / file);
    EXPECT_EQ(exists, fs::exists(other / file));
    if (exists) {
      EXPECT_TRUE(read_bytes(one / file) == read_bytes(other / file)) << file;
    }
  }
}

TEST_P(Interrupted, a_training_that_was_stopped_anywhere_ends_bit_for_bit_as_one_that_was_not) {
  Json settings = this->settings();
  settings["gradient_accumulation"] = 2;
  settings["evaluate_every"] = 3;
  settings["evaluation"] = evaluation();
  const Job undisturbed = bench_.job(StepKind::finetune, settings);
  const Outcome whole = bench_.run(undisturbed);
  ASSERT_EQ(whole.kind, OutcomeKind::succeeded) << whole.error;
  EXPECT_THAT(whole.metrics, Contains(Key("validation_loss")));

  Job job = undisturbed;
  job.id = JobId::of("stopped");
  // In the middle of an epoch, in the middle of an evaluation, and at an epoch's end.
  for (const std::size_t after : {2u, 3u, 5u}) {
    RecordingControl control;
    control.stop = [&] { return control.reports.size() > after; };
    const Outcome stopped = bench_.run(job, control);
    ASSERT_EQ(stopped.kind, OutcomeKind::interrupted) << stopped.error;
    EXPECT_FALSE(stopped.has_artifact);
  }
  const Outcome resumed = bench_.run(job);
  ASSERT_EQ(resumed.kind, OutcomeKind::succeeded) << resumed.error;
  EXPECT_EQ(reproducible(whole), reproducible(resumed));
  expect_same_history(whole, resumed);
  expect_same_weights(bench_.artifact(undisturbed), bench_.artifact(job));
}

class EachTask : public ::testing::TestWithParam<std::string> {
 protected:
  JobBench bench_{GetParam()};
};
INSTANTIATE_TEST_SUITE_P(Execute, EachTask, ::testing::Values("bert", "gpt2", "t5"),
                         [](const auto& info) { return info.param; });

TEST_P(EachTask, a_job_of_a_chain_gives_what_training_from_the_start_gives) {
  Json longer = bench_.finetune_settings(), shorter = longer;
  longer["epochs"] = 2;
  shorter["epochs"] = 1;
  const Job from_start = bench_.job(StepKind::finetune, longer);
  const Outcome whole = bench_.run(from_start);
  ASSERT_EQ(whole.kind, OutcomeKind::succeeded) << whole.error;
  Job first = bench_.job(StepKind::finetune, shorter);
  first.keep_training_state = true;
  ASSERT_EQ(bench_.run(first).kind, OutcomeKind::succeeded);
  Job second = from_start;
  second.id = JobId::of("continued");
  second.continues = first.id;
  const Outcome continued = bench_.run(second);
  ASSERT_EQ(continued.kind, OutcomeKind::succeeded) << continued.error;
  EXPECT_EQ(reproducible(whole), reproducible(continued));
  expect_same_weights(bench_.artifact(from_start), bench_.artifact(second));
}

TEST_P(EachTask, gradient_checkpointing_changes_no_number) {
  Json settings = bench_.finetune_settings();
  settings["epochs"] = 1;
  const Job plain = bench_.job(StepKind::finetune, settings);
  settings["gradient_checkpointing"] = true;
  const Job recomputing = bench_.job(StepKind::finetune, settings);
  const Outcome first = bench_.run(plain), second = bench_.run(recomputing);
  ASSERT_EQ(second.kind, OutcomeKind::succeeded) << second.error;
  EXPECT_EQ(reproducible(first), reproducible(second));
  expect_same_weights(bench_.artifact(plain), bench_.artifact(recomputing));
}

TEST_P(EachTask, an_adapter_over_a_trained_model_is_measured_over_that_model) {
  Json settings = bench_.finetune_settings("full");
  settings["learning_rate"] = 1e-2;  // away from where it began
  const Job whole = bench_.job(StepKind::finetune, settings);
  ASSERT_EQ(bench_.run(whole).kind, OutcomeKind::succeeded);
  settings = bench_.finetune_settings("lora");
  settings["evaluate_every"] = "epoch";
  settings["evaluation"] = bench_.evaluate_settings();
  Job adapter = bench_.job(StepKind::finetune, settings, 8);
  adapter.inputs = {whole.id};
  const Outcome trained = bench_.run(adapter);
  ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
  Job measuring = bench_.job(StepKind::evaluate, bench_.evaluate_settings());
  measuring.inputs = {adapter.id, whole.id};
  const Outcome measured = bench_.run(measuring);
  ASSERT_EQ(measured.kind, OutcomeKind::succeeded) << measured.error;
  EXPECT_EQ(measured.metrics.at("loss"), trained.metrics.at("validation_loss"));
  // PEFT is to load it on that model too, not on the one that was there at first.
  const Json config = Json::parse(read_bytes(bench_.artifact(adapter) / "adapter/adapter_config.json"));
  EXPECT_EQ(config.at("base_model_name_or_path"), (bench_.artifact(whole) / "model").string());
}

class Further : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Execute, Further, ::testing::Values("lora", "qlora", "ia3"),
                         [](const auto& info) { return info.param; });

TEST_P(Further, an_adapter_is_trained_further_from_where_it_was_left) {
  JobBench bench("gpt2");
  Json settings = bench.finetune_settings(GetParam());
  settings["warmup"] = 0;
  const Job first = bench.job(StepKind::finetune, settings);
  const Outcome before = bench.run(first);
  ASSERT_EQ(before.kind, OutcomeKind::succeeded) << before.error;
  // A base in NF4 stays what it is: an adapter on it is trained with lora.
  if (GetParam() == "qlora") settings["method"] = "lora";
  Job second = bench.job(StepKind::finetune, settings, 8);
  second.inputs = {first.id};
  const Outcome after = bench.run(second);
  ASSERT_EQ(after.kind, OutcomeKind::succeeded) << after.error;
  EXPECT_LT(after.history.front().value, before.history.front().value);
  const Json manifest = storage::read_manifest(bench.artifact(second))->model;
  EXPECT_EQ(manifest.contains("quantization"), GetParam() == "qlora");
  EXPECT_EQ(manifest.at("kind"), "adapter");
}

TEST(Execute, a_base_in_nf4_gives_other_numbers_than_the_same_base_in_full_precision) {
  JobBench bench("gpt2");
  std::map<std::string, double> losses;
  for (const char* method : {"lora", "qlora"}) {
    const Job training = bench.job(StepKind::finetune, bench.finetune_settings(method));
    Job measuring = bench.job(StepKind::evaluate, bench.evaluate_settings());
    ASSERT_EQ(bench.run(training).kind, OutcomeKind::succeeded);
    measuring.id = JobId::of(method);
    measuring.inputs = {training.id};
    losses[method] = bench.run(measuring).metrics.at("loss");
  }
  EXPECT_NE(losses["lora"], losses["qlora"]);
  EXPECT_NEAR(losses["lora"], losses["qlora"], 1);
}

TEST(Execute, an_adapter_on_a_base_in_fp8_learns_what_it_learns_on_one_in_bf16_and_stands_on_that) {
  for (const auto& [model, method] : std::vector<std::pair<std::string, std::string>>{
           {"bert", "lora"}, {"gpt2", "lora"}, {"llama", "ia3"}, {"t5", "lora"}}) {
    SCOPED_TRACE(model + " " + method);
    JobBench bench(model);
    std::map<std::string, double> losses;
    for (const char* precision : {"bf16", "fp8_base"}) {
      Json settings = bench.finetune_settings(method);
      settings["precision"] = precision;
      settings["model_dropout"] = 0.0;
      const Job training = bench.job(StepKind::finetune, settings);
      const Outcome trained = bench.run(training);
      ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
      EXPECT_FALSE(storage::read_manifest(bench.artifact(training))->model.contains("quantization"));
      losses[precision] = trained.metrics.at("loss");
      Json evaluation = bench.evaluate_settings();
      evaluation["precision"] = "bf16";
      Job measuring = bench.job(StepKind::evaluate, evaluation);
      measuring.id = JobId::of(std::string("evaluation ") + precision);
      measuring.inputs = {training.id};
      const Outcome measured = bench.run(measuring);
      ASSERT_EQ(measured.kind, OutcomeKind::succeeded) << measured.error;
      losses[std::string(precision) + " evaluated"] = measured.metrics.at("loss");
    }
    EXPECT_NE(losses["fp8_base"], losses["bf16"]);
    EXPECT_NEAR(losses["fp8_base"], losses["bf16"], 0.1 * losses["bf16"]);
    EXPECT_NEAR(losses["fp8_base evaluated"], losses["bf16 evaluated"], 0.1 * losses["bf16 evaluated"]);
  }
}

TEST(Execute, products_with_quantised_weights_are_computed_in_what_is_asked_for) {
  JobBench bench("gpt2");
  std::map<std::string, double> losses;
  for (const char* compute : {"fp32", "bf16", "fp16"}) {
    Json settings = bench.finetune_settings("qlora");
    settings["compute"] = compute;
    const Job training = bench.job(StepKind::finetune, settings);
    const Outcome trained = bench.run(training);
    ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
    EXPECT_EQ(storage::read_manifest(bench.artifact(training))->model.at("compute"), compute);
    losses[compute] = trained.metrics.at("loss");
  }
  EXPECT_NE(losses["fp32"], losses["bf16"]);
  EXPECT_NE(losses["fp32"], losses["fp16"]);
  EXPECT_NEAR(losses["fp32"], losses["bf16"], 0.05);
  EXPECT_NEAR(losses["fp32"], losses["fp16"], 0.05);
}

TEST(Execute, a_sampled_text_follows_from_the_seed_and_the_row) {
  JobBench bench("gpt2");
  Json settings = bench.evaluate_settings();
  settings["generation"].update({{"do_sample", true}, {"temperature", 1.0}, {"top_k", 0}, {"top_p", 1.0}});
  const Outcome first = bench.run(bench.job(StepKind::evaluate, settings, 1));
  ASSERT_EQ(first.kind, OutcomeKind::succeeded) << first.error;
  Job again = bench.job(StepKind::evaluate, settings, 1);
  again.id = JobId::of("again");
  EXPECT_EQ(reproducible(first), reproducible(bench.run(again)));
  Json other_batches = settings;
  other_batches["batch_size"] = 5;
  const Outcome rebatched = bench.run(bench.job(StepKind::evaluate, other_batches, 1));
  EXPECT_EQ(first.metrics.at("bleu"), rebatched.metrics.at("bleu"));
  EXPECT_EQ(first.metrics.at("rouge1"), rebatched.metrics.at("rouge1"));
}

TEST(Execute, jobs_over_the_same_rows_tokenise_them_once) {
  for (const char* model : {"gpt2", "t5"}) {
    SCOPED_TRACE(model);
    JobBench bench(model);
    bench.cache = bench.folder().path() / "cache";
    const auto kept = [&] {
      std::map<fs::path, fs::file_time_type> files;
      for (const auto& entry : fs::directory_iterator(bench.cache)) files[entry.path()] = entry.last_write_time();
      return files;
    };
    const Outcome first = bench.run(bench.job(StepKind::evaluate, bench.evaluate_settings()));
    ASSERT_EQ(first.kind, OutcomeKind::succeeded) << first.error;
    const auto files = kept();
    EXPECT_EQ(files.size(), 1u);
    Job again = bench.job(StepKind::evaluate, bench.evaluate_settings());
    again.id = JobId::of("again");
    EXPECT_EQ(reproducible(first), reproducible(bench.run(again)));
    EXPECT_EQ(kept(), files);
    bench.run(bench.job(StepKind::evaluate, bench.evaluate_settings("test")));
    EXPECT_EQ(kept().size(), 2u);
  }
}

TEST(Execute, only_what_is_asked_for_is_measured_and_nothing_is_generated_in_vain) {
  JobBench bench("t5");
  Json settings = bench.evaluate_settings();
  settings["metrics"] = {"loss", "perplexity"};
  settings.erase("generation");
  RecordingControl control;
  const Outcome measured = bench.run(bench.job(StepKind::evaluate, settings), control);
  ASSERT_EQ(measured.kind, OutcomeKind::succeeded) << measured.error;
  EXPECT_FALSE(measured.metrics.contains("bleu"));
  EXPECT_EQ(control.reports.back().total, 4);  // batches of 8 in 30 rows
}

TEST(Execute, a_language_model_learns_what_it_is_shown) {
  JobBench bench("gpt2");
  Json settings = bench.finetune_settings("full");
  settings["epochs"] = 12;
  settings["learning_rate"] = 5e-3;
  settings["model_dropout"] = 0.0;
  const Job training = bench.job(StepKind::finetune, settings);
  const Outcome trained = bench.run(training);
  ASSERT_EQ(trained.kind, OutcomeKind::succeeded) << trained.error;
  Job measuring = bench.job(StepKind::evaluate, bench.evaluate_settings("test"));
  measuring.inputs = {training.id};
  const Outcome measured = bench.run(measuring);
  ASSERT_EQ(measured.kind, OutcomeKind::succeeded) << measured.error;
  EXPECT_LT(measured.metrics.at("perplexity"), 1.5);
  EXPECT_GT(measured.metrics.at("rouge1"), 0.8);
}

}  // namespace
}  // namespace finesweep::worker
