// IA3 of a pack side by side, in plain tensor operations, beside what each job computes alone.

#include "worker/training/scale_groups.h"

#include "tests/kernels/scaled_jobs.h"

namespace finesweep::worker {
namespace {

class ScaleGroupsOf : public ::testing::TestWithParam<at::ScalarType> {};

INSTANTIATE_TEST_SUITE_P(Types, ScaleGroupsOf, ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                         [](const auto& info) { return type_name(info.param); });

TEST_P(ScaleGroupsOf, each_job_s_tokens_and_gradients_are_those_of_the_job_alone) {
  const at::NoGradGuard no_graph;
  const at::ScalarType type = GetParam();
  // The second job gives nothing to this pass.
  const Layout first = layout_of({5, 2}), third = layout_of({3, 1, 6});
  const Layout whole = TokenLayout::pack({{first, 42, 7}, {nullptr, 43, 8}, {third, 44, 9}});
  for (const Activation activation : {Activation::none, Activation::relu}) {
    ScaledJobs scaled(type, at::kCPU);
    const at::Tensor x = numbers({17, ScaledJobs::kIn}, 3).to(type);
    const at::Tensor dy = numbers({17, ScaledJobs::kOut}, 4).to(type);
    {
      const ScaleGroups groups(scaled.host_modules(), scaled.job_modules());
      EXPECT_TRUE(scaled.host.trains());
      EXPECT_EQ(scaled.host.scales.size(), 3u);
      const ScaledJobs::Result packed = ScaledJobs::run(scaled.host, x, dy, whole, activation);
      for (const auto& [j, layout, begin] : {std::tuple(0, first, 0), std::tuple(2, third, 7)}) {
        SCOPED_TRACE(j);
        const std::int64_t count = layout->tokens();
        const ScaledJobs::Job& job = scaled.jobs[static_cast<std::size_t>(j)];
        const ScaledJobs::Result alone =
            ScaledJobs::run(job.module, x.narrow(0, begin, count), dy.narrow(0, begin, count), layout, activation);
        EXPECT_LE(relative_difference(packed.y.narrow(0, begin, count), alone.y), tolerance(type));
        EXPECT_LE(relative_difference(packed.dx.narrow(0, begin, count), alone.dx), tolerance(type));
        for (const auto& scale : job.scales) {
          const PackViews views = groups.views(scale.get());
          EXPECT_TRUE(at::equal(views.value, scale->value));
          EXPECT_LE(relative_difference(views.grad, scale->grad), tolerance(type));
        }
      }
      for (const auto& scale : scaled.jobs[1].scales) {
        EXPECT_EQ(groups.views(scale.get()).grad.abs().max().item<double>(), 0);
      }
      EXPECT_FALSE(groups.views(&scaled.weight).value.defined());
    }
    EXPECT_TRUE(scaled.host.scales.empty());
  }
}

TEST(ScaleGroups, some_columns_alone_are_multiplied_by_their_own_numbers) {
  const at::NoGradGuard no_graph;
  const Layout first = layout_of({4}), second = layout_of({3, 2});
  const Layout whole = TokenLayout::pack({{first, 1, 0}, {second, 2, 0}, {nullptr, 3, 0}});
  ScaledJobs scaled(at::kFloat, at::kCPU);
  const at::Tensor x = numbers({9, ScaledJobs::kIn}, 3);
  const ScaleGroups groups(scaled.host_modules(), scaled.job_modules());
  const auto columns = [&](const LinearModule& module, const at::Tensor& input, const Layout& layout) {
    return linear(nullptr, Var(input), module, layout, {}, Activation::none, 12, 20).value;
  };
  const at::Tensor packed = columns(scaled.host, x, whole);
  EXPECT_LE(relative_difference(packed.narrow(0, 0, 4), columns(scaled.jobs[0].module, x.narrow(0, 0, 4), first)),
            1e-5);
  EXPECT_LE(relative_difference(packed.narrow(0, 4, 5), columns(scaled.jobs[1].module, x.narrow(0, 4, 5), second)),
            1e-5);
}

}  // namespace
}  // namespace finesweep::worker
