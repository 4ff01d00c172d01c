#pragma once

#include <optional>
#include <string>
#include <vector>

#include "reports/analysis.h"

namespace finesweep::reports {

/// A chart as data; drawn by gnuplot into plots/*.svg and by Chart.js in report.html. Text is not escaped: labels
/// come from the sweep file.
struct Chart {
  struct Axis {
    std::string label;  // with its unit
    bool is_logarithmic = false;
    /// Where the ticks stand; empty: wherever they look well.
    std::vector<double> ticks = {};
  };
  struct Point {
    double x = 0, y = 0;
    /// Mean ± one standard deviation over repeats; from two values on.
    std::optional<Interval> x_range = {}, y_range = {};
    std::string label = {};  // which configuration it is, where the series does not say
  };
  enum class Style {
    points,
    line,       // with a mark on each point and a bar for its range
    band,       // a line with its range as a band
    front,      // the staircase of a Pareto front
    reference,  // a level, from the lowest to the highest x
  };
  struct Series {
    std::string name;
    Style style = Style::points;
    /// The same number is the same configuration, or value, in charts of one figure.
    int colour = 0;
    std::vector<Point> points;
  };

  std::string id;  // of the file: a-z, 0-9, '-'; unique in the report
  /// Charts of one figure are alternatives: the page shows one of them at a time.
  std::string figure;
  std::string choice;  // what tells it from the others of its figure
  std::string title;
  std::string caption;
  Axis x, y;
  std::vector<Series> series;  // the more important first
  /// One of those that are drawn into plots/.
  bool is_plotted = false;
};

/// Values over batch size and sequence length, a panel for each setting of the rest.
struct HeatMap {
  struct Cell {
    double value = 0;
    std::string text;  // "12.1 ± 0.4"
  };
  struct Panel {
    std::string name;                                     // empty where there is one
    std::vector<std::vector<std::optional<Cell>>> cells;  // [row][column]
  };
  std::string id, figure, choice, title, caption;
  std::string row_label, column_label, value_label;
  std::vector<double> rows, columns;  // batch sizes, sequence lengths; ascending
  std::vector<Panel> panels;
  bool more_is_better = false;
  bool is_plotted = false;
};

struct Charts {
  std::vector<Chart> charts;
  std::vector<HeatMap> heat_maps;
};

/// Metrics against swept numbers, quality against memory and time with their Pareto fronts, curves over epochs, and
/// heat maps of batch size × sequence length: those for which there is data.
Charts charts_of(const Analysis& analysis);

// The kinds of charts, each in a source of its own.
void add_swept_charts(const Analysis& analysis, Charts& charts);
void add_tradeoff_charts(const Analysis& analysis, Charts& charts);
void add_curves(const Analysis& analysis, Charts& charts);
void add_heat_maps(const Analysis& analysis, Charts& charts);

// ---- what they share ----

/// "test accuracy" → "test-accuracy".
std::string file_stem(const std::string& text);

/// The mean of a metric, with mean ± deviation as the range; nullopt where the configuration has no value, or a
/// time that was taken in a pack.
struct MeanAndRange {
  double mean = 0;
  std::optional<Interval> range;
};
std::optional<MeanAndRange> mean_and_range(const Configuration& configuration, const std::string& metric);

/// The swept values of a configuration; null where a path means nothing for it.
const Json& swept_value(const Analysis& analysis, const Configuration& configuration, std::size_t path);

/// How a series is named by the values of some swept paths: "qlora, learning_rate 0.001".
std::string name_by_values(const Analysis& analysis, const Configuration& configuration,
                           const std::vector<std::size_t>& paths);

/// Whether a logarithmic axis shows these values better: all above zero and far apart.
bool are_far_apart(const std::vector<double>& values, double ratio);

/// Indices of the points that no other is at least as good as in both and better in one, by falling y. `x_sign` and
/// `y_sign` are 1 where more is better, else -1.
std::vector<std::size_t> front_of(const std::vector<Chart::Point>& points, int x_sign, int y_sign);

}  // namespace finesweep::reports
