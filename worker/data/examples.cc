#include "worker/data/examples.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

namespace finesweep::worker {
namespace {

// A head of more classes than this is a column of ids taken for labels.
constexpr std::int64_t max_classes = 100'000;

/// The label as a whole number: one, a fraction without fractional part, a truth value, or text that spells one of
/// these numbers as JSON would (so that CSV and JSON Lines mean the same).
std::optional<std::int64_t> as_integer(const Cell& label) {
  if (const auto* value = std::get_if<std::int64_t>(&label)) return *value;
  if (const auto* value = std::get_if<bool>(&label)) return *value ? 1 : 0;
  if (const auto* value = std::get_if<double>(&label)) {
    if (std::nearbyint(*value) == *value && std::abs(*value) < 1e15) return static_cast<std::int64_t>(*value);
    return std::nullopt;
  }
  if (const auto* text = std::get_if<std::string>(&label)) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    const char* const last = text->data() + text->size();
    if (error != std::errc()) return std::nullopt;
    const bool is_fraction =
        end + 1 < last && *end == '.' && std::all_of(end + 1, last, [](char c) { return c == '0'; });
    if ((end == last || is_fraction) && text->starts_with(std::to_string(value))) return value;
  }
  return std::nullopt;
}

/// Text such as nan, which is no name among labels that are numbers.
bool spells_no_number(const Cell& label) {
  const auto* text = std::get_if<std::string>(&label);
  if (text == nullptr) return false;
  double value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  return error == std::errc() && end == text->data() + text->size() && !std::isfinite(value);
}

std::optional<double> as_number(const Cell& label) {
  if (const auto whole = as_integer(label)) return static_cast<double>(*whole);
  double value = 0;
  if (const auto* number = std::get_if<double>(&label)) {
    value = *number;
  } else if (const auto* text = std::get_if<std::string>(&label)) {
    const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
    if (error != std::errc() || end != text->data() + text->size()) return std::nullopt;
  } else {
    return std::nullopt;
  }
  return std::isfinite(value) ? std::optional(value) : std::nullopt;
}

}  // namespace

void Labels::take_names(std::vector<std::string> names) {
  names_ = std::move(names);
  count_ = static_cast<std::int64_t>(names_.size());
  for (std::int64_t i = 0; i < count_; ++i) {
    const std::string& name = names_[static_cast<std::size_t>(i)];
    number_by_name_[name] = i;
    names_are_numbers_ |= as_integer(Cell(name)).has_value();
  }
}

Result<Labels> Labels::find(const DataContext& data, const std::vector<Example>& train,
                            const std::filesystem::path& train_path) {
  Labels labels;
  if (data.labels) {
    labels.take_names(*data.labels);
    if (labels.count_ < 2 || labels.number_by_name_.size() != labels.names_.size()) {
      return Error{"data.labels needs at least two names, each once."};
    }
    return labels;
  }

  bool all_whole = true, all_numbers = true;
  std::int64_t greatest = 0;
  const Example *negative = nullptr, *no_number = nullptr;
  std::set<std::string> names;
  for (const Example& example : train) {
    if (std::holds_alternative<std::monostate>(example.label))
      return at_line(train_path, example.line, "the label is null");
    if (const auto* text = std::get_if<std::string>(&example.label); text != nullptr && text->empty())
      return at_line(train_path, example.line, "the label is empty");
    if (spells_no_number(example.label)) {
      if (no_number == nullptr) no_number = &example;
      continue;
    }
    const auto whole = as_integer(example.label);
    all_whole &= whole.has_value();
    all_numbers &= as_number(example.label).has_value();
    if (whole) greatest = std::max(greatest, *whole);
    if (whole && *whole < 0 && negative == nullptr) negative = &example;
    if (names.size() <= static_cast<std::size_t>(max_classes)) names.insert(text_of(example.label));
  }
  if (no_number != nullptr) {
    if (all_numbers)
      return at_line(train_path, no_number->line, "the label " + text_of(no_number->label) + " is no number");
    for (const Example& example : train)
      if (spells_no_number(example.label)) names.insert(text_of(example.label));
    all_whole = all_numbers = false;
  }
  if (all_whole) {
    if (negative != nullptr) {
      return at_line(train_path, negative->line,
                     "the label " + text_of(negative->label) +
                         " is negative; classes are numbered from 0. Name them in data.labels.");
    }
    if (greatest >= max_classes) {
      return Error{train_path.string() + ": the greatest label is " + std::to_string(greatest) +
                   ", too many classes; is data.fields.label the right column?"};
    }
    labels.count_ = std::max<std::int64_t>(greatest + 1, 2);
    return labels;
  }
  if (all_numbers) {
    labels.regression_ = true;
    labels.count_ = 1;
    return labels;
  }
  if (names.size() > static_cast<std::size_t>(max_classes)) {
    return Error{train_path.string() +
                 ": more than 100,000 different labels; is data.fields.label the right column?"};
  }
  if (names.size() < 2) {
    return Error{train_path.string() + ": every row has the label '" + shortened(*names.begin()) +
                 "'; a classification needs at least two."};
  }
  // UTF-8 sorts by bytes as by code points.
  labels.take_names({names.begin(), names.end()});
  return labels;
}

Json Labels::to_json() const {
  return {{"regression", regression_}, {"count", count_}, {"names", names_}};
}

Result<Labels> Labels::from_json(const Json& json) {
  try {
    Labels labels;
    labels.regression_ = json.at("regression");
    labels.count_ = json.at("count");
    if (auto names = json.at("names").get<std::vector<std::string>>(); !names.empty()) {
      labels.take_names(std::move(names));
    }
    return labels;
  } catch (const std::exception& exception) {
    return Error{std::string("The labels in the manifest of an artifact are damaged: ") + exception.what()};
  }
}

Result<double> Labels::number_of(const Cell& label) const {
  const auto unknown = [&](const std::string& known) {
    return Error{"the label '" + shortened(text_of(label)) + "' is not known; " + known};
  };
  if (regression_) {
    const auto number = as_number(label);
    if (!number) return unknown("the training split has numbers");
    return *number;
  }
  if (!names_.empty()) {
    if (const auto found = number_by_name_.find(text_of(label)); found != number_by_name_.end()) {
      return static_cast<double>(found->second);
    }
  }
  const auto whole = as_integer(label);
  if (whole && !names_are_numbers_ && *whole >= 0 && *whole < count_) return static_cast<double>(*whole);
  if (names_.empty()) return unknown("the training split has 0 to " + std::to_string(count_ - 1));
  std::string known = "known are ";
  for (std::size_t i = 0; i < names_.size() && i < 10; ++i) known += (i > 0 ? ", " : "") + shortened(names_[i]);
  if (names_.size() > 10) known += ", …";
  return unknown(known);
}

Result<std::vector<Example>> read_split(const DataContext& data, const std::string& split) {
  const bool pair = !data.text_a.empty();
  const std::string text = pair ? data.text_a : data.text.empty() ? "text" : data.text;
  const std::string label = data.label.empty() ? "label" : data.label;
  std::vector<std::string> columns{text, label};
  if (pair) columns.push_back(data.text_b);
  auto rows = read_split_table(data, split, columns);
  if (!rows) return rows.error();

  const std::filesystem::path path = split_path(data, split);
  std::vector<Example> examples;
  examples.reserve(rows->size());
  for (TableRow& row : *rows) {
    Example example;
    example.line = row.line;
    auto first = take_text(row, 0, columns[0], path);
    if (!first) return first.error();
    example.text = std::move(*first);
    if (pair) {
      auto second = take_text(row, 2, columns[2], path);
      if (!second) return second.error();
      example.second = std::move(*second);
    }
    example.label = std::move(row.cells[1]);
    examples.push_back(std::move(example));
  }
  return keep_limit(std::move(examples), data, split);
}

}  // namespace finesweep::worker
