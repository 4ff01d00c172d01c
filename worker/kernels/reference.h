#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

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

/// mask · norm(x).
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double epsilon,
                      const at::Tensor& output_mask);
/// norm(residual + mask · x).
at::Tensor add_norm(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight,
                    const at::Tensor& bias, double epsilon, const at::Tensor& mask);

/// query [queries of all rows, width], key and value [tokens, width]. Masks: one per row, [heads, queries, keys];
/// empty: no dropout. `first_only`: the only query of a row is its first token, query is [rows, width].
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const TokenLayout& layout, std::int64_t heads, bool first_only,
                     const std::vector<at::Tensor>& masks);

at::Tensor mean_tokens(const at::Tensor& x, const TokenLayout& layout);
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& labels, double denominator);
at::Tensor squared_error(const at::Tensor& values, const at::Tensor& labels, double denominator);

/// One update of a parameter as torch.optim.AdamW computes it; `step` counts from 1.
void adamw(at::Tensor& parameter, at::Tensor& first, at::Tensor& second, const at::Tensor& gradient,
           double learning_rate, double weight_decay, double beta1, double beta2, double epsilon,
           std::int64_t step);

}  // namespace finesweep::worker::reference
