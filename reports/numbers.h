#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "jobs/json.h"
#include "reports/statistics.h"

namespace finesweep::reports {

/// The shortest digits that read back as the same number; empty for one that is not finite.
std::string exact(double value);
/// A swept value as a cell: text as it is, numbers exactly, null empty, the rest as JSON.
std::string exact(const Json& value);

/// For people: four significant digits, whole numbers in groups of three: "0.8432", "22,713,216".
std::string rounded(double value);
/// "0.8432 ± 0.0021": the deviation to two significant digits, the mean to as many places. Without a deviation,
/// the mean alone.
std::string rounded(double mean, std::optional<double> deviation);
/// A difference with its sign, "+0.012"; the places are those that its interval allows.
/// With the interval, where there is one: "+0.012 [0.005, 0.019]".
std::string rounded_difference(const Sample& difference, bool with_interval);

}  // namespace finesweep::reports
