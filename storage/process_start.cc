#include "storage/process_start.h"

#include <algorithm>
#include <sstream>
#include <string>

#include "storage/files.h"

namespace finesweep::storage {

std::optional<std::uint64_t> start_time_of(pid_t pid) {
  const Result<std::string> text = read_file("/proc/" + std::to_string(pid) + "/stat");
  if (!text) return std::nullopt;
  // The name in parentheses may hold anything, so fields are counted from the last one.
  std::istringstream fields(text->substr(std::min(text->rfind(')') + 1, text->size())));
  char state = '?';
  std::string skipped;
  std::uint64_t start_time = 0;
  fields >> state;  // field 3
  for (int field = 4; field < 22; ++field) fields >> skipped;
  if (!(fields >> start_time) || state == 'Z' || state == 'X') return std::nullopt;
  return start_time;
}

}  // namespace finesweep::storage
