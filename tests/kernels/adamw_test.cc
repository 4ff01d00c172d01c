#include "worker/training/adamw.h"

#include "tests/kernels/support.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {
namespace {

TEST(AdamW, many_parameters_with_clipping_follow_the_reference) {
  const at::NoGradGuard no_graph;
  Parameter matrix = parameter(numbers({37, 501}, 1), at::kFloat, true);
  Parameter bias = parameter(numbers({13}, 2), at::kFloat, true);
  bias.decays = false;
  Parameter table = parameter(numbers({50, 24}, 3), at::kFloat, true, true);
  const std::vector<Parameter*> parameters{&matrix, &bias, &table};
  const AdamWOptions options{0.9, 0.99, 1e-8, 0.1, 1.0};
  AdamW optimizer(parameters, options);

  std::vector<at::Tensor> weights, first, second;
  for (const Parameter* p : parameters) {
    weights.push_back(p->master.clone());
    first.push_back(at::zeros_like(p->master));
    second.push_back(at::zeros_like(p->master));
  }
  for (int step = 1; step <= 5; ++step) {
    matrix.grad.copy_(numbers({37, 501}, 10 * step) * 0.01);
    bias.grad.copy_(numbers({13}, 10 * step + 1));
    table.zero_grad();
    table.touched_rows = {step, 2 * step + 7, 49};
    for (const std::int64_t row : table.touched_rows) table.grad[row].copy_(numbers({24}, 10 * step + 2));

    double squares = 0;
    for (const Parameter* p : parameters) squares += p->grad.to(at::kDouble).square().sum().item<double>();
    const double norm = optimizer.grad_norm();
    EXPECT_NEAR(norm, std::sqrt(squares), 1e-5 * norm);
    optimizer.update(0.01 * step, step, norm);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const at::Tensor clipped = parameters[i]->grad * std::min(1.0, 1.0 / (norm + 1e-6));
      reference::adamw(weights[i], first[i], second[i], clipped, 0.01 * step, parameters[i]->decays ? 0.1 : 0, 0.9,
                       0.99, 1e-8, step);
      EXPECT_LE(relative_difference(parameters[i]->master, weights[i]), 2e-6) << i;
      EXPECT_LE(relative_difference(optimizer.moments()[i].first, first[i]), 2e-6) << i;
      EXPECT_LE(relative_difference(optimizer.moments()[i].second, second[i]), 2e-6) << i;
    }
  }
}

TEST(AdamW, in_bf16_the_weights_are_kept_in_fp32) {
  const at::NoGradGuard no_graph;
  Parameter weight = parameter(at::ones({4, 4}), at::kBFloat16, true);
  AdamW optimizer({&weight}, {0.9, 0.999, 1e-8, 0, 0});
  for (int step = 1; step <= 8; ++step) {
    weight.grad.fill_(1);
    optimizer.update(1e-4, step, optimizer.grad_norm());
  }
  EXPECT_NEAR(weight.master[0][0].item<double>(), 1 - 8e-4, 1e-6);
  EXPECT_EQ(weight.value.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::equal(weight.value, weight.master.to(at::kBFloat16)));
}

}  // namespace
}  // namespace finesweep::worker
