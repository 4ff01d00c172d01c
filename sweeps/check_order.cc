#include "sweeps/check_order.h"

#include <algorithm>

namespace finesweep::sweeps {

namespace {

/// An adapter that is trained further stays what it is. What a step leaves to the model's family is not compared.
void check_same_adapter(const ResolvedStep& before, const ResolvedStep& step, std::vector<StepProblem>& problems) {
  const bool lora[] = {before.facts.method != "ia3", step.facts.method != "ia3"};
  const auto differs = [&](const std::string& key) {
    problems.push_back(
        {key, "the adapter of the step '" + before.name + "' has another " + key +
                  ", and is trained further as it is; give both the same, or put '- merge' in between "
                  "to train a new one"});
  };
  if (lora[0] != lora[1]) return differs("method");
  for (const char* key : {"rank", "alpha", "dropout", "rslora", "targets"}) {
    Json there = before.settings.value(key, Json()), asked = step.settings.value(key, Json());
    if (there.is_null() || asked.is_null()) continue;
    for (Json* list : {&there, &asked})
      if (list->is_array()) std::sort(list->begin(), list->end());  // of targets the order means nothing
    if (there != asked) differs(key);
  }
}

}  // namespace

std::vector<StepProblem> problems_after(const LeftBehind& before, const ResolvedStep& step) {
  std::vector<StepProblem> problems;
  switch (step.kind) {
    case StepKind::distill:
      // A student of its own does not look at what is there.
      if (step.settings.contains("student")) break;
      if (before.adapter)
        problems.push_back({"student", "all weights of the student are trained; merge its adapter first"});
      else if (before.quantized)
        problems.push_back({"student", "quantised weights cannot be trained; quantise after distilling"});
      break;
    case StepKind::finetune:
      if (before.quantized && step.facts.method == "full")
        problems.push_back({"method", "quantised weights cannot be trained; use lora, which trains beside them"});
      if (before.quantized && step.facts.method == "qlora")
        problems.push_back({"method", "the base is quantised already; use lora, which trains on it"});
      if (before.quantized && step.settings.at("precision") == "fp8_base")
        problems.push_back({"precision", "the base is quantised already; use bf16"});
      if (before.adapter && !before.quantized && (step.facts.method == "full" || step.facts.method == "qlora"))
        problems.push_back({"method",
                            "an adapter of the step before is trained further with its own method; to train "
                            "something else on top of it, put '- merge' in between"});
      else if (before.adapter && before.training != nullptr && step.facts.method != "full")
        check_same_adapter(*before.training, step, problems);
      break;
    case StepKind::prune:
      if (!before.adapter && step.settings.at("target") == "adapter")
        problems.push_back(
            {"target", "there is no adapter to prune; leave the step out with '" + step.name + ": skip'"});
      if (before.quantized && step.settings.at("target") == "model")
        problems.push_back({"target", "quantised weights cannot be pruned; prune before quantising"});
      break;
    case StepKind::quantize:
      if (before.quantized)
        problems.push_back(
            {"format", "the weights are quantised already; leave the step out with '" + step.name + ": skip'"});
      break;
    case StepKind::merge:
      if (!before.adapter)
        problems.push_back({"", "there is no adapter to merge; leave the step out with '" + step.name + ": skip'"});
      break;
    default:
      break;
  }
  return problems;
}

}  // namespace finesweep::sweeps
