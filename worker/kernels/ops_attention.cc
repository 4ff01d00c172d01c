#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "worker/kernels/attention_choice.h"
#include "worker/kernels/cpu/attention.h"
#include "worker/kernels/differentiate.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/gpu/kernels.h"
#include "worker/kernels/gpu/ops.h"
#include "worker/kernels/gradient_watch.h"
#include "worker/kernels/ops.h"
#include "worker/kernels/profile_scope.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {
namespace {

template <typename T>
cpu::Heads<T> writable(const at::Tensor& matrix, std::int64_t column) {
  return {matrix.mutable_data_ptr<T>() + column, matrix.stride(0)};
}

template <typename T>
cpu::Heads<const T> readable(const at::Tensor& matrix, std::int64_t column) {
  return {matrix.const_data_ptr<T>() + column, matrix.stride(0)};
}

/// The options with what may be left open filled in.
AttentionOptions resolved(AttentionOptions options) {
  if (options.key_heads == 0) options.key_heads = options.heads;
  if (options.scale == 0) options.scale = 1 / std::sqrt(static_cast<double>(options.size));
  return options;
}

void check(const AttentionInputs& in, const TokenLayout& queries, const RowSpans& keys,
           const AttentionOptions& options) {
  if (options.heads < 1 || options.key_heads < 1 || options.heads % options.key_heads != 0) {
    throw std::invalid_argument("attention: the query heads are not a multiple of the key heads");
  }
  if (keys.rows() != queries.rows) throw std::invalid_argument("attention: queries and keys differ in rows");
  for (std::int64_t r = 0; r < queries.rows; ++r) {
    if (keys.count[r] < 1 || keys.begin[r] < 0 || keys.begin[r] + keys.count[r] > in.key_value.value.size(0)) {
      throw std::invalid_argument("attention: a row's keys are outside of the matrix");
    }
    if (options.causal && queries.tokens_of(r) > keys.count[r]) {
      throw std::invalid_argument("attention: a row has more queries than keys, so its first would see none");
    }
  }
}

/// No token is a key of two rows.
bool disjoint(const RowSpans& keys) {
  std::vector<std::int64_t> order(keys.begin.size());
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](auto a, auto b) { return keys.begin[a] < keys.begin[b]; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    if (keys.begin[order[i - 1]] + keys.count[order[i - 1]] > keys.begin[order[i]]) return false;
  }
  return true;
}

/// What scores get by distance, gathered from the table of buckets once a call.
struct Distances {
  std::int64_t stride = 0, zero = 0;  // as cpu::DistanceBias
  std::vector<std::int64_t> buckets;  // [stride]
  at::Tensor values;                  // [heads, stride] fp32

  Distances(const RelativeBias& bias, const TokenLayout& queries, const RowSpans& keys) {
    constexpr std::int64_t kSpare = 16;  // a vector beyond both ends
    zero = keys.longest() - 1 + kSpare;
    stride = zero + queries.longest + kSpare;
    const std::int64_t count = bias.table->rows();
    for (std::int64_t i = 0; i < stride; ++i) {
      buckets.push_back(relative_bucket(i - zero, bias.bidirectional, count, bias.max_distance));
    }
    const at::Tensor index = at::tensor(buckets, at::kLong);
    values = at::index_select(bias.table->value.to(at::kFloat).t(), 1, index).contiguous();
  }
  cpu::DistanceBias kernel_view() const { return {values.const_data_ptr<float>(), stride, zero}; }

  /// Adds the gradient of `values` to that of the table.
  void backward(const at::Tensor& d_values, Parameter& table) const {
    const std::int64_t heads = d_values.size(0);
    const float* from = d_values.const_data_ptr<float>();
    float* to = table.grad.mutable_data_ptr<float>();
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < stride; ++i) to[buckets[i] * heads + h] += from[h * stride + i];
    }
  }
};

template <typename T>
cpu::AttentionProblem<T> problem_of(const AttentionInputs& in, const TokenLayout& queries, const RowSpans& keys,
                                    const AttentionOptions& options, const Dropout& dropout,
                                    const std::shared_ptr<const Distances>& distances) {
  cpu::AttentionProblem<T> problem;
  problem.query = readable<T>(in.query.value, in.query_column);
  problem.key = readable<T>(in.key_value.value, in.key_column);
  problem.value = readable<T>(in.key_value.value, in.value_column);
  problem.heads = options.heads;
  problem.key_heads = options.key_heads;
  problem.size = options.size;
  problem.scale = static_cast<float>(options.scale);
  problem.causal = options.causal;
  problem.window = options.window;
  if (distances) problem.bias = distances->kernel_view();
  problem.queries = &queries;
  problem.keys = &keys;
  problem.dropout = dropout;
  return problem;
}

/// Gradients of the matrices that hold the inputs; what no row reads has a gradient of 0.
struct InputGradients {
  at::Tensor query, key_value;  // one where the inputs stand in one matrix

  InputGradients(const AttentionInputs& in, const RowSpans& keys, const AttentionOptions& options) {
    const std::int64_t query_width = options.heads * options.size, key_width = options.key_heads * options.size;
    const bool together = in.query.value.is_same(in.key_value.value);
    const std::int64_t read = std::accumulate(keys.count.begin(), keys.count.end(), std::int64_t{0});
    const bool whole = read == in.key_value.value.size(0) &&
                       in.key_value.value.size(1) == 2 * key_width + (together ? query_width : 0);
    key_value = whole ? at::empty_like(in.key_value.value) : at::zeros_like(in.key_value.value);
    query = key_value;
    if (together) return;
    query = in.query.value.size(1) == query_width ? at::empty_like(in.query.value) : at::zeros_like(in.query.value);
  }
};

template <typename T>
Var attention_on_cpu(Tape* tape, const AttentionInputs& in, const Layout& queries, const RowSpans& keys,
                     const AttentionOptions& options, const Dropout& dropout) {
  using Kernels = cpu::AttentionKernels<T>;
  const std::int64_t tokens = in.query.value.size(0);
  std::shared_ptr<const Distances> distances;
  Parameter* table = options.bias == nullptr ? nullptr : options.bias->table;
  if (table != nullptr) distances = std::make_shared<const Distances>(*options.bias, *queries, keys);
  const at::Tensor out = at::empty({tokens, options.heads * options.size}, in.query.value.options());
  const at::Tensor log_sum = at::empty({tokens, options.heads}, at::kFloat);
  Kernels::forward(problem_of<T>(in, *queries, keys, options, dropout, distances), writable<T>(out, 0),
                   log_sum.mutable_data_ptr<float>());
  const bool table_trained = table != nullptr && table->trained;
  if (tape == nullptr || !(in.query.needs_grad() || in.key_value.needs_grad() || table_trained)) return Var(out);

  const Var result = tape->track(out);
  tape->record([slot = result.slot, in, out, log_sum, queries, keys, options, dropout, distances, table,
                table_trained] {
    if (!slot->grad.defined()) return;
    const at::Tensor d_out = std::move(slot->grad).contiguous();
    const InputGradients d(in, keys, options);
    const at::Tensor d_values = table_trained ? at::zeros_like(distances->values) : at::Tensor();
    Kernels::backward(problem_of<T>(in, *queries, keys, options, dropout, distances), readable<T>(out, 0),
                      readable<T>(d_out, 0), log_sum.const_data_ptr<float>(), writable<T>(d.query, in.query_column),
                      writable<T>(d.key_value, in.key_column), writable<T>(d.key_value, in.value_column),
                      table_trained ? d_values.mutable_data_ptr<float>() : nullptr);
    if (table_trained) distances->backward(d_values, *table);
    if (in.key_value.slot) in.key_value.slot->add(d.key_value);
    if (!in.query.value.is_same(in.key_value.value) && in.query.slot) in.query.slot->add(d.query);
  });
  adds_to(tape, {table});
  return result;
}

Var attention_by_reference(Tape* tape, const AttentionInputs& in, const Layout& queries, const RowSpans& keys,
                           const AttentionOptions& options, const Dropout& dropout) {
  std::vector<at::Tensor> masks;
  for (std::int64_t r = 0; dropout.active() && r < queries->rows; ++r) {
    masks.push_back(
        attention_dropout_mask(dropout, *queries, r, options.heads, queries->tokens_of(r), keys.count[r]));
  }
  const bool together = in.query.value.is_same(in.key_value.value);
  std::vector<Var> inputs{in.key_value};
  if (!together) inputs.push_back(in.query);
  std::vector<Parameter*> parameters;
  if (options.bias != nullptr) parameters.push_back(options.bias->table);
  const std::int64_t width = options.heads * options.size, key_width = options.key_heads * options.size;
  return differentiate(tape, inputs, parameters, [&](const std::vector<at::Tensor>& v) {
    const at::Tensor query = (together ? v[0] : v[1]).narrow(1, in.query_column, width);
    return reference::attention(query, v[0].narrow(1, in.key_column, key_width),
                                v[0].narrow(1, in.value_column, key_width),
                                options.bias == nullptr ? at::Tensor() : v.back(), *queries, keys, options, masks);
  });
}

}  // namespace

Var attention(Tape* tape, const AttentionInputs& inputs, const Layout& queries, const RowSpans& keys,
              const AttentionOptions& options, const Dropout& dropout) {
  const ProfileScope scope("attention", OperatorGroup::attention);
  const AttentionOptions full = resolved(options);
  check(inputs, *queries, keys, full);
  if (gpu::has_kernels(inputs.query.value) && (tape == nullptr || keys.of || disjoint(keys))) {
    return gpu::attention(tape, inputs, queries, keys, full, dropout);
  }
  const bool plain = AttentionChoice::current() == AttentionKind::math || !has_kernels(inputs.query.value);
  if (plain || (tape != nullptr && !disjoint(keys))) {
    return attention_by_reference(tape, inputs, queries, keys, full, dropout);
  }
  return with_storage(inputs.query.value.scalar_type(), [&]<typename T>() {
    return attention_on_cpu<T>(tape, inputs, queries, keys, full, dropout);
  });
}

}  // namespace finesweep::worker
