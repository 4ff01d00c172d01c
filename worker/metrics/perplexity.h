#pragma once

#include <cstdint>
#include <span>

namespace finesweep::worker {

/// The loss of a language model over a corpus, every token with the same weight whatever batch it stood in.
struct TokenLoss {
  double negative_log_likelihood = 0;  // sum, in nats
  std::int64_t tokens = 0;             // that were predicted

  void add(double sum, std::int64_t count) {
    negative_log_likelihood += sum;
    tokens += count;
  }
  void add(const TokenLoss& other) { add(other.negative_log_likelihood, other.tokens); }
  /// Both are NaN of nothing.
  double mean() const;
  /// exp of the mean; infinite where that is beyond what a double holds.
  double perplexity() const;
};

/// -log softmax(logits)[token], in double precision.
double negative_log_likelihood(std::span<const float> logits, std::int64_t token);

}  // namespace finesweep::worker
