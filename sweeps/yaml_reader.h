#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "sweeps/diagnostics.h"
#include "sweeps/yaml_node.h"

namespace finesweep::sweeps {

/// What a YAML text may cost. yaml-cpp recurses once for each level, and an alias of aliases grows without end.
struct YamlLimits {
  std::size_t bytes = 1 << 20;
  int depth = 32;
  std::size_t nodes = 100'000;  // with aliases expanded
};

/// Reads one YAML 1.2 document in UTF-8. Nothing comes back where the text cannot be read; duplicate keys, keys
/// that are no scalars, tags and merge keys (`<<`) are errors too, all reported together. An empty text is null.
///
/// Merge keys are refused on purpose: which value wins is not seen by the reader. Aliases of whole values work.
std::optional<Node> read_yaml(std::string_view text, int source, Diagnostics& diagnostics,
                              const YamlLimits& limits = {});

/// Well-formed UTF-8 without control characters other than tab and line end.
bool is_plain_utf8(std::string_view text);

/// Writes a node as YAML that read_yaml reads back as the same value: block style, with short lists and maps of
/// scalars on one line.
std::string write_yaml(const Node& node);

}  // namespace finesweep::sweeps
