#include "sweeps/expand.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <set>

namespace finesweep::sweeps {

namespace {

int swept_index(const SweepDeclaration& declaration, const std::string& path) {
  for (std::size_t i = 0; i < declaration.swept.size(); ++i)
    if (declaration.swept[i].path == path) return static_cast<int>(i);
  return -1;
}

/// Parts for the paths that an overlay sets, in the order of the swept paths.
void add_value_parts(const SweepDeclaration& declaration, const Overlay& overlay, std::vector<LabelPart>& parts) {
  std::vector<int> indices;
  for (const auto& [target, value] : overlay.values) {
    int index = swept_index(declaration, target.path);
    // Part of a group that is swept as a whole (`data.fields`).
    for (const std::string& group : overlay.replaced_groups)
      if (index < 0 && target.path.starts_with(group + ".")) index = swept_index(declaration, group);
    indices.push_back(index);
  }
  for (const auto& [step, skip] : overlay.skips)
    indices.push_back(swept_index(declaration, declaration.steps[static_cast<std::size_t>(step)].name));
  std::sort(indices.begin(), indices.end());
  indices.erase(std::unique(indices.begin(), indices.end()), indices.end());
  for (int index : indices)
    if (index >= 0) parts.push_back({"", index});
}

/// A file's or model's name without an extension that says nothing.
std::string file_words(std::string path) {
  for (const char* extension : {".jsonl", ".csv", ".tsv", ".gguf"})
    if (path.size() > std::string_view(extension).size() && path.ends_with(extension))
      path.resize(path.size() - std::string_view(extension).size());
  return path;
}

/// The last `count` components.
std::string path_end(const std::filesystem::path& path, int count) {
  std::filesystem::path end;
  auto part = path.end();
  for (; count > 0 && part != path.begin(); --count) end = end.empty() ? *--part : *--part / end;
  return end.string();
}

}  // namespace

std::size_t count_configurations(const SweepDeclaration& declaration) {
  std::size_t count = 1;
  for (const Axis& axis : declaration.axes)
    if (__builtin_mul_overflow(count, axis.values.size(), &count)) return SIZE_MAX;
  return __builtin_add_overflow(count, declaration.includes.size(), &count) ? SIZE_MAX : count;
}

void for_each_configuration(const SweepDeclaration& declaration,
                            const std::function<void(RawConfiguration&&)>& use) {
  const std::vector<Axis>& axes = declaration.axes;
  std::vector<std::size_t> position(axes.size(), 0);
  for (bool more = true; more;) {
    RawConfiguration configuration;
    configuration.given = declaration.base;
    configuration.labelled = !axes.empty();
    for (std::size_t i = 0; i < axes.size(); ++i) {
      const Overlay& overlay = axes[i].values[position[i]];
      overlay.apply_to(configuration.given);
      configuration.mark = overlay.mark;
      if (axes[i].labelled) {
        configuration.label.push_back({overlay.label, -1});
      } else {
        configuration.labelled = false;
        add_value_parts(declaration, overlay, configuration.label);
      }
    }
    use(std::move(configuration));
    // The last axis turns fastest.
    more = false;
    for (std::size_t i = axes.size(); i-- > 0 && !more;) {
      more = ++position[i] < axes[i].values.size();
      if (!more) position[i] = 0;
    }
  }
  for (const Overlay& include : declaration.includes) {
    RawConfiguration configuration;
    configuration.given = declaration.base;
    configuration.mark = include.mark;
    include.apply_to(configuration.given);
    configuration.labelled = !include.label.empty();
    if (configuration.labelled)
      configuration.label.push_back({include.label, -1});
    else
      add_value_parts(declaration, include, configuration.label);
    use(std::move(configuration));
  }
}

LabelMaker::LabelMaker(const SweepDeclaration& declaration) : declaration_(declaration) {
  auto last_word = [](const std::string& path) { return path.substr(path.rfind('.') + 1); };
  for (const Target& target : declaration.swept) {
    const std::string word = last_word(target.path);
    const auto same = std::count_if(declaration.swept.begin(), declaration.swept.end(),
                                    [&](const Target& other) { return last_word(other.path) == word; });
    short_names_.push_back(same > 1 ? target.path : word);
  }
}

std::string LabelMaker::make(const std::vector<LabelPart>& parts, const std::vector<Json>& swept) const {
  std::string label;
  for (const LabelPart& part : parts) {
    std::string words = part.text;
    if (part.swept >= 0) {
      const auto index = static_cast<std::size_t>(part.swept);
      const Target& target = declaration_.swept[index];
      const Json& value = swept[index];
      const std::string& name = short_names_[index];
      const bool ambiguous = name == target.path && name.find('.') != std::string::npos;
      if (value.is_null()) continue;
      if (target.kind == Target::Kind::step) {
        words = value == "skip" ? "no " + name : name;
      } else if (value.is_boolean()) {
        words = value.get<bool>() ? name : "no " + name;
      } else if (value.is_number()) {
        words = name;
        for (const auto& [key, inner] : value.items())
          words += " " + key + " " + (inner.is_string() ? inner.get<std::string>() : inner.dump());
      } else if (value.is_string()) {
        const bool path = target.setting && target.setting->type == ValueType::path;
        const bool text = target.setting && target.setting->type == ValueType::text;
        words = path ? file_words(value.get<std::string>()) : value.get<std::string>();
        if (ambiguous || text) words = name + " " + words;
      } else if (value.is_array()) {
        words = name + " ";
        for (std::size_t i = 0; i < value.size(); ++i)
          words += (i ? "+" : "") + (value[i].is_string() ? value[i].get<std::string>() : value[i].dump());
      } else {
        words = name;
        for (const auto& [key, inner] : value.items())
          words += " " + key + " " + (inner.is_string() ? inner.get<std::string>() : inner.dump());
      }
    }
    if (!words.empty()) label += (label.empty() ? "" : " ") + words;
  }
  for (char& c : label)
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  return label;
}

SweptValues::SweptValues(const SweepDeclaration& declaration) : declaration_(declaration) {
  for (const Target& target : declaration.swept) {
    int count = 0;
    if (target.setting && target.setting->type == ValueType::path) {
      std::set<std::string> values;
      auto add = [&](const std::string& path, const Json& value) {
        if (path == target.path && value.is_string()) values.insert(value.get<std::string>());
      };
      for (const auto& [path, value] : declaration.base.values) add(path, value.value);
      auto add_overlay = [&](const Overlay& overlay) {
        for (const auto& [set, value] : overlay.values) add(set.path, value.value);
      };
      for (const Axis& axis : declaration.axes)
        for (const Overlay& overlay : axis.values) add_overlay(overlay);
      for (const Overlay& include : declaration.includes) add_overlay(include);
      for (std::set<std::string> ends; ends.size() < values.size();) {
        ends.clear();
        ++count;
        for (const std::string& value : values) ends.insert(path_end(value, count));
      }
    }
    path_components_.push_back(count);
  }
}

std::vector<Json> SweptValues::of(const Resolved& resolved) const {
  std::vector<Json> values;
  for (std::size_t i = 0; i < declaration_.swept.size(); ++i) {
    Json value = resolved.value_of(declaration_.swept[i]);
    if (path_components_[i] > 0 && value.is_string())
      value = path_end(value.get<std::string>(), path_components_[i]);
    else if (value.is_number_float() && value.get<double>() == std::floor(value.get<double>()) &&
             std::abs(value.get<double>()) < 1e15)
      value = static_cast<std::int64_t>(value.get<double>());
    values.push_back(std::move(value));
  }
  return values;
}

}  // namespace finesweep::sweeps
