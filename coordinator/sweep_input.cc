#include "coordinator/sweep_input.h"

#include <iostream>

#include "storage/store.h"

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

std::filesystem::path run_directory_of(const std::filesystem::path& out, const Plan& plan) {
  return std::filesystem::absolute(out.empty() ? std::filesystem::path("runs") / plan.name : out)
      .lexically_normal();
}

std::optional<int> chosen_threads(const storage::RunDirectory& run, const Plan& plan) {
  if (plan.resources.threads > 0) return plan.resources.threads;
  if (!run.holds_run()) return std::nullopt;
  const auto store = storage::Store::open_read_only(run.path());
  if (!store) return std::nullopt;
  const auto before = store->load_plan();
  if (!before || before->resources.threads <= 0) return std::nullopt;
  return before->resources.threads;
}

}  // namespace finesweep::coordinator
