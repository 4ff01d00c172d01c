#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <cmath>

#include "worker/kernels/cpu/attention.h"
#include "worker/kernels/differentiate.h"
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

/// Where query, key and value stand: columns of one or of two matrices.
struct Inputs {
  Var query;      // in columns 0 … width
  Var key_value;  // key from column `key`, value behind it; the same Var as `query` where all stand side by side
  std::int64_t key = 0;
  bool first_only = false;
};

template <typename T>
Var attention_on_cpu(Tape* tape, const Inputs& in, std::int64_t width, std::int64_t heads, const Layout& layout,
                     const Dropout& dropout) {
  using Kernels = cpu::AttentionKernels<T>;
  const std::int64_t queries = in.query.value.size(0), value = in.key + width;
  cpu::AttentionShape shape{heads, width / heads, 0, in.first_only};
  shape.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.size)));
  const at::Tensor out = at::empty({queries, width}, in.query.value.options());
  const at::Tensor log_sum = at::empty({queries, heads}, at::kFloat);
  Kernels::forward(readable<T>(in.query.value, 0), readable<T>(in.key_value.value, in.key),
                   readable<T>(in.key_value.value, value), writable<T>(out, 0), log_sum.mutable_data_ptr<float>(),
                   shape, *layout, dropout);
  if (tape == nullptr || !(in.query.needs_grad() || in.key_value.needs_grad())) return Var(out);

  const Var result = tape->track(out);
  tape->record([slot = result.slot, in, out, log_sum, shape, layout, dropout, value] {
    if (!slot->grad.defined()) return;
    const at::Tensor d_out = std::move(slot->grad).contiguous();
    const bool together = in.query.value.is_same(in.key_value.value);
    const at::Tensor d_key_value = at::empty_like(in.key_value.value);
    const at::Tensor d_query = together ? d_key_value : at::empty_like(in.query.value);
    Kernels::backward(readable<T>(in.query.value, 0), readable<T>(in.key_value.value, in.key),
                      readable<T>(in.key_value.value, value), readable<T>(out, 0), readable<T>(d_out, 0),
                      log_sum.const_data_ptr<float>(), writable<T>(d_query, 0), writable<T>(d_key_value, in.key),
                      writable<T>(d_key_value, value), shape, *layout, dropout);
    if (in.key_value.slot) in.key_value.slot->add(d_key_value);
    if (!together && in.query.slot) in.query.slot->add(d_query);
  });
  return result;
}

Var run(Tape* tape, const Inputs& in, std::int64_t heads, const Layout& layout, const Dropout& dropout) {
  const std::int64_t width = in.key_value.value.size(1) / (in.first_only ? 2 : 3);
  if (in.query.value.is_cpu()) {
    return in.query.value.scalar_type() == at::kFloat
               ? attention_on_cpu<float>(tape, in, width, heads, layout, dropout)
               : attention_on_cpu<at::BFloat16>(tape, in, width, heads, layout, dropout);
  }
  std::vector<at::Tensor> masks;
  for (std::int64_t r = 0; dropout.active() && r < layout->rows; ++r) {
    const std::int64_t keys = layout->tokens_of(r);
    masks.push_back(attention_dropout_mask(dropout, layout->first_row + r, heads, in.first_only ? 1 : keys, keys));
  }
  std::vector<Var> inputs{in.key_value};
  if (in.first_only) inputs.push_back(in.query);
  return differentiate(tape, inputs, {}, [&](const std::vector<at::Tensor>& v) {
    const at::Tensor query = in.first_only ? v[1] : v[0].narrow(1, 0, width);
    return reference::attention(query, v[0].narrow(1, in.key, width), v[0].narrow(1, in.key + width, width),
                                *layout, heads, in.first_only, masks);
  });
}

}  // namespace

Var attention(Tape* tape, const Var& qkv, const Layout& layout, std::int64_t heads, const Dropout& dropout) {
  return run(tape, {qkv, qkv, qkv.value.size(1) / 3, false}, heads, layout, dropout);
}

Var attention_of_first(Tape* tape, const Var& query, const Var& key_value, const Layout& layout, std::int64_t heads,
                       const Dropout& dropout) {
  return run(tape, {query, key_value, 0, true}, heads, layout, dropout);
}

}  // namespace finesweep::worker
