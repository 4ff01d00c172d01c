#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "worker/generation/generate.h"
#include "worker/kernels/cuda/api.h"

namespace finesweep::worker {

/// What has been generated for some rows, kept where the model is, and the choice of their next tokens: greedy or
/// drawn, with the same tokens as sample_token() on the host. On a GPU one kernel, which waits for nobody; on a CPU
/// that function itself. All memory is there before the first choice, so choices can be captured.
class TokenChoice {
 public:
  /// For up to `rows` rows of up to `tokens` new tokens each.
  TokenChoice(c10::Device device, std::int64_t rows, std::int64_t tokens, std::int64_t vocabulary);

  /// Whether it can follow the options.
  static bool follows(const GenerationOptions& options, std::int64_t vocabulary);

  /// A new generation behind prompts of these lengths; rows beyond them are done from the start. A row also ends at
  /// `positions` tokens, its prompt's with them.
  void begin(const std::vector<std::int64_t>& prompt_lengths, const GenerationOptions& options,
             std::int64_t positions);

  /// Chooses by fp32 logits [rows or fewer, vocabulary]. `held`: they came from a step that put `ids` into the
  /// cache.
  void choose(const at::Tensor& logits, bool held);

  /// [rows] int64 on the device: each row's newest token, and how many tokens the cache holds.
  const at::Tensor& ids() const { return ids_; }
  const at::Tensor& lengths() const { return lengths_; }
  /// [1] int32 on the device: rows that are not done.
  const at::Tensor& remaining() const { return remaining_; }

  /// Of the first rows: waits for the device.
  std::vector<std::vector<Generated>> answers(std::int64_t rows) const;

 private:
  FinesweepDecodeState view() const;
  void choose_on_host(const at::Tensor& logits, bool held);

  std::int64_t rows_, tokens_of_row_, vocabulary_;
  bool draws_ = false;
  /// Of all rows: rules, then of each row its stream's lane, newest token, length, number of new tokens, score,
  /// whether it is done; then how many are not. Words of 64 bits, in one tensor so that one copy sets or fetches
  /// them.
  at::Tensor state_;
  at::Tensor ids_, lengths_, remaining_;
  at::Tensor tokens_;                      // [rows, tokens of a row]
  at::Tensor partial_, arrived_, masses_;  // the kernels' own
};

}  // namespace finesweep::worker
