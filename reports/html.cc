#include "reports/html.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "jobs/version.h"
#include "reports/comparison_table.h"
#include "reports/html_text.h"
#include "reports/metric_names.h"
#include "reports/metric_tables.h"
#include "reports/numbers.h"
#include "reports/page_resources.h"
#include "reports/profile_table.h"

namespace finesweep::reports {

namespace {

constexpr std::size_t kMaxNamed = 2;  // of those who are best

/// An element with text.
std::string element(const std::string& name, const std::string& attributes, const std::string& text) {
  return "<" + name + (attributes.empty() ? "" : " " + attributes) + ">" + html_escaped(text) + "</" + name + ">";
}

struct HtmlColumn {
  std::string heading;
  bool is_text = false;
  /// The first click shows the largest first.
  bool more_is_better = false;
};

struct HtmlCell {
  std::string html;
  std::optional<double> value = {};
  bool is_best = false;
};

/// A table in a box of its own that scrolls, so that the page never does sideways. Cells hold HTML.
std::string table(const std::string& name, const std::vector<HtmlColumn>& columns,
                  const std::vector<std::vector<HtmlCell>>& rows) {
  std::string html = "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"" + html_escaped(name) +
                     "\"><table class=\"sortable\">\n<thead><tr>";
  for (const auto& column : columns) {
    html += "<th scope=\"col\"";
    if (column.is_text) html += " class=\"text\"";
    if (column.more_is_better) html += " data-first=\"descending\"";
    html += ">" + html_escaped(column.heading) + "</th>";
  }
  html += "</tr></thead>\n<tbody>\n";
  for (const auto& row : rows) {
    html += "<tr>";
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string kind = std::string(columns[c].is_text ? "text" : "") +
                               (row[c].is_best ? columns[c].is_text ? " best" : "best" : "");
      html += "<td";
      if (!kind.empty()) html += " class=\"" + kind + "\"";
      if (row[c].value) html += " data-value=\"" + exact(*row[c].value) + "\"";
      html += ">" + (row[c].html.empty() ? std::string(columns[c].is_text ? "" : "–") : row[c].html) + "</td>";
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string label_html(const Configuration& configuration) {
  const std::string mark = configuration.pareto ? "<span class=\"pareto\" title=\"Pareto-optimal\">" +
                                                      std::string(kParetoMark) + "</span> "
                                                : "";
  return mark + html_escaped(configuration.label);
}

std::string chips(const std::vector<std::string>& words) {
  std::string html;
  for (const std::string& word : words) html += element("span", "class=\"chip\"", word);
  return html;
}

std::string comparison(const Analysis& analysis) {
  using Role = ComparisonTable::Role;
  const ComparisonTable compared = compare(analysis);
  std::vector<HtmlColumn> columns;
  for (const auto& column : compared.columns)
    columns.push_back(
        {column.heading, column.is_text, !column.metric.empty() && analysis.more_is_better(column.metric)});
  std::vector<std::vector<HtmlCell>> rows;
  for (std::size_t r = 0; r < compared.rows.size(); ++r) {
    const Configuration& configuration = analysis.configurations[compared.configurations[r]];
    auto& row = rows.emplace_back();
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const auto& cell = compared.rows[r][c];
      switch (compared.columns[c].role) {
        case Role::label:
          row.push_back({label_html(configuration)});
          break;
        case Role::best_for:
          row.push_back({chips(configuration.best_for)});
          break;
        default:
          row.push_back({html_escaped(cell.text), cell.value, cell.best});
      }
    }
  }
  std::string html = "<section id=\"comparison\">\n<h2>Comparison</h2>\n" + table("Comparison", columns, rows);
  for (const std::string& note : notes_of(analysis, compared)) html += element("p", "class=\"muted\"", note) + "\n";
  return html + "</section>\n";
}

/// Who is best at what, at a glance.
std::string tiles(const Analysis& analysis) {
  std::string html;
  for (const auto& [use, metric] :
       {std::pair("highest quality", analysis.quality), std::pair("lowest memory", analysis.memory),
        std::pair("fastest", analysis.time), std::pair("best balance", std::string())}) {
    std::vector<const Configuration*> best;
    for (const Configuration& configuration : analysis.configurations)
      if (std::ranges::find(configuration.best_for, use) != configuration.best_for.end())
        best.push_back(&configuration);
    if (best.empty()) continue;
    std::string names, value;
    for (std::size_t i = 0; i < std::min(best.size(), kMaxNamed); ++i)
      names += (i == 0 ? "" : "; ") + best[i]->label;
    if (best.size() > kMaxNamed) names += " and " + std::to_string(best.size() - kMaxNamed) + " more";
    if (!metric.empty())
      value = heading(metric) + " " + value_text(*best[0], metric);
    else
      value = "highest geometric mean of quality, memory and time, each relative to the best";
    html += "<div class=\"tile\">" + element("span", "class=\"muted\"", use) + element("b", "", names) +
            element("span", "class=\"muted\"", value) + "</div>\n";
  }
  return html.empty() ? "" : "<div class=\"tiles\">\n" + html + "</div>\n";
}

std::string warnings(const Analysis& analysis) {
  if (analysis.warnings.empty()) return "";
  std::string html = "<aside class=\"warnings\" id=\"warnings\">\n<b>Before you trust the tables</b>\n<ul>\n";
  for (const std::string& warning : analysis.warnings) html += element("li", "", warning) + "\n";
  return html + "</ul>\n</aside>\n";
}

std::string figures(const Json& page) {
  const Json& all = page.at("figures");
  if (all.empty()) return "";
  std::string html =
      "<section id=\"charts\">\n<h2>Charts</h2>\n<noscript><p>The charts need JavaScript; the tables do "
      "not.</p></noscript>\n<div class=\"figures\">\n";
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool is_wide = all[i].at("kind") == "heat_map";
    html += "<figure class=\"card" + std::string(is_wide ? " wide" : "") + "\" data-figure=\"" + std::to_string(i) +
            "\"><div class=\"figure-head\">" + element("h3", "", all[i].at("name").get<std::string>()) +
            "</div></figure>\n";
  }
  return html + "</div>\n</section>\n";
}

std::string failures(const Analysis& analysis) {
  std::vector<std::vector<HtmlCell>> rows;
  for (const auto& [trial, label] : failures_of(analysis))
    rows.push_back({{html_escaped(trial->trial->name)},
                    {html_escaped(label)},
                    {element("span", "class=\"failed\"", std::string(job_state_name(trial->state)))},
                    {html_escaped(trial->error)}});
  if (rows.empty()) return "";
  return "<section id=\"failures\">\n<h2>Failures</h2>\n" +
         table("Failures", {{"trial", true}, {"configuration", true}, {"state", true}, {"reason", true}}, rows) +
         "</section>\n";
}

std::string profiles(const Analysis& analysis) {
  std::string html;
  for (const ProfileTable& profile : profile_tables(analysis)) {
    std::vector<HtmlColumn> columns{{"configuration", true}};
    for (const std::string& group : profile.groups) columns.push_back({group + " (ms)"});
    std::vector<std::vector<HtmlCell>> rows;
    for (const auto& row : profile.rows) {
      auto& cells = rows.emplace_back();
      cells.push_back({html_escaped(row.label)});
      for (const auto& cell : row.cells) cells.push_back({html_escaped(cell.text), cell.ms});
    }
    html += element("h3", "", profile.title) + "\n" + table("Profile", columns, rows);
  }
  if (html.empty()) return "";
  return "<section id=\"profile\">\n<h2>Profile</h2>\n" + element("p", "class=\"muted\"", kProfileNote) + "\n" +
         html + "</section>\n";
}

std::string all_metrics(const Analysis& analysis) {
  const auto steps = metrics_by_step(analysis);
  if (steps.empty()) return "";
  const std::vector<std::size_t> ranking = analysis.ranking();
  std::string html = "<section id=\"metrics\">\n<h2>All metrics</h2>\n";
  for (const auto& [step, metrics] : steps) {
    std::vector<HtmlColumn> columns{{"configuration", true}};
    std::vector<std::vector<std::size_t>> best;
    for (const std::string& metric : metrics) {
      columns.push_back({heading(metric).substr(step.size() + 1), false, analysis.more_is_better(metric)});
      best.push_back(analysis.best_in(metric));
    }
    std::vector<std::vector<HtmlCell>> rows;
    for (const std::size_t index : ranking) {
      const Configuration& configuration = analysis.configurations[index];
      auto& row = rows.emplace_back();
      row.push_back({html_escaped(configuration.label)});
      for (std::size_t m = 0; m < metrics.size(); ++m) {
        const auto found = configuration.metrics.find(metrics[m]);
        if (found == configuration.metrics.end()) {
          row.push_back({});
          continue;
        }
        row.push_back({html_escaped(value_text(configuration, metrics[m])), found->second.mean,
                       std::ranges::find(best[m], index) != best[m].end()});
      }
    }
    html += "<details open><summary>" + html_escaped(step) + "</summary>\n" + table(step, columns, rows) +
            "</details>\n";
  }
  return html + "</section>\n";
}

std::string environment(const Analysis& analysis) {
  if (analysis.environment.empty()) return "";
  std::string html = "<section id=\"environment\">\n<h2>Environment</h2>\n<dl class=\"card\">\n";
  for (const auto& [key, list] : environment_lines(analysis))
    html += element("dt", "", key) + element("dd", "", list) + "\n";
  return html + "</dl>\n</section>\n";
}

std::string navigation(const std::string& body) {
  std::string html;
  for (const auto& [id, word] : {std::pair("comparison", "Comparison"), std::pair("charts", "Charts"),
                                 std::pair("failures", "Failures"), std::pair("profile", "Profile"),
                                 std::pair("metrics", "All metrics"), std::pair("environment", "Environment")})
    if (body.find("<section id=\"" + std::string(id) + "\">") != std::string::npos)
      html += "<a href=\"#" + std::string(id) + "\">" + word + "</a>\n";
  return "<nav>\n" + html + "</nav>\n";
}

}  // namespace

std::string html_report(const Analysis& analysis, const Charts& charts) {
  const Json page = page_json(analysis, charts);
  const std::string library(chart_library()), script(page_script());
  const std::string body = comparison(analysis) + failures(analysis) + figures(page) + profiles(analysis) +
                           all_metrics(analysis) + environment(analysis);
  std::string html = "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
  html +=
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; base-uri 'none'; form-action "
      "'none'; "
      "img-src data:; style-src 'unsafe-inline'; script-src '" +
      script_hash(library) + "' '" + script_hash(script) + "'\">\n";
  html += element("title", "", analysis.data->plan.name + " – finesweep") + "\n<style>\n";
  html.append(page_styles());
  html += "</style>\n</head>\n<body>\n<header>\n" + element("h1", "", analysis.data->plan.name) + "\n";
  if (const std::string best = best_sentence(analysis); !best.empty())
    html += element("p", "class=\"lead\"", best) + "\n";
  html += element("p", "class=\"muted\"", counts_sentence(analysis)) + "\n" + navigation(body) + "</header>\n";
  html += "<main>\n" + warnings(analysis) + tiles(analysis) + body + "</main>\n";
  html += "<footer class=\"muted\">Made by finesweep " + html_escaped(std::string(kVersion)) +
          "; charts by Chart.js (MIT licence, in the source of this page).</footer>\n";
  html += "<script type=\"application/json\" id=\"data\">" + json_for_script(page) + "</script>\n";
  html += "<script>" + library + "</script>\n<script>" + script + "</script>\n</body>\n</html>\n";
  return html;
}

}  // namespace finesweep::reports
