#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "worker/kernels/ops.h"

namespace finesweep::worker::reference {

// The operations of ops.h in plain tensor operations, which libtorch can differentiate: the definition that the
// kernels are tested against, and what runs on devices without kernels of ours. Statistics and sums are fp32,
// results have the type of the input. A mask is undefined (no dropout) or holds 0 and 1/(1-p).

at::Tensor activate(const at::Tensor& z, Activation activation);

/// x Wᵀ + b, and for each branch scale · (mask · x) Aᵀ Bᵀ in its columns.
struct LoraTerm {
  at::Tensor a, b;
  double scale = 1;
  at::Tensor mask;
  std::int64_t out_begin = 0;
};
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                  const std::vector<LoraTerm>& branches, Activation activation);

/// x with its columns begin … begin + scale.numel multiplied.
at::Tensor scale_columns(const at::Tensor& x, const at::Tensor& scale, std::int64_t begin);

/// x with the columns of each token multiplied by the numbers of its job, factors [jobs, columns]; what belongs to
/// no row stays as it is.
at::Tensor scale_by_job(const at::Tensor& x, const at::Tensor& factors, const TokenLayout& layout);
/// The sums of x over the tokens of each job: [jobs, columns].
at::Tensor job_sums(const at::Tensor& x, const TokenLayout& layout);

/// activation(z[:, :inner]) · z[:, inner:].
at::Tensor gated(const at::Tensor& z, Activation activation);

/// Sum of the tables' rows; those of positions and types may be undefined.
at::Tensor embed(const at::Tensor& words, const at::Tensor& ids, const at::Tensor& positions,
                 const at::Tensor& position_ids, const at::Tensor& types, const at::Tensor& type_ids,
                 at::ScalarType type);

/// mask · norm(x); bias may be undefined.
at::Tensor norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, NormKind kind,
                double epsilon, const at::Tensor& output_mask);
/// residual + mask · x.
at::Tensor add(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& mask);

/// Attention of ops.h on matrices that hold the heads alone: query [queries, heads × size], key and value
/// [tokens, key_heads × size]. `bias`: the table of options.bias, else undefined. Masks: one per row,
/// [heads, queries, keys]; empty: no dropout.
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const at::Tensor& bias, const TokenLayout& queries, const RowSpans& keys,
                     const AttentionOptions& options, const std::vector<at::Tensor>& masks);

at::Tensor rotate(const at::Tensor& x, const RotaryTable& table, const at::Tensor& positions, std::int64_t heads,
                  std::int64_t size);

at::Tensor mean_tokens(const at::Tensor& x, const TokenLayout& layout);
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double denominator);
/// bias may be undefined.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& bias,
                                const at::Tensor& labels, double denominator, double scale);
at::Tensor squared_error(const at::Tensor& values, const at::Tensor& labels, double denominator);

/// One update of a parameter as torch.optim.AdamW computes it; `step` counts from 1.
void adamw(at::Tensor& parameter, at::Tensor& first, at::Tensor& second, const at::Tensor& gradient,
           double learning_rate, double weight_decay, double beta1, double beta2, double epsilon,
           std::int64_t step);

}  // namespace finesweep::worker::reference
