#include "tests/system/csv_table.h"

#include <sstream>
#include <stdexcept>

#include "tests/system/sweep_process.h"

namespace finesweep::tests {
namespace {

std::vector<std::string> cells_of(const std::string& line) {
  std::vector<std::string> cells(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      cells.emplace_back();
    } else {
      cells.back() += c;
    }
  }
  return cells;
}

}  // namespace

CsvTable::CsvTable(const std::filesystem::path& file) {
  std::istringstream lines(read_text(file));
  std::string line;
  if (!std::getline(lines, line)) throw std::runtime_error(file.string() + " has no heading");
  columns_ = cells_of(line);
  while (std::getline(lines, line)) {
    const auto cells = cells_of(line);
    if (cells.size() != columns_.size())
      throw std::runtime_error(file.string() + " has a row of another width: " + line);
    Row row;
    for (std::size_t i = 0; i < cells.size(); ++i) row[columns_[i]] = cells[i];
    rows_.push_back(std::move(row));
  }
}

const CsvTable::Row& CsvTable::labelled(const std::string& label) const {
  const Row* found = nullptr;
  for (const Row& row : rows_) {
    if (row.at("label") != label) continue;
    if (found != nullptr) throw std::out_of_range("more than one row is labelled " + label);
    found = &row;
  }
  if (found == nullptr) throw std::out_of_range("no row is labelled " + label);
  return *found;
}

double CsvTable::number(const std::string& label, const std::string& column) const {
  const Row& row = labelled(label);
  const auto cell = row.find(column);
  if (cell == row.end()) throw std::out_of_range("there is no column " + column);
  return std::stod(cell->second);
}

}  // namespace finesweep::tests
