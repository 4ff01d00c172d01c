#include "worker/data/table.h"

#include <unicode/utf8.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "storage/files.h"

namespace finesweep::worker {
namespace {

Error at(const std::filesystem::path& path, std::int64_t line, const std::string& reason) {
  return {path.string() + ":" + std::to_string(line) + ": " + reason};
}

bool is_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  for (std::size_t i = 0; i < text.size();) {
    UChar32 c;
    U8_NEXT(bytes, i, text.size(), c);
    if (c < 0) return false;
  }
  return true;
}

std::string list(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < 12; ++i) text += (i > 0 ? ", " : "") + names[i];
  if (names.size() > 12) text += ", …";
  return text.empty() ? "none" : text;
}

std::optional<Cell> cell_of(const nlohmann::json& value) {
  if (value.is_null()) return Cell();
  if (value.is_string()) return Cell(value.get<std::string>());
  if (value.is_boolean()) return Cell(value.get<bool>());
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX) return Cell(value.get<double>());
  if (value.is_number_integer()) return Cell(value.get<std::int64_t>());
  if (value.is_number()) return Cell(value.get<double>());
  return std::nullopt;
}

Result<std::vector<TableRow>> read_json_lines(const std::filesystem::path& path, std::string_view text,
                                              const std::vector<std::string>& columns, const TableLimits& limits) {
  std::vector<TableRow> rows;
  std::int64_t line = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    ++line;
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view row_text = text.substr(begin, end - begin);
    begin = end + 1;
    if (row_text.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    if (row_text.size() > limits.row_bytes) return at(path, line, "the row is longer than the limit of 16 MiB");
    nlohmann::json json;
    try {
      json = nlohmann::json::parse(row_text);
    } catch (const std::exception& exception) {
      return at(path, line, std::string("not valid JSON: ") + exception.what());
    }
    if (!json.is_object()) return at(path, line, "expected a JSON object, one a line");
    TableRow row;
    row.line = line;
    for (const auto& column : columns) {
      const auto found = json.find(column);
      if (found == json.end()) {
        std::vector<std::string> names;
        for (const auto& [name, value] : json.items()) names.push_back(name);
        return at(path, line, "the row has no field '" + column + "'; it has: " + list(names));
      }
      auto cell = cell_of(*found);
      if (!cell)
        return at(path, line, "field '" + column + "' holds a list or an object; expected text or a number");
      row.cells.push_back(std::move(*cell));
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

/// Records of RFC 4180, one after the other.
class RecordReader {
 public:
  RecordReader(std::string_view text, char separator, std::uint64_t max_bytes)
      : text_(text), separator_(separator), max_bytes_(max_bytes) {}

  /// Where the record that was read last begins.
  std::int64_t line() const { return record_line_; }
  /// False at the end. Blank lines are passed over.
  Result<bool> next(std::vector<std::string>& fields) {
    while (position_ < text_.size() && (text_[position_] == '\n' || text_.substr(position_, 2) == "\r\n")) {
      position_ += text_[position_] == '\n' ? 1 : 2;
      ++line_;
    }
    fields.clear();
    if (position_ >= text_.size()) return false;
    record_line_ = line_;
    const std::size_t begin = position_;
    for (bool more = true; more;) {
      std::string field;
      auto separated = next_field(field);
      if (!separated) return separated.error();
      more = *separated;
      fields.push_back(std::move(field));
      if (position_ - begin > max_bytes_) return Error{"the row is longer than the limit of 16 MiB"};
    }
    return true;
  }

 private:
  /// True where another field of the record follows.
  Result<bool> next_field(std::string& field) {
    if (position_ < text_.size() && text_[position_] == '"') {
      if (auto status = quoted(field); !status) return status.error();
    } else {
      while (position_ < text_.size() && !at_end_of_field()) field += text_[position_++];
    }
    if (position_ >= text_.size()) return false;
    if (text_[position_] == separator_) return ++position_, true;
    if (text_[position_] == '\r') ++position_;
    ++position_;
    ++line_;
    return false;
  }

  Status quoted(std::string& field) {
    const std::int64_t opened = line_;
    for (++position_; position_ < text_.size(); ++position_) {
      if (field.size() > max_bytes_) break;
      if (text_[position_] == '\n') ++line_;
      if (text_[position_] != '"') {
        field += text_[position_];
      } else if (position_ + 1 < text_.size() && text_[position_ + 1] == '"') {
        field += text_[position_++];
      } else {
        ++position_;
        if (position_ < text_.size() && !at_end_of_field()) {
          return Error{"text follows a closing quote; a quote within quotes is written twice"};
        }
        return {};
      }
    }
    record_line_ = opened;
    return Error{"the quote that opens here is never closed"};
  }

  bool at_end_of_field() const {
    return text_[position_] == separator_ || text_[position_] == '\n' || text_.substr(position_, 2) == "\r\n";
  }

  std::string_view text_;
  char separator_;
  std::uint64_t max_bytes_;
  std::size_t position_ = 0;
  std::int64_t line_ = 1, record_line_ = 1;
};

Result<std::vector<TableRow>> read_separated(const std::filesystem::path& path, std::string_view text,
                                             char separator, const std::vector<std::string>& columns,
                                             const TableLimits& limits) {
  RecordReader reader(text, separator, limits.row_bytes);
  std::vector<std::string> header, record;
  auto more = reader.next(header);
  if (!more) return at(path, reader.line(), more.error().message);
  if (!*more) return at(path, 1, "the file is empty; expected a line with the names of its columns");
  std::vector<std::size_t> places;
  for (const auto& column : columns) {
    const auto found = std::find(header.begin(), header.end(), column);
    if (found == header.end()) {
      return at(path, reader.line(), "the file has no column '" + column + "'; it has: " + list(header));
    }
    if (std::find(found + 1, header.end(), column) != header.end()) {
      return at(path, reader.line(), "the file has two columns '" + column + "'");
    }
    places.push_back(static_cast<std::size_t>(found - header.begin()));
  }
  std::vector<TableRow> rows;
  while (true) {
    more = reader.next(record);
    if (!more) return at(path, reader.line(), more.error().message);
    if (!*more) return rows;
    if (record.size() != header.size()) {
      return at(path, reader.line(),
                "the row has " + std::to_string(record.size()) + " fields, the header has " +
                    std::to_string(header.size()));
    }
    TableRow row;
    row.line = reader.line();
    for (const std::size_t place : places) {
      if (!is_utf8(record[place])) return at(path, reader.line(), "the row is not valid UTF-8");
      row.cells.emplace_back(record[place]);
    }
    rows.push_back(std::move(row));
  }
}

}  // namespace

Result<std::vector<TableRow>> read_table(const std::filesystem::path& path, const std::vector<std::string>& columns,
                                         const TableLimits& limits) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool json_lines = extension == ".jsonl" || extension == ".ndjson";
  if (!json_lines && extension != ".csv" && extension != ".tsv") {
    return Error{"Cannot read " + path.string() + ": expected a file that ends in .jsonl, .csv or .tsv."};
  }
  std::error_code error;
  if (const auto bytes = std::filesystem::file_size(path, error); !error && bytes > limits.file_bytes) {
    return Error{"Cannot read " + path.string() + ": it has " + std::to_string(bytes >> 30) +
                 " GiB, more than the limit of 16. Split it, or take a part."};
  }
  auto text = storage::read_file(path);
  if (!text) return text.error();
  std::string_view content = *text;
  if (content.starts_with("\xEF\xBB\xBF")) content.remove_prefix(3);
  return json_lines ? read_json_lines(path, content, columns, limits)
                    : read_separated(path, content, extension == ".csv" ? ',' : '\t', columns, limits);
}

}  // namespace finesweep::worker
