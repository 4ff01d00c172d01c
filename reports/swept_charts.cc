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
/// With more points than these, the page has charts of the metrics of interest alone.
constexpr std::size_t kManyPoints = 20'000;

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

/// Whether, among configurations that have a number at `number_path`, the value at `path` decides that at `other`.
bool decides(const Analysis& analysis, std::size_t path, std::size_t other, std::size_t number_path) {
  std::map<Json, Json> decided;
  for (const Configuration& configuration : analysis.configurations) {
    if (!number_at(analysis, configuration, number_path)) continue;
    const Json& value = swept_value(analysis, configuration, other);
    const auto [at, is_new] = decided.emplace(swept_value(analysis, configuration, path), value);
    if (!is_new && at->second != value) return false;
  }
  return true;
}

/// What all points of a series without a name have in common: "lora", else "rank varied".
std::string common_name(const Analysis& analysis, const std::vector<const Configuration*>& configurations,
                        std::size_t number_path) {
  std::vector<std::size_t> common;
  for (std::size_t path = 0; path < analysis.data->plan.swept_paths.size(); ++path) {
    const Json& first = swept_value(analysis, *configurations[0], path);
    if (first.is_string() && std::ranges::all_of(configurations, [&](const Configuration* configuration) {
          return swept_value(analysis, *configuration, path) == first;
        }))
      common.push_back(path);
  }
  const std::string name = name_by_values(analysis, *configurations[0], common);
  if (!name.empty()) return name;
  const std::string& path = analysis.data->plan.swept_paths[number_path];
  return on_one_line(path.substr(path.rfind('.') + 1)) + " varied";
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
      if (!decides(analysis, path, other, path)) {
        number.others.push_back(other);
      } else if (decides(analysis, other, path, path)) {
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

/// The jobs that measured the metric.
std::set<JobId> jobs_of(const Analysis& analysis, const Configuration& configuration, const std::string& metric) {
  std::set<JobId> jobs;
  for (const std::size_t trial : configuration.trials)
    if (const auto found = analysis.trials[trial].metrics.find(metric);
        found != analysis.trials[trial].metrics.end())
      jobs.insert(found->second.job);
  return jobs;
}

/// Whether all configurations with a number share its measurement with one that has another number: the metric is
/// decided before the number matters.
bool is_unaffected(const Analysis& analysis, const SweptNumber& number, const std::string& metric) {
  std::map<std::set<JobId>, std::set<double>> numbers;
  for (const Configuration& configuration : analysis.configurations)
    if (const auto value = number_at(analysis, configuration, number.path);
        value && configuration.metrics.contains(metric))
      numbers[jobs_of(analysis, configuration, metric)].insert(*value);
  return std::ranges::all_of(numbers, [](const auto& entry) { return entry.second.size() > 1; });
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
  std::vector<const Configuration*> with_number, without_number;
  for (const Configuration& configuration : analysis.configurations) {
    const auto value = mean_and_range(configuration, metric);
    if (!value) continue;
    const auto x = number_at(analysis, configuration, number.path);
    if (!x) {
      without_number.push_back(&configuration);
      continue;
    }
    with_number.push_back(&configuration);
    const std::string name = name_by_values(analysis, configuration, number.others);
    const auto [at, is_new] = known.emplace(name, chart.series.size());
    if (is_new) chart.series.push_back({name, Chart::Style::line, static_cast<int>(chart.series.size()), {}});
    chart.series[at->second].points.push_back({*x, value->mean, {}, value->range, configuration.label});
  }
  for (auto& series : chart.series) {
    if (series.name.empty()) series.name = common_name(analysis, with_number, number.path);
    std::ranges::stable_sort(series.points, {}, &Chart::Point::x);
  }
  const bool has_ranges = std::ranges::any_of(chart.series, [](const auto& series) {
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
  if (metrics.size() * analysis.configurations.size() > kManyPoints)
    std::erase_if(metrics, [&](const std::string& metric) { return weight(metric) == 2; });
  for (const SweptNumber& number : swept_numbers(analysis))
    for (const std::string& metric : metrics) {
      if (is_unaffected(analysis, number, metric)) continue;
      Chart chart = chart_of(analysis, number, metric);
      const bool is_a_curve =
          std::ranges::any_of(chart.series, [](const auto& series) { return series.points.size() > 1; });
      if (!is_a_curve) continue;
      chart.is_plotted = is_of_interest(metric);
      charts.charts.push_back(std::move(chart));
    }
}

}  // namespace finesweep::reports
