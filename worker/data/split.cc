#include "worker/data/split.h"

#include <algorithm>
#include <cmath>

#include "jobs/json.h"
#include "worker/random.h"

namespace finesweep::worker {

std::filesystem::path split_path(const DataContext& data, const std::string& split) {
  const auto& path = split == "train" ? data.train : split == "validation" ? data.validation : data.test;
  return path.value_or("");
}

std::optional<std::int64_t> split_limit(const DataContext& data, const std::string& split) {
  return split == "train" ? data.limit_train : split == "validation" ? data.limit_validation : data.limit_test;
}

Result<std::vector<TableRow>> read_split_table(const DataContext& data, const std::string& split,
                                               const std::vector<std::string>& columns) {
  const std::filesystem::path path = split_path(data, split);
  if (path.empty()) return Error{"The sweep file names no data." + split + "."};
  auto rows = read_table(path, columns);
  if (rows && rows->empty()) return Error{path.string() + ": the " + split + " split has no rows."};
  return rows;
}

Result<std::string> take_text(TableRow& row, std::size_t index, const std::string& column,
                              const std::filesystem::path& path) {
  Cell& cell = row.cells[index];
  if (auto* text = std::get_if<std::string>(&cell)) return std::move(*text);
  return at_line(path, row.line, "field '" + column + "' holds " + text_of(cell) + "; expected text");
}

std::string text_of(const Cell& cell) {
  if (const auto* text = std::get_if<std::string>(&cell)) return *text;
  if (const auto* value = std::get_if<bool>(&cell)) return *value ? "true" : "false";
  if (const auto* value = std::get_if<std::int64_t>(&cell)) return std::to_string(*value);
  if (const auto* value = std::get_if<double>(&cell)) {
    if (std::nearbyint(*value) == *value && std::abs(*value) < 1e15) {
      return std::to_string(static_cast<std::int64_t>(*value));
    }
    return Json(*value).dump();
  }
  return "null";
}

std::vector<std::int64_t> limited_order(std::int64_t count, std::int64_t limit, std::uint64_t seed) {
  auto order = random_permutation(count, RandomStream(seed, purpose::data_limit));
  order.resize(static_cast<std::size_t>(std::min(limit, count)));
  return order;
}

}  // namespace finesweep::worker
