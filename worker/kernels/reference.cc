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
    case Activation::silu:
      return at::silu(z);
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

at::Tensor scale_columns(const at::Tensor& x, const at::Tensor& scale, std::int64_t begin) {
  const std::int64_t behind = x.size(1) - begin - scale.numel();
  return x * at::constant_pad_nd(scale.view({-1}), {begin, behind}, 1).to(x.scalar_type());
}

at::Tensor scale_by_job(const at::Tensor& x, const at::Tensor& factors, const TokenLayout& layout) {
  const std::vector<std::int64_t> begins = layout.job_tokens();
  std::vector<at::Tensor> parts;
  for (std::size_t j = 0; j + 1 < begins.size(); ++j) {
    parts.push_back(x.narrow(0, begins[j], begins[j + 1] - begins[j]) * factors[static_cast<std::int64_t>(j)]);
  }
  parts.push_back(x.narrow(0, begins.back(), x.size(0) - begins.back()));
  return at::cat(parts);
}

at::Tensor job_sums(const at::Tensor& x, const TokenLayout& layout) {
  const std::vector<std::int64_t> begins = layout.job_tokens();
  std::vector<at::Tensor> sums;
  for (std::size_t j = 0; j + 1 < begins.size(); ++j) {
    sums.push_back(x.narrow(0, begins[j], begins[j + 1] - begins[j]).sum(0));
  }
  return at::stack(sums);
}

at::Tensor gated(const at::Tensor& z, Activation activation) {
  const std::int64_t inner = z.size(1) / 2;
  return activate(z.narrow(1, 0, inner), activation) * z.narrow(1, inner, inner);
}

at::Tensor embed(const at::Tensor& words, const at::Tensor& ids, const at::Tensor& positions,
                 const at::Tensor& position_ids, const at::Tensor& types, const at::Tensor& type_ids,
                 at::ScalarType type) {
  at::Tensor sum = at::index_select(words, 0, ids).to(at::kFloat);
  if (types.defined()) sum = sum + at::index_select(types, 0, type_ids);
  if (positions.defined()) sum = sum + at::index_select(positions, 0, position_ids);
  return sum.to(type);
}

at::Tensor norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, NormKind kind,
                double epsilon, const at::Tensor& output_mask) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor centred = kind == NormKind::layer ? wide - wide.mean(-1, true) : wide;
  const at::Tensor inverse = at::rsqrt((centred * centred).mean(-1, true) + epsilon);
  at::Tensor y = centred * inverse * weight;
  if (bias.defined()) y = y + bias;
  if (output_mask.defined()) y = y * output_mask.to(y.device());
  return y.to(x.scalar_type());
}

at::Tensor add(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& mask) {
  return residual + (mask.defined() ? x * mask.to(x.options()) : x);
}

namespace {

/// Buckets of the distances of one row, [queries, keys].
at::Tensor buckets_of(const RelativeBias& bias, std::int64_t buckets, std::int64_t queries, std::int64_t keys) {
  const at::Tensor result = at::empty({queries, keys}, at::kLong);
  std::int64_t* out = result.mutable_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < queries; ++i) {
    for (std::int64_t j = 0; j < keys; ++j) {
      *out++ = relative_bucket(j - (i + keys - queries), bias.bidirectional, buckets, bias.max_distance);
    }
  }
  return result;
}

/// True where a key is hidden from a query, [queries, keys].
at::Tensor hidden_keys(const AttentionOptions& options, std::int64_t queries, std::int64_t keys) {
  const at::Tensor position = at::arange(queries, at::kLong).unsqueeze(1) + (keys - queries);
  const at::Tensor distance = position - at::arange(keys, at::kLong).unsqueeze(0);
  at::Tensor hidden = distance.lt(0);
  if (options.window > 0) hidden = hidden.logical_or(distance.ge(options.window));
  return hidden;
}

}  // namespace

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const at::Tensor& bias, const TokenLayout& queries, const RowSpans& keys,
                     const AttentionOptions& options, const std::vector<at::Tensor>& masks) {
  const std::int64_t heads = options.heads, size = options.size;
  const std::int64_t key_heads = options.key_heads == 0 ? heads : options.key_heads;
  const double scale = options.scale == 0 ? 1 / std::sqrt(static_cast<double>(size)) : options.scale;
  const auto by_head = [&](const at::Tensor& x, std::int64_t begin, std::int64_t tokens, std::int64_t count) {
    const at::Tensor split = x.narrow(0, begin, tokens).to(at::kFloat).reshape({tokens, count, size});
    return split.transpose(0, 1).repeat_interleave(heads / count, 0);
  };
  std::vector<at::Tensor> rows;
  for (std::int64_t r = 0; r < queries.rows; ++r) {
    const std::int64_t q = queries.tokens_of(r), k = keys.count[r];
    at::Tensor scores = at::matmul(by_head(query, queries.starts[r], q, heads),
                                   by_head(key, keys.begin[r], k, key_heads).transpose(1, 2)) *
                        scale;
    if (bias.defined()) {
      const at::Tensor index = buckets_of(*options.bias, bias.size(0), q, k).to(bias.device());
      scores =
          scores + bias.to(at::kFloat).index_select(0, index.view({-1})).view({q, k, heads}).permute({2, 0, 1});
    }
    if (options.causal) scores = scores.masked_fill(hidden_keys(options, q, k).to(scores.device()), -INFINITY);
    at::Tensor probabilities = at::softmax(scores, -1);
    if (!masks.empty()) probabilities = probabilities * masks[r].to(probabilities.device());
    const at::Tensor mixed = at::matmul(probabilities, by_head(value, keys.begin[r], k, key_heads));
    rows.push_back(mixed.transpose(0, 1).reshape({q, heads * size}));
  }
  return at::cat(rows).to(query.scalar_type());
}

at::Tensor rotate(const at::Tensor& x, const RotaryTable& table, const at::Tensor& positions, std::int64_t heads,
                  std::int64_t size) {
  const std::int64_t tokens = x.size(0), turned = heads * size;
  const at::Tensor cosine = table.cosine.index_select(0, positions).unsqueeze(1);
  const at::Tensor sine = table.sine.index_select(0, positions).unsqueeze(1);
  const at::Tensor split = x.narrow(1, 0, turned).to(at::kFloat).reshape({tokens, heads, 2, size / 2});
  const at::Tensor first = split.select(2, 0), second = split.select(2, 1);
  const at::Tensor result = at::stack({first * cosine - second * sine, second * cosine + first * sine}, 2);
  const at::Tensor rest = x.narrow(1, turned, x.size(1) - turned);
  return at::cat({result.reshape({tokens, turned}).to(x.scalar_type()), rest}, 1);
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

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& bias,
                                const at::Tensor& labels, double denominator, double scale) {
  at::Tensor logits = at::matmul(hidden * scale, weight.t());
  if (bias.defined()) logits = logits + bias;
  return cross_entropy(logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat), labels, denominator);
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
