#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>

#include "jobs/result.h"
#include "storage/posix.h"

namespace finesweep::storage {

/// events.jsonl, derived from the database's events: it follows the commits and is never waited for. Where it
/// cannot be written it falls behind, and catches up at the next append or when the store is opened again.
class EventFile {
 public:
  struct Line {
    std::int64_t n = 0;
    std::int64_t end = 0;  // byte after the line and its newline
    std::string json;
  };
  /// The database's side.
  struct Source {
    /// The last event that ends at or before this byte; nullopt where there is none.
    std::function<std::optional<Line>(std::int64_t byte)> last_before;
    /// Calls `line` for every event after number n, in order.
    std::function<void(std::int64_t n, const std::function<void(const Line&)>& line)> after;
  };

  explicit EventFile(std::filesystem::path path) : path_(std::move(path)) {}

  /// Opens the file and makes it hold exactly the source's events: cuts a torn last line, appends what is missing,
  /// writes it anew where it holds something else.
  Status open_and_repair(const Source& source);

  /// `lines` begin at byte `begin` of the file.
  void append(std::int64_t begin, const std::string& lines);

 private:
  Status append_after(const Source& source, std::int64_t n);

  std::filesystem::path path_;
  Descriptor file_;
  std::int64_t end_ = 0;  // bytes that are in the file
  std::string behind_;    // what follows them and could not be written
};

}  // namespace finesweep::storage
