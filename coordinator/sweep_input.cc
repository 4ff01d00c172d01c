#include "coordinator/sweep_input.h"

#include <iostream>

namespace finesweep::coordinator {

std::optional<sweeps::ParsedSweep> parse_sweep_file(const std::filesystem::path& file,
                                                    const std::vector<std::string>& overrides) {
  auto files = sweeps::make_sweep_files(sweeps::default_checksum_cache());
  sweeps::SweepRequest request;
  request.file = file;
  request.overrides = overrides;
  auto parsed = sweeps::parse_sweep(request, *files);
  std::cerr << sweeps::format_diagnostics(parsed.diagnostics, file.string());
  return std::move(parsed.sweep);
}

}  // namespace finesweep::coordinator
