#include "slurm/allocation.h"

#include <charconv>
#include <cstdlib>
#include <vector>

#include "slurm/command.h"

namespace finesweep::slurm {

namespace {

std::optional<long> number(std::string_view text) {
  long value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

}  // namespace

std::optional<Allocation> read_allocation(const Environment& environment) {
  const auto text = [&](const char* name) {
    const char* value = environment(name);
    return std::string(value ? value : "");
  };
  Allocation allocation;
  allocation.job = text("SLURM_JOB_ID");
  if (allocation.job.empty()) return std::nullopt;
  allocation.restarts = static_cast<int>(number(text("SLURM_RESTART_COUNT")).value_or(0));
  allocation.node = text("SLURMD_NODENAME");
  allocation.cpus_per_task = static_cast<int>(number(text("SLURM_CPUS_PER_TASK")).value_or(0));
  return allocation;
}

std::optional<Allocation> read_allocation() {
  return read_allocation([](const char* name) -> const char* { return std::getenv(name); });
}

std::optional<long> parse_time_left(const std::string& text) {
  std::string_view rest = text;
  while (!rest.empty() && (rest.back() == '\n' || rest.back() == ' ')) rest.remove_suffix(1);
  long days = 0;
  const bool has_days = rest.find('-') != std::string_view::npos;
  if (has_days) {
    const auto before = number(rest.substr(0, rest.find('-')));
    if (!before) return std::nullopt;
    days = *before;
    rest.remove_prefix(rest.find('-') + 1);
  }
  std::vector<long> parts;
  while (true) {
    const auto colon = rest.find(':');
    const auto part = number(rest.substr(0, colon));
    if (!part) return std::nullopt;
    parts.push_back(*part);
    if (colon == std::string_view::npos) break;
    rest.remove_prefix(colon + 1);
  }
  if (parts.size() > 3) return std::nullopt;
  // With days the first part is hours; without, the last one is seconds.
  if (has_days) parts.resize(3, 0);
  long seconds = 0;
  for (const long part : parts) seconds = seconds * 60 + part;
  return days * 86400 + seconds;
}

std::optional<long> time_left(const Allocation& allocation) {
  const auto answer = run_command({"squeue", "--noheader", "--jobs", allocation.job, "--format", "%L"});
  if (!answer || answer->exit_code != 0) return std::nullopt;
  return parse_time_left(answer->output);
}

}  // namespace finesweep::slurm
