#include "worker/generation/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "worker/random.h"

namespace finesweep::worker {
namespace {

struct Candidate {
  double logit;
  std::int64_t token;
};

/// Likelier first; of equals the lower id.
bool before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

/// Removes what top_p leaves out: from the least likely on while their sum stays within 1 - top_p. One stays.
void keep_top_p(std::vector<Candidate>& candidates, double top_p) {
  double total = 0;
  for (const Candidate& candidate : candidates) total += std::exp(candidate.logit - candidates[0].logit);
  double below = 0;
  while (candidates.size() > 1) {
    below += std::exp(candidates.back().logit - candidates[0].logit) / total;
    if (below > 1 - top_p) break;
    candidates.pop_back();
  }
}

}  // namespace

std::int64_t sample_token(std::span<const float> logits, const SamplingOptions& options, double uniform) {
  std::vector<Candidate> candidates(logits.size());
  for (std::size_t i = 0; i < logits.size(); ++i) {
    candidates[i] = {logits[i] / options.temperature, static_cast<std::int64_t>(i)};
  }
  if (options.top_k > 0 && options.top_k < static_cast<std::int64_t>(candidates.size())) {
    const auto last = candidates.begin() + (options.top_k - 1);
    std::nth_element(candidates.begin(), last, candidates.end(), before);
    const double least = last->logit;
    std::erase_if(candidates, [&](const Candidate& candidate) { return candidate.logit < least; });
  }
  std::sort(candidates.begin(), candidates.end(), before);
  if (options.top_p < 1) keep_top_p(candidates, options.top_p);
  double total = 0;
  for (const Candidate& candidate : candidates) total += std::exp(candidate.logit - candidates[0].logit);
  double left = uniform * total;
  for (const Candidate& candidate : candidates) {
    left -= std::exp(candidate.logit - candidates[0].logit);
    if (left < 0) return candidate.token;
  }
  return candidates.back().token;
}

double uniform_number(std::uint64_t key, std::uint64_t lane, std::uint64_t index) {
  const auto low = [](std::uint64_t word) { return static_cast<std::uint32_t>(word); };
  const auto high = [](std::uint64_t word) { return static_cast<std::uint32_t>(word >> 32); };
  const auto block = philox4x32_10({low(index), high(index), low(lane), high(lane)}, {low(key), high(key)});
  return static_cast<double>((std::uint64_t{block[0]} << 21) ^ (block[1] >> 11)) * 0x1.0p-53;
}

double log_probability(std::span<const float> logits, std::int64_t token) {
  const double greatest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - greatest);
  return logits[static_cast<std::size_t>(token)] - greatest - std::log(sum);
}

}  // namespace finesweep::worker
