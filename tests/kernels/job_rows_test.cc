// What a pack computes of each job's rows.

#include "worker/kernels/job_rows.h"

#include "tests/kernels/support.h"

namespace finesweep::worker {
namespace {

/// Three jobs, the second of which gives nothing to this pass.
struct ThreeJobs {
  Layout first = layout_of({5, 2}, 3, 4), third = layout_of({3, 1, 6}, 0, 0);
  Layout whole = TokenLayout::pack({{first, 42, 7}, {nullptr, 43, 8}, {third, 44, 9}});
};

TEST(JobRows, a_pack_s_layout_holds_the_jobs_rows_one_behind_the_other) {
  const ThreeJobs jobs;
  const TokenLayout& whole = *jobs.whole;
  EXPECT_EQ(whole.rows, 5);
  EXPECT_EQ(whole.tokens(), 17);
  EXPECT_EQ(whole.longest, 6);
  EXPECT_EQ(whole.starts, (std::vector<std::int64_t>{0, 5, 7, 10, 11, 17}));
  EXPECT_EQ(whole.job_rows, (std::vector<std::int64_t>{0, 2, 2, 5}));
  EXPECT_EQ(whole.job_tokens(), (std::vector<std::int64_t>{0, 7, 7, 17}));
  EXPECT_EQ(whole.of_job(1), nullptr);
  EXPECT_EQ(whole.of_job(2)->starts, jobs.third->starts);
  EXPECT_EQ(whole.of_job(2)->row, jobs.third->row);
  EXPECT_EQ(whole.of_job(2)->longest, 6);
  EXPECT_EQ(whole.first_tokens()->job_tokens(), whole.job_rows);

  const std::vector<std::int32_t> numbers = device_layout_numbers(whole, 20);
  const std::vector<std::int32_t> of_jobs(numbers.begin() + 2 * 5 + 2 + 2 * 20, numbers.end());
  EXPECT_EQ(of_jobs, (std::vector<std::int32_t>{0, 0, 0, 0, 0,  0,  0,  2, 2, 2, 2, 2, 2,
                                                2, 2, 2, 2, -1, -1, -1, 0, 0, 2, 2, 2}));
}

TEST(JobRows, dropout_in_a_pack_is_that_of_the_job_alone) {
  const ThreeJobs jobs;
  const Dropout packed = make_dropout(0.3, {true, 1, 1}, 11);
  const Dropout first = make_dropout(0.3, {true, 42, 7}, 11), third = make_dropout(0.3, {true, 44, 9}, 11);
  const at::Tensor mask = dropout_mask(packed, *jobs.whole, 21);
  EXPECT_TRUE(at::equal(mask.narrow(0, 0, 7), dropout_mask(first, *jobs.first, 21)));
  EXPECT_TRUE(at::equal(mask.narrow(0, 7, 10), dropout_mask(third, *jobs.third, 21)));
  EXPECT_TRUE(at::equal(attention_dropout_mask(packed, *jobs.whole, 1, 2, 2, 2),
                        attention_dropout_mask(first, *jobs.first, 1, 2, 2, 2)));
  EXPECT_TRUE(at::equal(attention_dropout_mask(packed, *jobs.whole->of_job(2), 2, 2, 6, 6),
                        attention_dropout_mask(third, *jobs.third, 2, 2, 6, 6)));
}

TEST(JobRows, rows_that_are_split_and_joined_give_their_gradients_back) {
  Tape tape;
  const Var x = tape.track(numbers({6, 3}, 1));
  const std::vector<Var> parts = split_rows(&tape, x, {0, 2, 2, 6});
  EXPECT_FALSE(parts[1].value.defined());
  const std::vector<Var> scaled{scale(&tape, parts[0], 2), {}, scale(&tape, parts[2], 3)};
  const Var y = join_rows(&tape, scaled);
  EXPECT_EQ(y.value.size(0), 6);
  const at::Tensor d = numbers({6, 3}, 2);
  y.slot->add(d);
  tape.backward();
  EXPECT_TRUE(at::equal(x.slot->grad, at::cat({d.narrow(0, 0, 2) * 2, d.narrow(0, 2, 4) * 3})));
}

TEST(JobRows, a_gradient_that_others_hold_is_not_written_in) {
  Tape tape;
  const Var x = tape.track(numbers({4, 3}, 1));
  const std::vector<Var> parts = split_rows(&tape, x, {0, 1, 4});
  const Var y = join_rows(&tape, parts);
  const at::Tensor d = numbers({4, 3}, 2), before = d.clone();
  y.slot->add(d);
  parts[0].slot->add(at::ones({1, 3}));  // then the gradient of y is added in place
  tape.backward();
  EXPECT_TRUE(at::equal(d, before));
  EXPECT_TRUE(at::equal(x.slot->grad, at::cat({d.narrow(0, 0, 1) + 1, d.narrow(0, 1, 3)})));
}

TEST(JobRows, each_job_goes_through_its_own_module_and_has_its_own_loss) {
  const at::NoGradGuard no_graph;
  const ThreeJobs jobs;
  Parameter base = parameter(numbers({9, 8}, 1), at::kFloat, false);
  struct Adapter {
    Parameter a, b;
    LinearModule module;
  };
  std::vector<Adapter> adapters(3);
  LinearModule host;
  host.weight = &base;
  for (int j = 0; j < 3; ++j) {
    Adapter& adapter = adapters[static_cast<std::size_t>(j)];
    adapter.a = parameter(numbers({j + 1, 8}, 10 + j), at::kFloat, true);
    adapter.b = parameter(numbers({9, j + 1}, 20 + j), at::kFloat, true);
    adapter.module.weight = &base;
    adapter.module.branches.push_back({&adapter.a, &adapter.b, 0.5 * (j + 1), 0.2, 11, 0});
    host.of_jobs.push_back(&adapter.module);
  }
  EXPECT_TRUE(host.trains());
  Parameter vocabulary = parameter(numbers({30, 9}, 3), at::kFloat, false);
  LinearModule head;
  head.weight = &vocabulary;
  const at::Tensor x = numbers({17, 8}, 2);
  const at::Tensor labels = (at::arange(17, at::kLong) * 7) % 30;
  const std::vector<double> counts{7, 1, 4};

  const auto run = [&](const at::Tensor& input, const at::Tensor& of, const LinearModule& module,
                       const Layout& layout, const DropoutRun& run, const Denominator& denominator) {
    Tape tape;
    const Var hidden = linear(&tape, Var(input), module, layout, run, Activation::relu);
    const Var loss = linear_cross_entropy(&tape, hidden, head, of, denominator, 1, layout, run);
    backward(tape, loss);
    return loss.value;
  };
  const at::Tensor losses =
      run(x, labels, host, jobs.whole, {true, 1, 1}, Denominator(at::tensor(counts, at::kDouble)));
  ASSERT_EQ(losses.sizes(), (std::vector<std::int64_t>{3}));
  EXPECT_EQ(losses[1].item<double>(), 0);
  EXPECT_TRUE(at::equal(adapters[1].a.grad, at::zeros({2, 8})));
  for (const auto& [j, layout, run_alone] :
       {std::tuple(0, jobs.first, DropoutRun{true, 42, 7}), std::tuple(2, jobs.third, DropoutRun{true, 44, 9})}) {
    SCOPED_TRACE(j);
    Adapter& adapter = adapters[static_cast<std::size_t>(j)];
    const at::Tensor a = adapter.a.grad.clone(), b = adapter.b.grad.clone();
    adapter.a.zero_grad();
    adapter.b.zero_grad();
    const std::int64_t begin = j == 0 ? 0 : 7;
    const at::Tensor loss = run(x.narrow(0, begin, layout->tokens()), labels.narrow(0, begin, layout->tokens()),
                                adapter.module, layout, run_alone, counts[static_cast<std::size_t>(j)]);
    EXPECT_EQ(losses[j].item<float>(), loss.item<float>());
    EXPECT_TRUE(at::equal(adapter.a.grad, a));
    EXPECT_TRUE(at::equal(adapter.b.grad, b));
  }
}

}  // namespace
}  // namespace finesweep::worker
