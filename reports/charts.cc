#include "reports/charts.h"

#include <algorithm>
#include <map>
#include <set>

#include "reports/numbers.h"
#include "reports/text.h"

namespace finesweep::reports {

namespace {

constexpr std::size_t kMaxStem = 80;

void make_ids_unique(Charts& charts) {
  std::set<std::string> known;
  const auto settle = [&](std::string& id) {
    const std::string wanted = id;
    for (int n = 2; !known.insert(id).second; ++n) id = wanted + "-" + std::to_string(n);
  };
  for (Chart& chart : charts.charts) settle(chart.id);
  for (HeatMap& map : charts.heat_maps) settle(map.id);
}

}  // namespace

std::string file_stem(const std::string& text) {
  std::string stem;
  for (const char c : text) {
    const bool is_upper = c >= 'A' && c <= 'Z';
    const bool is_plain = is_upper || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (is_plain)
      stem += is_upper ? static_cast<char>(c - 'A' + 'a') : c;
    else if (!stem.empty() && stem.back() != '-')
      stem += '-';
  }
  stem.resize(std::min(stem.size(), kMaxStem));
  while (stem.ends_with('-')) stem.pop_back();
  return stem.empty() ? "chart" : stem;
}

std::optional<MeanAndRange> mean_and_range(const Configuration& configuration, const std::string& metric) {
  const auto found = configuration.metrics.find(metric);
  if (found == configuration.metrics.end() || configuration.is_time_of_pack(metric)) return std::nullopt;
  MeanAndRange value{found->second.mean, {}};
  if (const auto deviation = found->second.deviation)
    value.range = Interval{value.mean - *deviation, value.mean + *deviation};
  return value;
}

const Json& swept_value(const Analysis& analysis, const Configuration& configuration, std::size_t path) {
  static const Json none;
  const Trial& trial = *analysis.trials[configuration.trials[0]].trial;
  return path < trial.swept.size() ? trial.swept[path] : none;
}

std::string name_by_values(const Analysis& analysis, const Configuration& configuration,
                           const std::vector<std::size_t>& paths) {
  std::string name;
  for (const std::size_t path : paths) {
    const Json& value = swept_value(analysis, configuration, path);
    if (value.is_null()) continue;
    const std::string& whole = analysis.data->plan.swept_paths[path];
    const std::string key = whole.substr(whole.rfind('.') + 1);
    const bool says_enough = value.is_string() && value != "run" && value != "skip";
    if (!name.empty()) name += ", ";
    name += on_one_line(says_enough ? exact(value) : key + " " + exact(value));
  }
  return name;
}

bool are_far_apart(const std::vector<double>& values, double ratio) {
  if (values.empty()) return false;
  const auto [least, most] = std::ranges::minmax(values);
  return least > 0 && most / least >= ratio;
}

std::vector<std::size_t> front_of(const std::vector<Chart::Point>& points, int x_sign, int y_sign) {
  std::vector<std::size_t> order(points.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto rank = [&](std::size_t i) { return std::pair(y_sign * points[i].y, x_sign * points[i].x); };
  std::ranges::stable_sort(order, std::ranges::greater(), rank);
  std::vector<std::size_t> front;
  for (const std::size_t i : order) {
    // What came before is at least as good in y; so only what is better in x, or equal in both, is on the front.
    const bool is_first = front.empty();
    const bool is_better = !is_first && x_sign * points[i].x > x_sign * points[front.back()].x;
    if (is_first || is_better || rank(i) == rank(front.back())) front.push_back(i);
  }
  return front;
}

Charts charts_of(const Analysis& analysis) {
  Charts charts;
  add_swept_charts(analysis, charts);
  add_tradeoff_charts(analysis, charts);
  add_curves(analysis, charts);
  add_heat_maps(analysis, charts);
  make_ids_unique(charts);
  return charts;
}

}  // namespace finesweep::reports
