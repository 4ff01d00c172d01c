#include "coordinator/find_trial.h"

#include <vector>

namespace finesweep::coordinator {

namespace {

constexpr std::size_t kMostListed = 20;

std::string list_of(const std::vector<const Trial*>& trials) {
  std::string text;
  for (std::size_t i = 0; i < trials.size() && i < kMostListed; ++i)
    text += "\n  " + trials[i]->name + "  " + trials[i]->label;
  if (trials.size() > kMostListed) text += "\n  …";
  return text;
}

}  // namespace

Result<const Trial*> find_trial(const Plan& plan, const std::string& wanted) {
  std::vector<const Trial*> by_prefix, by_label, all;
  for (const Trial& trial : plan.trials) {
    if (trial.name == wanted) return &trial;
    if (!wanted.empty() && trial.name.starts_with(wanted)) by_prefix.push_back(&trial);
    if (trial.label == wanted) by_label.push_back(&trial);
    all.push_back(&trial);
  }
  for (const auto& matching : {by_label, by_prefix})
    if (matching.size() == 1) return matching.front();
  const auto& several = by_label.empty() ? by_prefix : by_label;
  if (!several.empty())
    return Error{"'" + wanted + "' means " + std::to_string(several.size()) +
                 " trials; name one:" + list_of(several)};
  return Error{"there is no trial '" + wanted + "'; the trials are:" + list_of(all)};
}

}  // namespace finesweep::coordinator
