// Distillation: a student of every family learns what its teacher says, however the training came about; and the
// whole pipeline that begins with it.

#include <ATen/Functions.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "tests/engine/pipeline.h"
#include "tests/engine/tiny_tokenizer.h"
#include "worker/models/student.h"

namespace finesweep::worker {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Key;

class Distill : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    // A teacher that knows the task.
    Json settings = bench_.finetune_settings("full");
    settings.update({{"epochs", 4}, {"learning_rate", 2e-3}});
    const Job job = bench_.job(StepKind::finetune, settings, 3);
    ASSERT_EQ(bench_.run(job).kind, OutcomeKind::succeeded);
    teacher_ = bench_.artifact(job) / "model";
  }

  Json settings(double alpha = 0.5) const {
    Json settings = bench_.finetune_settings("full");
    settings.erase("method");
    settings.update({{"teacher", teacher_.string()}, {"temperature", 2.0}, {"alpha", alpha}});
    return settings;
  }

  JobBench bench_{GetParam()};
  fs::path teacher_;
};
INSTANTIATE_TEST_SUITE_P(Execute, Distill,
                         ::testing::Values("bert", "roberta", "gpt2", "gpt_neo", "llama", "t5", "t5_v11"),
                         [](const auto& info) { return info.param; });

TEST_P(Distill, a_student_comes_nearer_to_its_teacher) {
  Json settings = this->settings(1);
  settings.update({{"epochs", 4}, {"model_dropout", 0.0}, {"evaluate_every", "epoch"}});
  settings["evaluation"] = bench_.evaluate_settings();
  const Job job = bench_.job(StepKind::distill, settings);
  const Outcome outcome = bench_.run(job);
  ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
  std::vector<double> losses;
  for (const HistoryPoint& point : outcome.history) {
    if (point.metric == "loss") losses.push_back(point.value);
  }
  ASSERT_EQ(losses.size(), 4u);
  EXPECT_LT(losses.back(), 0.7 * losses.front());
  for (const char* metric :
       {"loss", "validation_loss", "seconds", "batch_ms_mean", "batch_ms_std", "samples_per_second_mean",
        "tokens_per_second", "peak_memory_mb", "trainable_parameters"}) {
    EXPECT_THAT(outcome.metrics, Contains(Key(metric)));
  }
  const Json manifest = storage::read_manifest(bench_.artifact(job))->model;
  EXPECT_EQ(manifest.at("kind"), "model");
  Job measuring = bench_.job(StepKind::evaluate, bench_.evaluate_settings());
  measuring.inputs = {job.id};
  const Outcome measured = bench_.run(measuring);
  ASSERT_EQ(measured.kind, OutcomeKind::succeeded) << measured.error;
  EXPECT_EQ(measured.metrics.at("loss"), outcome.metrics.at("validation_loss"));
}

TEST_P(Distill, the_teacher_itself_has_nothing_to_learn) {
  Json settings = this->settings(1);
  settings.update({{"student", teacher_.string()}, {"model_dropout", 0.0}, {"epochs", 1}, {"learning_rate", 0.0}});
  const Outcome outcome = bench_.run(bench_.job(StepKind::distill, settings));
  ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
  EXPECT_NEAR(outcome.metrics.at("loss"), 0, 1e-6);
}

TEST_P(Distill, without_a_share_for_the_teacher_it_is_full_fine_tuning) {
  Json finetune = bench_.finetune_settings("full"), distill = settings(0);
  const Outcome one = bench_.run(bench_.job(StepKind::finetune, finetune));
  const Outcome other = bench_.run(bench_.job(StepKind::distill, distill));
  ASSERT_EQ(other.kind, OutcomeKind::succeeded) << other.error;
  EXPECT_NEAR(one.metrics.at("loss"), other.metrics.at("loss"), 1e-4);
  EXPECT_EQ(one.metrics.at("trainable_parameters"), other.metrics.at("trainable_parameters"));
}

TEST_P(Distill, a_student_of_fewer_layers_begins_with_its_teachers) {
  Json settings = this->settings();
  settings.update({{"student", {{"layers", 2}}}, {"epochs", 1}, {"learning_rate", 0.0}});
  Pipeline pipeline(bench_);
  const Outcome outcome = pipeline.run(StepKind::distill, settings);
  ASSERT_EQ(outcome.kind, OutcomeKind::succeeded);
  const auto of_teacher = SafetensorsFile::open(teacher_ / "model.safetensors");
  ASSERT_TRUE(of_teacher.ok());
  int last_layers = 0;
  for (const auto& [name, tensor] : pipeline.tensors("model/model.safetensors")) {
    // Of two the second is the teacher's last.
    const bool second = name.find(".1.") != std::string::npos && name.find("layer.1.EncDec") == std::string::npos;
    if (!second) {
      EXPECT_TRUE(at::equal(tensor, of_teacher->tensor(name).value())) << name;
    } else {
      ++last_layers;
    }
    EXPECT_EQ(name.find(".2.attn"), std::string::npos);
  }
  EXPECT_GT(last_layers, 0);
  const Outcome measured = pipeline.run(StepKind::evaluate, bench_.evaluate_settings());
  EXPECT_TRUE(std::isfinite(measured.metrics.at("loss")));
}

TEST_P(Distill, a_training_that_was_stopped_anywhere_ends_bit_for_bit_as_one_that_was_not) {
  Json settings = this->settings();
  settings.update({{"gradient_accumulation", 2}, {"evaluate_every", 3}});
  settings["evaluation"] = bench_.evaluate_settings();
  const Job undisturbed = bench_.job(StepKind::distill, settings);
  const Outcome whole = bench_.run(undisturbed);
  ASSERT_EQ(whole.kind, OutcomeKind::succeeded) << whole.error;
  Job job = undisturbed;
  job.id = JobId::of("stopped");
  for (const std::size_t after : {2u, 4u}) {
    RecordingControl control;
    control.stop = [&] { return control.reports.size() > after; };
    ASSERT_EQ(bench_.run(job, control).kind, OutcomeKind::interrupted);
  }
  const Outcome resumed = bench_.run(job);
  ASSERT_EQ(resumed.kind, OutcomeKind::succeeded) << resumed.error;
  EXPECT_EQ(reproducible(whole), reproducible(resumed));
  EXPECT_EQ(read_bytes(bench_.artifact(undisturbed) / "model/model.safetensors"),
            read_bytes(bench_.artifact(job) / "model/model.safetensors"));
}

TEST_P(Distill, a_job_of_a_chain_gives_what_training_from_the_start_gives) {
  Json longer = settings(), shorter = longer;
  shorter["epochs"] = 1;
  const Job from_start = bench_.job(StepKind::distill, longer);
  const Outcome whole = bench_.run(from_start);
  ASSERT_EQ(whole.kind, OutcomeKind::succeeded) << whole.error;
  Job first = bench_.job(StepKind::distill, shorter);
  first.keep_training_state = true;
  ASSERT_EQ(bench_.run(first).kind, OutcomeKind::succeeded);
  Job second = from_start;
  second.id = JobId::of("continued");
  second.continues = first.id;
  const Outcome continued = bench_.run(second);
  ASSERT_EQ(continued.kind, OutcomeKind::succeeded) << continued.error;
  EXPECT_EQ(reproducible(whole), reproducible(continued));
  EXPECT_EQ(read_bytes(bench_.artifact(from_start) / "model/model.safetensors"),
            read_bytes(bench_.artifact(second) / "model/model.safetensors"));
}

TEST(Student, layers_are_evenly_spaced_as_distilbert_has_them) {
  EXPECT_THAT(layers_of_student(12, 6), ElementsAre(0, 2, 4, 7, 9, 11));
  EXPECT_THAT(layers_of_student(12, 3), ElementsAre(0, 6, 11));
  EXPECT_THAT(layers_of_student(24, 2), ElementsAre(0, 23));
  EXPECT_THAT(layers_of_student(5, 5), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_THAT(layers_of_student(5, 1), ElementsAre(0));
}

class DistillErrors : public ::testing::Test {
 protected:
  static Outcome run(JobBench& student, const JobBench& teacher) {
    Json settings = student.finetune_settings("full");
    settings.erase("method");
    settings.update({{"teacher", teacher.model().string()}, {"temperature", 2.0}, {"alpha", 0.5}});
    return student.run(student.job(StepKind::distill, settings));
  }
};

TEST_F(DistillErrors, a_teacher_of_other_tokens_is_refused) {
  JobBench student("gpt2"), other_tokens("llama"), same_size("gpt2");
  const Outcome other = run(student, other_tokens);
  EXPECT_EQ(other.kind, OutcomeKind::failed);
  EXPECT_TRUE(other.permanent);
  EXPECT_THAT(other.error, HasSubstr("tokenizer is not the student's"));
  // As many tokens, two of them swapped.
  Json tokenizer = byte_level_tokenizer(502);
  {
    std::ifstream file(same_size.model() / "tokenizer.json");
    tokenizer = Json::parse(file);
  }
  std::swap(tokenizer["model"]["vocab"]["a"], tokenizer["model"]["vocab"]["b"]);
  same_size.folder().write("model/tokenizer.json", tokenizer.dump());
  EXPECT_THAT(run(student, same_size).error, HasSubstr("token "));
}

TEST_F(DistillErrors, a_teacher_of_another_kind_and_one_without_a_head_are_refused) {
  JobBench student("bert"), teacher("bert");
  auto file = SafetensorsFile::open(teacher.model() / "model.safetensors");
  ASSERT_TRUE(file.ok());
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const std::string& name : file->names()) {
    if (!name.starts_with("classifier")) tensors.emplace_back(name, file->tensor(name).value());
  }
  ASSERT_TRUE(write_safetensors(teacher.model() / "model.safetensors", tensors).ok());
  EXPECT_THAT(run(student, teacher).error, HasSubstr("no classification head"));
}

TEST_F(DistillErrors, a_teacher_whose_classes_stand_in_another_order_is_refused) {
  JobBench student("bert"), teacher("bert");
  student.context["data"]["labels"] = {"weather", "food", "music"};
  const auto name_classes = [&](const std::vector<std::string>& names) {
    std::ifstream file(teacher.model() / "config.json");
    Json config = Json::parse(file);
    config["id2label"] = Json::object();
    for (std::size_t i = 0; i < names.size(); ++i) config["id2label"][std::to_string(i)] = names[i];
    teacher.folder().write("model/config.json", config.dump());
  };
  name_classes({"weather", "music", "food"});
  const Outcome refused = run(student, teacher);
  EXPECT_TRUE(refused.permanent);
  EXPECT_THAT(refused.error, HasSubstr("classes are weather, music, food, in this order"));
  for (const auto& names :
       {std::vector<std::string>{"weather", "food", "music"}, {"LABEL_0", "LABEL_1", "LABEL_2"}}) {
    name_classes(names);
    const Outcome accepted = run(student, teacher);
    EXPECT_EQ(accepted.kind, OutcomeKind::succeeded) << accepted.error;
  }
}

TEST(Execute, a_pipeline_of_every_step_leaves_a_small_model_that_is_measured) {
  JobBench bench("gpt2");
  Json teaching = bench.finetune_settings("full");
  teaching.update({{"epochs", 4}, {"learning_rate", 2e-3}});
  const Job teacher = bench.job(StepKind::finetune, teaching, 3);
  ASSERT_EQ(bench.run(teacher).kind, OutcomeKind::succeeded);

  Json distilling = bench.finetune_settings("full");
  distilling.erase("method");
  distilling.update({{"teacher", (bench.artifact(teacher) / "model").string()},
                     {"student", {{"layers", 2}}},
                     {"temperature", 2.0},
                     {"alpha", 0.5}});
  Pipeline pipeline(bench);
  pipeline.run(StepKind::distill, distilling);
  pipeline.run(StepKind::finetune, bench.finetune_settings("lora"));
  const double trained = pipeline.run(StepKind::evaluate, bench.evaluate_settings()).metrics.at("perplexity");
  EXPECT_NEAR(pipeline.run(StepKind::prune, prune_settings()).metrics.at("sparsity"), 0.8, 0.01);
  const auto adapter = pipeline.adapter();
  const Outcome quantized = pipeline.run(StepKind::quantize, quantize_settings("nf4", "fp16"));
  EXPECT_LT(quantized.metrics.at("model_mb"),
            static_cast<double>(fs::file_size(bench.artifact(teacher) / "model/model.safetensors")) / 1e6);
  for (const auto& [name, tensor] : pipeline.adapter()) EXPECT_TRUE(at::equal(tensor, adapter.at(name))) << name;
  const Json manifest = pipeline.manifest();
  EXPECT_EQ(manifest.at("kind"), "adapter");
  EXPECT_EQ(manifest.at("compute"), "fp16");
  const Outcome measured = pipeline.run(StepKind::evaluate, bench.evaluate_settings("test"));
  EXPECT_TRUE(std::isfinite(measured.metrics.at("perplexity")));
  EXPECT_LT(measured.metrics.at("perplexity"), 10 * trained);
  // And further: merged it computes the same.
  const Outcome merged = pipeline.run(StepKind::merge, Json::object());
  EXPECT_LT(merged.metrics.at("relative_error"), 1e-2);  // products were in fp16
  const Outcome again = pipeline.run(StepKind::evaluate, bench.evaluate_settings("test"));
  EXPECT_NEAR(again.metrics.at("loss"), measured.metrics.at("loss"), 1e-2);
}

}  // namespace
}  // namespace finesweep::worker
