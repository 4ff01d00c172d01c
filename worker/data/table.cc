#include "worker/data/table.h"

#include <unicode/utf8.h>

#include <algorithm>
#include <optional>

#include "storage/files.h"
#include "worker/data/json_row.h"

namespace finesweep::worker {
namespace {

bool is_utf8(std::string_view text) {
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(text.data());
  for (std::size_t i = 0; i < text.size();) {
    UChar32 c;
    U8_NEXT(bytes, i, text.size(), c);
    if (c < 0) return false;
  }
  return true;
}

/// Why text cannot be used; nothing where it can.
std::optional<std::string> fault_of(std::string_view text) {
  if (!is_utf8(text)) return "the row is not valid UTF-8";
  if (text.find('\0') != std::string_view::npos) return "the row holds a NUL byte; is the file really text?";
  return std::nullopt;
}

/// Calls `use(line, its number)` for every line that is not blank, until it gives an Error.
template <typename Use>
Status for_lines(const std::filesystem::path& path, std::string_view text, const TableLimits& limits, Use use) {
  std::int64_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    ++number;
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    if (line.size() > limits.row_bytes) return at_line(path, number, "the row is longer than the limit of 16 MiB");
    if (Status used = use(line, number); !used) return used;
  }
  return {};
}

Result<std::vector<TableRow>> read_json_lines(const std::filesystem::path& path, std::string_view text,
                                              const std::vector<std::string>& columns, const TableLimits& limits) {
  std::vector<TableRow> rows;
  const Status read = for_lines(path, text, limits, [&](std::string_view line, std::int64_t number) -> Status {
    auto cells = read_json_row(line, columns);
    if (!cells) return at_line(path, number, cells.error().message);
    rows.push_back({number, std::move(*cells)});
    return {};
  });
  if (!read) return read.error();
  return rows;
}

Result<std::vector<TableRow>> read_plain_text(const std::filesystem::path& path, std::string_view text,
                                              const std::vector<std::string>& columns, const TableLimits& limits) {
  if (columns.size() > 1) {
    return Error{"Cannot read " + path.string() + ": plain text has no fields, and " + list_names(columns) +
                 " are needed. Use a .jsonl, .csv or .tsv file."};
  }
  std::vector<TableRow> rows;
  const Status read = for_lines(path, text, limits, [&](std::string_view line, std::int64_t number) -> Status {
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (const auto fault = fault_of(line)) return at_line(path, number, *fault);
    TableRow row{number, {}};
    if (!columns.empty()) row.cells.emplace_back(std::string(line));
    rows.push_back(std::move(row));
    return {};
  });
  if (!read) return read.error();
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
  if (!more) return at_line(path, reader.line(), more.error().message);
  if (!*more) return at_line(path, 1, "the file is empty; expected a line with the names of its columns");
  for (const auto& name : header) {
    if (const auto fault = fault_of(name)) return at_line(path, reader.line(), *fault);
  }
  std::vector<std::size_t> places;
  for (const auto& column : columns) {
    const auto found = std::find(header.begin(), header.end(), column);
    if (found == header.end()) {
      return at_line(path, reader.line(), "the file has no column '" + column + "'; it has: " + list_names(header));
    }
    if (std::find(found + 1, header.end(), column) != header.end()) {
      return at_line(path, reader.line(), "the file has two columns '" + column + "'");
    }
    places.push_back(static_cast<std::size_t>(found - header.begin()));
  }
  std::vector<TableRow> rows;
  while (true) {
    more = reader.next(record);
    if (!more) return at_line(path, reader.line(), more.error().message);
    if (!*more) return rows;
    if (record.size() != header.size()) {
      return at_line(path, reader.line(),
                     "the row has " + std::to_string(record.size()) + " fields, the header has " +
                         std::to_string(header.size()));
    }
    TableRow row;
    row.line = reader.line();
    for (const std::size_t place : places) {
      if (const auto fault = fault_of(record[place])) return at_line(path, reader.line(), *fault);
      row.cells.emplace_back(std::move(record[place]));
    }
    rows.push_back(std::move(row));
  }
}

}  // namespace

Error at_line(const std::filesystem::path& path, std::int64_t line, const std::string& reason) {
  return {path.string() + ":" + std::to_string(line) + ": " + reason};
}

std::string shortened(std::string_view text) {
  constexpr std::size_t most = 60;
  if (text.size() <= most) return std::string(text);
  std::size_t end = most - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "…";
}

std::string list_names(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < names.size() && i < 12; ++i) text += (i > 0 ? ", " : "") + shortened(names[i]);
  if (names.size() > 12) text += ", …";
  return text.empty() ? "none" : text;
}

Result<std::vector<TableRow>> read_table(const std::filesystem::path& path, const std::vector<std::string>& columns,
                                         const TableLimits& limits) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const bool json_lines = extension == ".jsonl" || extension == ".ndjson";
  const bool plain_text = extension == ".txt";
  if (!json_lines && !plain_text && extension != ".csv" && extension != ".tsv") {
    return Error{"Cannot read " + path.string() + ": expected a file that ends in .jsonl, .csv, .tsv or .txt."};
  }
  std::error_code error;
  if (const auto bytes = std::filesystem::file_size(path, error); !error && bytes > limits.file_bytes) {
    return Error{"Cannot read " + path.string() + ": it has " + std::to_string(bytes >> 30) +
                 " GiB, more than the limit of 16. Split it, or take a part."};
  }
  auto text = storage::read_file(path);
  if (!text) return text.error();
  std::string_view content = *text;
  if (content.starts_with("\xFF\xFE") || content.starts_with("\xFE\xFF")) {
    return Error{"Cannot read " + path.string() + ": it is UTF-16. Save it as UTF-8."};
  }
  if (content.starts_with("\xEF\xBB\xBF")) content.remove_prefix(3);
  if (json_lines) return read_json_lines(path, content, columns, limits);
  if (plain_text) return read_plain_text(path, content, columns, limits);
  return read_separated(path, content, extension == ".csv" ? ',' : '\t', columns, limits);
}

}  // namespace finesweep::worker
