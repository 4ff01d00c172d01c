#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace finesweep::worker {

/// On a GPU: a frozen weight W [out, in] and the LoRA on it, A [ranks, in] and B [out, ranks], as one matrix
///
///   [ W  B ]
///   [ A  0 ]
///
/// The adapter is then some columns more of the base's products, and takes no pass of its own over their results:
/// forward [x, s x Aᵀ] [W, B]ᵀ, back [dy, s dy B] [W; A].
struct LoraBlock {
  at::Tensor matrix;  // [out + ranks, in + ranks]
  std::int64_t out = 0, in = 0;
  /// Of all branches, those of each up to a multiple of eight; the ones behind its own are 0.
  std::int64_t ranks = 0;
  /// Where the ranks of each of the module's branches begin. Of B, rows that are not the branch's are 0.
  std::vector<std::int64_t> begins;
  /// Of each branch the memory of its gradients with room for as many ranks, A's [padded, in] and B's [out,
  /// padded]: products with three columns are slower than with eight. Undefined: they stand by themselves.
  std::vector<at::Tensor> grad_a, grad_b;

  at::Tensor a() const { return matrix.narrow(0, out, ranks).narrow(1, 0, in); }
  at::Tensor b() const { return matrix.narrow(0, 0, out).narrow(1, in, ranks); }
  at::Tensor forward_weight() const { return matrix.narrow(0, 0, out); }  // [out, in + ranks]
  at::Tensor backward_weight() const { return matrix.narrow(1, 0, in); }  // [out + ranks, in]
};

/// Products of a GPU want rows that are a multiple of 16 bytes: ranks are padded to so many.
inline constexpr std::int64_t kRankMultiple = 8;
inline std::int64_t padded_ranks(std::int64_t ranks) {
  return (ranks + kRankMultiple - 1) / kRankMultiple * kRankMultiple;
}

/// [rows, columns], a view of the left part of a matrix that has `room` columns more.
at::Tensor empty_with_room(std::int64_t rows, std::int64_t columns, std::int64_t room,
                           const at::TensorOptions& options);
/// That matrix, where x was made so; else undefined.
at::Tensor with_room(const at::Tensor& x, std::int64_t room);

}  // namespace finesweep::worker
