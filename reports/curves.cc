// Loss and metrics over the epochs of training, from the history.

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "reports/charts.h"
#include "reports/metric_names.h"
#include "reports/text.h"

namespace finesweep::reports {

namespace {

/// More points than a screen has columns tell nothing more.
constexpr std::size_t kMaxPoints = 500;
constexpr std::size_t kMaxTicks = 10;
/// More curves than these, the best, make a page slow and a chart unreadable.
constexpr std::size_t kMaxCurves = 40;

/// Configurations that were trained by the same jobs of one step: they share the curves.
struct Trained {
  std::vector<std::size_t> configurations;  // best first
  std::set<JobId> jobs;
};

std::vector<Trained> trained_by(const Analysis& analysis, const std::string& step_name) {
  std::vector<Trained> all;
  std::map<std::set<JobId>, std::size_t> known;
  for (const std::size_t index : analysis.ranking()) {
    std::set<JobId> jobs;
    for (const std::size_t t : analysis.configurations[index].trials)
      for (const TrialStep& step : analysis.trials[t].trial->steps) {
        if (step.name != step_name) continue;
        const auto job = analysis.data->jobs.find(step.job);
        if (job != analysis.data->jobs.end() && job->second.outcome && !job->second.outcome->history.empty())
          jobs.insert(step.job);
      }
    if (jobs.empty()) continue;
    const auto [at, is_new] = known.emplace(jobs, all.size());
    if (is_new)
      all.push_back({{index}, std::move(jobs)});
    else
      all[at->second].configurations.push_back(index);
  }
  return all;
}

std::string name_of(const Analysis& analysis, const Trained& trained) {
  std::string name = analysis.configurations[trained.configurations[0]].label;
  if (trained.configurations.size() > 1)
    name += " and " + std::to_string(trained.configurations.size() - 1) + " more";
  return name;
}

/// Means over the jobs at each step that all of them have come to.
std::vector<Chart::Point> curve(const Analysis& analysis, const Trained& trained, const std::string& metric) {
  std::map<std::int64_t, std::vector<double>> values;
  std::map<std::int64_t, double> epochs;
  for (const JobId& job : trained.jobs)
    for (const HistoryPoint& point : analysis.data->jobs.at(job).outcome->history)
      if (point.metric == metric && std::isfinite(point.value)) {
        values[point.global_step].push_back(point.value);
        epochs[point.global_step] = point.epoch;
      }
  std::vector<Chart::Point> points;
  for (const auto& [step, list] : values) {
    if (list.size() < trained.jobs.size()) continue;
    const Sample sample = summarize(list);
    Chart::Point point{epochs[step], sample.mean, {}, {}, ""};
    if (sample.deviation)
      point.y_range = Interval{sample.mean - *sample.deviation, sample.mean + *sample.deviation};
    points.push_back(std::move(point));
  }
  if (points.size() <= kMaxPoints) return points;
  std::vector<Chart::Point> thinned;
  for (std::size_t i = 0; i < kMaxPoints; ++i)
    thinned.push_back(points[i * (points.size() - 1) / (kMaxPoints - 1)]);
  return thinned;
}

/// loss, then validation_loss, then the rest by name.
std::vector<std::string> metrics_in_history(const Analysis& analysis, const std::vector<Trained>& all) {
  std::set<std::string> names;
  for (const Trained& trained : all)
    for (const JobId& job : trained.jobs)
      for (const HistoryPoint& point : analysis.data->jobs.at(job).outcome->history) names.insert(point.metric);
  std::vector<std::string> order(names.begin(), names.end());
  std::ranges::stable_sort(order, {}, [](const std::string& name) {
    return name == "loss" ? 0 : name == "validation_loss" ? 1 : 2;
  });
  return order;
}

}  // namespace

void add_curves(const Analysis& analysis, Charts& charts) {
  std::vector<std::string> steps;
  for (const TrialResult& result : analysis.trials)
    for (const TrialStep& step : result.trial->steps)
      if ((step.kind == StepKind::finetune || step.kind == StepKind::distill) &&
          std::ranges::find(steps, step.name) == steps.end())
        steps.push_back(step.name);
  for (const std::string& step : steps) {
    const std::vector<Trained> all = trained_by(analysis, step);
    for (const std::string& metric : metrics_in_history(analysis, all)) {
      Chart chart;
      // A training step has the word "training" for its own loss, so that it is not taken for that of another
      // split.
      const std::string words = metric == "loss" ? "training loss" : heading(metric);
      chart.id = file_stem(step + "-" + metric + "-by-epoch");
      chart.figure = "Curves of " + on_one_line(step);
      chart.choice = words;
      chart.title = on_one_line(step) + ": " + words + " by epoch";
      chart.x = {"epoch", false, {}};
      chart.y = {words, false, {}};
      bool has_ranges = false, is_a_curve = false;
      std::set<double> epochs;
      for (const Trained& trained : all) {
        Chart::Series series{name_of(analysis, trained), Chart::Style::band,
                             static_cast<int>(trained.configurations[0]), curve(analysis, trained, metric)};
        if (series.points.empty()) continue;
        if (chart.series.size() == kMaxCurves) {
          chart.caption = "The " + std::to_string(kMaxCurves) + " best. ";
          break;
        }
        is_a_curve = is_a_curve || series.points.size() > 1;
        for (const auto& point : series.points) {
          has_ranges = has_ranges || point.y_range;
          epochs.insert(point.x);
        }
        chart.series.push_back(std::move(series));
      }
      if (!is_a_curve) continue;
      if (std::ranges::all_of(epochs, [](double epoch) { return epoch == std::floor(epoch); }) &&
          epochs.size() <= kMaxTicks)
        chart.x.ticks.assign(epochs.begin(), epochs.end());
      if (has_ranges) chart.caption += "Bands: mean ± one standard deviation over repeats.";
      chart.is_plotted = true;
      charts.charts.push_back(std::move(chart));
    }
  }
}

}  // namespace finesweep::reports
