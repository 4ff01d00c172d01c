// Quality against what it costs, with the Pareto front.

#include <algorithm>
#include <map>
#include <set>

#include "reports/charts.h"
#include "reports/metric_names.h"
#include "reports/numbers.h"

namespace finesweep::reports {

namespace {

/// More configurations than this share colours: by the value of a swept path.
constexpr std::size_t kMaxOwnColours = 12;
constexpr std::size_t kMaxGroups = 8;

/// The first swept path with few values, of names where there is one; nullopt: none divides the configurations.
std::optional<std::size_t> grouping_path(const Analysis& analysis) {
  std::optional<std::size_t> chosen;
  bool chosen_is_text = false;
  for (std::size_t path = 0; path < analysis.data->plan.swept_paths.size(); ++path) {
    std::set<std::string> values;
    bool is_text = false;
    for (const Configuration& configuration : analysis.configurations) {
      const Json& value = swept_value(analysis, configuration, path);
      is_text = is_text || value.is_string();
      values.insert(exact(value));
    }
    if (values.size() < 2 || values.size() > kMaxGroups) continue;
    if (chosen && (chosen_is_text || !is_text)) continue;
    chosen = path;
    chosen_is_text = is_text;
  }
  return chosen;
}

Chart tradeoff(const Analysis& analysis, const std::string& cost, const char* cost_word) {
  Chart chart;
  chart.id = file_stem(std::string("quality-against-") + cost_word);
  chart.figure = std::string("Quality against ") + cost_word;
  chart.choice = heading(cost);
  chart.title = heading(analysis.quality) + " against " + heading(cost);
  std::vector<Chart::Point> points;
  std::vector<std::size_t> configurations;
  std::vector<double> costs;
  bool has_ranges = false;
  for (std::size_t i = 0; i < analysis.configurations.size(); ++i) {
    const Configuration& configuration = analysis.configurations[i];
    const auto quality = mean_and_range(configuration, analysis.quality);
    const auto paid = mean_and_range(configuration, cost);
    if (!quality || !paid) continue;
    points.push_back({paid->mean, quality->mean, paid->range, quality->range, configuration.label});
    configurations.push_back(i);
    costs.push_back(paid->mean);
    has_ranges = has_ranges || quality->range || paid->range;
  }
  if (points.size() < 2) return chart;
  chart.x = {heading(cost), are_far_apart(costs, 30), {}};
  chart.y = {heading(analysis.quality), false, {}};

  const auto path = points.size() > kMaxOwnColours ? grouping_path(analysis) : std::nullopt;
  std::map<std::string, std::size_t> known;
  for (std::size_t p = 0; p < points.size(); ++p) {
    const Configuration& configuration = analysis.configurations[configurations[p]];
    std::string name = configuration.label;
    if (points.size() > kMaxOwnColours) name = path ? name_by_values(analysis, configuration, {*path}) : "";
    if (name.empty()) name = path ? "others" : "configurations";
    const auto [at, is_new] = known.emplace(name, chart.series.size());
    const std::size_t colour = points.size() > kMaxOwnColours ? chart.series.size() : configurations[p];
    if (is_new) chart.series.push_back({name, Chart::Style::points, static_cast<int>(colour), {}});
    chart.series[at->second].points.push_back(points[p]);
  }

  const int x_sign = analysis.more_is_better(cost) ? 1 : -1,
            y_sign = analysis.more_is_better(analysis.quality) ? 1 : -1;
  const std::vector<std::size_t> front = front_of(points, x_sign, y_sign);
  Chart::Series stairs{"Pareto front", Chart::Style::front, -1, {}};
  for (const std::size_t index : front) {
    // Between two points of the front, what both dominate begins at the worse of each.
    if (!stairs.points.empty()) stairs.points.push_back({stairs.points.back().x, points[index].y, {}, {}, ""});
    stairs.points.push_back({points[index].x, points[index].y, {}, {}, points[index].label});
  }
  if (front.size() > 1) chart.series.push_back(std::move(stairs));
  chart.caption = "Dashed: the Pareto front; no configuration is better in one and as good in the other.";
  if (has_ranges) chart.caption += " Bars: mean ± one standard deviation over repeats.";
  chart.is_plotted = true;
  return chart;
}

}  // namespace

void add_tradeoff_charts(const Analysis& analysis, Charts& charts) {
  if (analysis.quality.empty()) return;
  for (const auto& [metric, word] : {std::pair(analysis.memory, "memory"), std::pair(analysis.time, "time")}) {
    if (metric.empty()) continue;
    Chart chart = tradeoff(analysis, metric, word);
    if (!chart.series.empty()) charts.charts.push_back(std::move(chart));
  }
}

}  // namespace finesweep::reports
