#pragma once

#include <string>
#include <vector>

#include "sweeps/resolve.h"

namespace finesweep::sweeps {

/// What the steps before have left.
struct LeftBehind {
  bool adapter = false;    // unmerged
  bool quantized = false;  // weights, in INT8 or NF4
  /// The step that trained the adapter; null where there is none.
  const ResolvedStep* training = nullptr;
};

struct StepProblem {
  std::string key;  // below the step
  std::string message;
};

/// What a step cannot do with what is there: all weights are not trained beside an adapter, say.
std::vector<StepProblem> problems_after(const LeftBehind& before, const ResolvedStep& step);

}  // namespace finesweep::sweeps
