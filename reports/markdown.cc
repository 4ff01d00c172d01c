#include "reports/markdown.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "reports/comparison_table.h"
#include "reports/gnuplot_script.h"
#include "reports/metric_names.h"
#include "reports/metric_tables.h"
#include "reports/profile_table.h"
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
  const auto steps = metrics_by_step(analysis);
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
  const auto failed = failures_of(analysis);
  if (failed.empty()) return "";
  std::string text = "\n## Failures\n\n" + table_row({"trial", "configuration", "state", "reason"}) +
                     table_rule({true, true, true, true});
  for (std::size_t r = 0; r < std::min(failed.size(), kMaxRows); ++r) {
    const auto& [trial, label] = failed[r];
    text += table_row({markdown_escaped(trial->trial->name), markdown_escaped(label),
                       std::string(job_state_name(trial->state)), markdown_escaped(trial->error)});
  }
  return text + cut_note(failed.size(), "results.csv");
}

std::string environment(const Analysis& analysis) {
  if (analysis.environment.empty()) return "";
  std::string text = "\n## Environment\n\n";
  for (const auto& [key, list] : environment_lines(analysis))
    text.append("- ").append(markdown_escaped(key)).append(": ").append(markdown_escaped(list)).append("\n");
  return text;
}

std::string profiles(const Analysis& analysis) {
  const std::vector<ProfileTable> tables = profile_tables(analysis);
  if (tables.empty()) return "";
  std::string text = std::string("\n## Profile\n\n") + kProfileNote + "\n";
  for (const ProfileTable& table : tables) {
    std::vector<std::string> headings{"configuration"};
    std::vector<bool> is_text{true};
    for (const std::string& group : table.groups) {
      headings.push_back(markdown_escaped(group + " (ms)"));
      is_text.push_back(false);
    }
    text += "\n### " + markdown_escaped(table.title) + "\n\n" + table_row(headings) + table_rule(is_text);
    for (std::size_t r = 0; r < std::min(table.rows.size(), kMaxRows); ++r) {
      std::vector<std::string> cells{markdown_escaped(table.rows[r].label)};
      for (const auto& cell : table.rows[r].cells) cells.push_back(cell.text.empty() ? "–" : cell.text);
      text += table_row(cells);
    }
    text += cut_note(table.rows.size(), "report.json");
  }
  return text;
}

std::string plots(const Charts& charts, const PlotFiles& files) {
  std::string text;
  const auto add = [&](const std::string& id, const std::string& title, const std::string& caption) {
    if (std::ranges::find(files.drawn, id) == files.drawn.end()) return;
    text += "\n![" + markdown_escaped(title) + "](plots/" + id + ".svg)\n";
    if (!caption.empty()) text += "\n" + markdown_escaped(caption) + "\n";
  };
  const auto joined = [](const std::string& a, const std::string& b) {
    return a.empty() || b.empty() ? a + b : a + " " + b;
  };
  for (const Chart& chart : charts.charts) add(chart.id, chart.title, joined(chart.caption, left_out_note(chart)));
  for (const HeatMap& map : charts.heat_maps) add(map.id, map.title, left_out_note(map));
  if (!files.trouble.empty())
    text += "\nThere are plots that were not drawn (" + markdown_escaped(files.trouble) +
            "). With gnuplot installed, `finesweep report` draws them; their data is in `report.html`.\n";
  return text.empty() ? "" : "\n## Plots\n" + text;
}

}  // namespace

std::string markdown_comparison(const Analysis& analysis) {
  std::string text = "# ";
  text += markdown_escaped(analysis.data->plan.name) + "\n\n" + counts_sentence(analysis) + "\n";
  const auto paragraph = [&](const char* begin, const std::string& words) {
    if (!words.empty()) text.append(begin).append(markdown_escaped(words)).append("\n");
  };
  paragraph("\n", best_sentence(analysis));
  for (const std::string& warning : analysis.warnings) paragraph("\n> ", warning);
  return text + "\n## Comparison\n\n" + comparison(analysis);
}

std::string markdown_report(const Analysis& analysis, const Charts& charts, const PlotFiles& files) {
  return markdown_comparison(analysis) + failures(analysis) + plots(charts, files) + profiles(analysis) +
         all_metrics(analysis) + environment(analysis);
}

}  // namespace finesweep::reports
