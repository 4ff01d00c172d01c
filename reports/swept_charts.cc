// Metrics against each swept number: accuracy against rank.

#include <algorithm>
#include <map>
#include <set>

#include "reports/charts.h"
#include "reports/metric_names.h"
#include "reports/numbers.h"
#include "reports/text.h"

namespace finesweep::reports {

namespace {

constexpr std::size_t kMaxReferences = 4;
constexpr std::size_t kMaxTicks = 10;

/// A swept number, and how the configurations that have it fall into series.
struct SweptNumber {
  std::size_t path = 0;
  std::vector<double> values;         // ascending
  std::vector<std::size_t> together;  // paths that vary with it
  std::vector<std::size_t> others;    // paths that tell the series apart
};

std::optional<double> number_at(const Analysis& analysis, const Configuration& configuration, std::size_t path) {
  const Json& value = swept_value(analysis, configuration, path);
  if (!value.is_number()) return std::nullopt;
  return value.get<double>();
}

/// Whether, among configurations that have a number at `path`, it decides the value at `other`.
bool decides(const Analysis& analysis, std::size_t path, std::size_t other) {
  std::map<double, Json> decided;
  for (const Configuration& configuration : analysis.configurations) {
    const auto number = number_at(analysis, configuration, path);
    if (!number) continue;
    const Json& value = swept_value(analysis, configuration, other);
    const auto [at, is_new] = decided.emplace(*number, value);
    if (!is_new && at->second != value) return false;
  }
  return true;
}

std::vector<SweptNumber> swept_numbers(const Analysis& analysis) {
  const std::size_t paths = analysis.data->plan.swept_paths.size();
  std::vector<SweptNumber> numbers;
  std::set<std::size_t> covered;  // by an earlier path that varies together with them
  for (std::size_t path = 0; path < paths; ++path) {
    if (covered.contains(path)) continue;
    std::set<double> values;
    for (const Configuration& configuration : analysis.configurations)
      if (const auto number = number_at(analysis, configuration, path)) values.insert(*number);
    if (values.size() < 2) continue;
    SweptNumber number{path, {values.begin(), values.end()}, {}, {}};
    for (std::size_t other = 0; other < paths; ++other) {
      if (other == path) continue;
      if (!decides(analysis, path, other)) {
        number.others.push_back(other);
      } else if (decides(analysis, other, path)) {
        covered.insert(other);
        number.together.push_back(other);
      }
    }
    numbers.push_back(std::move(number));
  }
  return numbers;
}

std::string axis_label(const Analysis& analysis, const SweptNumber& number) {
  const auto& paths = analysis.data->plan.swept_paths;
  std::string label = paths[number.path], more;
  for (const std::size_t other : number.together) more += (more.empty() ? "" : ", ") + paths[other];
  if (!more.empty()) label.append(" (with ").append(more).append(")");
  return on_one_line(label);
}

Chart chart_of(const Analysis& analysis, const SweptNumber& number, const std::string& metric) {
  Chart chart;
  const std::string path = on_one_line(analysis.data->plan.swept_paths[number.path]);
  chart.id = file_stem(metric + "-against-" + path);
  chart.figure = "Metrics against " + path;
  chart.choice = heading(metric);
  chart.title = heading(metric) + " against " + path;
  chart.x = {axis_label(analysis, number), are_far_apart(number.values, 4), {}};
  if (number.values.size() <= kMaxTicks) chart.x.ticks = number.values;
  chart.y = {heading(metric), false, {}};
  std::map<std::string, std::size_t> known;
  std::vector<const Configuration*> without_number;
  for (const Configuration& configuration : analysis.configurations) {
    const auto value = mean_and_range(configuration, metric);
    if (!value) continue;
    const auto x = number_at(analysis, configuration, number.path);
    if (!x) {
      without_number.push_back(&configuration);
      continue;
    }
    const std::string name = name_by_values(analysis, configuration, number.others);
    const auto [at, is_new] = known.emplace(name, chart.series.size());
    if (is_new)
      chart.series.push_back(
          {name.empty() ? path : name, Chart::Style::line, static_cast<int>(chart.series.size()), {}});
    chart.series[at->second].points.push_back({*x, value->mean, {}, value->range, configuration.label});
  }
  for (auto& series : chart.series) std::ranges::stable_sort(series.points, {}, &Chart::Point::x);
  bool has_ranges = std::ranges::any_of(chart.series, [](const auto& series) {
    return std::ranges::any_of(series.points, [](const auto& point) { return point.y_range.has_value(); });
  });
  if (chart.series.empty()) return chart;
  if (without_number.size() <= kMaxReferences)
    for (const Configuration* configuration : without_number) {
      const auto value = mean_and_range(*configuration, metric);
      chart.series.push_back({configuration->label,
                              Chart::Style::reference,
                              static_cast<int>(chart.series.size()),
                              {{number.values.front(), value->mean, {}, value->range, ""},
                               {number.values.back(), value->mean, {}, value->range, ""}}});
    }
  if (has_ranges) chart.caption = "Bars: mean ± one standard deviation over repeats.";
  return chart;
}

}  // namespace

void add_swept_charts(const Analysis& analysis, Charts& charts) {
  const auto is_of_interest = [&](const std::string& metric) {
    return metric == analysis.data->plan.report.metric || metric == analysis.memory || metric == analysis.time;
  };
  std::vector<std::string> metrics;
  for (const std::string& metric : analysis.metrics)
    if (!is_spread_within_run(metric)) metrics.push_back(metric);
  // The metric that is shown stands first, then those behind the marks.
  const auto weight = [&](const std::string& metric) {
    return metric == analysis.data->plan.report.metric ? 0 : is_of_interest(metric) ? 1 : 2;
  };
  std::ranges::stable_sort(metrics, {}, weight);
  for (const SweptNumber& number : swept_numbers(analysis))
    for (const std::string& metric : metrics) {
      Chart chart = chart_of(analysis, number, metric);
      const bool is_a_curve =
          std::ranges::any_of(chart.series, [](const auto& series) { return series.points.size() > 1; });
      if (!is_a_curve) continue;
      chart.is_plotted = is_of_interest(metric);
      charts.charts.push_back(std::move(chart));
    }
}

}  // namespace finesweep::reports
