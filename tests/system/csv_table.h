#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace finesweep::tests {

/// Rows of a CSV file, each by the names of its columns; a comma within quotes separates nothing.
class CsvTable {
 public:
  using Row = std::map<std::string, std::string>;
  /// Throws std::runtime_error where it has no heading, or a row has another number of cells.
  explicit CsvTable(const std::filesystem::path& file);

  const std::vector<std::string>& columns() const { return columns_; }
  const std::vector<Row>& rows() const { return rows_; }
  /// The row with this label. Throws std::out_of_range where there is none, or more than one.
  const Row& labelled(const std::string& label) const;
  /// A number of that row; throws where it is none.
  double number(const std::string& label, const std::string& column) const;

 private:
  std::vector<std::string> columns_;
  std::vector<Row> rows_;
};

}  // namespace finesweep::tests
