#pragma once

#include <string>

#include "sweeps/diagnostics.h"
#include "sweeps/yaml_node.h"

namespace finesweep::sweeps {

/// Lays one `--set PATH=VALUE` over the tree of a sweep file, as if the file had been written so. VALUE is YAML. A
/// path that the sweep varies is fixed: it leaves the axes and the included configurations (with a warning), so
/// that the override holds for all of them. `STEP=skip` leaves a step out everywhere.
///
/// `number` counts the overrides from 1; messages stand at --set:NUMBER:COLUMN.
void apply_override(Node& root, const std::string& text, int number, Diagnostics& diagnostics);

}  // namespace finesweep::sweeps
