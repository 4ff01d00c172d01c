#include "worker/kernels/reference.h"

#include <ATen/Functions.h>
#include <ATen/TensorOperators.h>

#include <cmath>

namespace finesweep::worker::reference {

at::Tensor activate(const at::Tensor& z, Activation activation) {
  switch (activation) {
    case Activation::none:
      return z;
    case Activation::gelu:
      return at::gelu(z);
    case Activation::gelu_tanh:
      return at::gelu(z, "tanh");
    case Activation::relu:
      return at::relu(z);
    case Activation::tanh:
      return at::tanh(z);
  }
  return z;
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  const std::vector<LoraTerm>& branches, Activation activation) {
  at::Tensor y = at::matmul(x, weight.t());
  if (bias.defined()) y = y + bias;
  for (const LoraTerm& branch : branches) {
    const at::Tensor input = branch.mask.defined() ? x * branch.mask.to(x.options()) : x;
    const at::Tensor term = at::matmul(at::matmul(input, branch.a.t()), branch.b.t()) * branch.scale;
    const std::int64_t behind = y.size(1) - branch.out_begin - branch.b.size(0);
    y = y + at::constant_pad_nd(term, {branch.out_begin, behind});
  }
  return activate(y, activation);
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double epsilon,
                      const at::Tensor& output_mask) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor centred = wide - wide.mean(-1, true);
  const at::Tensor inverse = at::rsqrt((centred * centred).mean(-1, true) + epsilon);
  at::Tensor y = centred * inverse * weight + bias;
  if (output_mask.defined()) y = y * output_mask.to(y.device());
  return y.to(x.scalar_type());
}

at::Tensor add_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight,
                    const at::Tensor& bias, double epsilon, const at::Tensor& mask) {
  const at::Tensor sum = residual + (mask.defined() ? (x * mask.to(x.options())) : x);
  return layer_norm(sum, weight, bias, epsilon, {});
}

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const TokenLayout& layout, std::int64_t heads, bool first_only,
                     const std::vector<at::Tensor>& masks) {
  const std::int64_t width = query.size(1), size = width / heads;
  const auto by_head = [&](const at::Tensor& x, std::int64_t begin, std::int64_t count) {
    return x.narrow(0, begin, count).to(at::kFloat).view({count, heads, size}).transpose(0, 1);
  };
  std::vector<at::Tensor> rows;
  for (std::int64_t r = 0; r < layout.rows; ++r) {
    const std::int64_t first = layout.starts[r], keys = layout.tokens_of(r);
    const at::Tensor q = first_only ? by_head(query, r, 1) : by_head(query, first, keys);
    const at::Tensor scores = at::matmul(q, by_head(key, first, keys).transpose(1, 2)) / std::sqrt(double(size));
    at::Tensor probabilities = at::softmax(scores, -1);
    if (!masks.empty()) probabilities = probabilities * masks[r].to(probabilities.device());
    rows.push_back(at::matmul(probabilities, by_head(value, first, keys)).transpose(0, 1).reshape({-1, width}));
  }
  return at::cat(rows).to(query.scalar_type());
}

at::Tensor mean_tokens(const at::Tensor& x, const TokenLayout& layout) {
  std::vector<at::Tensor> rows;
  for (std::int64_t r = 0; r < layout.rows; ++r) {
    rows.push_back(x.narrow(0, layout.starts[r], layout.tokens_of(r)).to(at::kFloat).mean(0));
  }
  return at::stack(rows).to(x.scalar_type());
}

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double denominator) {
  return at::cross_entropy_loss(logits, labels, {}, at::Reduction::Sum) / denominator;
}

at::Tensor squared_error(const at::Tensor& values, const at::Tensor& labels, double denominator) {
  return at::mse_loss(values.view({-1}), labels, at::Reduction::Sum) / denominator;
}

void adamw(at::Tensor& parameter, at::Tensor& first, at::Tensor& second, const at::Tensor& gradient,
           double learning_rate, double weight_decay, double beta1, double beta2, double epsilon,
           std::int64_t step) {
  parameter.mul_(1 - learning_rate * weight_decay);
  first.mul_(beta1).add_(gradient, 1 - beta1);
  second.mul_(beta2).addcmul_(gradient, gradient, 1 - beta2);
  const at::Tensor denominator =
      (second.sqrt() / std::sqrt(1 - std::pow(beta2, static_cast<double>(step)))).add_(epsilon);
  parameter.addcdiv_(first, denominator, -learning_rate / (1 - std::pow(beta1, static_cast<double>(step))));
}

}  // namespace finesweep::worker::reference
