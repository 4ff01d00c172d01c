#include "worker/metrics/perplexity.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace finesweep::worker {

double TokenLoss::mean() const {
  return tokens == 0 ? std::numeric_limits<double>::quiet_NaN()
                     : negative_log_likelihood / static_cast<double>(tokens);
}

double TokenLoss::perplexity() const {
  return std::exp(mean());
}

double negative_log_likelihood(std::span<const float> logits, std::int64_t token) {
  const double greatest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - greatest);
  return greatest + std::log(sum) - logits[static_cast<std::size_t>(token)];
}

}  // namespace finesweep::worker
