#include "worker/data/text_rows.h"

#include "worker/data/split.h"

namespace finesweep::worker {

Result<std::vector<TextRow>> read_text_rows(const DataContext& data, const std::string& split) {
  const bool has_target = !data.source.empty() || !data.target.empty();
  std::vector<std::string> columns{data.text.empty() ? "text" : data.text};
  if (has_target) {
    columns = {data.source.empty() ? "source" : data.source, data.target.empty() ? "target" : data.target};
  }
  auto table = read_split_table(data, split, columns);
  if (!table) return table.error();

  const std::filesystem::path path = split_path(data, split);
  std::vector<TextRow> rows;
  rows.reserve(table->size());
  for (TableRow& read : *table) {
    TextRow row;
    row.line = read.line;
    auto text = take_text(read, 0, columns[0], path);
    if (!text) return text.error();
    row.text = std::move(*text);
    if (has_target) {
      auto target = take_text(read, 1, columns[1], path);
      if (!target) return target.error();
      if (target->find_first_not_of(" \t\r\n") == std::string::npos) {
        return at_line(path, row.line,
                       "field '" + columns[1] + "' is empty: there is nothing to learn from the row");
      }
      row.target = std::move(*target);
    }
    rows.push_back(std::move(row));
  }
  return keep_limit(std::move(rows), data, split);
}

}  // namespace finesweep::worker
