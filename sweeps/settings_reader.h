#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "sweeps/pipeline.h"

namespace finesweep::sweeps {

/// Reads maps of settings against the settings table; what all sections of a sweep file share.
class SettingsReader {
 public:
  /// Paths whose value cannot be read are added to `broken`.
  SettingsReader(PathResolver& paths, Diagnostics& diagnostics, std::set<std::string, std::less<>>& broken)
      : paths_(paths), diagnostics_(diagnostics), broken_(broken) {}

  /// The map at a key of the file; null where there is none or it is no map, which is reported.
  Node* map_section(Node& root, std::string_view key, std::string_view expected);

  /// Every setting of a map that stands at `group`.
  void read_map(Node& node, const Target& group, Overlay& overlay);

  /// The value of one target: a setting, or a map of settings.
  void read_target(Node& node, const Target& target, Overlay& overlay);

  /// A setting of sweep, report or resources; nothing after an error or where it is left empty.
  std::optional<Json> read_plain(Section section, Node::Entry& entry, const std::string& head);

  void error(Mark mark, std::string path, std::string message) {
    diagnostics_.error(mark, std::move(path), std::move(message));
  }

 private:
  void unknown_key(Mark mark, const std::string& path, std::string_view key, Section section, const Target& group);

  PathResolver& paths_;
  Diagnostics& diagnostics_;
  std::set<std::string, std::less<>>& broken_;
};

/// "; did you mean …?", or what there is.
std::string key_hint(std::string_view key, const std::vector<std::string>& known);

bool has_control_character(std::string_view text);

}  // namespace finesweep::sweeps
