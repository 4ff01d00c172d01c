#pragma once

#include "sweeps/pipeline.h"
#include "sweeps/settings_reader.h"

namespace finesweep::sweeps {

/// Reads `sweep`, `report` and `resources` of a file whose pipeline has been read into `declaration`.
void read_sweep_sections(Node& root, SettingsReader& settings, SweepDeclaration& declaration);

}  // namespace finesweep::sweeps
