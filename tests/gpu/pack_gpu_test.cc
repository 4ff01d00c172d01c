// Packs on the first GPU: their kernels beside the CPU's, their steps and jobs beside those of each job alone.
// Skipped where libtorch sees no GPU.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/engine/job_bench.h"
#include "tests/gpu/gpu.h"
#include "tests/gpu/trained_model.h"
#include "tests/kernels/support.h"
#include "worker/formats/safetensors.h"
#include "worker/kernels/attention_choice.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/training/pack_trainer.h"

namespace finesweep::worker {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;

/// Three jobs, the second of which gives nothing to this pass.
struct ThreeJobs {
  Layout first = layout_of({5, 20}, 3, 4), third = layout_of({33, 1, 6, 64}, 0, 0);
  Layout whole = TokenLayout::pack({{first, 42, 7}, {nullptr, 43, 8}, {third, 44, 9}});
};

class PackKernelsOnGpu : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
    ASSERT_NE(cuda_module(), nullptr) << "libfinesweep-cuda.so is not beside the tests";
  }
  at::ScalarType type() const { return GetParam(); }
  double tolerance() const { return type() == at::kFloat ? 1e-4 : 2 * worker::tolerance(type()); }
};

INSTANTIATE_TEST_SUITE_P(Types, PackKernelsOnGpu, ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return type_name(info.param); });

TEST_P(PackKernelsOnGpu, a_token_keeps_the_ranks_of_its_own_job_whatever_the_others_hold) {
  const ThreeJobs jobs;
  for (const std::int64_t ranks : {8, 13, 64}) {
    SCOPED_TRACE(ranks);
    const std::int64_t tokens = jobs.whole->tokens();
    const at::Tensor of_columns = at::arange(ranks, at::kInt) % 4 - 1;  // nobody's, and three jobs'
    const at::Tensor scales = numbers({ranks}, 2).abs() + 0.1;
    at::Tensor x = numbers({tokens, ranks}, 1).to(type());
    at::Tensor of_tokens = at::zeros({tokens}, at::kInt);
    of_tokens.narrow(0, 25, tokens - 25).fill_(2);
    const at::Tensor own = of_tokens.unsqueeze(1).eq(of_columns.unsqueeze(0));
    at::Tensor expected = at::where(own, x.to(at::kFloat) * scales, at::zeros({}, at::kFloat)).to(type());
    // What is not a number, in the columns of others and then in its own.
    x = at::where(own, x, at::full({}, std::numeric_limits<float>::quiet_NaN(), x.options()));
    const RankColumns columns{there(of_columns), there(scales), there(at::zeros({3}, at::kInt))};
    const at::Tensor mine = there(x);
    gpu::keep_own_columns(mine, columns, jobs.whole, /*check=*/true);
    EXPECT_LE(relative_difference(mine.cpu(), expected), worker::tolerance(type()));
    EXPECT_TRUE(at::equal(columns.broken.cpu(), at::zeros({3}, at::kInt)));
    const std::int64_t column_of_third = 3;
    x[30][column_of_third].fill_(std::numeric_limits<float>::infinity());
    gpu::keep_own_columns(there(x), columns, jobs.whole, /*check=*/true);
    EXPECT_TRUE(at::equal(columns.broken.cpu(), at::tensor({0, 0, 1}, at::kInt)));
  }
}

TEST_P(PackKernelsOnGpu, dropout_is_that_of_each_job_alone) {
  const ThreeJobs jobs;
  const at::NoGradGuard no_graph;
  const Dropout packed = make_dropout(0.3, {true, 1, 1}, 11);
  const at::Tensor x = at::ones({jobs.whole->tokens(), 40}, type());
  const at::Tensor mine = dropout(nullptr, Var(there(x)), jobs.whole, packed).value.cpu();
  const at::Tensor mask = dropout_mask(packed, *jobs.whole, 40).to(type());
  EXPECT_TRUE(at::equal(mine, mask));
}

TEST_P(PackKernelsOnGpu, attention_drops_in_each_row_what_it_drops_alone) {
  const ThreeJobs jobs;
  const at::NoGradGuard no_graph;
  for (const AttentionKind kind : {AttentionKind::flash, AttentionKind::math}) {
    const AttentionChoice choice(kind);
    AttentionOptions options;
    options.heads = 2;
    options.size = 16;
    options.causal = true;
    const Dropout drop = make_dropout(0.3, {true, 1, 1}, 5);
    const at::Tensor qkv = numbers({jobs.whole->tokens(), 3 * 32}, 1).to(type());
    const at::Tensor d = numbers({jobs.whole->tokens(), 32}, 2).to(type());
    const auto run = [&](const at::Tensor& input, const at::Tensor& gradient) {
      Tape tape;
      const Var x = tape.track(input);
      const Var y = attention(&tape, {x, 0, x, 32, 64}, jobs.whole, jobs.whole->spans(), options, drop);
      y.slot->add(gradient);
      tape.backward();
      return std::pair(y.value.cpu(), x.slot->grad.cpu());
    };
    const auto expected = run(qkv, d), mine = run(there(qkv), there(d));
    EXPECT_LE(relative_difference(mine.first, expected.first), tolerance());
    EXPECT_LE(relative_difference(mine.second, expected.second), 2 * tolerance());
  }
}

TEST_P(PackKernelsOnGpu, each_job_has_its_own_loss_and_denominator) {
  const ThreeJobs jobs;
  const at::NoGradGuard no_graph;
  const std::int64_t tokens = jobs.whole->tokens(), width = 24;
  for (const std::int64_t vocabulary : {37, 50257}) {
    for (const bool indexed : {false, true}) {
      SCOPED_TRACE(::testing::Message() << vocabulary << " indexed " << indexed);
      Parameter weight = parameter(numbers({vocabulary, width}, 1) / 4, type(), false);
      LinearModule head;
      head.weight = &weight;
      at::Tensor labels = at::arange(tokens, at::kLong) * 13 % vocabulary;
      labels.masked_fill_((at::arange(tokens, at::kLong) % 3).eq(1), -100);
      const at::Tensor hidden = numbers({tokens, width}, 3).to(type());
      const at::Tensor denominators = at::tensor({17.0, 3.0, 60.0}, at::kDouble);
      const auto run = [&](const at::Tensor& x, const TokenLabels& of, const Denominator& by) {
        Tape tape;
        tape.set_loss_is_end();
        const Var input = tape.track(x);
        const Var loss = linear_cross_entropy(&tape, input, head, of, by, 1, jobs.whole, {});
        backward(tape, loss);
        return std::pair(loss.value.cpu(), input.slot->grad.cpu());
      };
      const auto expected = run(hidden, labels, Denominator(denominators));
      TokenLabels given(there(labels));
      if (indexed) {
        const at::Tensor index = at::nonzero(labels.ne(-100)).squeeze(1);
        given.index = there(at::cat({index, at::full({3}, -1, at::kLong)}));
        given.labels = there(at::cat({labels.index_select(0, index), at::full({3}, -100, at::kLong)}));
      }
      weight.value = there(weight.value);
      const auto mine = run(there(hidden), given, Denominator(there(denominators)));
      EXPECT_LE(relative_difference(mine.first, expected.first), tolerance());
      EXPECT_LE(relative_difference(mine.second, expected.second), tolerance());
      // Of a job that is left out nothing counts.
      const double infinity = std::numeric_limits<double>::infinity();
      const auto without =
          run(there(hidden), given, Denominator(there(at::tensor({infinity, 3.0, 60.0}, at::kDouble))));
      EXPECT_EQ(without.first[0].item<double>(), 0);
      EXPECT_EQ(without.first[2].item<double>(), mine.first[2].item<double>());
      EXPECT_EQ(without.second.narrow(0, 0, 25).abs().max().item<double>(), 0);
      EXPECT_TRUE(at::equal(without.second.narrow(0, 25, tokens - 25), mine.second.narrow(0, 25, tokens - 25)));
    }
  }
}

TEST_P(PackKernelsOnGpu, one_update_serves_jobs_that_differ_and_halts_them_all) {
  const at::NoGradGuard no_graph;
  const std::vector<AdamWOptions> options{{0.9, 0.99, 1e-8, 0.1, 1.0}, {0.8, 0.999, 1e-6, 0, 0}};
  const std::vector<DeviceAdamW::Step> steps{{1e-2, 3, 0.5}, {1e-3, 9, 1}};
  struct Side {
    std::vector<Parameter> parameters;
    std::vector<AdamW::Moments> moments;
  };
  std::vector<Side> sides(2);  // of two jobs: a matrix whose rows lie apart, and one of its own
  const at::Tensor grads = there(numbers({301, 24}, 7)), values = there(at::zeros({301, 24}, type()));
  std::vector<DeviceAdamW::Job> jobs(2);
  std::vector<std::unique_ptr<AdamW>> expected;
  std::vector<std::vector<Parameter>> copies(2);
  for (int j = 0; j < 2; ++j) {
    const auto at_j = static_cast<std::size_t>(j);
    Side& side = sides[at_j];
    const std::int64_t ranks = j == 0 ? 5 : 16, begin = j == 0 ? 0 : 5;
    for (const at::Tensor& value : {numbers({301, ranks}, 10 + j), numbers({7, 900}, 20 + j)}) {
      copies[at_j].push_back(parameter(value, type(), true));
      side.parameters.push_back(parameter(there(value), type(), true));
      Parameter& mine = side.parameters.back();
      side.moments.push_back({at::zeros_like(mine.master), at::zeros_like(mine.master)});
      const bool apart = side.parameters.size() == 1;
      const at::Tensor grad =
          apart ? grads.narrow(1, begin, ranks) : mine.grad.copy_(there(numbers({7, 900}, 30 + j)));
      copies[at_j].back().grad.copy_(grad);
    }
    for (std::size_t p = 0; p < 2; ++p) {
      DeviceAdamW::Tensor of{&side.parameters[p], &side.moments[p]};
      if (p == 0) {
        of.grad = grads.narrow(1, begin, ranks);
        of.value = values.narrow(1, begin, ranks);
      }
      jobs[at_j].tensors.push_back(of);
    }
    jobs[at_j].options = options[at_j];
    expected.push_back(
        std::make_unique<AdamW>(std::vector<Parameter*>{&copies[at_j][0], &copies[at_j][1]}, options[at_j]));
  }
  DeviceAdamW optimizer(jobs, there(at::zeros({2}, at::kInt)));
  at::Tensor losses = optimizer.losses();
  losses.copy_(at::tensor({4.0, 6.0}, at::kDouble));
  const auto update = [&] {
    optimizer.update(steps);
    return optimizer.results().get();
  };
  const std::vector<DeviceStepResult> results = update();
  EXPECT_EQ(results[0].loss, 2);
  EXPECT_EQ(results[1].loss, 6);
  for (std::size_t j = 0; j < 2; ++j) {
    const double norm = expected[j]->grad_norm() * steps[j].unscale;
    EXPECT_NEAR(results[j].grad_norm, norm, 1e-5 * norm);
    EXPECT_TRUE(results[j].finite);
    expected[j]->update(steps[j].learning_rate, steps[j].step, norm, steps[j].unscale);
    for (std::size_t p = 0; p < 2; ++p) {
      EXPECT_LE(relative_difference(sides[j].parameters[p].master.cpu(), copies[j][p].master), 1e-5);
    }
    const std::int64_t begin = j == 0 ? 0 : 5, ranks = j == 0 ? 5 : 16;
    EXPECT_TRUE(at::equal(values.narrow(1, begin, ranks), sides[j].parameters[0].master.to(type())));
  }
  EXPECT_EQ(grads.narrow(1, 0, 21).abs().max().item<double>(), 0);
  EXPECT_GT(grads.narrow(1, 21, 3).abs().max().item<double>(), 0);  // nobody's

  // One job's gradient is no number: nobody is updated, now or later.
  const at::Tensor before = sides[0].parameters[0].master.clone();
  sides[1].parameters[1].grad[0][0].fill_(std::numeric_limits<float>::quiet_NaN());
  sides[0].parameters[1].grad.fill_(1);
  const std::vector<DeviceStepResult> halted = update();
  EXPECT_TRUE(halted[0].finite);
  EXPECT_FALSE(halted[1].finite);
  sides[0].parameters[1].grad.fill_(1);
  update();
  EXPECT_TRUE(at::equal(sides[0].parameters[0].master, before));
  optimizer.resume();
  sides[0].parameters[1].grad.fill_(1);
  EXPECT_TRUE(update()[1].finite);
  EXPECT_FALSE(at::equal(sides[0].parameters[0].master, before));

  // A value that its type cannot hold does not reach the others' matrices, and is its job's failure.
  sides[0].parameters[0].master[3][2].fill_(std::numeric_limits<float>::infinity());
  update();
  EXPECT_TRUE(values.isfinite().all().item<bool>());
  const std::vector<DeviceStepResult> broken = update();
  EXPECT_TRUE(broken[0].broken);
  EXPECT_FALSE(broken[0].finite);
  EXPECT_TRUE(broken[1].finite);
}

struct StepCase {
  std::string model;
  at::ScalarType type = at::kFloat;
  AdapterKind kind = AdapterKind::lora;
  std::string name() const { return model + "_" + type_name(type) + (kind == AdapterKind::ia3 ? "_ia3" : ""); }
  friend void PrintTo(const StepCase& c, std::ostream* out) { *out << c.name(); }
};

class PackStepsOnGpu : public ::testing::TestWithParam<StepCase> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  }
};

INSTANTIATE_TEST_SUITE_P(Models, PackStepsOnGpu,
                         ::testing::Values(StepCase{"bert"}, StepCase{"roberta"}, StepCase{"gpt2"},
                                           StepCase{"llama"}, StepCase{"t5"}, StepCase{"gpt2", at::kBFloat16},
                                           StepCase{"gpt2", at::kHalf}, StepCase{"roberta", at::kHalf},
                                           StepCase{"bert", at::kFloat, AdapterKind::ia3},
                                           StepCase{"gpt2", at::kFloat, AdapterKind::ia3},
                                           StepCase{"llama", at::kFloat, AdapterKind::ia3},
                                           StepCase{"t5", at::kFloat, AdapterKind::ia3},
                                           StepCase{"gpt2", at::kBFloat16, AdapterKind::ia3},
                                           StepCase{"roberta", at::kHalf, AdapterKind::ia3}),
                         [](const auto& info) { return info.param.name(); });

TEST_P(PackStepsOnGpu, captured_steps_of_a_pack_are_those_of_each_job_alone_with_the_same_dropout) {
  const std::string& name = GetParam().model;
  const at::ScalarType type = GetParam().type;
  std::vector<TrainedAs> how{{.rank = 2, .alpha = 3, .seed = 1, .learning_rate = 3e-3, .type = type},
                             {.rank = 16, .alpha = 16, .seed = 2, .learning_rate = 1e-2, .type = type},
                             {.rank = 5, .alpha = 20, .seed = 3, .learning_rate = 1e-3, .type = type}};
  // Without dropout of their own, adapters in narrow types stand in one matrix with their base.
  for (TrainedAs& one : how) {
    one.adapter_dropout = type == at::kBFloat16 ? 0 : 0.2;
    one.kind = GetParam().kind;
  }
  std::vector<std::unique_ptr<TrainedModel>> alone, packed;
  std::vector<PackedTraining> jobs;
  for (const TrainedAs& one : how) {
    alone.push_back(std::make_unique<TrainedModel>(name, kGpu, one));
    packed.push_back(
        std::make_unique<TrainedModel>(name, kGpu, one, packed.empty() ? nullptr : packed.front()->pretrained));
    jobs.push_back({packed.back()->model.get(), &packed.back()->trainer->training(), one.seed});
  }
  const std::unique_ptr<Model> host = TrainedModel::host(name, *packed.front(), how.front());
  for (const PackedTraining& job : jobs) {
    const Status fits = check_trainable_in_pack(*host, *job.model, job.training->parameters());
    ASSERT_TRUE(fits.ok()) << fits.error().message;
  }
  {
    PackTrainer trainer(*host, jobs);
    for (int step = 0; step < 9; ++step) {
      SCOPED_TRACE(step);
      // Rows of several lengths, two passes for one job; then of one length.
      std::vector<std::vector<Batch>> batches;
      if (step % 2 == 0) {
        batches = {{batch_of(name, {20, 9, 14}, step)},
                   {batch_of(name, {11, 20, 5}, step + 50), batch_of(name, {7, 3}, step + 51)},
                   {batch_of(name, {18}, step + 60)}};
      } else {
        batches = {
            {batch_of(name, {32, 32}, step)}, {batch_of(name, {32, 32, 32}, step)}, {batch_of(name, {32}, step)}};
      }
      if (step % 4 == 0) trainer.rehearse(batches);  // changes nothing
      trainer.start(batches);
      const std::vector<StepReport> mine = trainer.finish();
      for (std::size_t j = 0; j < how.size(); ++j) {
        SCOPED_TRACE(j);
        const auto expected = alone[j]->trainer->step(batches[j]);
        ASSERT_TRUE(expected);
        const double rounding = type == at::kFloat ? 1 : 10;
        EXPECT_NEAR(mine[j].loss, expected->loss, rounding * 2e-3 * std::abs(expected->loss));
        // AdamW's first steps are of full length along gradients that are rounding alone: it adds up.
        EXPECT_NEAR(mine[j].grad_norm, expected->grad_norm, rounding * (1 + step) * 1e-2 * expected->grad_norm);
        EXPECT_EQ(mine[j].learning_rate, expected->learning_rate);
        EXPECT_TRUE(mine[j].finite);
        if (type == at::kHalf) {
          EXPECT_EQ(jobs[j].training->loss_scale(), alone[j]->trainer->training().loss_scale());
        }
      }
    }
    ASSERT_NE(trainer.graphs(), nullptr);
    EXPECT_GE(trainer.graphs()->captured(), 2);
    trainer.settle();
  }
  for (std::size_t j = 0; j < how.size(); ++j) {
    for (const Parameter* parameter : jobs[j].training->parameters()) {
      EXPECT_TRUE(at::equal(parameter->value, parameter->master.to(parameter->value.scalar_type())));
    }
    // Whoever leaves goes on alone.
    const std::vector<Batch> last{batch_of(name, {20, 9, 14}, 99)};
    const auto expected = alone[j]->trainer->step(last), mine = packed[j]->trainer->step(last);
    ASSERT_TRUE(expected && mine);
    EXPECT_NEAR(mine->loss, expected->loss, 2e-2 * std::abs(expected->loss));
    EXPECT_EQ(packed[j]->trainer->training().steps_done(), 10);
  }
}

/// Jobs that differ in what jobs of a pack may differ in; without dropout on a GPU they differ from the CPU's by
/// rounding alone, but here the GPU is compared with itself.
std::vector<Job> different_jobs(const JobBench& bench, const std::string& method, const std::string& precision) {
  std::vector<Json> settings(3, bench.finetune_settings(method));
  settings[0].update({{"evaluate_every", "epoch"}, {"evaluation", bench.evaluate_settings()}});
  if (settings[0].contains("rank")) {
    settings[1].update({{"rank", 16}, {"alpha", 16.0}});
    settings[2].update({{"rank", 2}, {"alpha", 3.0}});
  }
  settings[1].update(
      {{"batch_size", 5}, {"gradient_accumulation", 3}, {"schedule", "linear"}, {"learning_rate", 1e-2}});
  settings[2].update(
      {{"batch_size", 4}, {"epochs", 1}, {"schedule", "cosine"}, {"weight_decay", 0.1}, {"max_grad_norm", 0.05}});
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < settings.size(); ++i) {
    settings[i]["precision"] = precision;
    jobs.push_back(bench.job(StepKind::finetune, settings[i], 7 + i));
  }
  return jobs;
}

Job twin(const Job& job) {
  Job other = job;
  other.id = JobId::of("twin of " + job.id.hex());
  return other;
}

std::map<std::string, at::Tensor> adapter_of(const JobBench& bench, const Job& job) {
  std::map<std::string, at::Tensor> tensors;
  const auto file = SafetensorsFile::open(bench.artifact(job) / "adapter/adapter_model.safetensors");
  for (const auto& name : file->names()) tensors[name] = *file->tensor(name);
  return tensors;
}

struct JobCase {
  std::string model, method, precision;
  friend void PrintTo(const JobCase& c, std::ostream* out) {
    *out << c.model << ' ' << c.method << ' ' << c.precision;
  }
};

class PackJobsOnGpu : public ::testing::TestWithParam<JobCase> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
  }
  /// But for rounding.
  static void expect_as_alone(JobBench& bench, const Job& job, const Outcome& packed, std::int64_t pack) {
    const Outcome alone = bench.run(twin(job));
    ASSERT_EQ(alone.kind, OutcomeKind::succeeded) << alone.error;
    ASSERT_EQ(packed.kind, OutcomeKind::succeeded) << packed.error;
    EXPECT_EQ(packed.environment.at("pack"), pack);
    EXPECT_THAT(packed.metrics, Not(Contains(Key("peak_memory_mb"))));
    const bool exact = GetParam().precision == "fp32";
    EXPECT_NEAR(packed.metrics.at("loss"), alone.metrics.at("loss"), exact ? 0.01 : 0.1);
    ASSERT_EQ(packed.history.size(), alone.history.size());
    if (!exact) return;
    const auto mine = adapter_of(bench, job), expected = adapter_of(bench, twin(job));
    // AdamW takes a step of full length along a gradient that is rounding alone: most values agree much better.
    double difference = 0, values = 0;
    for (const auto& [name, tensor] : expected) {
      difference += (mine.at(name) - tensor).abs().sum().item<double>();
      values += tensor.abs().sum().item<double>();
    }
    EXPECT_LE(difference / values, 1e-2);
  }
};

INSTANTIATE_TEST_SUITE_P(Jobs, PackJobsOnGpu,
                         ::testing::Values(JobCase{"gpt2", "lora", "fp32"}, JobCase{"bert", "lora", "fp32"},
                                           JobCase{"llama", "qlora", "fp32"}, JobCase{"roberta", "lora", "bf16"},
                                           JobCase{"gpt2", "lora", "bf16"}, JobCase{"t5", "lora", "fp32"},
                                           JobCase{"gpt2", "qlora", "bf16"}, JobCase{"bert", "lora", "fp16"},
                                           JobCase{"gpt2", "ia3", "fp32"}, JobCase{"bert", "ia3", "fp32"},
                                           JobCase{"t5", "ia3", "fp32"}, JobCase{"llama", "ia3", "bf16"}),
                         [](const auto& info) {
                           return info.param.model + "_" + info.param.method + "_" + info.param.precision;
                         });

TEST_P(PackJobsOnGpu, each_job_comes_to_what_it_comes_to_alone) {
  JobBench bench(GetParam().model);
  bench.device = "cuda:0";
  const std::vector<Job> jobs = different_jobs(bench, GetParam().method, GetParam().precision);
  const std::vector<Outcome> packed = bench.run_pack(jobs);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    SCOPED_TRACE(i);
    expect_as_alone(bench, jobs[i], packed[i], 3);
  }
}

TEST_P(PackJobsOnGpu, who_joins_a_pack_that_runs_comes_to_what_it_comes_to_alone) {
  JobBench bench(GetParam().model);
  bench.device = "cuda:0";
  std::vector<Job> jobs;
  for (const int steps : {3, 130}) {
    Json settings = bench.finetune_settings(GetParam().method);
    settings.erase("epochs");
    settings.update({{"steps", steps}, {"precision", GetParam().precision}});
    jobs.push_back(bench.job(StepKind::finetune, settings, 5));
  }
  const std::vector<Job> joining = different_jobs(bench, GetParam().method, GetParam().precision);
  const std::vector<Outcome> packed = bench.run_pack(jobs, {}, {joining});
  ASSERT_EQ(packed.size(), 5u);
  for (std::size_t i = 0; i < joining.size(); ++i) {
    SCOPED_TRACE(i);
    expect_as_alone(bench, joining[i], packed[2 + i], 4);
  }
  EXPECT_EQ(packed[0].environment.at("pack"), 2);
  ASSERT_EQ(packed[1].kind, OutcomeKind::succeeded) << packed[1].error;
  EXPECT_EQ(packed[1].environment.at("pack"), 4);
  EXPECT_GT(std::ranges::find(bench.ended(), 1u), std::ranges::find(bench.ended(), 4u))
      << "they did not wait for it";
}

class PacksOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << "libtorch sees no GPU here";
    bench_.device = "cuda:0";
  }
  /// The same number of steps, so that all leave together.
  std::vector<Job> even_jobs(double last_learning_rate, const std::string& precision) const {
    std::vector<Job> jobs;
    for (int i = 0; i < 4; ++i) {
      Json settings = bench_.finetune_settings();
      settings.update({{"rank", 2 + 3 * i}, {"precision", precision}, {"attention", "math"}});
      if (i == 2) settings["learning_rate"] = last_learning_rate;
      Job job = bench_.job(StepKind::finetune, settings, 7 + static_cast<std::uint64_t>(i));
      job.id = JobId::of(settings.dump() + std::to_string(last_learning_rate));
      jobs.push_back(job);
    }
    return jobs;
  }

  JobBench bench_{"gpt2"};
};

TEST_F(PacksOnGpu, the_others_do_not_notice_that_a_job_diverges) {
  for (const char* precision : {"fp32", "bf16"}) {
    SCOPED_TRACE(precision);
    const std::vector<Job> calm = even_jobs(1e-3, precision), wild = even_jobs(1e30, precision);
    const std::vector<Outcome> expected = bench_.run_pack(calm), mine = bench_.run_pack(wild);
    EXPECT_EQ(mine[2].kind, OutcomeKind::failed);
    EXPECT_TRUE(mine[2].permanent);
    EXPECT_THAT(mine[2].error, HasSubstr("The training diverged"));
    EXPECT_EQ(bench_.ended().front(), 2);
    for (const std::size_t i : {0, 1, 3}) {
      SCOPED_TRACE(i);
      ASSERT_EQ(expected[i].kind, OutcomeKind::succeeded) << expected[i].error;
      ASSERT_EQ(mine[i].kind, OutcomeKind::succeeded) << mine[i].error;
      EXPECT_EQ(reproducible(expected[i]), reproducible(mine[i]));
      const char* file = "adapter/adapter_model.safetensors";
      EXPECT_TRUE(read_bytes(bench_.artifact(calm[i]) / file) == read_bytes(bench_.artifact(wild[i]) / file));
    }
  }
}

TEST_F(PacksOnGpu, a_member_that_is_stopped_goes_on_alone) {
  const std::vector<Job> jobs = different_jobs(bench_, "lora", "fp32");
  RecordingControl control, again;
  control.stop = [&] { return control.reports.size() > 5; };
  const std::vector<Outcome> first = bench_.run_pack(jobs, {&control});
  EXPECT_EQ(first[0].kind, OutcomeKind::interrupted);
  EXPECT_EQ(first[1].kind, OutcomeKind::succeeded) << first[1].error;
  EXPECT_EQ(first[2].kind, OutcomeKind::succeeded) << first[2].error;
  const Outcome resumed = bench_.run(jobs[0], again), alone = bench_.run(twin(jobs[0]));
  ASSERT_EQ(resumed.kind, OutcomeKind::succeeded) << resumed.error;
  EXPECT_GT(again.reports[1].done, 3);
  EXPECT_NEAR(resumed.metrics.at("loss"), alone.metrics.at("loss"), 0.01);
}

TEST_F(PacksOnGpu, the_others_do_not_notice_that_an_ia3_job_diverges) {
  std::vector<std::vector<Outcome>> outcomes;
  std::vector<std::vector<Job>> runs;
  for (const double learning_rate : {1e-3, 1e30}) {
    std::vector<Job>& jobs = runs.emplace_back();
    for (std::uint64_t i = 0; i < 3; ++i) {
      Json settings = bench_.finetune_settings("ia3");
      settings["attention"] = "math";
      if (i == 1) settings["learning_rate"] = learning_rate;
      jobs.push_back(bench_.job(StepKind::finetune, settings, i));
      jobs.back().id = JobId::of(settings.dump() + std::to_string(learning_rate) + std::to_string(i));
    }
    outcomes.push_back(bench_.run_pack(jobs));
  }
  EXPECT_EQ(outcomes[1][1].kind, OutcomeKind::failed);
  EXPECT_THAT(outcomes[1][1].error, HasSubstr("The training diverged"));
  for (const std::size_t i : {0, 2}) {
    ASSERT_EQ(outcomes[0][i].kind, OutcomeKind::succeeded) << outcomes[0][i].error;
    ASSERT_EQ(outcomes[1][i].kind, OutcomeKind::succeeded) << outcomes[1][i].error;
    EXPECT_EQ(outcomes[0][i].environment.at("pack"), 3);
    EXPECT_EQ(reproducible(outcomes[0][i]), reproducible(outcomes[1][i]));
    const char* file = "adapter/adapter_model.safetensors";
    EXPECT_TRUE(read_bytes(bench_.artifact(runs[0][i]) / file) == read_bytes(bench_.artifact(runs[1][i]) / file));
  }
}

}  // namespace
}  // namespace finesweep::worker
