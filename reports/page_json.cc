#include <algorithm>
#include <utility>

#include "reports/html.h"

namespace finesweep::reports {

namespace {

const char* style_name(Chart::Style style) {
  switch (style) {
    case Chart::Style::points:
      return "points";
    case Chart::Style::line:
      return "line";
    case Chart::Style::band:
      return "band";
    case Chart::Style::front:
      return "front";
    case Chart::Style::reference:
      return "reference";
  }
  return "points";
}

Json axis_json(const Chart::Axis& axis) {
  return {{"label", axis.label}, {"logarithmic", axis.is_logarithmic}, {"ticks", axis.ticks}};
}

Json chart_json(const Chart& chart) {
  Json all = Json::array();
  for (const auto& series : chart.series) {
    Json points = Json::array();
    for (const auto& point : series.points) {
      Json one{{"x", point.x}, {"y", point.y}};
      if (point.x_range) one["x_range"] = {point.x_range->low, point.x_range->high};
      if (point.y_range) one["y_range"] = {point.y_range->low, point.y_range->high};
      if (!point.label.empty()) one["label"] = point.label;
      points.push_back(std::move(one));
    }
    all.push_back({{"name", series.name},
                   {"style", style_name(series.style)},
                   {"colour", series.colour},
                   {"points", std::move(points)}});
  }
  return {{"id", chart.id},           {"choice", chart.choice},  {"title", chart.title},
          {"caption", chart.caption}, {"x", axis_json(chart.x)}, {"y", axis_json(chart.y)},
          {"series", std::move(all)}};
}

Json heat_map_json(const HeatMap& map) {
  Json panels = Json::array();
  for (const auto& panel : map.panels) {
    Json cells = Json::array();
    for (const auto& row : panel.cells) {
      Json line = Json::array();
      for (const auto& cell : row)
        line.push_back(cell ? Json{{"value", cell->value}, {"text", cell->text}} : Json());
      cells.push_back(std::move(line));
    }
    panels.push_back({{"name", panel.name}, {"cells", std::move(cells)}});
  }
  return {{"id", map.id},
          {"choice", map.choice},
          {"title", map.title},
          {"caption", map.caption},
          {"row_label", map.row_label},
          {"column_label", map.column_label},
          {"value_label", map.value_label},
          {"rows", map.rows},
          {"columns", map.columns},
          {"more_is_better", map.more_is_better},
          {"panels", std::move(panels)}};
}

}  // namespace

Json page_json(const Analysis& analysis, const Charts& charts) {
  Json figures = Json::array();
  const auto add = [&](const std::string& name, const char* kind, Json chart) {
    const auto same = std::ranges::find_if(
        figures, [&](const Json& figure) { return figure.at("name") == name && figure.at("kind") == kind; });
    if (same == figures.end())
      figures.push_back({{"name", name}, {"kind", kind}, {"charts", Json::array({std::move(chart)})}});
    else
      same->at("charts").push_back(std::move(chart));
  };
  for (const Chart& chart : charts.charts) add(chart.figure, "charts", chart_json(chart));
  for (const HeatMap& map : charts.heat_maps) add(map.figure, "heat_map", heat_map_json(map));
  return {{"version", 1}, {"sweep", analysis.data->plan.name}, {"figures", std::move(figures)}};
}

}  // namespace finesweep::reports
