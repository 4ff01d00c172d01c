#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "worker/kernels/cpu/attention.h"
#include "worker/kernels/differentiate.h"
#include "worker/kernels/dispatch.h"
#include "worker/kernels/ops.h"
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

template <typename T>
Var attention_on_cpu(Tape* tape, const AttentionInputs& in, const Layout& queries, const RowSpans& keys,
                     const AttentionOptions& options, const Dropout& dropout) {
  using Kernels = cpu::AttentionKernels<T>;
  const std::int64_t tokens = in.query.value.size(0), width = options.heads * options.size;
  const cpu::AttentionShape shape{options.heads, options.size, static_cast<float>(options.scale)};
  const at::Tensor out = at::empty({tokens, width}, in.query.value.options());
  const at::Tensor log_sum = at::empty({tokens, options.heads}, at::kFloat);
  Kernels::forward(readable<T>(in.query.value, in.query_column), readable<T>(in.key_value.value, in.key_column),
                   readable<T>(in.key_value.value, in.value_column), writable<T>(out, 0),
                   log_sum.mutable_data_ptr<float>(), shape, *queries, keys, dropout);
  if (tape == nullptr || !(in.query.needs_grad() || in.key_value.needs_grad())) return Var(out);

  const Var result = tape->track(out);
  tape->record([slot = result.slot, in, out, log_sum, shape, queries, keys, dropout, width] {
    if (!slot->grad.defined()) return;
    const at::Tensor d_out = std::move(slot->grad).contiguous();
    const bool together = in.query.value.is_same(in.key_value.value);
    // Tokens and columns that no row reads get a gradient of 0.
    const std::int64_t columns = (together ? 3 : 2) * width;
    const bool whole =
        columns == in.key_value.value.size(1) &&
        std::accumulate(keys.count.begin(), keys.count.end(), std::int64_t{0}) == in.key_value.value.size(0);
    const at::Tensor d_key_value = whole ? at::empty_like(in.key_value.value) : at::zeros_like(in.key_value.value);
    const at::Tensor d_query = together                          ? d_key_value
                               : in.query.value.size(1) == width ? at::empty_like(in.query.value)
                                                                 : at::zeros_like(in.query.value);
    Kernels::backward(readable<T>(in.query.value, in.query_column), readable<T>(in.key_value.value, in.key_column),
                      readable<T>(in.key_value.value, in.value_column), readable<T>(out, 0), readable<T>(d_out, 0),
                      log_sum.const_data_ptr<float>(), writable<T>(d_query, in.query_column),
                      writable<T>(d_key_value, in.key_column), writable<T>(d_key_value, in.value_column), shape,
                      *queries, keys, dropout);
    if (in.key_value.slot) in.key_value.slot->add(d_key_value);
    if (!together && in.query.slot) in.query.slot->add(d_query);
  });
  return result;
}

Var attention_by_reference(Tape* tape, const AttentionInputs& in, const Layout& queries, const RowSpans& keys,
                           const AttentionOptions& options, const Dropout& dropout) {
  std::vector<at::Tensor> masks;
  for (std::int64_t r = 0; dropout.active() && r < queries->rows; ++r) {
    masks.push_back(attention_dropout_mask(dropout, queries->first_row + r, options.heads, queries->tokens_of(r),
                                           keys.count[r]));
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
  const AttentionOptions full = resolved(options);
  check(inputs, *queries, keys, full);
  const bool plain = !full.causal && full.bias == nullptr && full.key_heads == full.heads;
  if (!has_kernels(inputs.query.value) || !plain || (tape != nullptr && !disjoint(keys))) {
    return attention_by_reference(tape, inputs, queries, keys, full, dropout);
  }
  return with_storage(inputs.query.value.scalar_type(), [&]<typename T>() {
    return attention_on_cpu<T>(tape, inputs, queries, keys, full, dropout);
  });
}

}  // namespace finesweep::worker
