#include "worker/kernels/decode_attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "worker/kernels/attention_choice.h"
#include "worker/kernels/cuda/module.h"
#include "worker/kernels/gpu/float_type.h"
#include "worker/kernels/profile_scope.h"
#include "worker/kernels/reference.h"

namespace finesweep::worker {
namespace {

AttentionOptions resolved(AttentionOptions options) {
  if (options.key_heads == 0) options.key_heads = options.heads;
  if (options.scale == 0) options.scale = 1 / std::sqrt(static_cast<double>(options.size));
  return options;
}

bool has_kernel(const at::Tensor& qkv, const at::Tensor& cache, const AttentionOptions& options) {
  if (!qkv.is_cuda() || !gpu::has_float_type(qkv) || cuda_module() == nullptr) return false;
  if (AttentionChoice::current() == AttentionKind::math) return false;
  const std::int64_t values = qkv.scalar_type() == at::kFloat ? 4 : 8;  // of 16 bytes
  return qkv.is_contiguous() && cache.is_contiguous() && cache.scalar_type() == qkv.scalar_type() &&
         options.bias == nullptr && options.size % values == 0 &&
         options.size <= std::min<std::int64_t>(256, 32 * values);
}

/// Blocks that share a row's keys: where rows and heads alone would leave most of the device idle.
std::int64_t splits_of(std::int64_t blocks, std::int64_t capacity) {
  constexpr std::int64_t kEnough = 128, kShortest = 256, kMost = 16;
  return std::clamp<std::int64_t>(std::min(kEnough / blocks, capacity / kShortest), 1, kMost);
}

}  // namespace

at::Tensor decode_attention(const at::Tensor& qkv, const at::Tensor& cache, CountedCache& counted,
                            const AttentionOptions& given, const RotaryTable* rotary) {
  const ProfileScope scope("attention", OperatorGroup::attention);
  const AttentionOptions options = resolved(given);
  if (!has_kernel(qkv, cache, options)) {
    return reference::decode_attention(qkv, cache, counted.lengths, options, rotary);
  }
  const std::int64_t rows = qkv.size(0), blocks = rows * options.heads;
  const at::Tensor out = at::empty({rows, options.heads * options.size}, qkv.options());
  FinesweepDecodeAttention problem{};
  problem.splits = splits_of(blocks, cache.size(1));
  if (problem.splits > 1) {
    const std::int64_t numbers = blocks * problem.splits * (options.size + 2);
    if (!counted.partial.defined() || counted.partial.numel() < numbers || counted.arrived.numel() < blocks) {
      counted.partial = at::empty({numbers}, qkv.options().dtype(at::kFloat));
      counted.arrived = at::zeros({blocks}, qkv.options().dtype(at::kInt));
    }
    problem.partial = counted.partial.mutable_data_ptr<float>();
    problem.arrived = counted.arrived.mutable_data_ptr<std::int32_t>();
  }
  problem.qkv = qkv.const_data_ptr();
  problem.cache = cache.mutable_data_ptr();
  problem.lengths = counted.lengths.const_data_ptr<std::int64_t>();
  if (rotary != nullptr) {
    problem.cosine = rotary->cosine.const_data_ptr<float>();
    problem.sine = rotary->sine.const_data_ptr<float>();
  }
  problem.out = out.mutable_data_ptr();
  problem.rows = rows;
  problem.capacity = cache.size(1);
  problem.heads = options.heads;
  problem.key_heads = options.key_heads;
  problem.size = options.size;
  problem.window = options.window;
  problem.scale = static_cast<float>(options.scale);
  problem.type = gpu::float_type_of(qkv);
  problem.settled = counted.settled ? 1 : 0;
  check_cuda(cuda_module()->decode_attention(&problem, current_stream(qkv.device())), "attention over a cache");
  return out;
}

at::Tensor reference::decode_attention(const at::Tensor& qkv, const at::Tensor& cache, const at::Tensor& lengths,
                                       const AttentionOptions& given, const RotaryTable* rotary) {
  const AttentionOptions options = resolved(given);
  const std::int64_t rows = qkv.size(0), capacity = cache.size(1), heads = options.heads, size = options.size;
  const std::int64_t width = heads * size, key_width = options.key_heads * size;
  const at::Tensor turned =
      rotary == nullptr ? qkv : reference::rotate(qkv, *rotary, lengths, heads + options.key_heads, size);
  const at::Tensor row = at::arange(rows, lengths.options());
  cache.view({rows * capacity, 2 * key_width})
      .index_copy_(0, row * capacity + lengths, turned.narrow(1, width, 2 * key_width));

  const at::Tensor held = lengths.view({rows, 1}),
                   place = at::arange(capacity, lengths.options()).view({1, capacity});
  at::Tensor hidden = place.gt(held);
  if (options.window > 0) hidden = hidden.logical_or(place.le(held - options.window));
  // What the cache holds beyond a row's tokens is not even finite.
  const at::Tensor known = cache.to(at::kFloat).masked_fill(hidden.unsqueeze(2), 0);
  const auto by_head = [&](std::int64_t column) {
    return known.narrow(2, column, key_width)
        .reshape({rows, capacity, options.key_heads, size})
        .transpose(1, 2)
        .repeat_interleave(heads / options.key_heads, 1);
  };
  const at::Tensor query = turned.narrow(1, 0, width).to(at::kFloat).reshape({rows, heads, 1, size});
  at::Tensor scores = at::matmul(query, by_head(0).transpose(2, 3)) * options.scale;
  scores = scores.masked_fill(hidden.view({rows, 1, 1, capacity}), -INFINITY);
  const at::Tensor mixed = at::matmul(at::softmax(scores, -1), by_head(key_width));
  return mixed.reshape({rows, width}).to(qkv.scalar_type());
}

}  // namespace finesweep::worker
