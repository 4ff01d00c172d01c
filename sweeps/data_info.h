#pragma once

#include <map>
#include <string>
#include <vector>

#include "jobs/result.h"
#include "sweeps/files.h"

namespace finesweep::sweeps {

/// What planning must know of a data file: that it is there, holds rows, and which fields its first row has.
struct DataInfo {
  /// Of the first row (JSONL) or of the heading (CSV, TSV), in the order of the file.
  std::vector<std::string> fields;
  /// A .txt file: no fields, one row a line.
  bool is_plain_text = false;
  /// Hex SHA-256 of the file.
  std::string sha256;
};

/// Reads each data file once. An Error says what is wrong and what to do.
class DataCatalog {
 public:
  explicit DataCatalog(SweepFiles& files) : files_(files) {}
  /// The reference stays valid as long as the catalog.
  const Result<DataInfo>& get(const std::string& path);

 private:
  SweepFiles& files_;
  std::map<std::string, Result<DataInfo>> known_;
};

}  // namespace finesweep::sweeps
