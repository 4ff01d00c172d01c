#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "jobs/result.h"

namespace finesweep::worker {

/// One value of a row. CSV and TSV have text alone; monostate: the row has null there.
using Cell = std::variant<std::monostate, std::string, std::int64_t, double, bool>;

struct TableRow {
  std::int64_t line = 0;    // in the file, from 1, where the row begins
  std::vector<Cell> cells;  // one for each column that was asked for
};

/// Bounds that no data file in earnest exceeds.
struct TableLimits {
  std::uint64_t row_bytes = std::uint64_t{16} << 20;
  std::uint64_t file_bytes = std::uint64_t{16} << 30;
};

/// Reads the named columns of a file: JSON Lines (.jsonl, .ndjson: one object a line), CSV (.csv) or TSV (.tsv),
/// both with a header and quoted as RFC 4180 has it; or the lines of plain text (.txt), which have one column of
/// any name. Text is UTF-8, a byte-order mark and blank lines are passed over.
///
/// The Error gives file, line and reason: a missing column, a broken row, a quote that never closes.
Result<std::vector<TableRow>> read_table(const std::filesystem::path& path, const std::vector<std::string>& columns,
                                         const TableLimits& limits = {});

/// "FILE:LINE: reason".
Error at_line(const std::filesystem::path& path, std::int64_t line, const std::string& reason);
/// Text for a message: no more than 60 bytes, cut between characters.
std::string shortened(std::string_view text);
/// Names for a message: the first dozen of them.
std::string list_names(const std::vector<std::string>& names);

}  // namespace finesweep::worker
