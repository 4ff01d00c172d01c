// Training on several devices gives what one gives. Here the devices are processes on the CPU.

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "jobs/settings.h"
#include "storage/checkpoint.h"
#include "tests/engine/rank_processes.h"
#include "tests/engine/temporary_folder.h"
#include "worker/collectives/process_group.h"
#include "worker/engine/job_model.h"
#include "worker/engine/task_data.h"
#include "worker/training/gradient_sum.h"

namespace finesweep::worker {
namespace {

// Sums over rows in another order differ by roundings, which training carries on.
constexpr double kTolerance = 2e-5;

struct ParallelCase {
  std::string name, model, method;
  int ranks;
  Json settings = Json::object();
};
void PrintTo(const ParallelCase& c, std::ostream* out) {
  *out << c.name;
}

class DataParallel : public testing::TestWithParam<ParallelCase> {};

TEST_P(DataParallel, gives_the_losses_and_weights_of_one_device) {
  JobBench bench(GetParam().model);
  Json settings = bench.finetune_settings(GetParam().method);
  settings.update(GetParam().settings);
  Job alone = bench.job(StepKind::finetune, settings);
  Job together = alone;
  together.id = JobId::of("together");
  together.gpus = GetParam().ranks;
  RankBench ranks(bench);
  const Outcome one = bench.run(alone), many = ranks.run(together);
  ASSERT_EQ(one.kind, OutcomeKind::succeeded) << one.error;
  ASSERT_EQ(many.kind, OutcomeKind::succeeded) << many.error;
  ASSERT_EQ(one.history.size(), many.history.size());
  for (std::size_t i = 0; i < one.history.size(); ++i) {
    EXPECT_EQ(one.history[i].metric, many.history[i].metric);
    EXPECT_NEAR(one.history[i].value, many.history[i].value, kTolerance * (1 + std::abs(one.history[i].value)));
  }
  const std::string file =
      GetParam().method == "full" ? "model/model.safetensors" : "adapter/adapter_model.safetensors";
  expect_same_weights(bench.artifact(alone) / file, ranks.staging(together) / "artifact" / file);
}

INSTANTIATE_TEST_SUITE_P(
    Cases, DataParallel,
    testing::Values(
        ParallelCase{"lora_with_dropout_on_2", "bert", "lora", 2},
        ParallelCase{"lora_on_3_with_odd_batches", "bert", "lora", 3, {{"batch_size", 7}}},
        ParallelCase{"full_on_2_with_odd_batches", "bert", "full", 2, {{"batch_size", 9}}},
        ParallelCase{"a_batch_smaller_than_the_ranks", "bert", "full", 3, {{"batch_size", 2}, {"epochs", 1}}},
        ParallelCase{"accumulation", "bert", "lora", 2, {{"batch_size", 3}, {"gradient_accumulation", 3}}},
        ParallelCase{"qlora", "roberta", "qlora", 2},
        ParallelCase{"a_decoder_whose_head_is_its_table", "gpt2", "full", 2, {{"epochs", 1}}},
        ParallelCase{"layers_computed_again", "gpt2", "full", 2, {{"epochs", 1}, {"gradient_checkpointing", true}}},
        ParallelCase{"an_encoder_and_decoder", "t5", "full", 2, {{"epochs", 1}}},
        ParallelCase{"llama", "llama", "lora", 2, {{"epochs", 1}}}),
    [](const auto& info) { return info.param.name; });

TEST(DataParallelRun, evaluations_while_training_are_the_leaders_and_the_others_wait) {
  JobBench bench;
  Json settings = bench.finetune_settings();
  settings["evaluate_every"] = 3;
  settings["evaluation"] = bench.evaluate_settings();
  Job alone = bench.job(StepKind::finetune, settings), together = alone;
  together.id = JobId::of("together");
  together.gpus = 2;
  const Outcome one = bench.run(alone), two = RankBench(bench).run(together);
  ASSERT_EQ(two.kind, OutcomeKind::succeeded) << two.error;
  ASSERT_EQ(one.history.size(), two.history.size());
  for (std::size_t i = 0; i < one.history.size(); ++i) {
    EXPECT_EQ(one.history[i].global_step, two.history[i].global_step);
    EXPECT_NEAR(one.history[i].value, two.history[i].value, 1e-3) << one.history[i].metric;
  }
}

TEST(DataParallelRun, a_distillation_follows_its_teacher_as_one_device_does) {
  JobBench bench("gpt2");
  const Job teaching = bench.job(StepKind::finetune, bench.finetune_settings("full"), 3);
  ASSERT_EQ(bench.run(teaching).kind, OutcomeKind::succeeded);
  Json settings = bench.finetune_settings("full");
  settings.erase("method");
  settings.update(
      {{"teacher", (bench.artifact(teaching) / "model").string()}, {"temperature", 2.0}, {"alpha", 0.5}});
  Job alone = bench.job(StepKind::distill, settings), together = alone;
  together.id = JobId::of("together");
  together.gpus = 2;
  const Outcome one = bench.run(alone), two = RankBench(bench).run(together);
  ASSERT_EQ(two.kind, OutcomeKind::succeeded) << two.error;
  ASSERT_EQ(one.history.size(), two.history.size());
  for (std::size_t i = 0; i < one.history.size(); ++i)
    EXPECT_NEAR(one.history[i].value, two.history[i].value, 1e-4 * (1 + std::abs(one.history[i].value)));
}

TEST(DataParallelRun, what_the_leader_is_told_all_do_and_it_goes_on_from_its_checkpoint) {
  JobBench bench;
  const Json settings = bench.finetune_settings();
  Job whole = bench.job(StepKind::finetune, settings), stopped = whole;
  whole.gpus = stopped.gpus = 2;
  stopped.id = JobId::of("stopped");
  RankBench ranks(bench);
  const Outcome expected = ranks.run(whole);
  ASSERT_EQ(expected.kind, OutcomeKind::succeeded) << expected.error;
  ranks.environment[kStopAt] = "5";
  EXPECT_EQ(ranks.run(stopped).kind, OutcomeKind::interrupted);
  ASSERT_TRUE(storage::newest_valid_checkpoint({ranks.staging(stopped) / "checkpoints"}, nullptr).has_value());
  ranks.environment.clear();
  const Outcome resumed = ranks.run(stopped);
  ASSERT_EQ(resumed.kind, OutcomeKind::succeeded) << resumed.error;
  EXPECT_EQ(reproducible(resumed), reproducible(expected)) << "bit for bit";
}

TEST(DataParallelRun, a_training_that_diverges_fails_on_all_ranks) {
  JobBench bench;
  Json settings = bench.finetune_settings("full");
  settings["learning_rate"] = 1e30;
  settings["max_grad_norm"] = 0.0;
  Job job = bench.job(StepKind::finetune, settings);
  job.gpus = 2;
  const Outcome outcome = RankBench(bench).run(job);
  EXPECT_EQ(outcome.kind, OutcomeKind::failed);
  EXPECT_TRUE(outcome.permanent);
  EXPECT_THAT(outcome.error, testing::HasSubstr("diverged"));
}

TEST(DataParallelRun, other_steps_run_on_one_device) {
  JobBench bench;
  Job job = bench.job(StepKind::evaluate, bench.evaluate_settings("test"));
  job.gpus = 2;
  EXPECT_THAT(RankBench(bench).run(job).error, testing::HasSubstr("runs on one device"));
}

// ---- what ranks give each other

TEST(ProcessGroup, sums_parts_gathers_them_and_takes_what_any_rank_gives) {
  constexpr int kRanks = 3;
  TemporaryFolder folder;
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < kRanks; ++rank) {
    ranks.emplace_back([&, rank] {
      GroupOptions options;
      options.rank = rank;
      options.size = kRanks;
      options.rendezvous = folder.path() / "rendezvous";
      const auto group = ProcessGroup::join(options);
      const at::Tensor values = at::arange(6, at::kFloat).add_(rank);  // the sums are 3, 6, 9, …
      group->start_scattered_sum(values);
      group->finish_sums();
      at::Tensor expected = at::zeros({6});
      for (const int i : {2 * rank, 2 * rank + 1}) expected[i] = 3.0 * i + 3;
      EXPECT_TRUE(values.equal(expected)) << values;
      const at::Tensor weights = values.to(at::kBFloat16);
      group->start_gather(weights);
      group->finish_sums();
      EXPECT_TRUE(weights.to(at::kFloat).equal(at::arange(6, at::kFloat).mul_(3).add_(3))) << weights;
      const at::Tensor mine = at::full({2}, rank, at::kLong);
      group->broadcast(mine, 1);
      EXPECT_TRUE(mine.equal(at::full({2}, 1, at::kLong))) << mine;
    });
  }
  for (std::thread& rank : ranks) rank.join();
}

// ---- which gradients are whole when

/// Alone, but it keeps what it was given to sum, to see whether it still changes.
class WatchingGroup final : public ProcessGroup {
 public:
  WatchingGroup() : ProcessGroup(GroupOptions()) {}
  void start_sum(const at::Tensor& values, const Mark*) override { started.emplace_back(values, values.clone()); }
  void start_scattered_sum(const at::Tensor& values, const Mark* after) override { start_sum(values, after); }
  void start_gather(const at::Tensor&) override {}
  void finish_sums() override {}
  void broadcast(const at::Tensor&, int) override {}
  void start_word(std::int64_t) override {}
  std::int64_t finish_word() override { return 0; }
  double greatest(double value) override { return value; }

  std::vector<std::pair<at::Tensor, at::Tensor>> started;
};

class WholeGradients : public testing::TestWithParam<std::pair<const char*, const char*>> {};

TEST_P(WholeGradients, leave_while_the_way_back_goes_on_and_do_not_change_any_more) {
  const auto [model, method] = GetParam();
  JobBench bench(model);
  const auto context = read_job_context(bench.context);
  ASSERT_TRUE(context.ok());
  ModelSource source;
  source.model = source.tokenizer = bench.model();
  const auto settings = read_finetune_settings(bench.finetune_settings(method));
  ASSERT_TRUE(settings.ok()) << settings.error().message;
  const auto task = make_job_task(*context, source, settings->training.pooling);
  ASSERT_TRUE(task.ok());
  const auto rows = (*task)->read_training(48);
  ASSERT_TRUE(rows.ok());
  auto loaded = load_trained(source, (*task)->head(), *settings, 7, c10::kCPU);
  ASSERT_TRUE(loaded.ok()) << loaded.error().message;
  const auto parameters = loaded->trained_parameters();
  for (Parameter* parameter : parameters) parameter->is_table = false;  // its rows would be summed last

  WatchingGroup group;
  GradientSum sum(parameters, group, {.bucket_bytes = 1});
  ASSERT_EQ(sum.buckets(), parameters.size());
  const std::vector<std::int64_t> numbers{0, 1, 2, 3, 4};
  Tape tape;
  const auto watch = sum.watch(tape);
  Pass pass;
  pass.tape = &tape;
  pass.dropout = {true, 7, 0, nullptr};
  const Var loss = loaded->model->loss((*rows)->batch(numbers), pass, 5.0);
  EXPECT_TRUE(group.started.empty());
  backward(tape, loss);
  EXPECT_EQ(group.started.size(), sum.buckets()) << "some step does not say what it adds to";
  for (const auto& [values, then] : group.started) EXPECT_TRUE(values.equal(then)) << "it was not whole";
}

INSTANTIATE_TEST_SUITE_P(Models, WholeGradients,
                         testing::Values(std::pair{"bert", "full"}, std::pair{"bert", "lora"},
                                         std::pair{"bert", "ia3"}, std::pair{"roberta", "full"},
                                         std::pair{"gpt2", "full"}, std::pair{"gpt2", "lora"},
                                         std::pair{"gpt_neo", "full"}, std::pair{"llama", "full"},
                                         std::pair{"t5", "full"}, std::pair{"t5", "ia3"},
                                         std::pair{"t5_v11", "full"}),
                         [](const auto& info) { return std::string(info.param.first) + "_" + info.param.second; });

}  // namespace
}  // namespace finesweep::worker
