#pragma once

#include <cstdint>
#include <span>

namespace finesweep::worker {

/// Applied in this order, as transformers does it.
struct SamplingOptions {
  double temperature = 1;
  /// Only the tokens as likely as the k-th are drawn. 0: all.
  std::int64_t top_k = 50;
  /// Only the most likely tokens that together reach this probability are drawn (https://arxiv.org/abs/1904.09751).
  double top_p = 1;
};

/// Draws a token from softmax(logits / temperature) under the options. `uniform` in [0, 1) decides, so equal inputs
/// give equal tokens.
std::int64_t sample_token(std::span<const float> logits, const SamplingOptions& options, double uniform);

/// Number `index` of a random stream with this key and lane (worker/random.h): 53 random bits, in [0, 1).
double uniform_number(std::uint64_t key, std::uint64_t lane, std::uint64_t index);

/// log softmax(logits)[token], in double precision.
double log_probability(std::span<const float> logits, std::int64_t token);

}  // namespace finesweep::worker
