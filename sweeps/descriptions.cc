#include "sweeps/descriptions.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "sweeps/check.h"

namespace finesweep::sweeps {

namespace {

std::string plain(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string text = value.dump();
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return text;
}

Json describe_data(const ResolvedStep& step, const Resolved& resolved, bool trained, DataCatalog& catalog) {
  Json data{{"task", task_name(resolved.task)}};
  std::vector<std::string> splits = splits_of(step, resolved.data);
  // The classes of rows that name theirs come from the training rows, unless a training step has settled them.
  const bool settles_labels = step.kind == StepKind::evaluate && !trained &&
                              resolved.task == Task::classification && !resolved.data.contains("labels");
  if (settles_labels && std::find(splits.begin(), splits.end(), "train") == splits.end() &&
      resolved.data.contains("train"))
    splits.push_back("train");
  if (splits.empty()) return data;
  for (const auto& [key, value] : resolved.data.items())
    if (key != "train" && key != "validation" && key != "test" && key != "limit" && key != "limit_seed")
      data[key] = value;
  bool limited = false;
  for (const std::string& split : splits) {
    data["files"][split] = catalog.get(resolved.data.at(split).get<std::string>())->sha256;
    if (const Json limits = resolved.data.value("limit", Json::object()); limits.contains(split)) {
      data["limit"][split] = limits[split];
      limited = true;
    }
  }
  if (limited) data["limit_seed"] = resolved.data.at("limit_seed");
  return data;
}

}  // namespace

std::vector<JobDescription> describe_jobs(const SweepDeclaration& declaration, const Resolved& resolved,
                                          ModelCatalog& models, DataCatalog& data) {
  std::vector<JobDescription> descriptions;
  bool from_base = true, trained = false;
  for (const ResolvedStep& step : resolved.steps) {
    JobDescription description;
    description.kind = step.kind;
    description.settings = step.settings;
    const bool own_student = step.kind == StepKind::distill && step.settings.contains("student");
    if (from_base && !own_student) description.model = resolved.info->checksums;
    for (const char* key : {"teacher", "student"})
      if (step.settings.contains(key) && step.settings[key].is_string())
        if (const auto& info = models.get(step.settings[key].get<std::string>()))
          description.settings[key] = info->checksums;
    description.data = describe_data(step, resolved, trained, data);
    const bool trains = step.kind == StepKind::finetune || step.kind == StepKind::distill;
    if (trains) description.gpus = declaration.resources.gpus;
    descriptions.push_back(std::move(description));
    if (makes_model(step.kind)) from_base = false;
    trained = trained || trains;
  }
  return descriptions;
}

bool makes_model(StepKind kind) {
  return kind != StepKind::evaluate && kind != StepKind::benchmark;
}

bool leaves_adapter(const ResolvedStep& step, bool adapter_before) {
  if (step.kind == StepKind::finetune) return step.facts.method != "full";
  return adapter_before && step.kind != StepKind::merge && step.kind != StepKind::distill;
}

bool leaves_base(const ResolvedStep& step, bool adapter_after) {
  if (!makes_model(step.kind)) return false;
  return !adapter_after || (step.kind == StepKind::prune && step.settings.at("target") == "model");
}

bool needs_seed(const ResolvedStep& step, const Resolved& resolved, bool trained) {
  switch (step.kind) {
    case StepKind::distill:
    case StepKind::finetune:
    case StepKind::benchmark:
      return true;
    case StepKind::evaluate:
      // A head that is missing is initialised.
      return step.facts.samples ||
             (!trained && resolved.task == Task::classification && !resolved.info->has_classification_head());
    default:
      return false;
  }
}

std::string hash_of(const Resolved& resolved, std::vector<JobDescription> descriptions) {
  std::vector<std::pair<std::string, JobId>> steps;
  std::optional<JobId> model;
  for (std::size_t i = 0; i < descriptions.size(); ++i) {
    if (model) descriptions[i].inputs = {*model};
    const JobId id = job_id(descriptions[i]);
    steps.push_back({resolved.steps[i].name, id});
    if (makes_model(descriptions[i].kind)) model = id;
  }
  return configuration_hash(steps);
}

std::string title_of(const ResolvedStep& step) {
  const Json& settings = step.settings;
  std::string title(step_kind_name(step.kind));
  auto add = [&](const std::string& words) { title += " " + words; };
  switch (step.kind) {
    case StepKind::finetune:
      add(step.facts.method);
      if (settings.contains("rank")) add("r" + plain(settings["rank"]) + " alpha " + plain(settings["alpha"]));
      break;
    case StepKind::prune:
      add(plain(settings["target"]) + " " + plain(settings["amount"]));
      break;
    case StepKind::quantize:
      add(step.facts.format);
      break;
    case StepKind::evaluate:
      add(plain(settings["split"]));
      break;
    case StepKind::benchmark:
      for (const Json& mode : settings["mode"]) add(plain(mode));
      break;
    default:
      break;
  }
  return title;
}

}  // namespace finesweep::sweeps
