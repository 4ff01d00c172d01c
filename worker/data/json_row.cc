#include "worker/data/json_row.h"

#include <cstdint>
#include <nlohmann/json.hpp>

namespace finesweep::worker {
namespace {

using nlohmann::json;

constexpr int deepest = 200;
constexpr std::size_t most_names = 13;  // that a message shows
constexpr std::size_t longest_message = 200;

/// Takes the events of the parser; each handler returns whether to go on.
class RowReader : public nlohmann::json_sax<json> {
 public:
  explicit RowReader(const std::vector<std::string>& columns)
      : columns_(columns), found_(columns.size(), Found::nothing), cells_(columns.size()) {}

  Result<std::vector<Cell>> take() {
    if (!error_.empty()) return Error{error_};
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (found_[i] == Found::nothing) {
        return Error{"the row has no field '" + columns_[i] + "'; it has: " + list_names(names_)};
      }
      if (found_[i] == Found::structure) {
        return Error{"field '" + columns_[i] + "' holds a list or an object; expected text or a number"};
      }
    }
    return std::move(cells_);
  }

  bool null() override { return value(Cell()); }
  bool boolean(bool truth) override { return value(Cell(truth)); }
  bool number_integer(number_integer_t number) override { return value(Cell(std::int64_t{number})); }
  bool number_unsigned(number_unsigned_t number) override {
    return value(number > INT64_MAX ? Cell(static_cast<double>(number)) : Cell(static_cast<std::int64_t>(number)));
  }
  bool number_float(number_float_t number, const string_t&) override { return value(Cell(number)); }
  bool string(string_t& text) override { return value(Cell(std::move(text))); }
  bool binary(binary_t&) override { return false; }  // not in JSON text
  bool start_object(std::size_t) override { return open(true); }
  bool start_array(std::size_t) override { return open(false); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    if (names_.size() < most_names) names_.push_back(name.substr(0, longest_message));
    wanted_.clear();
    // The same column may be asked for twice.
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      if (columns_[i] == name) wanted_.push_back(i);
    }
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const json::exception& exception) override {
    // Without the number of the exception, and without what was read last: it may be long, and no valid UTF-8.
    std::string reason = exception.what();
    reason = reason.substr(0, reason.find("; last read"));
    if (const auto bracket = reason.find("] "); bracket != std::string::npos) reason.erase(0, bracket + 2);
    error_ = "not valid JSON: " + reason.substr(0, longest_message);
    return false;
  }

 private:
  enum class Found : char { nothing, structure, value };

  bool value(Cell cell) {
    if (depth_ == 0) return not_an_object();
    if (depth_ == 1) keep(Found::value, cell);
    return true;
  }
  bool open(bool object) {
    if (depth_ == 0 && !object) return not_an_object();
    if (depth_ == 1) keep(Found::structure, Cell());
    if (++depth_ <= deepest) return true;
    error_ = "the JSON is nested deeper than " + std::to_string(deepest) + " levels";
    return false;
  }
  bool close() {
    --depth_;
    return true;
  }
  void keep(Found found, const Cell& cell) {
    for (const std::size_t i : wanted_) {
      found_[i] = found;
      cells_[i] = cell;
    }
  }
  bool not_an_object() {
    error_ = "expected a JSON object, one a line";
    return false;
  }

  const std::vector<std::string>& columns_;
  std::vector<Found> found_;
  std::vector<Cell> cells_;
  std::vector<std::size_t> wanted_;
  std::vector<std::string> names_;
  std::string error_;
  int depth_ = 0;
};

}  // namespace

Result<std::vector<Cell>> read_json_row(std::string_view text, const std::vector<std::string>& columns) {
  RowReader reader(columns);
  json::sax_parse(text.begin(), text.end(), &reader);
  return reader.take();
}

}  // namespace finesweep::worker
