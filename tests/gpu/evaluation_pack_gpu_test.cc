// Evaluations and IA3 of packs on the first GPU: beside each job alone, and kernels beside the CPU's. Skipped where
// libtorch sees no GPU.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>

#include "tests/engine/evaluations.h"
#include "tests/gpu/gpu.h"
#include "tests/gpu/trained_model.h"
#include "tests/kernels/scaled_jobs.h"
#include "worker/engine/loaded_base.h"
#include "worker/formats/safetensors.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/training/pack_forward.h"

namespace finesweep::worker {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;

class ScaleGroupsOnGpu : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
    ASSERT_NE(cuda_module(), nullptr) << "libfinesweep-cuda.so is not beside the tests";
  }
};

INSTANTIATE_TEST_SUITE_P(Types, ScaleGroupsOnGpu, ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return type_name(info.param); });

TEST_P(ScaleGroupsOnGpu, kernels_agree_with_plain_operations_and_no_job_hears_of_another) {
  const at::NoGradGuard no_graph;
  const at::ScalarType type = GetParam();
  const Layout first = layout_of({5, 20}), third = layout_of({33, 1, 6, 64});
  const Layout whole = TokenLayout::pack({{first, 42, 7}, {nullptr, 43, 8}, {third, 44, 9}});
  const std::int64_t tokens = whole->tokens();
  ScaledJobs expected_jobs(type, at::kCPU), jobs(type, kGpu);
  const ScaleGroups expected_groups(expected_jobs.host_modules(), expected_jobs.job_modules());
  const ScaleGroups groups(jobs.host_modules(), jobs.job_modules());
  at::Tensor x = numbers({tokens, ScaledJobs::kIn}, 3).to(type),
             dy = numbers({tokens, ScaledJobs::kOut}, 4).to(type);
  const auto expected = ScaledJobs::run(expected_jobs.host, x, dy, whole, Activation::none);
  const auto mine = ScaledJobs::run(jobs.host, there(x), there(dy), whole, Activation::none);
  EXPECT_LE(relative_difference(mine.y.cpu(), expected.y), worker::tolerance(type));
  EXPECT_LE(relative_difference(mine.dx.cpu(), expected.dx), worker::tolerance(type));
  std::vector<at::Tensor> of_third;
  for (std::size_t j = 0; j < 3; ++j) {
    for (std::size_t s = 0; s < jobs.jobs[j].scales.size(); ++s) {
      const at::Tensor grad = groups.views(jobs.jobs[j].scales[s].get()).grad;
      const at::Tensor wanted = expected_groups.views(expected_jobs.jobs[j].scales[s].get()).grad;
      EXPECT_LE(relative_difference(grad.cpu(), wanted), worker::tolerance(type));
      if (j == 2) of_third.push_back(grad.clone());
      grad.zero_();
    }
  }
  // What is not a number in the first job's rows stays there, and sums are the same to the bit.
  x.narrow(0, 0, 25).fill_(std::numeric_limits<float>::quiet_NaN());
  const auto broken = ScaledJobs::run(jobs.host, there(x), there(dy), whole, Activation::none);
  EXPECT_TRUE(at::equal(broken.y.narrow(0, 25, tokens - 25), mine.y.narrow(0, 25, tokens - 25)));
  EXPECT_TRUE(at::equal(broken.dx.narrow(0, 25, tokens - 25), mine.dx.narrow(0, 25, tokens - 25)));
  for (std::size_t s = 0; s < of_third.size(); ++s) {
    EXPECT_TRUE(at::equal(groups.views(jobs.jobs[2].scales[s].get()).grad, of_third[s]));
  }
}

struct ForwardCase {
  std::string model;
  at::ScalarType type = at::kFloat;
  AdapterKind kind = AdapterKind::lora;
  std::string name() const { return model + "_" + type_name(type) + (kind == AdapterKind::ia3 ? "_ia3" : "_lora"); }
  friend void PrintTo(const ForwardCase& c, std::ostream* out) { *out << c.name(); }
};

class PackForwardOnGpu : public ::testing::TestWithParam<ForwardCase> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  }
};

INSTANTIATE_TEST_SUITE_P(Models, PackForwardOnGpu,
                         ::testing::Values(ForwardCase{"bert"}, ForwardCase{"roberta"}, ForwardCase{"gpt2"},
                                           ForwardCase{"llama"}, ForwardCase{"t5"},
                                           ForwardCase{"gpt2", at::kBFloat16}, ForwardCase{"roberta", at::kHalf},
                                           ForwardCase{"llama", at::kBFloat16, AdapterKind::ia3},
                                           ForwardCase{"t5", at::kFloat, AdapterKind::ia3}),
                         [](const auto& info) { return info.param.name(); });

TEST_P(PackForwardOnGpu, captured_passes_give_each_job_what_its_own_model_gives) {
  const at::NoGradGuard no_graph;
  const std::string& name = GetParam().model;
  std::vector<TrainedAs> how(3, {.type = GetParam().type, .kind = GetParam().kind});
  std::vector<std::unique_ptr<TrainedModel>> jobs;
  std::vector<Model*> models;
  for (std::size_t j = 0; j < how.size(); ++j) {
    how[j].rank = static_cast<std::int64_t>(2 + 5 * j);
    how[j].seed = 1 + j;
    jobs.push_back(
        std::make_unique<TrainedModel>(name, kGpu, how[j], jobs.empty() ? nullptr : jobs[0]->pretrained));
    for (int step = 0; step < 3; ++step) {  // adapters that do something
      ASSERT_TRUE(jobs[j]->trainer->step({batch_of(name, {9, 14}, step)}));
    }
    models.push_back(jobs[j]->model.get());
  }
  const std::unique_ptr<Model> host = TrainedModel::host(name, *jobs.front(), how.front());
  for (Model* model : models) {
    const Status fits = check_packable(*host, *model);
    ASSERT_TRUE(fits.ok()) << fits.error().message;
  }
  PackForward forward(*host, models);
  const bool classifies = name == "bert" || name == "roberta";
  const double tolerance = GetParam().type == at::kFloat ? 2e-3 : 3e-2;
  for (int pass = 0; pass < 6; ++pass) {
    SCOPED_TRACE(pass);
    // Two shapes, one after the other; in the second the middle job has no rows any more.
    std::vector<Batch> batches{batch_of(name, {20, 9, 14}, pass), batch_of(name, {7, 3}, pass + 10),
                               batch_of(name, {18}, pass + 20)};
    std::vector<const Batch*> given{&batches[0], pass % 2 == 0 ? &batches[1] : nullptr, &batches[2]};
    std::vector<double> counted;
    for (std::size_t j = 0; j < 3; ++j) counted.push_back(static_cast<double>(models[j]->counted(batches[j])));
    const std::vector<at::Tensor> logits = classifies ? forward.logits(given).logits() : std::vector<at::Tensor>();
    const std::vector<double> losses = classifies ? std::vector<double>() : forward.losses(given, counted).losses();
    for (std::size_t j = 0; j < 3; ++j) {
      if (given[j] == nullptr) continue;
      ForwardGraphs alone(*models[j]);
      if (classifies) {
        EXPECT_LE(relative_difference(logits[j], alone.logits(batches[j]).cpu()), tolerance);
      } else {
        const double expected = alone.loss(batches[j], counted[j]).item<double>();
        EXPECT_NEAR(losses[j], expected, tolerance * expected);
      }
    }
    if (!classifies && pass % 2 == 1) EXPECT_EQ(losses[1], 0);
  }
  EXPECT_EQ(forward.captured(), 2);
}

struct EvaluatedCase {
  std::string model, method, precision;
  friend void PrintTo(const EvaluatedCase& c, std::ostream* out) {
    *out << c.model << ' ' << c.method << ' ' << c.precision;
  }
};

class EvaluationPacksOnGpu : public ::testing::TestWithParam<EvaluatedCase> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  }
};

INSTANTIATE_TEST_SUITE_P(
    Jobs, EvaluationPacksOnGpu,
    ::testing::Values(EvaluatedCase{"bert", "lora", "fp32"}, EvaluatedCase{"gpt2", "lora", "fp32"},
                      EvaluatedCase{"llama", "qlora", "fp32"}, EvaluatedCase{"t5", "lora", "fp32"},
                      EvaluatedCase{"gpt2", "lora", "bf16"}, EvaluatedCase{"roberta", "lora", "bf16"},
                      EvaluatedCase{"bert", "ia3", "fp32"}, EvaluatedCase{"gpt2", "ia3", "bf16"}),
    [](const auto& info) { return info.param.model + "_" + info.param.method + "_" + info.param.precision; });

TEST_P(EvaluationPacksOnGpu, each_evaluation_gives_what_it_gives_alone_and_a_broken_adapter_fails_alone) {
  JobBench bench(GetParam().model);
  bench.device = "cuda:0";
  std::vector<Job> trainings, evaluations;
  for (std::size_t i = 0; i < 4; ++i) {
    Json settings = bench.finetune_settings(GetParam().method);
    settings.update({{"precision", GetParam().precision}, {"epochs", 1}, {"learning_rate", 1e-2}});
    if (settings.contains("rank")) {
      const auto number = static_cast<double>(i);
      settings.update({{"rank", 2 + 3 * i}, {"alpha", 3.0 + number}, {"dropout", 0.1 * number}});
    }
    trainings.push_back(bench.job(StepKind::finetune, settings, 7 + i));
  }
  for (const Outcome& outcome : bench.run_pack(trainings)) {
    ASSERT_EQ(outcome.kind, OutcomeKind::succeeded) << outcome.error;
  }
  for (std::size_t i = 0; i < 4; ++i) {
    Json settings = measuring_settings(bench, i == 1 ? "test" : "validation");
    settings.update({{"precision", GetParam().precision}, {"batch_size", i == 1 ? 5 : 8}});
    evaluations.push_back(evaluation_of(bench, trainings[i], settings));
  }
  std::ofstream(bench.artifact(trainings[3]) / "adapter/adapter_model.safetensors") << "no tensors";
  // The first time at once, the second time made ready first.
  for (const bool turn : {true, false}) {
    std::vector<RecordingControl> controls(4);
    std::vector<ExecutionControl*> given;
    for (RecordingControl& control : controls) {
      control.turn = turn;
      given.push_back(&control);
    }
    const std::vector<Outcome> packed = bench.run_pack(evaluations, given);
    EXPECT_EQ(packed[3].kind, OutcomeKind::failed);
    EXPECT_FALSE(packed[3].environment.contains("pack"));
    for (std::size_t i = 0; i < 3; ++i) {
      SCOPED_TRACE(i);
      const Outcome alone = bench.run(evaluations[i]);
      ASSERT_EQ(alone.kind, OutcomeKind::succeeded) << alone.error;
      ASSERT_EQ(packed[i].kind, OutcomeKind::succeeded) << packed[i].error;
      EXPECT_EQ(packed[i].environment.at("pack"), 3);
      EXPECT_THAT(packed[i].metrics, Not(Contains(Key("peak_memory_mb"))));
      const double tolerance = GetParam().precision == "fp32" ? 2e-3 : 3e-2;
      EXPECT_NEAR(packed[i].metrics.at("loss"), alone.metrics.at("loss"),
                  tolerance * std::abs(alone.metrics.at("loss")));
      if (alone.metrics.contains("accuracy"))
        EXPECT_NEAR(packed[i].metrics.at("accuracy"), alone.metrics.at("accuracy"), 0.07);
    }
  }
}

TEST_P(EvaluationPacksOnGpu, captured_passes_serve_the_next_adapter_of_the_kind) {
  JobBench bench(GetParam().model);
  bench.device = "cuda:0";
  std::vector<Job> evaluations;
  for (const double rate : {1e-2, 3e-2}) {
    Json settings = bench.finetune_settings(GetParam().method);
    settings.update({{"precision", GetParam().precision}, {"epochs", 1}, {"learning_rate", rate}});
    const Job training = bench.job(StepKind::finetune, settings);
    ASSERT_EQ(bench.run(training).kind, OutcomeKind::succeeded);
    Json measured = measuring_settings(bench);
    measured.update({{"precision", GetParam().precision}, {"batch_size", 2}});
    evaluations.push_back(evaluation_of(bench, training, measured));
  }
  const auto loss = [&](const Job& job) { return bench.run(job).metrics.at("loss"); };
  forget_base();
  const double first = loss(evaluations[0]);
  const std::shared_ptr<void> left = kept_beside_base();
  EXPECT_NE(left, nullptr);
  const double second = loss(evaluations[1]);
  EXPECT_EQ(kept_beside_base(), left) << "the same model";
  EXPECT_NEAR(loss(evaluations[0]), first, 1e-5 * std::abs(first));
  forget_base();
  const double alone = loss(evaluations[1]);
  EXPECT_NEAR(second, alone, 1e-5 * std::abs(alone));
  EXPECT_NE(first, second);
}

TEST(EvaluationPackOnGpu, an_adapter_with_numbers_that_are_none_fails_alone) {
  if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  JobBench bench("gpt2");
  bench.device = "cuda:0";
  std::vector<Job> evaluations;
  for (std::uint64_t i = 0; i < 3; ++i) {
    const Job training = bench.job(StepKind::finetune, bench.finetune_settings(), i);
    ASSERT_EQ(bench.run(training).kind, OutcomeKind::succeeded);
    Json settings = bench.evaluate_settings();
    settings.erase("generation");
    settings["metrics"] = {"loss"};
    evaluations.push_back(bench.job(StepKind::evaluate, settings, i));
    evaluations.back().inputs = {training.id};
    if (i != 1) continue;
    const auto file = bench.artifact(training) / "adapter/adapter_model.safetensors";
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    {
      const auto opened = SafetensorsFile::open(file);
      for (const std::string& name : opened->names()) {
        tensors.emplace_back(name, opened->tensor(name)->clone());
        tensors.back().second.flatten()[0].fill_(std::numeric_limits<float>::quiet_NaN());
      }
    }
    ASSERT_TRUE(write_safetensors(file, tensors, {{"format", "pt"}}).ok());
  }
  const std::vector<Outcome> packed = bench.run_pack(evaluations);
  EXPECT_EQ(packed[1].kind, OutcomeKind::failed);
  EXPECT_THAT(packed[1].error, HasSubstr("not a finite number"));
  for (const std::size_t i : {0, 2}) {
    ASSERT_EQ(packed[i].kind, OutcomeKind::succeeded) << packed[i].error;
    EXPECT_EQ(packed[i].environment.at("pack"), 2);
    EXPECT_NEAR(packed[i].metrics.at("loss"), bench.run(evaluations[i]).metrics.at("loss"), 1e-2);
  }
}

}  // namespace
}  // namespace finesweep::worker
