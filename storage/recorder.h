#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "storage/change.h"
#include "storage/fragments.h"

namespace finesweep::storage {

/// Writes changes into the database's tables, with statements that are prepared once. Inside a transaction of the
/// caller's; throws what SQLiteCpp throws, and std::runtime_error where a change contradicts what is recorded.
class Recorder {
 public:
  Recorder(SQLite::Database& database, Fragments& fragments);
  ~Recorder();

  /// The generation that the database is in.
  std::int64_t generation();
  /// Forgets which rows jobs have: the plan changed.
  void forget_jobs();
  void record(const Change& change);

  /// Lines for events.jsonl of what was recorded since the last commit() or rollback(), and the byte at which they
  /// begin.
  const std::string& new_lines() const;
  std::int64_t new_lines_begin() const;
  void commit();
  void rollback();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace finesweep::storage
