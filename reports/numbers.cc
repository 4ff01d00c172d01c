#include "reports/numbers.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

namespace finesweep::reports {

namespace {

constexpr int kDigits = 4;
constexpr int kMaxPlaces = 8;
/// From here on numbers are written with an exponent.
constexpr double kLargest = 1e15;

/// Places after the point that show `digits` significant digits of `value`.
int places_for(double value, int digits) {
  if (value == 0 || !std::isfinite(value)) return 0;
  const int exponent = static_cast<int>(std::floor(std::log10(std::abs(value))));
  return std::clamp(digits - 1 - exponent, 0, kMaxPlaces);
}

std::string grouped(double whole) {
  std::string digits = fmt::format("{:.0f}", std::abs(whole));
  for (auto at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > 0; at -= 3)
    digits.insert(static_cast<std::size_t>(at), 1, ',');
  return whole < 0 ? "-" + digits : digits;
}

std::string with_places(double value, int places) {
  if (std::abs(value) >= kLargest) return fmt::format("{:.3e}", value);
  std::string text = places == 0 ? grouped(std::round(value)) : fmt::format("{:.{}f}", value, places);
  const bool is_zero = text.find_first_of("123456789") == std::string::npos;
  return is_zero && text.starts_with('-') ? text.substr(1) : text;
}

}  // namespace

std::string exact(double value) {
  if (!std::isfinite(value)) return "";
  if (value == 0) return "0";
  const bool is_short = std::abs(value) >= 1e-5 && std::abs(value) < kLargest;
  const auto format = is_short ? std::chars_format::fixed : std::chars_format::scientific;
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, format).ptr;
  return {buffer, end};
}

std::string exact(const Json& value) {
  if (value.is_null()) return "";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return exact(value.get<double>());
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string rounded(double value) {
  if (!std::isfinite(value)) return "";
  if (value == std::floor(value)) return with_places(value, 0);
  return with_places(value, places_for(value, kDigits));
}

std::string rounded(double mean, std::optional<double> deviation) {
  if (!deviation) return rounded(mean);
  if (*deviation == 0) return rounded(mean) + " ± 0";
  // No more digits of the mean than are worth reading, however small the deviation.
  const int places = std::min(places_for(*deviation, 2), std::max(places_for(mean, kDigits + 2), 1));
  return with_places(mean, places) + " ± " + with_places(*deviation, places);
}

std::string rounded_difference(const Sample& difference, bool with_interval) {
  int places = places_for(difference.mean, 3);
  if (difference.ci95) {
    const double half = (difference.ci95->high - difference.ci95->low) / 2;
    if (half > 0) places = places_for(half, 2);
  }
  std::string text = difference.mean >= 0 ? "+" : "";
  text += with_places(difference.mean, places);
  if (difference.ci95 && with_interval)
    text +=
        " [" + with_places(difference.ci95->low, places) + ", " + with_places(difference.ci95->high, places) + "]";
  return text;
}

}  // namespace finesweep::reports
