#include "coordinator/stale_segments.h"

#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <fstream>
#include <set>
#include <string>
#include <vector>

namespace finesweep::coordinator {

namespace fs = std::filesystem;

namespace {

constexpr std::time_t kOldAfterS = 60;

bool is_segment(const std::string& name) {
  return name.starts_with("vader_segment.") || name.starts_with("sm_segment.");
}

std::vector<fs::path> old_segments(const fs::path& folder) {
  std::vector<fs::path> old;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    struct stat facts {};
    const bool is_ours = is_segment(entry.path().filename()) && lstat(entry.path().c_str(), &facts) == 0 &&
                         S_ISREG(facts.st_mode) && facts.st_uid == geteuid();
    if (is_ours && std::time(nullptr) - facts.st_mtime > kOldAfterS) old.push_back(entry.path());
  }
  return old;
}

/// What the processes that may be looked at have mapped below the folder.
std::set<fs::path> mapped_below(const fs::path& folder) {
  std::set<fs::path> mapped;
  std::error_code ignored;
  for (const auto& process : fs::directory_iterator("/proc", ignored)) {
    std::ifstream maps(process.path() / "maps");
    for (std::string line; std::getline(maps, line);) {
      const std::size_t begin = line.find(folder.string() + "/");
      if (begin != std::string::npos) mapped.insert(line.substr(begin));
    }
  }
  return mapped;
}

}  // namespace

void remove_stale_segments(const fs::path& folder) {
  const std::vector<fs::path> old = old_segments(folder);
  if (old.empty()) return;
  const std::set<fs::path> mapped = mapped_below(folder);
  std::error_code ignored;
  for (const fs::path& segment : old)
    if (!mapped.contains(segment)) fs::remove(segment, ignored);
}

}  // namespace finesweep::coordinator
