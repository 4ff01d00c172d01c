#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "reports/analysis.h"

namespace finesweep::reports {

/// The table that answers the sweep's question, limited to the columns that help to choose; report.md and the
/// terminal show it. Text is not yet escaped.
struct ComparisonTable {
  enum class Role {
    label,
    sweep,  // where several are compared
    shown,
    companion,  // another metric of quality that the step of the shown one has
    chosen_by,
    repeats,
    parameters,
    memory,
    time,
    training_time,
    size,       // of the model, and what was pruned
    benchmark,  // time, memory and throughput of each mode
    difference,
    best_for
  };
  struct Column {
    Role role;
    std::string heading;
    bool is_text = false;  // aligned left
    std::string metric = {};
  };
  struct Cell {
    std::string text;
    bool best = false;
    /// Where there is less room; empty: there is no shorter text.
    std::string short_text = {};
    /// What the cell sorts by, in a column of numbers.
    std::optional<double> value = {};
  };
  std::vector<Column> columns;
  std::vector<std::vector<Cell>> rows;      // best configuration by the shown metric first
  std::vector<std::size_t> configurations;  // of the rows
  /// Cells show their short texts.
  bool is_shortened = false;
};

ComparisonTable compare(const Analysis& analysis);

/// Each cell that has a short text shows it.
void shorten(ComparisonTable& table);

/// What the reader needs to know to read the cells.
std::vector<std::string> notes_of(const Analysis& analysis, const ComparisonTable& table);

/// "0.843 ± 0.002"; with one value of a mean over the batches of a run, ± is theirs: "12.1 ± 0.4 (batches)"; empty
/// where there is no value.
std::string value_text(const Configuration& configuration, const std::string& metric);

/// One sentence: which configuration was chosen, by what, and how it does; empty where none was.
std::string best_sentence(const Analysis& analysis);

/// "8 trials: 7 succeeded, 1 failed."
std::string counts_sentence(const Analysis& analysis);

/// Behind a value whose ± is the deviation over the batches of one run.
inline constexpr std::string_view kOverBatches = " (batches)";

/// Behind a time that was taken while other jobs of a pack ran beside.
inline constexpr std::string_view kInPack = " †";

/// Before the label of a Pareto-optimal configuration.
inline constexpr std::string_view kParetoMark = "◆";

}  // namespace finesweep::reports
