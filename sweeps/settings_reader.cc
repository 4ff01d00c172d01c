#include "sweeps/settings_reader.h"

#include <algorithm>

namespace finesweep::sweeps {

namespace {

std::vector<std::string> key_names(Section section) {
  const auto keys = setting_keys(section);
  return {keys.begin(), keys.end()};
}

/// "; known are a, b", where there are few.
std::string known_keys(const std::vector<std::string>& keys) {
  std::vector<std::string> distinct;
  for (const std::string& key : keys)
    if (std::find(distinct.begin(), distinct.end(), key) == distinct.end()) distinct.push_back(key);
  if (distinct.empty() || distinct.size() > 8) return "";
  std::string text = "; known are ";
  for (std::size_t i = 0; i < distinct.size(); ++i) text += (i ? ", " : "") + distinct[i];
  return text;
}

}  // namespace

std::string key_hint(std::string_view key, const std::vector<std::string>& known) {
  const std::string near = did_you_mean(key, known);
  return near.empty() ? known_keys(known) : near;
}

bool has_control_character(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; });
}

Node* SettingsReader::map_section(Node& root, std::string_view key, std::string_view expected) {
  Node* node = root.find(key);
  if (!node || node->is_null()) return nullptr;
  if (node->is_map()) return node;
  error(node->mark, std::string(key), "expected a map of " + std::string(expected) + ", got " + describe(*node));
  return nullptr;
}

void SettingsReader::unknown_key(Mark mark, const std::string& path, std::string_view key, Section section,
                                 const Target& group) {
  std::vector<std::string> candidates;
  const std::string prefix = group.key.empty() ? "" : group.key + ".";
  for (const std::string& known : key_names(section)) {
    if (!known.starts_with(prefix)) continue;
    const std::string rest = known.substr(prefix.size());
    candidates.push_back(rest.substr(0, rest.find('.')));
  }
  std::string hint = did_you_mean(key, candidates);
  // A key of another kind of step is a likelier slip than a typing error.
  if (hint.empty() && group.step >= 0) {
    for (StepKind kind : {StepKind::finetune, StepKind::evaluate, StepKind::benchmark, StepKind::quantize,
                          StepKind::prune, StepKind::distill})
      if (find_setting(section_of(kind), key)) {
        hint = "; it is a setting of " + std::string(step_kind_name(kind));
        break;
      }
  }
  if (hint.empty()) hint = known_keys(candidates);
  error(mark, path, "unknown key" + hint);
  broken_.insert(group.path.substr(0, group.path.find('.')));
}

void SettingsReader::read_map(Node& node, const Target& group, Overlay& overlay) {
  for (Node::Entry& entry : node.entries) {
    if (group.step >= 0 && group.key.empty() && entry.key == "name") continue;
    Target target = group;
    target.path = group.path + "." + entry.key;
    target.key = group.key.empty() ? entry.key : group.key + "." + entry.key;
    target.setting = find_setting(group.section, target.key);
    if (!target.setting && !is_setting_group(group.section, target.key)) {
      unknown_key(entry.mark, target.path, entry.key, group.section, group);
      continue;
    }
    target.kind = target.setting ? Target::Kind::setting : Target::Kind::group;
    read_target(entry.value, target, overlay);
  }
  if (group.key.empty())
    for (const Node::Entry& entry : node.entries)
      if (const std::string_view other = alternative_key(entry.key); entry.key == "steps" && node.find(other))
        error(entry.mark, group.path + "." + entry.key, "give either epochs or steps, not both");
}

void SettingsReader::read_target(Node& node, const Target& target, Overlay& overlay) {
  if (node.is_map() && is_setting_group(target.section, target.key)) {
    overlay.replaced_groups.push_back(target.path);
    read_map(node, target, overlay);
    return;
  }
  if (!target.setting) {
    if (node.is_null()) {
      overlay.replaced_groups.push_back(target.path);
      return;
    }
    error(node.mark, target.path, "expected a map, got " + describe(node));
    return;
  }
  if (const auto value = read_value(node, *target.setting, target.path, paths_, diagnostics_))
    overlay.values.push_back({target, {*value, node.mark}});
  else
    broken_.insert(target.path);
}

std::optional<Json> SettingsReader::read_plain(Section section, Node::Entry& entry, const std::string& head) {
  const std::string path = head + "." + entry.key;
  const Setting* setting = find_setting(section, entry.key);
  if (!setting) {
    error(entry.mark, path, "unknown key" + key_hint(entry.key, key_names(section)));
    return std::nullopt;
  }
  auto value = read_value(entry.value, *setting, path, paths_, diagnostics_);
  if (value && value->is_null()) return std::nullopt;
  return value;
}

}  // namespace finesweep::sweeps
