#include "coordinator/local_scratch.h"

#include <unistd.h>

#include <cstdlib>

#include "storage/file_system.h"

namespace finesweep::coordinator {

namespace fs = std::filesystem;

namespace {

bool is_local(const fs::path& path) {
  const auto system = storage::file_system_of(path);
  return system && !system->network;
}

}  // namespace

std::optional<fs::path> choose_scratch(const std::vector<fs::path>& candidates,
                                       const std::function<bool(const fs::path&)>& is_local) {
  for (const fs::path& candidate : candidates) {
    std::error_code ignored;
    if (candidate.empty() || !fs::is_directory(candidate, ignored)) continue;
    if (access(candidate.c_str(), W_OK | X_OK) == 0 && is_local(candidate)) return candidate;
  }
  return std::nullopt;
}

void use_local_scratch() {
  const auto folder = [](const char* name) {
    const char* value = std::getenv(name);
    return fs::path(value ? value : "");
  };
  const fs::path given = folder("TMPDIR");
  // Clusters name their nodes' own disks so; /tmp is one more often than not; memory is the last resort.
  const auto scratch = choose_scratch(
      {given, folder("SLURM_TMPDIR"), folder("LOCAL_SCRATCH"), "/tmp", "/var/tmp", "/dev/shm"}, is_local);
  if (!scratch) return;
  if (*scratch != (given.empty() ? fs::path("/tmp") : given)) setenv("TMPDIR", scratch->c_str(), 1);
  const fs::path home = folder("HOME");
  if (!std::getenv("CUDA_CACHE_PATH") && !home.empty() && !is_local(home))
    setenv("CUDA_CACHE_PATH", (*scratch / ("finesweep-cuda-" + std::to_string(getuid()))).c_str(), 1);
}

}  // namespace finesweep::coordinator
