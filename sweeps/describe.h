#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "jobs/json.h"
#include "jobs/plan.h"
#include "jobs/result.h"
#include "sweeps/files.h"

namespace finesweep::sweeps {

/// `finesweep plan`: configurations, jobs and how trials share them, chains, packs, estimated memory, notes.
std::string plan_text(const Plan& plan, SweepFiles& files);

/// `finesweep plan --json`: the same for programs.
///
///   {"name", "configurations": [{"name", "label", "repeats", "swept": {path: value}, "trials": [name…]}…],
///    "jobs": [{"id", "title", "kind", "trials": [name…], "inputs", "continues"?, "memory_mb"?: {"weights",
///    "gradients", "moments", "activations", "total"}}…], "packs": [{"jobs": [id…], "tokens", "memory_mb"}…],
///    "packs_on": "gpu" | "cpu, gpu" | "", "report": {…}, "notes": […]}
///
/// packs: as one device would train them if all their jobs were ready at once.
Json plan_json(const Plan& plan, SweepFiles& files);

/// `finesweep init [TEMPLATE]`.
struct Starter {
  std::string_view name;
  std::string_view summary;
  std::string_view text;
};
const std::vector<Starter>& starters();
/// The first one is the default. The Error lists what there is.
Result<std::string> starter_text(std::string_view name);

/// docs/settings.md, made from the settings table.
std::string settings_page();

}  // namespace finesweep::sweeps
