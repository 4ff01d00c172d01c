#include "reports/analysis.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <utility>

#include "reports/metric_names.h"
#include "reports/numbers.h"

namespace finesweep::reports {

namespace {

/// The pipeline's step names: each trial has a subsequence of them, in the same order.
std::vector<std::string> pipeline_order(const std::vector<Trial>& trials) {
  std::vector<std::string> order;
  std::set<std::string> known;
  for (const Trial& trial : trials) {
    std::size_t at = 0;
    for (const TrialStep& step : trial.steps) {
      if (known.insert(step.name).second) {
        order.insert(order.begin() + static_cast<std::ptrdiff_t>(at), step.name);
      } else {
        at = static_cast<std::size_t>(std::ranges::find(order, step.name) - order.begin());
      }
      ++at;
    }
  }
  return order;
}

TrialResult result_of(const Trial& trial, const RunData& data) {
  TrialResult result;
  result.trial = &trial;
  bool all_succeeded = true;
  for (const TrialStep& step : trial.steps) {
    const auto found = data.jobs.find(step.job);
    const JobState state = found == data.jobs.end() ? JobState::pending : found->second.state;
    if (state == JobState::succeeded && found->second.outcome) {
      for (const auto& [name, value] : found->second.outcome->metrics)
        if (std::isfinite(value)) result.metrics[step.name + "." + name] = {value, step.job};
      const Json& environment = found->second.outcome->environment;
      if (const int jobs = environment.is_object() ? environment.value("pack", 1) : 1; jobs > 1)
        result.packs[step.name] = jobs;
      continue;
    }
    all_succeeded = false;
    // The first failure is the cause; those after it only lacked their input.
    if (result.state == JobState::failed || (state != JobState::failed && state != JobState::cancelled)) continue;
    if (state == JobState::cancelled && result.state == JobState::cancelled) continue;
    result.state = state;
    result.error =
        step.name + ": " + (found->second.error.empty() ? std::string(job_state_name(state)) : found->second.error);
  }
  if (all_succeeded) result.state = JobState::succeeded;
  return result;
}

std::vector<std::string> metric_order(const Analysis& analysis) {
  std::map<std::string, std::set<std::string>> by_step;
  for (const TrialResult& trial : analysis.trials)
    for (const auto& [name, value] : trial.metrics) by_step[std::string(step_of(name))].insert(name);
  for (const TrialResult& trial : analysis.trials)
    for (const auto& [step, jobs] : trial.packs) by_step[step].insert(step + ".peak_memory_mb");
  std::vector<std::string> metrics;
  for (const std::string& step : pipeline_order(analysis.data->plan.trials))
    std::ranges::copy(by_step[step], std::back_inserter(metrics));
  return metrics;
}

void summarize_configuration(const Analysis& analysis, Configuration& configuration) {
  std::map<std::string, std::vector<double>> values;
  std::map<std::string, std::set<JobId>> counted;
  for (const std::size_t index : configuration.trials) {
    const TrialResult& trial = analysis.trials[index];
    if (trial.state != JobState::succeeded) continue;
    ++configuration.succeeded;
    for (const auto& [step, jobs] : trial.packs) configuration.packed_steps.insert(step);
    for (const auto& [name, value] : trial.metrics)
      if (counted[name].insert(value.job).second) values[name].push_back(value.value);
  }
  for (const auto& [name, list] : values) configuration.metrics[name] = summarize(list);
}

std::vector<Configuration> group(const Analysis& analysis) {
  std::vector<Configuration> configurations;
  std::map<std::string, std::size_t> known;
  std::map<std::string, int> labels;
  for (std::size_t i = 0; i < analysis.trials.size(); ++i) {
    const Trial& trial = *analysis.trials[i].trial;
    const auto [at, is_new] = known.emplace(trial.configuration, configurations.size());
    if (is_new) {
      Configuration& configuration = configurations.emplace_back();
      configuration.name = trial.configuration;
      configuration.label = trial.label;
      ++labels[trial.label];
    }
    configurations[at->second].trials.push_back(i);
  }
  for (Configuration& configuration : configurations) {
    if (const std::string sweep = analysis.data->sweep_of(*analysis.trials[configuration.trials[0]].trial);
        !sweep.empty() && labels[configuration.label] > 1) {
      configuration.label.append(" (").append(sweep).append(")");
      ++labels[configuration.label];
    }
  }
  for (Configuration& configuration : configurations) {
    if (labels[configuration.label] > 1 || configuration.label.empty()) {
      if (!configuration.label.empty()) configuration.label.append(" ");
      configuration.label.append("(").append(configuration.name).append(")");
    }
    std::ranges::sort(configuration.trials, {}, [&](std::size_t i) { return analysis.trials[i].trial->repeat; });
    summarize_configuration(analysis, configuration);
  }
  return configurations;
}

/// Paired by seed, which the repeats of all configurations share; pairs of the same two jobs count once.
std::optional<Sample> difference(const Analysis& analysis, const Configuration& configuration,
                                 const Configuration& baseline, const std::string& metric) {
  std::map<std::uint64_t, TrialResult::Value> of_baseline;
  const auto value_of = [&](const TrialResult& trial) -> const TrialResult::Value* {
    const auto found = trial.metrics.find(metric);
    return trial.state == JobState::succeeded && found != trial.metrics.end() ? &found->second : nullptr;
  };
  for (const std::size_t index : baseline.trials)
    if (const auto* value = value_of(analysis.trials[index]))
      of_baseline[analysis.trials[index].trial->seed] = *value;
  std::vector<double> differences;
  std::set<std::pair<JobId, JobId>> counted;
  for (const std::size_t index : configuration.trials) {
    const auto* value = value_of(analysis.trials[index]);
    const auto other = of_baseline.find(analysis.trials[index].trial->seed);
    if (value == nullptr || other == of_baseline.end()) continue;
    if (counted.emplace(value->job, other->second.job).second)
      differences.push_back(value->value - other->second.value);
  }
  if (differences.empty()) return std::nullopt;
  return summarize(differences);
}

std::optional<double> mean_of(const Configuration& configuration, const std::string& metric) {
  const auto found = configuration.metrics.find(metric);
  if (found == configuration.metrics.end()) return std::nullopt;
  return found->second.mean;
}

bool compares(const Analysis& analysis, const std::string& metric) {
  return std::ranges::none_of(analysis.configurations,
                              [&](const Configuration& c) { return c.is_time_of_pack(metric); });
}

std::size_t coverage(const Analysis& analysis, const std::string& metric) {
  return static_cast<std::size_t>(std::ranges::count_if(
      analysis.configurations, [&](const Configuration& c) { return c.metrics.contains(metric); }));
}

/// The metric with this ending that tells most about what a configuration costs: of a benchmark, else of training,
/// else of the step that gives the quality; but first of all one that most configurations have.
std::string cost_metric(const Analysis& analysis, std::string_view ending, std::string_view benchmark_ending) {
  std::vector<std::string> candidates;
  const auto add = [&](auto&& fits, std::string_view wanted) {
    for (const std::string& metric : analysis.metrics)
      if (bare_name(metric).ends_with(wanted) && coverage(analysis, metric) > 0 && compares(analysis, metric) &&
          fits(step_of(metric), analysis.step_kinds.find(step_of(metric))->second))
        candidates.push_back(metric);
  };
  add([](std::string_view, StepKind kind) { return kind == StepKind::benchmark; }, benchmark_ending);
  for (const StepKind wanted : {StepKind::finetune, StepKind::distill})
    add([&](std::string_view, StepKind kind) { return kind == wanted; }, ending);
  add([&](std::string_view step, StepKind) { return step == step_of(analysis.quality); }, ending);
  std::string chosen;
  for (const std::string& candidate : candidates)
    if (chosen.empty() || coverage(analysis, candidate) > coverage(analysis, chosen)) chosen = candidate;
  return chosen;
}

/// A configuration as a point: its mean in each dimension, the sign turned so that more is better.
struct Point {
  std::size_t configuration;
  std::vector<double> means;
};

/// The configurations that have a value in every dimension.
std::vector<Point> points_in(const Analysis& analysis, const std::vector<std::string>& dimensions) {
  std::vector<Point> points;
  for (std::size_t i = 0; i < analysis.configurations.size(); ++i) {
    Point point{i, {}};
    for (const std::string& metric : dimensions)
      if (const auto mean = mean_of(analysis.configurations[i], metric))
        point.means.push_back(analysis.more_is_better(metric) ? *mean : -*mean);
    if (point.means.size() == dimensions.size()) points.push_back(std::move(point));
  }
  return points;
}

void mark_pareto(Analysis& analysis, std::vector<Point> points) {
  // In this order nothing is dominated by what comes after it.
  std::ranges::sort(points, std::ranges::greater(), &Point::means);
  std::vector<const Point*> front;
  for (const Point& point : points) {
    const auto dominates = [&](const Point* other) {
      return other->means != point.means &&
             std::ranges::equal(other->means, point.means, std::ranges::greater_equal());
    };
    if (std::ranges::any_of(front, dominates)) continue;
    front.push_back(&point);
    analysis.configurations[point.configuration].pareto = true;
  }
}

/// The configuration with the highest geometric mean of its ratios to the best in each dimension, among those whose
/// means are all above zero: only they have such ratios.
std::optional<std::size_t> best_balanced(const Analysis& analysis, const std::vector<std::string>& dimensions) {
  std::vector<Point> points = points_in(analysis, dimensions);
  std::vector<bool> more_is_better;
  for (const std::string& metric : dimensions) more_is_better.push_back(analysis.more_is_better(metric));
  std::erase_if(points, [&](const Point& point) {
    for (std::size_t d = 0; d < dimensions.size(); ++d)
      if (!((more_is_better[d] ? point.means[d] : -point.means[d]) > 0)) return true;
    return false;
  });
  if (points.size() < 2) return std::nullopt;
  std::vector<double> best = points[0].means;
  for (const Point& point : points)
    for (std::size_t d = 0; d < best.size(); ++d) best[d] = std::max(best[d], point.means[d]);
  const auto balance = [&](const Point& point) {
    double logarithm = 0;  // of the product of the ratios, whose root does not change the order
    for (std::size_t d = 0; d < best.size(); ++d)
      logarithm += std::log(more_is_better[d] ? point.means[d] / best[d] : best[d] / point.means[d]);
    return logarithm;
  };
  const auto [worst, most] = std::ranges::minmax_element(points, {}, balance);
  if (balance(*worst) == balance(*most)) return std::nullopt;
  return std::ranges::max_element(points, {}, balance)->configuration;
}

void mark_best(Analysis& analysis, const std::vector<std::string>& dimensions) {
  const auto mark = [&](const std::vector<std::size_t>& indices, const char* words) {
    for (const std::size_t index : indices) analysis.configurations[index].best_for.push_back(words);
  };
  mark(analysis.best_in(analysis.quality), "highest quality");
  mark(analysis.best_in(analysis.memory), "lowest memory");
  mark(analysis.best_in(analysis.time), "fastest");
  if (dimensions.size() < 2) return;
  if (const auto balanced = best_balanced(analysis, dimensions)) mark({*balanced}, "best balance");
}

void mark(Analysis& analysis) {
  const ReportSettings& report = analysis.data->plan.report;
  analysis.quality = report.select.empty() ? report.metric : report.select;
  analysis.memory = cost_metric(analysis, "peak_memory_mb", "_peak_memory_mb");
  analysis.time = cost_metric(analysis, "seconds", "_ms_mean");
  for (std::size_t i = 0; i < analysis.configurations.size(); ++i) {
    const auto mean = mean_of(analysis.configurations[i], analysis.quality);
    if (!mean) continue;
    const double sign = analysis.more_is_better(analysis.quality) ? 1 : -1;
    if (!analysis.best || sign * *mean > sign * *mean_of(analysis.configurations[*analysis.best], analysis.quality))
      analysis.best = i;
  }
  std::vector<std::string> dimensions;
  // What only few have (memory, where most jobs ran in packs) would leave the others out of the comparison.
  const std::size_t enough = coverage(analysis, analysis.quality) / 2;
  for (const std::string& metric : {analysis.quality, analysis.memory, analysis.time})
    if (!metric.empty() && coverage(analysis, metric) > (metric == analysis.quality ? 0 : enough))
      dimensions.push_back(metric);
  const bool has_quality = !dimensions.empty() && dimensions[0] == analysis.quality;
  if (!has_quality) return;
  if (coverage(analysis, analysis.quality) >= 2 && dimensions.size() >= 2)
    mark_pareto(analysis, points_in(analysis, dimensions));
  mark_best(analysis, dimensions);
}

void compare_with_baseline(Analysis& analysis) {
  const ReportSettings& report = analysis.data->plan.report;
  for (std::size_t i = 0; i < analysis.configurations.size(); ++i)
    if (!report.baseline.empty() && analysis.configurations[i].name == report.baseline) analysis.baseline = i;
  if (!analysis.baseline || report.metric.empty()) return;
  for (std::size_t i = 0; i < analysis.configurations.size(); ++i)
    if (i != *analysis.baseline)
      analysis.configurations[i].difference = difference(
          analysis, analysis.configurations[i], analysis.configurations[*analysis.baseline], report.metric);
}

void gather_environment(Analysis& analysis) {
  std::set<JobId> seen;
  for (const TrialResult& trial : analysis.trials)
    for (const TrialStep& step : trial.trial->steps) {
      const auto job = analysis.data->jobs.find(step.job);
      if (job == analysis.data->jobs.end() || !job->second.outcome || !seen.insert(step.job).second) continue;
      const Json& environment = job->second.outcome->environment;
      if (!environment.is_object()) continue;
      for (const auto& [key, value] : environment.items()) {
        if (key == "pack") continue;  // what it changes is marked where it is shown
        std::string text = value.is_number_float() ? rounded(value.get<double>()) : exact(value);
        if (key == "device") text = text.substr(0, text.find(':'));  // which GPU of a host it was does not matter
        ++analysis.environment[key][text];
      }
    }
}

std::string counted(std::size_t number, const std::string& noun) {
  return std::to_string(number) + " " + noun + (number == 1 ? "" : "s");
}

void warn(Analysis& analysis) {
  const ReportSettings& report = analysis.data->plan.report;
  auto& warnings = analysis.warnings;
  warnings = analysis.data->remarks;
  const auto in_state = [&](JobState state) {
    return static_cast<std::size_t>(
        std::ranges::count_if(analysis.trials, [&](const TrialResult& trial) { return trial.state == state; }));
  };
  const std::string of_all = " of " + counted(analysis.trials.size(), "trial");
  if (const auto n = in_state(JobState::pending))
    warnings.push_back(std::to_string(n) + of_all + " not finished: the tables leave them out.");
  if (const auto n = in_state(JobState::failed))
    warnings.push_back(std::to_string(n) + of_all + " failed: see Failures.");
  if (const auto n = in_state(JobState::cancelled)) warnings.push_back(std::to_string(n) + of_all + " cancelled.");
  if (report.selects_on_test)
    warnings.push_back(
        "The best configuration was chosen by " + analysis.quality +
        ", which is measured on the test split: its value there is too good. Choose by a metric on the "
        "validation split (report.select).");
  if (in_state(JobState::succeeded) == 0) return;
  std::set<std::string> missing;
  for (const std::string& metric : {report.metric, report.select})
    if (!metric.empty() && coverage(analysis, metric) == 0 && missing.insert(metric).second)
      warnings.push_back("No trial has a value of " + metric + ".");
  if (analysis.baseline && !report.metric.empty() &&
      !analysis.configurations[*analysis.baseline].metrics.contains(report.metric))
    warnings.push_back("The baseline, " + analysis.configurations[*analysis.baseline].label + ", has no " +
                       report.metric + ": there are no differences to it.");
  const auto has_spread = [&](const Configuration& c) {
    const auto found = c.metrics.find(report.metric);
    return found != c.metrics.end() && found->second.n > 1;
  };
  if (!report.metric.empty() && coverage(analysis, report.metric) > 0 &&
      std::ranges::none_of(analysis.configurations, has_spread))
    warnings.push_back("Each configuration has one value of " + report.metric +
                       ": differences may be chance. sweep.repeats gives deviations and intervals.");
  for (const auto& [key, values] : analysis.environment) {
    if (values.size() < 2) continue;
    std::string list;
    for (const auto& [value, jobs] : values)
      list += (list.empty() ? "" : ", ") + value + " (" + counted(static_cast<std::size_t>(jobs), "job") + ")";
    warnings.push_back("The jobs differ in " + key + ": " + list + ". Times and memory compare only among equals.");
  }
}

}  // namespace

bool Configuration::is_time_of_pack(const std::string& metric) const {
  if (!packed_steps.contains(step_of(metric))) return false;
  const std::string_view name = bare_name(metric);
  return std::ranges::any_of(std::array{"seconds", "_ms", "per_second"},
                             [&](const char* word) { return name.find(word) != std::string_view::npos; });
}

bool Analysis::more_is_better(const std::string& metric) const {
  const ReportSettings& report = data->plan.report;
  const bool is_goal = metric == report.metric ||
                       (metric == report.select &&
                        (report.metric.empty() || higher_is_better(metric) == higher_is_better(report.metric)));
  return is_goal ? report.goal == Goal::maximize : higher_is_better(metric);
}

std::vector<std::size_t> Analysis::best_in(const std::string& metric) const {
  std::vector<std::size_t> best;
  if (!compares(*this, metric)) return best;
  std::size_t compared = 0;
  const double sign = more_is_better(metric) ? 1 : -1;
  for (std::size_t i = 0; i < configurations.size(); ++i) {
    const auto mean = mean_of(configurations[i], metric);
    if (!mean) continue;
    ++compared;
    const double ahead = best.empty() ? 1 : sign * (*mean - *mean_of(configurations[best[0]], metric));
    if (ahead > 0) best.clear();
    if (ahead >= 0) best.push_back(i);
  }
  if (best.size() == compared) best.clear();
  return best;
}

std::vector<std::size_t> Analysis::ranking() const {
  std::vector<std::size_t> order(configurations.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const std::string& metric = data->plan.report.metric;
  const double sign = more_is_better(metric) ? 1 : -1;
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) {
    const auto of_a = mean_of(configurations[a], metric), of_b = mean_of(configurations[b], metric);
    if (of_a.has_value() != of_b.has_value()) return of_a.has_value();
    return of_a && sign * *of_a > sign * *of_b;
  });
  return order;
}

Analysis analyze(const RunData& data) {
  Analysis analysis;
  analysis.data = &data;
  for (const Trial& trial : data.plan.trials) {
    analysis.trials.push_back(result_of(trial, data));
    for (const TrialStep& step : trial.steps) analysis.step_kinds.emplace(step.name, step.kind);
  }
  analysis.metrics = metric_order(analysis);
  analysis.configurations = group(analysis);
  mark(analysis);
  compare_with_baseline(analysis);
  gather_environment(analysis);
  warn(analysis);
  return analysis;
}

}  // namespace finesweep::reports
