#pragma once

#include <string>

#include "reports/charts.h"

namespace finesweep::reports {

// Scripts for gnuplot 5.4 and newer that draw `id`.svg in the current folder, as for a paper: on white, axes with
// units, colours that colour-blind people tell apart (Okabe and Ito; single-hue blues), another mark for each
// series. Text from the sweep file stands in single quotes alone, where gnuplot substitutes nothing.

/// Series beyond this are left out: more cannot be told apart on paper.
inline constexpr std::size_t kMaxPlottedSeries = 10;
inline constexpr std::size_t kMaxPlottedPanels = 6;

std::string gnuplot_script(const Chart& chart);
std::string gnuplot_script(const HeatMap& map);

/// A string of gnuplot that holds the text on one line, whatever the text is; a straight apostrophe becomes a curly
/// one.
std::string gnuplot_quoted(const std::string& text);

/// What is not in the plot but in the data: "The first 10 of 30 series; …"; empty where all is.
std::string left_out_note(const Chart& chart);
std::string left_out_note(const HeatMap& map);

}  // namespace finesweep::reports
