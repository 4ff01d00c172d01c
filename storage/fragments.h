#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "jobs/ids.h"
#include "jobs/json.h"

namespace SQLite {
class Database;
class Statement;
}  // namespace SQLite

namespace finesweep::storage {

/// JSON that many rows repeat, stored once. Throws what SQLiteCpp throws.
class Fragments {
 public:
  explicit Fragments(SQLite::Database& database);
  ~Fragments();

  /// The number of an equal fragment, stored now where there is none. What is learnt in a transaction counts from
  /// commit() on; rollback() forgets it.
  std::int64_t put(const Json& json);
  void commit() { uncommitted_.clear(); }
  void rollback();

  /// Valid as long as this object.
  const Json& get(std::int64_t number);

 private:
  SQLite::Database& database_;
  std::unique_ptr<SQLite::Statement> find_, insert_, load_;
  std::unordered_map<JobId, std::int64_t> numbers_;
  std::vector<JobId> uncommitted_;
  std::map<std::int64_t, Json> loaded_;
};

}  // namespace finesweep::storage
