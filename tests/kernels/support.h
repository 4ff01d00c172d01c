#pragma once

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "worker/kernels/ops.h"

namespace finesweep::worker {

/// Sizes that divide by nothing, beside such that fill vectors exactly.
struct Sizes {
  std::vector<std::int64_t> lengths;  // tokens of each row
  std::int64_t heads = 1, head_size = 1;
  std::int64_t width() const { return heads * head_size; }
};

inline const std::vector<Sizes>& odd_sizes() {
  static const std::vector<Sizes> sizes = {
      {{1}, 1, 1}, {{5, 1, 3}, 3, 26}, {{17, 33, 16}, 2, 16}, {{70, 2, 41, 64}, 5, 7}, {{131}, 1, 65},
  };
  return sizes;
}

/// Rows of these lengths with `padding` masked positions behind the longest.
inline Layout layout_of(const std::vector<std::int64_t>& lengths, std::int64_t padding = 3,
                        std::int64_t first_row = 0) {
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const at::Tensor mask = at::zeros({static_cast<std::int64_t>(lengths.size()), longest + padding}, at::kLong);
  for (std::size_t r = 0; r < lengths.size(); ++r)
    mask[static_cast<std::int64_t>(r)].narrow(0, 0, lengths[r]).fill_(1);
  return TokenLayout::of_mask(mask, first_row);
}

/// The same numbers in every run: values of a smooth pseudo-random function, of deviation about 1.
inline at::Tensor numbers(at::IntArrayRef shape, int salt) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  const at::Tensor i = at::arange(count, at::kDouble) + 1000.0 * salt + 1;
  return (at::frac(at::sin(i * 12.9898) * 43758.5453) * 1.7).to(at::kFloat).view(shape);
}

inline Parameter parameter(const at::Tensor& value, at::ScalarType type, bool trained, bool is_table = false) {
  Parameter p;
  p.parts.push_back({"p", value.size(0)});
  p.value = value.to(type);
  p.is_table = is_table;
  if (trained) p.train(type);
  return p;
}

/// Largest difference relative to the largest element of the expected tensor (plus a little).
inline double relative_difference(const at::Tensor& mine, const at::Tensor& expected) {
  EXPECT_EQ(mine.sizes(), expected.sizes());
  const at::Tensor a = mine.to(at::kDouble), b = expected.to(at::kDouble);
  return ((a - b).abs().max() / (b.abs().max() + 1e-3)).item<double>();
}

/// A run that drops, in its seventh step.
inline const DropoutRun kRun{true, 42, 7};

inline std::string type_name(at::ScalarType type) {
  return type == at::kFloat ? "fp32" : type == at::kHalf ? "fp16" : "bf16";
}

/// fp32 to rounding, bf16 to its eight bits, fp16 to its eleven.
inline double tolerance(at::ScalarType type) {
  return type == at::kFloat ? 2e-5 : type == at::kHalf ? 1e-2 : 3e-2;
}

/// What an operation computes from inputs, and the gradients of these and of parameters for a given gradient of the
/// result: by the kernels, or by libtorch through the reference.
struct PassResult {
  at::Tensor value;
  std::vector<at::Tensor> gradients;
};

/// `operation` gets the tracked inputs; `parameters` follow them in PassResult::gradients.
inline PassResult run_kernel(const std::vector<at::Tensor>& inputs, const std::vector<Parameter*>& parameters,
                             const std::function<Var(Tape*, const std::vector<Var>&)>& operation, int salt) {
  const at::NoGradGuard no_graph;
  Tape tape;
  std::vector<Var> vars;
  for (const at::Tensor& input : inputs) vars.push_back(tape.track(input.clone()));
  const Var result = operation(&tape, vars);
  PassResult outcome{result.value.clone(), {}};
  result.slot->add(numbers(result.value.sizes(), salt).to(result.value.scalar_type()));
  tape.backward();
  for (const Var& var : vars) outcome.gradients.push_back(var.slot->grad);
  for (const Parameter* p : parameters) outcome.gradients.push_back(p->grad.clone());
  return outcome;
}

/// The reference in fp32 or fp64, from the values that the kernels were given.
inline PassResult run_reference(const std::vector<at::Tensor>& inputs, const std::vector<Parameter*>& parameters,
                                const std::function<at::Tensor(const std::vector<at::Tensor>&)>& operation,
                                int salt, at::ScalarType computed_in = at::kFloat) {
  const at::AutoGradMode graph(true);
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(input.to(computed_in, false, true).requires_grad_(true));
  for (const Parameter* p : parameters)
    leaves.push_back(p->value.to(computed_in, false, true).requires_grad_(true));
  const at::Tensor value = operation(leaves);
  value.backward(numbers(value.sizes(), salt).view(value.sizes()));
  PassResult outcome{value.detach(), {}};
  for (const at::Tensor& leaf : leaves) outcome.gradients.push_back(leaf.grad());
  return outcome;
}

inline void expect_same(const PassResult& mine, const PassResult& expected, double tolerance) {
  EXPECT_LE(relative_difference(mine.value, expected.value), tolerance) << "value";
  ASSERT_EQ(mine.gradients.size(), expected.gradients.size());
  for (std::size_t i = 0; i < mine.gradients.size(); ++i) {
    ASSERT_TRUE(mine.gradients[i].defined()) << i;
    EXPECT_LE(relative_difference(mine.gradients[i], expected.gradients[i]), tolerance) << "gradient " << i;
  }
}

}  // namespace finesweep::worker
