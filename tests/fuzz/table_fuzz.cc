// Any bytes as a file of rows (JSON Lines, CSV, TSV, plain text; the first byte says which): no crash, no hang, and
// rows have the cells that were asked for, in whole UTF-8, in the order of their lines.

#include <unicode/utf8.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "tests/fuzz/memory_folder.h"
#include "tests/fuzz/weight_file.h"
#include "worker/data/table.h"

namespace finesweep::worker {
namespace {

void check_utf8(const std::string& text) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  for (std::size_t i = 0; i < text.size();) {
    UChar32 c;
    U8_NEXT(bytes, i, text.size(), c);
    require(c >= 0, "text that is no UTF-8");
  }
}

void check(std::uint8_t kind, std::string_view content) {
  static const MemoryFolder folder;
  static const std::vector<std::string> two{"text", "label"}, one{"text"};
  const char* names[] = {"rows.jsonl", "rows.csv", "rows.tsv", "rows.txt"};
  const auto path = folder.put(names[kind % 4], content);
  const auto& columns = kind % 4 == 3 || (kind & 4) != 0 ? one : two;
  const auto rows = read_table(path, columns, {.row_bytes = 2000});
  if (!rows) {
    require(rows.error().message.find(path.string()) != std::string::npos, "an error without the file's name");
    require(rows.error().message.size() < 3000, "the reason is too long");
    check_utf8(rows.error().message);
    return;
  }
  std::int64_t line = 0;
  for (const TableRow& row : *rows) {
    require(row.line > line, "lines out of order");
    line = row.line;
    require(row.cells.size() == columns.size(), "cells are missing");
    for (const Cell& cell : row.cells)
      if (const auto* text = std::get_if<std::string>(&cell)) check_utf8(*text);
  }
}

}  // namespace
}  // namespace finesweep::worker

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size >= 1) finesweep::worker::check(data[0], {reinterpret_cast<const char*>(data) + 1, size - 1});
  return 0;
}
