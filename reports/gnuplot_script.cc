#include "reports/gnuplot_script.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "reports/numbers.h"
#include "reports/text.h"

namespace finesweep::reports {

namespace {

constexpr std::array kColours{"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                              "#E69F00", "#56B4E9", "#333333", "#8A8A8A"};
constexpr std::array kMarks{7, 5, 9, 13, 11, 15, 6, 4, 8, 12, 10};
constexpr std::array kDashes{1, 4, 2, 5};
constexpr std::size_t kMaxName = 44;
constexpr std::size_t kMaxTitle = 90;
constexpr std::size_t kMaxMarkedPoints = 12;
constexpr int kPlotWidth = 620, kPlotHeight = 420;
constexpr int kAroundPlot = 150, kKeyLine = 27;  // pixels: title and labels; a line of the key
constexpr double kCharacter = 7.6;               // pixels, of the font in the key
constexpr double kPad = 0.06;                    // of an axis, beyond the data

std::string number(double value) {
  const std::string text = exact(value);
  return text.empty() ? "NaN" : text;
}

const char* colour_of(int index) {
  return kColours[static_cast<std::size_t>(std::max(index, 0)) % kColours.size()];
}
int mark_of(int index) {
  return kMarks[static_cast<std::size_t>(std::max(index, 0)) % kMarks.size()];
}
int dash_of(int index) {
  return kDashes[static_cast<std::size_t>(std::max(index, 0)) / kColours.size() % kDashes.size()];
}

/// The series that are drawn, with what belongs to the axes.
std::vector<const Chart::Series*> drawn(const Chart& chart) {
  std::vector<const Chart::Series*> series;
  std::size_t counted = 0;
  for (const auto& one : chart.series) {
    const bool is_guide = one.style == Chart::Style::reference || one.style == Chart::Style::front;
    if (is_guide || counted++ < kMaxPlottedSeries) series.push_back(&one);
  }
  return series;
}

struct Extent {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  void add(const std::optional<Interval>& range, bool above_zero) {
    if (!range || (above_zero && range->low <= 0)) return;
    add(range->low);
    add(range->high);
  }
  /// Of tick labels, so that all have the same places: "%.3f".
  std::string format() const {
    const double step = (high - low) / 5;
    if (!(step > 0) || high >= 1e7 || step < 1e-7) return "%g";
    return fmt::format("%.{}f", std::max(0, static_cast<int>(std::ceil(-std::log10(step)))));
  }
  std::string padded(bool is_logarithmic, double pad) const {
    if (is_logarithmic && low > 0) {
      const double factor = std::max(std::pow(high / low, pad), 1.02);
      return fmt::format("[{}:{}]", number(low / factor), number(high * factor));
    }
    double margin = (high - low) * pad;
    if (high == low) margin = high == 0 ? 1 : std::abs(high) * 0.1;
    return fmt::format("[{}:{}]", number(low - margin), number(high + margin));
  }
};

std::string head(const std::string& id, int width, int height) {
  return fmt::format(
      "# Drawn again by: gnuplot {}.gnuplot\n"
      "set encoding utf8\n"
      "set terminal svg size {},{} noenhanced font 'Helvetica,14' background 'white' rounded\n"
      "set output '{}.svg'\n",
      id, width, height, id);
}

std::string axes(const Chart& chart, const std::vector<const Chart::Series*>& series) {
  Extent x, y;
  bool is_band = false;
  for (const auto* one : series) {
    is_band = is_band || one->style == Chart::Style::band;
    for (const auto& point : one->points) {
      x.add(point.x);
      x.add(point.x_range, chart.x.is_logarithmic);
      y.add(point.y);
      y.add(point.y_range, chart.y.is_logarithmic);
    }
  }
  std::string text =
      "set border 3 linecolor rgb '#555555'\n"
      "set tics nomirror out textcolor rgb '#222222'\n"
      "set grid linecolor rgb '#E3E3E3' linewidth 1 linetype 1\n"
      "set errorbars 1.2\n";
  text += "set title " + gnuplot_quoted(shortened(on_one_line(chart.title), kMaxTitle)) + "\n";
  text += "set xlabel " + gnuplot_quoted(shortened(on_one_line(chart.x.label), kMaxTitle)) + "\n";
  text += "set ylabel " + gnuplot_quoted(shortened(on_one_line(chart.y.label), kMaxName)) + "\n";
  if (chart.x.is_logarithmic) text += "set logscale x\n";
  if (chart.y.is_logarithmic) text += "set logscale y\n";
  text += "set xrange " + x.padded(chart.x.is_logarithmic, is_band ? 0.02 : kPad) + "\n";
  text += "set yrange " + y.padded(chart.y.is_logarithmic, kPad) + "\n";
  if (!chart.y.is_logarithmic) text += "set format y '" + y.format() + "'\n";
  if (!chart.x.is_logarithmic) text += "set format x '" + x.format() + "'\n";
  if (!chart.x.ticks.empty()) {
    text += "set format x '%g'\n";
    std::string ticks;
    for (const double tick : chart.x.ticks) ticks += (ticks.empty() ? "" : ", ") + number(tick);
    text += "unset mxtics\nset xtics (" + ticks + ")\n";
  }
  return text;
}

/// Data blocks: $d of all points, $r of those with a range: x y x_low x_high y_low y_high.
std::string blocks(const Chart::Series& series, std::size_t index) {
  std::string all = fmt::format("$d{} << EOD\n", index), ranged = fmt::format("$r{} << EOD\n", index);
  for (const auto& point : series.points) {
    const Interval x = point.x_range.value_or(Interval{point.x, point.x});
    const Interval y = point.y_range.value_or(Interval{point.y, point.y});
    const std::string row = fmt::format("{} {} {} {} {} {}\n", number(point.x), number(point.y), number(x.low),
                                        number(x.high), number(y.low), number(y.high));
    all += row;
    if (point.x_range || point.y_range) ranged += row;
  }
  return all + "EOD\n" + ranged + "EOD\n";
}

bool has_ranges(const Chart::Series& series, std::optional<Interval> Chart::Point::*range) {
  return std::ranges::any_of(series.points, [&](const auto& point) { return (point.*range).has_value(); });
}

void add_plots(const Chart::Series& series, std::size_t index, bool has_key, std::vector<std::string>& plots) {
  const std::string title =
      has_key ? "title " + gnuplot_quoted(shortened(on_one_line(series.name), kMaxName)) : "notitle";
  const std::string colour = fmt::format("linecolor rgb '{}'", colour_of(series.colour));
  const std::string mark = fmt::format("pointtype {} pointsize", mark_of(series.colour));
  switch (series.style) {
    case Chart::Style::points:
      if (has_ranges(series, &Chart::Point::x_range))
        plots.push_back(fmt::format("$r{} using 1:2:3:4 with xerrorbars pointtype 0 {} notitle", index, colour));
      if (has_ranges(series, &Chart::Point::y_range))
        plots.push_back(fmt::format("$r{} using 1:2:5:6 with yerrorbars pointtype 0 {} notitle", index, colour));
      plots.push_back(fmt::format("$d{} using 1:2 with points {} 1.1 {} {}", index, mark, colour, title));
      break;
    case Chart::Style::line:
      if (has_ranges(series, &Chart::Point::y_range))
        plots.push_back(
            fmt::format("$r{} using 1:2:5:6 with yerrorbars pointtype 0 linewidth 1.5 {} notitle", index, colour));
      plots.push_back(fmt::format("$d{} using 1:2 with linespoints {} 0.9 linewidth 2 dashtype {} {} {}", index,
                                  mark, dash_of(series.colour), colour, title));
      break;
    case Chart::Style::band: {
      if (has_ranges(series, &Chart::Point::y_range))
        plots.push_back(
            fmt::format("$d{} using 1:5:6 with filledcurves fillstyle transparent solid 0.15 noborder {} notitle",
                        index, colour));
      const bool is_marked = series.points.size() <= kMaxMarkedPoints;
      const std::string style = is_marked ? "linespoints " + mark + " 0.7" : "lines";
      plots.push_back(fmt::format("$d{} using 1:2 with {} linewidth 2 dashtype {} {} {}", index, style,
                                  dash_of(series.colour), colour, title));
      break;
    }
    case Chart::Style::front:
      plots.push_back(fmt::format("$d{} using 1:2 with lines linewidth 1.5 dashtype 2 linecolor rgb '#666666' {}",
                                  index, title));
      break;
    case Chart::Style::reference:
      plots.push_back(
          fmt::format("$d{} using 1:2 with lines linewidth 1.5 dashtype 4 {} {}", index, colour, title));
      break;
  }
}

}  // namespace

std::string gnuplot_quoted(const std::string& text) {
  std::string quoted = "'";
  const std::string line = on_one_line(valid_utf8(text));
  for (std::size_t i = 0; i < line.size(); ++i) {
    // A doubled quote would stand for one, but gnuplot 5.4 takes one at the beginning for the end.
    if (line[i] == '\'')
      quoted += "’";
    else
      quoted += line[i];
    // What looks like a character reference, gnuplot would pass on as one.
    if (line[i] == '&' && i + 1 < line.size() && line[i + 1] == '#') quoted += ' ';
  }
  // The quote stands behind a backslash that ends the text: at the end of a line it would join it with the next.
  return quoted + "'";
}

std::string gnuplot_script(const Chart& chart) {
  const auto series = drawn(chart);
  const bool has_key = series.size() > 1;
  std::size_t longest = 0;
  for (const auto* one : series)
    longest = std::max(longest, std::min(display_width(on_one_line(one->name)), kMaxName));
  const int width = kPlotWidth + (has_key ? static_cast<int>(kCharacter * static_cast<double>(longest)) + 76 : 0);
  const int height = std::max(kPlotHeight, kAroundPlot + kKeyLine * static_cast<int>(series.size()));
  std::string text = head(chart.id, width, height) + axes(chart, series);
  // Both have their places: gnuplot takes text for wider than it is, and would give the key room of the plot.
  text += fmt::format("set rmargin at screen {:.4f}\n", (kPlotWidth - 30.0) / width);
  if (has_key)
    text += fmt::format(
        "set key at screen {:.4f},0.5 left center vertical maxcols 1 Left reverse samplen 2 spacing 1.25\n",
        (kPlotWidth - 20.0) / width);
  else
    text += "unset key\n";
  std::vector<std::string> plots;
  // Guides lie under the data.
  for (const bool guides : {true, false})
    for (std::size_t i = 0; i < series.size(); ++i) {
      const bool is_guide = series[i]->style == Chart::Style::front || series[i]->style == Chart::Style::reference;
      if (is_guide != guides) continue;
      text += blocks(*series[i], i);
      add_plots(*series[i], i, has_key, plots);
    }
  text += "plot ";
  for (std::size_t i = 0; i < plots.size(); ++i) text += (i == 0 ? "" : ", \\\n     ") + plots[i];
  return text + "\n";
}

namespace {

constexpr int kPanelWidth = 360, kPanelHeight = 300, kTitleHeight = 50;

std::string tick_list(const std::vector<double>& values) {
  std::string ticks;
  for (std::size_t i = 0; i < values.size(); ++i)
    ticks += fmt::format("{}'{}' {}", i == 0 ? "" : ", ", exact(values[i]), i);
  return ticks;
}

}  // namespace

std::string gnuplot_script(const HeatMap& map) {
  const std::size_t panels = std::min(map.panels.size(), kMaxPlottedPanels);
  const int columns = static_cast<int>(panels == 4 ? 2 : std::min<std::size_t>(panels, 3));
  const int rows = (static_cast<int>(panels) + columns - 1) / columns;
  const int panel_width = std::max(kPanelWidth, 110 + 62 * static_cast<int>(map.columns.size()));
  const int panel_height = std::max(kPanelHeight, 120 + 34 * static_cast<int>(map.rows.size()));
  Extent extent;
  std::vector<double> values;
  for (std::size_t p = 0; p < panels; ++p)
    for (const auto& row : map.panels[p].cells)
      for (const auto& cell : row)
        if (cell) values.push_back(cell->value);
  for (const double value : values) extent.add(value);
  const bool is_logarithmic = are_far_apart(values, 30);
  const auto shade = [&](double value) {  // 0 to 1
    if (extent.high == extent.low) return 0.0;
    if (is_logarithmic) return std::log(value / extent.low) / std::log(extent.high / extent.low);
    return (value - extent.low) / (extent.high - extent.low);
  };
  std::string text = head(map.id, columns * panel_width, rows * panel_height + kTitleHeight);
  text +=
      "set palette defined (0 '#F7FBFF', 0.25 '#C6DBEF', 0.5 '#6BAED6', 0.75 '#2171B5', 1 '#08306B')\n"
      "set cbrange [0:1]\nunset colorbox\nunset key\nset border 0\nset tics scale 0\n";
  text += fmt::format("set xrange [-0.5:{}]\nset yrange [-0.5:{}]\n", static_cast<double>(map.columns.size()) - 0.5,
                      static_cast<double>(map.rows.size()) - 0.5);
  text += "set xtics (" + tick_list(map.columns) + ")\nset ytics (" + tick_list(map.rows) + ")\n";
  text += "set xlabel " + gnuplot_quoted(map.column_label) + "\nset ylabel " + gnuplot_quoted(map.row_label) + "\n";
  text += fmt::format("set multiplot layout {},{} title {}\n", rows, columns,
                      gnuplot_quoted(shortened(on_one_line(map.title), kMaxTitle)));
  for (std::size_t p = 0; p < panels; ++p) {
    std::string boxes = fmt::format("$b{} << EOD\n", p), light = fmt::format("$l{} << EOD\n", p),
                dark = fmt::format("$k{} << EOD\n", p);
    for (std::size_t r = 0; r < map.rows.size(); ++r)
      for (std::size_t c = 0; c < map.columns.size(); ++c)
        if (const auto& cell = map.panels[p].cells[r][c]) {
          const double filled = shade(cell->value);
          boxes += fmt::format("{} {} {} {} {} {} {:.4f}\n", c, r, static_cast<double>(c) - 0.48,
                               static_cast<double>(c) + 0.48, static_cast<double>(r) - 0.48,
                               static_cast<double>(r) + 0.48, filled);
          (filled > 0.55 ? light : dark) += fmt::format("{} {} \"{}\"\n", c, r, rounded(cell->value));
        }
    const bool has_light = light.ends_with("\"\n"), has_dark = dark.ends_with("\"\n");
    text += boxes + "EOD\n" + light + "EOD\n" + dark + "EOD\n";
    text += "set title " + gnuplot_quoted(shortened(on_one_line(map.panels[p].name), kMaxName)) + "\n";
    text +=
        fmt::format("plot $b{} using 1:2:3:4:5:6:7 with boxxyerror fillstyle solid noborder linecolor palette", p);
    if (has_light) text += fmt::format(", \\\n     $l{} using 1:2:3 with labels textcolor rgb 'white'", p);
    if (has_dark) text += fmt::format(", \\\n     $k{} using 1:2:3 with labels textcolor rgb '#1A1A1A'", p);
    text += "\n";
  }
  return text + "unset multiplot\n";
}

std::string left_out_note(const Chart& chart) {
  const auto count = static_cast<std::size_t>(std::ranges::count_if(chart.series, [](const auto& series) {
    return series.style != Chart::Style::reference && series.style != Chart::Style::front;
  }));
  if (count <= kMaxPlottedSeries) return "";
  return fmt::format("The first {} of {}; all are in report.html.", kMaxPlottedSeries, count);
}

std::string left_out_note(const HeatMap& map) {
  if (map.panels.size() <= kMaxPlottedPanels) return "";
  return fmt::format("The first {} of {} settings; all are in report.html.", kMaxPlottedPanels, map.panels.size());
}

}  // namespace finesweep::reports
