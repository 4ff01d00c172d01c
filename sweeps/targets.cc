#include <algorithm>

#include "sweeps/pipeline.h"

namespace finesweep::sweeps {

namespace {

std::vector<std::string> strings(const std::vector<std::string_view>& views) {
  return {views.begin(), views.end()};
}

/// Keys that paths may set: all but `name`.
std::vector<std::string> settable_keys(Section section) {
  std::vector<std::string> keys = strings(setting_keys(section));
  std::erase(keys, "name");
  return keys;
}

Result<Target> key_target(Section section, int step, const std::string& head, const std::string& key) {
  Target target{Target::Kind::setting, head + "." + key, section, step, key, find_setting(section, key)};
  if (key == "name" && step >= 0) return Error{"a step's name cannot be swept"};
  if (target.setting) return target;
  if (is_setting_group(section, key)) {
    target.kind = Target::Kind::group;
    return target;
  }
  return Error{std::string(section_name(section)) + " has no setting '" + key + "'" +
               did_you_mean(key, settable_keys(section))};
}

}  // namespace

std::string_view alternative_key(std::string_view key) {
  if (key == "epochs") return "steps";
  if (key == "steps") return "epochs";
  return {};
}

Result<Target> find_target(std::string_view path, const std::vector<StepDeclaration>& steps) {
  const std::size_t dot = path.find('.');
  const std::string head(path.substr(0, dot));
  const std::string key = dot == std::string_view::npos ? "" : std::string(path.substr(dot + 1));

  if ((head == "task" || head == "model") && key.empty())
    return Target{Target::Kind::setting, head, Section::top, -1, head, find_setting(Section::top, head)};
  if (head == "data") {
    if (key.empty()) return Error{"one setting at a time: data.train, data.limit.train, …"};
    return key_target(Section::data, -1, head, key);
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (steps[i].name != head) continue;
    const Section section = section_of(steps[i].kind);
    if (dot == std::string_view::npos)
      return Target{Target::Kind::step, head, section, static_cast<int>(i), "", nullptr};
    return key_target(section, static_cast<int>(i), head, key);
  }
  if (const auto kind = parse_step_kind(head)) {
    std::string named;
    for (const StepDeclaration& step : steps)
      if (step.kind == *kind) named += (named.empty() ? "" : ", ") + step.name;
    if (!named.empty()) return Error{"the " + head + " steps of this pipeline go by their names: " + named};
    return Error{"the pipeline has no step '" + head + "'"};
  }
  if (head == "sweep" || head == "report" || head == "resources" || head == "name" || head == "pipeline")
    return Error{"'" + head + "' cannot be swept; paths are task, model, data.KEY, STEP.KEY and STEP"};
  std::vector<std::string> heads{"task", "model", "data", "label"};
  for (const StepDeclaration& step : steps) heads.push_back(step.name);
  return Error{"'" + head + "' is no step of the pipeline" + did_you_mean(head, heads)};
}

void Overlay::apply_to(Given& given) const {
  auto erase_below = [&](const std::string& prefix) {
    auto it = given.values.lower_bound(prefix);
    while (it != given.values.end() && it->first.starts_with(prefix)) it = given.values.erase(it);
  };
  for (const std::string& group : replaced_groups) erase_below(group + ".");
  for (const auto& [target, value] : values) {
    const std::string head = target.path.substr(0, target.path.size() - target.key.size());
    if (const std::string_view other = alternative_key(target.key); !other.empty())
      given.values.erase(head + std::string(other));
    // `student: path` and `student.layers` take each other's place.
    erase_below(target.path + ".");
    for (std::size_t dot = target.key.find('.'); dot != std::string::npos; dot = target.key.find('.', dot + 1))
      given.values.erase(head + target.key.substr(0, dot));
    if (value.value.is_null())
      given.values.erase(target.path);
    else
      given.values.insert_or_assign(target.path, value);
  }
  for (const auto& [step, skip] : skips) given.skipped[step] = skip;
}

const StepDeclaration* SweepDeclaration::find_step(std::string_view name) const {
  for (const StepDeclaration& step : steps)
    if (step.name == name) return &step;
  return nullptr;
}

}  // namespace finesweep::sweeps
