#include "worker/data/examples.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>

#include "worker/random.h"

namespace finesweep::worker {
namespace {

// A head of more classes than this is a column of ids taken for labels.
constexpr std::int64_t max_classes = 100'000;

Error at(const std::filesystem::path& path, std::int64_t line, const std::string& reason) {
  return {path.string() + ":" + std::to_string(line) + ": " + reason};
}

/// The label as a whole number: one, a fraction without fractional part, a truth value, or text that spells one.
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
    if (error == std::errc() && end == text->data() + text->size() && std::to_string(value) == *text) return value;
  }
  return std::nullopt;
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

std::string text_of(const Cell& label) {
  if (const auto* text = std::get_if<std::string>(&label)) return *text;
  if (const auto* value = std::get_if<bool>(&label)) return *value ? "true" : "false";
  if (const auto whole = as_integer(label)) return std::to_string(*whole);
  if (const auto* value = std::get_if<double>(&label)) return Json(*value).dump();
  return "null";
}

std::string shortened(std::string text) {
  if (text.size() > 60) text = text.substr(0, 57) + "…";
  return text;
}

}  // namespace

Result<Labels> Labels::find(const DataContext& data, const std::vector<Example>& train,
                            const std::filesystem::path& train_path) {
  Labels labels;
  const auto take_names = [&](std::vector<std::string> names) {
    labels.names_ = std::move(names);
    labels.count_ = static_cast<std::int64_t>(labels.names_.size());
    for (std::int64_t i = 0; i < labels.count_; ++i) {
      labels.number_by_name_[labels.names_[static_cast<std::size_t>(i)]] = i;
    }
  };
  if (data.labels) {
    take_names(*data.labels);
    if (labels.count_ < 2 || labels.number_by_name_.size() != labels.names_.size()) {
      return Error{"data.labels needs at least two names, each once."};
    }
    return labels;
  }

  bool all_whole = true, all_numbers = true;
  std::int64_t greatest = 0;
  const Example* negative = nullptr;
  std::set<std::string> names;
  for (const Example& example : train) {
    if (std::holds_alternative<std::monostate>(example.label))
      return at(train_path, example.line, "the label is null");
    const auto whole = as_integer(example.label);
    all_whole &= whole.has_value();
    all_numbers &= as_number(example.label).has_value();
    if (whole) greatest = std::max(greatest, *whole);
    if (whole && *whole < 0 && negative == nullptr) negative = &example;
    if (names.size() <= static_cast<std::size_t>(max_classes)) names.insert(text_of(example.label));
  }
  if (all_whole) {
    if (negative != nullptr) {
      return at(train_path, negative->line,
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
  take_names({names.begin(), names.end()});
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
    labels.names_ = json.at("names").get<std::vector<std::string>>();
    for (std::size_t i = 0; i < labels.names_.size(); ++i) {
      labels.number_by_name_[labels.names_[i]] = static_cast<std::int64_t>(i);
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
  // A number is the class itself, also where classes have names that are not numbers.
  const auto whole = as_integer(label);
  if (whole && *whole >= 0 && *whole < count_) return static_cast<double>(*whole);
  if (names_.empty()) return unknown("the training split has 0 to " + std::to_string(count_ - 1));
  std::string known = "known are ";
  for (std::size_t i = 0; i < names_.size() && i < 10; ++i) known += (i > 0 ? ", " : "") + shortened(names_[i]);
  if (names_.size() > 10) known += ", …";
  return unknown(known);
}

std::filesystem::path split_path(const DataContext& data, const std::string& split) {
  const auto& path = split == "train" ? data.train : split == "validation" ? data.validation : data.test;
  return path.value_or("");
}

Result<std::vector<Example>> read_split(const DataContext& data, const std::string& split) {
  const std::filesystem::path path = split_path(data, split);
  if (path.empty()) return Error{"The sweep file names no data." + split + "."};
  const bool pair = !data.text_a.empty();
  const std::string text = pair ? data.text_a : data.text.empty() ? "text" : data.text;
  const std::string label = data.label.empty() ? "label" : data.label;
  std::vector<std::string> columns{text, label};
  if (pair) columns.push_back(data.text_b);

  auto rows = read_table(path, columns);
  if (!rows) return rows.error();
  if (rows->empty()) return Error{path.string() + ": the " + split + " split has no rows."};

  std::vector<Example> examples;
  examples.reserve(rows->size());
  for (TableRow& row : *rows) {
    Example example;
    example.line = row.line;
    for (const std::size_t i : {std::size_t{0}, std::size_t{2}}) {
      if (i >= row.cells.size()) continue;
      auto* value = std::get_if<std::string>(&row.cells[i]);
      if (value == nullptr) {
        return at(path, row.line, "field '" + columns[i] + "' holds " + text_of(row.cells[i]) + "; expected text");
      }
      if (i == 0) example.text = std::move(*value);
      if (i == 2) example.second = std::move(*value);
    }
    example.label = std::move(row.cells[1]);
    examples.push_back(std::move(example));
  }

  const auto& limit = split == "train"        ? data.limit_train
                      : split == "validation" ? data.limit_validation
                                              : data.limit_test;
  if (!limit) return examples;
  const auto order = random_permutation(static_cast<std::int64_t>(examples.size()),
                                        RandomStream(data.limit_seed, purpose::data_limit));
  std::vector<Example> limited;
  for (std::int64_t i = 0; i < std::min<std::int64_t>(*limit, static_cast<std::int64_t>(order.size())); ++i) {
    limited.push_back(std::move(examples[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])]));
  }
  return limited;
}

}  // namespace finesweep::worker
