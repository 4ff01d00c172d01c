#include <iostream>

#include "coordinator/commands.h"
#include "coordinator/devices.h"
#include "coordinator/sweep_input.h"
#include "sweeps/describe.h"

namespace finesweep::coordinator {

int plan_command(const PlanOptions& options) {
  const auto sweep = parse_sweep_file(options.sweep, options.overrides);
  if (!sweep) return 2;
  const auto files = sweeps::make_sweep_files(sweeps::default_checksum_cache());
  if (options.json)
    std::cout << sweeps::plan_json(sweep->plan, *files).dump(2) << std::endl;
  else
    std::cout << sweeps::plan_text(sweep->plan, *files) << std::flush;
  const HostResources host = read_host_resources();
  if (const auto devices = choose_devices("auto", host); devices && !host.gpus.empty()) {
    const int workers = static_cast<int>(devices->size());
    if (const Status enough = check_devices(sweep->plan, *devices, workers); !enough)
      std::cerr << "finesweep: on this machine it would not run: " << enough.error().message << "\n";
  }
  return 0;
}

int init_command(const InitOptions& options) {
  if (options.name == "list") {
    for (const sweeps::Starter& starter : sweeps::starters())
      std::cout << starter.name << ": " << starter.summary << "\n";
    return 0;
  }
  const auto text = sweeps::starter_text(options.name.empty() ? sweeps::starters().front().name : options.name);
  if (!text) {
    std::cerr << "finesweep: " << text.error().message << "\n";
    return 2;
  }
  std::cout << *text;
  return 0;
}

}  // namespace finesweep::coordinator
