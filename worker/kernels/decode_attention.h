#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "worker/kernels/ops.h"

namespace finesweep::worker {

/// Where the device itself counts the tokens of a cache, so that steps follow one another without the host.
struct CountedCache {
  /// [rows] int64 on the device: tokens that each row holds.
  at::Tensor lengths;
  /// They, and what the cache holds, change between steps alone, and a step begins with an operation that waits for
  /// all before it, as embed does: attention may then read ahead.
  bool settled = false;
  /// Memory for rows that are split over several blocks; made at the first step.
  at::Tensor partial, arrived;
};

/// Attention of one new token a row over the row's cache, which its key and value join at lengths[row] (the length
/// is not changed); with a rotary table, query and key are turned to that position first. Nothing waits for the
/// device.
///
///   qkv    [rows, (heads + 2 × key_heads) × size]
///   cache  [rows, capacity, 2 × key_heads × size]
///
/// Returns [rows, heads × size].
at::Tensor decode_attention(const at::Tensor& qkv, const at::Tensor& cache, CountedCache& counted,
                            const AttentionOptions& options, const RotaryTable* rotary);

namespace reference {

/// The same in plain tensor operations, over the whole capacity.
at::Tensor decode_attention(const at::Tensor& qkv, const at::Tensor& cache, const at::Tensor& lengths,
                            const AttentionOptions& options, const RotaryTable* rotary);

}  // namespace reference
}  // namespace finesweep::worker
