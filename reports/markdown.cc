#include "reports/markdown.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "reports/comparison_table.h"
#include "reports/metric_names.h"
#include "reports/text.h"

namespace finesweep::reports {

namespace {

/// Longer tables are for the CSV files.
constexpr std::size_t kMaxRows = 200;

std::string table_row(const std::vector<std::string>& cells) {
  std::string row = "|";
  for (const std::string& cell : cells) row += " " + cell + " |";
  return row + "\n";
}

std::string table_rule(const std::vector<bool>& is_text) {
  std::string rule = "|";
  for (const bool text : is_text) rule += text ? " :--- |" : " ---: |";
  return rule + "\n";
}

std::string cut_note(std::size_t rows, const char* file) {
  if (rows <= kMaxRows) return "";
  return "\nThe first " + std::to_string(kMaxRows) + " of " + std::to_string(rows) + "; all are in `" + file +
         "`.\n";
}

std::string comparison(const Analysis& analysis) {
  const ComparisonTable table = compare(analysis);
  std::vector<std::string> headings;
  std::vector<bool> is_text;
  for (const auto& column : table.columns) {
    headings.push_back(markdown_escaped(column.heading));
    is_text.push_back(column.is_text);
  }
  std::string text = table_row(headings) + table_rule(is_text);
  for (std::size_t r = 0; r < std::min(table.rows.size(), kMaxRows); ++r) {
    std::vector<std::string> cells;
    for (const auto& cell : table.rows[r]) {
      const std::string escaped = markdown_escaped(cell.text);
      cells.push_back(escaped.empty() ? "–" : cell.best ? "**" + escaped + "**" : escaped);
    }
    text += table_row(cells);
  }
  text += cut_note(table.rows.size(), "summary.csv") + "\n";
  for (const std::string& note : notes_of(analysis, table)) text += note + "  \n";
  return text;
}

/// A table for each step, of all its metrics.
std::string all_metrics(const Analysis& analysis) {
  std::vector<std::pair<std::string, std::vector<std::string>>> steps;
  for (const std::string& metric : analysis.metrics) {
    const bool within_a_mean =
        is_spread_within_run(metric) && std::ranges::any_of(analysis.metrics, [&](const auto& other) {
          return spread_within_run(other) == metric;
        });
    if (within_a_mean) continue;
    if (steps.empty() || steps.back().first != step_of(metric)) steps.push_back({std::string(step_of(metric)), {}});
    steps.back().second.push_back(metric);
  }
  if (steps.empty()) return "";
  std::string text = "\n## All metrics\n";
  for (const auto& [step, metrics] : steps) {
    std::vector<std::string> headings{"configuration"};
    std::vector<bool> is_text{true};
    std::vector<std::vector<std::size_t>> best;
    for (const std::string& metric : metrics) {
      headings.push_back(markdown_escaped(heading(metric).substr(step.size() + 1)));
      is_text.push_back(false);
      best.push_back(analysis.best_in(metric));
    }
    text += "\n### " + markdown_escaped(step) + "\n\n" + table_row(headings) + table_rule(is_text);
    const std::vector<std::size_t> ranking = analysis.ranking();
    for (std::size_t r = 0; r < std::min(ranking.size(), kMaxRows); ++r) {
      const Configuration& configuration = analysis.configurations[ranking[r]];
      std::vector<std::string> cells{markdown_escaped(configuration.label)};
      for (std::size_t m = 0; m < metrics.size(); ++m) {
        const std::string value = value_text(configuration, metrics[m]);
        const bool is_best = std::ranges::find(best[m], ranking[r]) != best[m].end();
        cells.push_back(value.empty() ? "–" : is_best ? "**" + value + "**" : value);
      }
      text += table_row(cells);
    }
    text += cut_note(ranking.size(), "summary.csv");
  }
  return text;
}

std::string failures(const Analysis& analysis) {
  std::map<std::string, const Configuration*> by_name;
  for (const Configuration& configuration : analysis.configurations) by_name[configuration.name] = &configuration;
  std::string rows;
  std::size_t count = 0;
  for (const TrialResult& trial : analysis.trials) {
    if (trial.state != JobState::failed && trial.state != JobState::cancelled) continue;
    if (++count > kMaxRows) continue;
    rows +=
        table_row({"`" + trial.trial->name + "`", markdown_escaped(by_name.at(trial.trial->configuration)->label),
                   std::string(job_state_name(trial.state)), markdown_escaped(trial.error)});
  }
  if (rows.empty()) return "";
  return "\n## Failures\n\n" + table_row({"trial", "configuration", "state", "reason"}) +
         table_rule({true, true, true, true}) + rows + cut_note(count, "results.csv");
}

std::string environment(const Analysis& analysis) {
  if (analysis.environment.empty()) return "";
  std::string text = "\n## Environment\n\n";
  for (const auto& [key, values] : analysis.environment) {
    std::string list;
    for (const auto& [value, jobs] : values) {
      list += (list.empty() ? "" : ", ") + markdown_escaped(value);
      if (values.size() > 1) list += " (" + std::to_string(jobs) + (jobs == 1 ? " job)" : " jobs)");
    }
    text += "- " + markdown_escaped(key) + ": " + list + "\n";
  }
  return text;
}

}  // namespace

std::string markdown_report(const Analysis& analysis) {
  std::string text = "# ";
  text += markdown_escaped(analysis.data->plan.name) + "\n\n" + counts_sentence(analysis) + "\n";
  const auto paragraph = [&](const char* begin, const std::string& words) {
    if (!words.empty()) text.append(begin).append(markdown_escaped(words)).append("\n");
  };
  paragraph("\n", best_sentence(analysis));
  for (const std::string& warning : analysis.warnings) paragraph("\n> ", warning);
  text += "\n## Comparison\n\n" + comparison(analysis);
  text += failures(analysis) + all_metrics(analysis) + environment(analysis);
  return text;
}

}  // namespace finesweep::reports
