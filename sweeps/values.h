#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "jobs/json.h"
#include "jobs/settings_table.h"
#include "sweeps/diagnostics.h"
#include "sweeps/yaml_node.h"

namespace finesweep::sweeps {

/// Makes relative paths absolute: those of the sweep file against its folder, those of `--set` against the current
/// one. The node itself is changed, so that what is kept of the sweep can be read from anywhere.
class PathResolver {
 public:
  PathResolver(std::filesystem::path file_folder, std::filesystem::path override_folder)
      : file_folder_(std::move(file_folder)), override_folder_(std::move(override_folder)) {}

  std::string resolve(Node& node);

  /// A path of the sweep file that was changed.
  struct Edit {
    std::size_t offset;
    std::string from, to;
  };
  const std::vector<Edit>& edits() const { return edits_; }

 private:
  std::filesystem::path file_folder_, override_folder_;
  std::vector<Edit> edits_;
};

/// The value of a setting in the form that resolved settings have (see ValueType): types, choices and ranges are
/// checked. Null where the node is empty and the setting has no default ("as if it were not given"); nothing after
/// an error.
std::optional<Json> read_value(Node& node, const Setting& setting, const std::string& path, PathResolver& paths,
                               Diagnostics& diagnostics);

}  // namespace finesweep::sweeps
