// Batch size × sequence length, where a step has both swept.

#include <algorithm>
#include <map>
#include <set>

#include "reports/charts.h"
#include "reports/comparison_table.h"
#include "reports/metric_names.h"
#include "reports/numbers.h"
#include "reports/text.h"

namespace finesweep::reports {

namespace {

struct Swept {
  std::string step;
  std::size_t batch_size = 0, sequence_length = 0;  // paths
};

std::vector<Swept> steps_with_both(const Analysis& analysis) {
  const auto& paths = analysis.data->plan.swept_paths;
  std::vector<Swept> found;
  for (std::size_t b = 0; b < paths.size(); ++b) {
    if (!paths[b].ends_with(".batch_size")) continue;
    const std::string step = paths[b].substr(0, paths[b].rfind('.'));
    const auto length = std::ranges::find(paths, step + ".sequence_length");
    if (length != paths.end()) found.push_back({step, b, static_cast<std::size_t>(length - paths.begin())});
  }
  return found;
}

std::vector<double> numbers_at(const Analysis& analysis, std::size_t path) {
  std::set<double> values;
  for (const Configuration& configuration : analysis.configurations)
    if (const Json& value = swept_value(analysis, configuration, path); value.is_number())
      values.insert(value.get<double>());
  return {values.begin(), values.end()};
}

HeatMap heat_map(const Analysis& analysis, const Swept& swept, const std::string& metric) {
  HeatMap map;
  map.rows = numbers_at(analysis, swept.batch_size);
  map.columns = numbers_at(analysis, swept.sequence_length);
  map.row_label = "batch size";
  map.column_label = "sequence length (tokens)";
  map.value_label = heading(metric);
  map.choice = heading(metric);
  map.title = heading(metric) + " by batch size and sequence length";
  map.figure = on_one_line(swept.step) + ": batch size × sequence length";
  map.id = file_stem(metric + "-by-batch-size-and-sequence-length");
  map.more_is_better = analysis.more_is_better(metric);
  std::vector<std::size_t> others;
  for (std::size_t path = 0; path < analysis.data->plan.swept_paths.size(); ++path)
    if (path != swept.batch_size && path != swept.sequence_length) others.push_back(path);
  const auto index_in = [](const std::vector<double>& values, const Json& value) {
    return static_cast<std::size_t>(std::ranges::find(values, value.get<double>()) - values.begin());
  };
  std::map<std::string, std::size_t> known;
  for (const Configuration& configuration : analysis.configurations) {
    const Json& batch = swept_value(analysis, configuration, swept.batch_size);
    const Json& length = swept_value(analysis, configuration, swept.sequence_length);
    const auto value = mean_and_range(configuration, metric);
    if (!value || !batch.is_number() || !length.is_number()) continue;
    std::string text = value_text(configuration, metric);
    if (text.ends_with(kOverBatches)) {
      text.resize(text.size() - kOverBatches.size());
      map.caption = "± is the deviation over the batches of one run.";
    }
    const std::string name = name_by_values(analysis, configuration, others);
    const auto [at, is_new] = known.emplace(name, map.panels.size());
    if (is_new)
      map.panels.push_back(
          {name, {map.rows.size(), std::vector<std::optional<HeatMap::Cell>>(map.columns.size())}});
    map.panels[at->second].cells[index_in(map.rows, batch)][index_in(map.columns, length)] =
        HeatMap::Cell{value->mean, std::move(text)};
  }
  return map;
}

}  // namespace

void add_heat_maps(const Analysis& analysis, Charts& charts) {
  for (const Swept& swept : steps_with_both(analysis)) {
    if (numbers_at(analysis, swept.batch_size).size() < 2 || numbers_at(analysis, swept.sequence_length).size() < 2)
      continue;
    for (const std::string& metric : analysis.metrics) {
      if (step_of(metric) != swept.step || is_spread_within_run(metric)) continue;
      HeatMap map = heat_map(analysis, swept, metric);
      if (map.panels.empty()) continue;
      const std::string_view name = bare_name(metric);
      map.is_plotted =
          name.ends_with("_ms_mean") || name.ends_with("memory_mb") || name.ends_with("per_second_mean");
      charts.heat_maps.push_back(std::move(map));
    }
  }
}

}  // namespace finesweep::reports
