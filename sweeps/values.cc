#include "sweeps/values.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace finesweep::sweeps {

namespace {

std::optional<std::int64_t> parse_integer(const Node& node) {
  if (!node.is_scalar() || node.quoted || node.text.empty()) return std::nullopt;
  std::string_view text = node.text;
  if (text.front() == '+') text.remove_prefix(1);
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> parse_number(const Node& node) {
  if (!node.is_scalar() || node.quoted || node.text.empty()) return std::nullopt;
  std::string_view text = node.text;
  if (text.front() == '+') text.remove_prefix(1);
  if (text.find_first_not_of("0123456789.eE+-") != std::string_view::npos) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) return std::nullopt;
  return value == 0 ? 0.0 : value;  // no negative zero: it would be another value to the hash
}

bool in_range(double value, const Setting& s) {
  if (s.above_minimum ? value <= s.minimum : value < s.minimum) return false;
  return !(s.below_maximum ? value >= s.maximum : value > s.maximum);
}

class ValueReader {
 public:
  ValueReader(const Setting& setting, const std::string& path, PathResolver& paths, Diagnostics& diagnostics)
      : setting_(setting), path_(path), paths_(paths), diagnostics_(diagnostics) {}

  std::optional<Json> read(Node& node) {
    if (node.is_null()) {
      if (setting_.fallback.empty() && !setting_.required) return Json(nullptr);
      return wrong(node);
    }
    switch (setting_.type) {
      case ValueType::boolean:
        return boolean(node);
      case ValueType::integer:
        return integer(node);
      case ValueType::number:
        return number(node);
      case ValueType::text:
        return text(node);
      case ValueType::path:
        return path(node);
      case ValueType::choice:
        return choice(node);
      case ValueType::text_list:
        return list(node, [this](Node& item) { return text(item); });
      case ValueType::choice_list:
        return choices(node);
      case ValueType::integer_or_choice:
        return parse_integer(node) ? integer(node) : choice(node);
      case ValueType::count_or_share:
        return count_or_share(node);
      case ValueType::structure:
        break;
    }
    return wrong(node);
  }

 private:
  std::nullopt_t wrong(const Node& node, const std::string& hint = "") {
    const std::string got = node.is_scalar() && node.quoted ? "text " + describe(node) : describe(node);
    diagnostics_.error(node.mark, path_, "expected " + expectation(setting_) + ", got " + got + hint);
    return std::nullopt;
  }

  std::optional<Json> boolean(const Node& node) {
    if (node.is_scalar() && !node.quoted) {
      if (node.text == "true" || node.text == "True" || node.text == "TRUE") return Json(true);
      if (node.text == "false" || node.text == "False" || node.text == "FALSE") return Json(false);
      if (node.text == "yes" || node.text == "on") return wrong(node, "; did you mean 'true'?");
      if (node.text == "no" || node.text == "off") return wrong(node, "; did you mean 'false'?");
    }
    return wrong(node);
  }

  std::optional<Json> integer(const Node& node) {
    const auto value = parse_integer(node);
    if (!value || !in_range(static_cast<double>(*value), setting_)) return wrong(node);
    return Json(*value);
  }

  std::optional<Json> number(const Node& node) {
    const auto value = parse_number(node);
    if (!value || !in_range(*value, setting_)) return wrong(node);
    return Json(*value);
  }

  std::optional<Json> count_or_share(const Node& node) {
    if (const auto count = parse_integer(node))
      return in_range(static_cast<double>(*count), setting_) ? std::optional<Json>(*count) : wrong(node);
    const auto share = parse_number(node);
    if (!share || *share < 0 || *share >= 1) return wrong(node);
    return *share == 0 ? Json(std::int64_t{0}) : Json(*share);
  }

  std::optional<Json> text(const Node& node) {
    if (!node.is_scalar() || node.text.empty()) return wrong(node);
    return Json(node.text);
  }

  std::optional<Json> path(Node& node) {
    if (!node.is_scalar() || node.text.empty() || node.text.find('\0') != std::string::npos) return wrong(node);
    return Json(paths_.resolve(node));
  }

  std::optional<Json> choice(const Node& node) {
    if (!node.is_scalar()) return wrong(node);
    const std::vector<std::string> names(setting_.choices.begin(), setting_.choices.end());
    if (std::find(names.begin(), names.end(), node.text) != names.end()) return Json(node.text);
    return wrong(node, did_you_mean(node.text, names));
  }

  template <typename ReadItem>
  std::optional<Json> list(Node& node, ReadItem read_item) {
    Json values = Json::array();
    bool good = true;
    auto add = [&](Node& item) {
      const auto value = read_item(item);
      if (value && std::find(values.begin(), values.end(), *value) != values.end())
        diagnostics_.error(item.mark, path_, describe(item) + " stands twice in the list");
      else if (value)
        return values.push_back(*value);
      good = false;
    };
    if (node.is_scalar()) {
      add(node);
    } else {
      if (!node.is_list() || node.items.empty()) return wrong(node);
      for (Node& item : node.items) add(item);
    }
    return good ? std::optional<Json>(std::move(values)) : std::nullopt;
  }

  /// In the order of the table: which comes first does not matter.
  std::optional<Json> choices(Node& node) {
    const auto given = list(node, [this](Node& item) { return choice(item); });
    if (!given) return std::nullopt;
    Json ordered = Json::array();
    for (std::string_view known : setting_.choices)
      if (std::find(given->begin(), given->end(), Json(known)) != given->end()) ordered.push_back(known);
    return ordered;
  }

  const Setting& setting_;
  const std::string& path_;
  PathResolver& paths_;
  Diagnostics& diagnostics_;
};

}  // namespace

std::string PathResolver::resolve(Node& node) {
  const std::filesystem::path given = node.text;
  const std::filesystem::path& base = node.mark.source == 0 ? file_folder_ : override_folder_;
  std::filesystem::path absolute = (given.is_absolute() ? given : base / given).lexically_normal();
  if (!absolute.has_filename()) absolute = absolute.parent_path();
  if (node.mark.source == 0 && absolute.native() != node.text)
    edits_.push_back({node.offset, node.text, absolute.string()});
  node.text = absolute.string();
  return node.text;
}

std::optional<Json> read_value(Node& node, const Setting& setting, const std::string& path, PathResolver& paths,
                               Diagnostics& diagnostics) {
  return ValueReader(setting, path, paths, diagnostics).read(node);
}

}  // namespace finesweep::sweeps
