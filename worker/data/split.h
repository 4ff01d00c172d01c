#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/data/table.h"

namespace finesweep::worker {

/// Where a split lies; empty where there is none.
std::filesystem::path split_path(const DataContext& data, const std::string& split);
/// The rows that the sweep file keeps of it; nothing: all.
std::optional<std::int64_t> split_limit(const DataContext& data, const std::string& split);

/// The named columns of a split. The Error gives file and line, or says that the split is not there or has no rows.
Result<std::vector<TableRow>> read_split_table(const DataContext& data, const std::string& split,
                                               const std::vector<std::string>& columns);

/// The text in cell `index` of a row. The Error names file, line and field where it is not text.
Result<std::string> take_text(TableRow& row, std::size_t index, const std::string& column,
                              const std::filesystem::path& path);

/// How a value is shown and compared: `3`, not `3.0`; null is "null".
std::string text_of(const Cell& cell);

/// The rows that a limit keeps of `count`: the first of a seeded shuffle, in its order.
std::vector<std::int64_t> limited_order(std::int64_t count, std::int64_t limit, std::uint64_t seed);

/// Those rows; all as they stand where the split has no limit.
template <typename Row>
std::vector<Row> keep_limit(std::vector<Row> rows, const DataContext& data, const std::string& split) {
  const auto limit = split_limit(data, split);
  if (!limit) return rows;
  std::vector<Row> kept;
  for (const std::int64_t row : limited_order(static_cast<std::int64_t>(rows.size()), *limit, data.limit_seed)) {
    kept.push_back(std::move(rows[static_cast<std::size_t>(row)]));
  }
  return kept;
}

}  // namespace finesweep::worker
