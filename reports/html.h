#pragma once

#include <string>

#include "reports/analysis.h"
#include "reports/charts.h"

namespace finesweep::reports {

/// report.html: one file that needs no other and no network; its Content-Security-Policy allows none, and no script
/// but the two that it brings. Tables are HTML and read without scripts; charts are drawn by Chart.js from the JSON
/// in the element with the id `data`:
///
///   {"version": 1, "sweep": name, "figures": [{"name", "kind": "charts" | "heat_map", "charts": […]}]}
///
/// with charts as page_json has them.
std::string html_report(const Analysis& analysis, const Charts& charts);

/// That JSON. A chart: {"id", "choice", "title", "caption", "x": {"label", "logarithmic", "ticks"}, "y": …,
/// "series": [{"name", "style", "colour", "points": [{"x", "y", "x_range"?, "y_range"?, "label"?}]}]}. A heat map:
/// {"id", "choice", "title", "caption", "row_label", "column_label", "value_label", "rows", "columns",
/// "more_is_better", "panels": [{"name", "cells": [[{"value", "text"} or null]]}]}.
Json page_json(const Analysis& analysis, const Charts& charts);

}  // namespace finesweep::reports
