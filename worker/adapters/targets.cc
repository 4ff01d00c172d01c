#include "worker/adapters/targets.h"

#include <algorithm>
#include <regex>
#include <set>

namespace finesweep::worker {
namespace {

/// Python's syntax that std::regex reads as something else: \A and \Z, and a class that begins with ].
bool is_pythons_alone(const std::string& expression) {
  for (std::size_t i = 0; i + 1 < expression.size(); ++i) {
    if (expression[i] == '\\') {
      if (expression[i + 1] == 'A' || expression[i + 1] == 'Z') return true;
      ++i;
    } else if (expression[i] == '[' &&
               (expression.compare(i + 1, 1, "]") == 0 || expression.compare(i + 1, 2, "^]") == 0)) {
      return true;
    }
  }
  return false;
}

Result<bool> matches_whole(const std::string& expression, const std::string& path) try {
  if (is_pythons_alone(expression)) throw std::regex_error(std::regex_constants::error_escape);
  return std::regex_match(path, std::regex(expression));
} catch (const std::regex_error&) {
  return Error{"\"" + expression + "\" is not a regular expression that is understood here"};
}

/// Every linear module that an adapter may work on.
std::vector<Target> candidates(Model& model) {
  std::vector<Target> all;
  for (LinearModule* module : model.linear_modules()) {
    std::int64_t begin = 0;
    for (std::size_t part = 0; part < module->paths.size(); ++part) {
      const std::int64_t out = module->weight->parts[part].rows;
      if (!is_head_module(model, module->paths[part])) {
        all.push_back({module->paths[part], module, part, begin, out, module->weight->columns()});
      }
      begin += out;
    }
  }
  return all;
}

/// The embeddings' module paths.
std::vector<std::string> embeddings(Model& model) {
  std::vector<std::string> paths;
  const auto add = [&](const Parameter& table) {
    const std::string& name = table.parts.front().name;
    paths.push_back(name.substr(0, name.rfind('.')));
  };
  for (const Parameter* parameter : model.parameters()) {
    if (parameter->is_table) add(*parameter);
  }
  for (const LinearModule* module : model.linear_modules()) {
    if (shares_its_weight(*module)) add(*module->weight);
  }
  return paths;
}

bool is_output_embedding(const std::string& path) {
  return path == "lm_head";
}

/// What the modules can be called, for a message: the ends of their paths, once each.
std::string names_of(const std::vector<Target>& targets) {
  std::vector<std::string> names;
  for (const Target& target : targets) {
    const std::string name = target.path.substr(target.path.rfind('.') + 1);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

Error embedding_error(const std::string& target, const std::string& path) {
  return Error{"target \"" + target + "\" matches the embedding " + path +
               "; adapters are for linear modules only"};
}

Error unmatched_error(Model& model, const std::string& target, const std::vector<Target>& all) {
  return Error{"target \"" + target + "\" names no linear module of this " + std::string(model.family()) +
               (is_head_module(model, target) ? " that is not trained anyway" : "") +
               "; there are: " + names_of(all)};
}

Result<std::vector<Target>> find_by_expression(Model& model, const std::string& expression,
                                               const std::vector<Target>& all) {
  std::vector<Target> found;
  for (const std::string& path : embeddings(model)) {
    const Result<bool> matched = matches_whole(expression, path);
    if (!matched) return matched.error();
    if (*matched) return embedding_error(expression, path);
  }
  for (const Target& target : all) {
    const Result<bool> matched = matches_whole(expression, target.path);
    if (!matched) return matched.error();
    if (*matched) found.push_back(target);
  }
  return found;
}

Result<std::vector<Target>> find_by_name(Model& model, const std::vector<std::string>& names,
                                         UnmatchedTargets unmatched, const std::vector<Target>& all) {
  std::set<std::size_t> found;
  for (const std::string& name : names) {
    for (const std::string& path : embeddings(model)) {
      if (target_matches(name, path)) return embedding_error(name, path);
    }
    bool used = false;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!target_matches(name, all[i].path)) continue;
      used = true;
      found.insert(i);
    }
    if (!used && unmatched == UnmatchedTargets::refuse) return unmatched_error(model, name, all);
  }
  std::vector<Target> targets;
  for (const std::size_t i : found) targets.push_back(all[i]);
  return targets;
}

}  // namespace

bool target_matches(std::string_view target, std::string_view module_path) {
  if (target.empty() || !module_path.ends_with(target)) return false;
  const std::size_t before = module_path.size() - target.size();
  return before == 0 || module_path[before - 1] == '.';
}

bool shares_its_weight(const LinearModule& module) {
  return module.weight->parts.front().name != module.paths.front() + ".weight";
}

Result<bool> pattern_matches(const std::string& expression, const std::string& path) {
  const Result<bool> matched = matches_whole("(?:.*\\.)?(?:" + expression + ")", path);
  return matched ? matched : matches_whole(expression, path);  // whose Error names what was given
}

Result<std::vector<Target>> find_targets(Model& model, const AdapterOptions& options, UnmatchedTargets unmatched) {
  const std::vector<Target> all = candidates(model);
  if (options.targets == std::vector<std::string>{std::string(kAllLinear)}) {
    std::vector<Target> inner;
    std::copy_if(all.begin(), all.end(), std::back_inserter(inner),
                 [](const Target& target) { return !is_output_embedding(target.path); });
    return inner;
  }
  const bool by_expression = !options.target_expression.empty();
  Result<std::vector<Target>> found = by_expression ? find_by_expression(model, options.target_expression, all)
                                                    : find_by_name(model, options.targets, unmatched, all);
  if (found && found->empty()) {
    return unmatched_error(model, by_expression ? options.target_expression : options.targets.front(), all);
  }
  return found;
}

Result<std::vector<bool>> find_feedforward(const std::vector<Target>& targets, const AdapterOptions& options) {
  std::vector<bool> chosen;
  for (const Target& target : targets) {
    if (!options.feedforward_expression.empty()) {
      const Result<bool> matched = matches_whole(options.feedforward_expression, target.path);
      if (!matched) return matched.error();
      chosen.push_back(*matched);
    } else {
      chosen.push_back(std::any_of(options.feedforward_targets.begin(), options.feedforward_targets.end(),
                                   [&](const std::string& name) { return target.path.ends_with(name); }));
    }
    if (chosen.back() && target.module->paths.size() > 1) {
      return Error{"feed-forward target " + target.path +
                   " is computed in one product with its neighbours; its output can be scaled, its input cannot"};
    }
  }
  return chosen;
}

}  // namespace finesweep::worker
