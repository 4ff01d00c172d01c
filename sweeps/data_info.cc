#include "sweeps/data_info.h"

#include <optional>

#include "jobs/json.h"

namespace finesweep::sweeps {

namespace fs = std::filesystem;

namespace {

/// The first row must lie within so many bytes to be looked at here; a longer one is left to the engine.
constexpr std::size_t kStart = 1 << 20;

std::string_view without_bom(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  return text;
}

/// Fields of the first JSON object; keeps the order of the file.
Result<std::vector<std::string>> jsonl_fields(const std::string& path, std::string_view text, bool whole) {
  int line = 0;
  while (!text.empty()) {
    ++line;
    const std::size_t end = text.find('\n');
    const std::string_view row = text.substr(0, end);
    const bool blank = row.find_first_not_of(" \t\r") == std::string_view::npos;
    if (!blank) {
      if (end == std::string_view::npos && !whole) return std::vector<std::string>{};
      const auto json = nlohmann::ordered_json::parse(row.begin(), row.end(), nullptr, false);
      if (!json.is_object())
        return Error{path + ":" + std::to_string(line) + ": expected a JSON object on each line"};
      std::vector<std::string> fields;
      for (const auto& [key, value] : json.items()) fields.push_back(key);
      return fields;
    }
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return Error{path + ": holds no rows"};
}

/// Names in the heading of a CSV file (RFC 4180), and whether a row follows it.
Result<std::vector<std::string>> csv_fields(const std::string& path, std::string_view text, char separator,
                                            bool whole) {
  std::vector<std::string> fields{""};
  bool in_quotes = false;
  std::size_t i = 0;
  for (; i < text.size(); ++i) {
    const char c = text[i];
    if (in_quotes) {
      if (c == '"' && i + 1 < text.size() && text[i + 1] == '"')
        fields.back() += text[++i];
      else if (c == '"')
        in_quotes = false;
      else
        fields.back() += c;
    } else if (c == '"' && fields.back().empty()) {
      in_quotes = true;
    } else if (c == separator) {
      fields.emplace_back();
    } else if (c == '\n') {
      break;
    } else if (c != '\r') {
      fields.back() += c;
    }
  }
  const std::string_view rest = i < text.size() ? text.substr(i + 1) : std::string_view();
  if (whole && rest.find_first_not_of(" \t\r\n") == std::string_view::npos)
    return Error{path + ": holds no rows" + (fields.size() > 1 ? " below its heading" : "")};
  return fields;
}

/// Of plain text; only looks for a line that is not blank.
Result<std::vector<std::string>> no_fields(const std::string& path, std::string_view text, bool whole) {
  if (whole && text.find_first_not_of(" \t\r\n") == std::string_view::npos) return Error{path + ": holds no rows"};
  return std::vector<std::string>{};
}

Result<DataInfo> read_data(const std::string& path, SweepFiles& files) {
  const auto info = files.info(path);
  if (info.kind == SweepFiles::Kind::missing) return Error{"no such file: " + path};
  if (info.kind == SweepFiles::Kind::directory) return Error{path + " is a folder, expected a file"};
  const std::string extension = fs::path(path).extension().string();
  const bool csv = extension == ".csv" || extension == ".tsv";
  const bool plain_text = extension == ".txt";
  if (!csv && !plain_text && extension != ".jsonl")
    return Error{path + ": the extension says how a file is read; expected .jsonl, .csv, .tsv or .txt"};
  const auto start = files.read_start(path, kStart);
  if (!start) return start.error();
  const bool whole = info.bytes <= kStart;
  const std::string_view text = without_bom(*start);
  auto fields = plain_text ? no_fields(path, text, whole)
                : csv      ? csv_fields(path, text, extension == ".csv" ? ',' : '\t', whole)
                           : jsonl_fields(path, text, whole);
  if (!fields) return fields.error();
  auto digest = files.sha256(path);
  if (!digest) return digest.error();
  return DataInfo{*std::move(fields), plain_text, *std::move(digest)};
}

}  // namespace

const Result<DataInfo>& DataCatalog::get(const std::string& path) {
  auto found = known_.find(path);
  if (found == known_.end()) found = known_.emplace(path, read_data(path, files_)).first;
  return found->second;
}

}  // namespace finesweep::sweeps
