#include <algorithm>
#include <numeric>

#include "reports/comparison_table.h"
#include "reports/report.h"
#include "reports/text.h"

namespace finesweep::reports {

namespace {

using Role = ComparisonTable::Role;

constexpr std::size_t kGap = 2;
constexpr std::size_t kMinLabel = 24;
constexpr std::size_t kMinWords = 16;  // of the best use case, which wraps
constexpr std::size_t kMaxRows = 50;

/// What goes first where there is no room for all.
constexpr Role kDispensable[] = {Role::benchmark,     Role::companion, Role::size,       Role::chosen_by,
                                 Role::training_time, Role::repeats,   Role::parameters, Role::best_for,
                                 Role::difference,    Role::memory,    Role::time,       Role::sweep};

std::size_t longest_word(const std::string& text) {
  std::size_t longest = 0;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t end = std::min(text.find(' ', begin), text.size());
    longest = std::max(longest, display_width(std::string_view(text).substr(begin, end - begin)));
    begin = end + 1;
  }
  return longest;
}

/// As wide as the cells need; headings wrap at spaces.
std::vector<std::size_t> natural_widths(const ComparisonTable& table) {
  std::vector<std::size_t> widths;
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    std::size_t width = longest_word(table.columns[c].heading);
    for (const auto& row : table.rows) width = std::max(width, display_width(row[c].text) + (row[c].best ? 1 : 0));
    widths.push_back(width);
  }
  return widths;
}

std::size_t total(const std::vector<std::size_t>& widths) {
  return std::accumulate(widths.begin(), widths.end(), kGap * (widths.size() - 1));
}

void drop(ComparisonTable& table, std::size_t column) {
  const auto at = static_cast<std::ptrdiff_t>(column);
  table.columns.erase(table.columns.begin() + at);
  for (auto& row : table.rows) row.erase(row.begin() + at);
}

/// Narrows, shortens, then drops columns until the table fits.
std::vector<std::size_t> fit(ComparisonTable& table, std::size_t width) {
  std::size_t next = 0;
  for (;;) {
    std::vector<std::size_t> widths = natural_widths(table);
    const auto narrow = [&](Role role, std::size_t least) {
      for (std::size_t c = 0; c < widths.size(); ++c) {
        const std::size_t all = total(widths);
        if (table.columns[c].role != role || all <= width || widths[c] <= least) continue;
        widths[c] -= std::min(widths[c] - least, all - width);
      }
    };
    narrow(Role::best_for, kMinWords);
    narrow(Role::label, kMinLabel);
    if (total(widths) <= width || next == std::size(kDispensable)) return widths;
    if (!table.is_shortened) {
      shorten(table);
      continue;
    }
    const auto column = std::ranges::find(table.columns, kDispensable[next], &ComparisonTable::Column::role);
    if (column != table.columns.end())
      drop(table, static_cast<std::size_t>(column - table.columns.begin()));
    else
      ++next;
  }
}

/// Labels stand in line, whether they carry the mark or not.
void align_labels(ComparisonTable& table) {
  const auto is_marked = [](const auto& row) { return row[0].text.starts_with(kParetoMark); };
  if (std::ranges::none_of(table.rows, is_marked)) return;
  for (auto& row : table.rows)
    if (!is_marked(row)) row[0].text.insert(0, 2, ' ');
}

std::string padded(const std::string& text, std::size_t width, bool left) {
  const std::string space(width - std::min(width, display_width(text)), ' ');
  return left ? text + space : space + text;
}

/// One row of cells that may each take several lines.
std::string lines_of(const std::vector<std::vector<std::string>>& cells, const ComparisonTable& table,
                     const std::vector<std::size_t>& widths) {
  std::size_t height = 1;
  for (const auto& cell : cells) height = std::max(height, cell.size());
  std::string text;
  for (std::size_t y = 0; y < height; ++y) {
    std::string line;
    for (std::size_t c = 0; c < cells.size(); ++c) {
      if (c > 0) line.append(kGap, ' ');
      line += padded(y < cells[c].size() ? cells[c][y] : "", widths[c], table.columns[c].is_text);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace

std::string terminal_table(const RunData& data, std::size_t width) {
  const Analysis analysis = analyze(data);
  ComparisonTable table = compare(analysis);
  const std::size_t configurations = table.rows.size();
  table.rows.resize(std::min(configurations, kMaxRows));
  align_labels(table);
  const std::vector<std::size_t> widths = fit(table, width);

  std::vector<std::vector<std::string>> headings;
  std::size_t height = 1;
  for (std::size_t c = 0; c < table.columns.size(); ++c) {
    headings.push_back(wrapped(table.columns[c].heading, widths[c]));
    height = std::max(height, headings.back().size());
  }
  for (auto& heading : headings) heading.insert(heading.begin(), height - heading.size(), "");  // stand on the rule

  std::string text = lines_of(headings, table, widths);
  for (std::size_t i = 0; i < total(widths); ++i) text += "─";
  text += "\n";
  bool has_best = false;
  for (const auto& row : table.rows) {
    std::vector<std::vector<std::string>> cells;
    for (std::size_t c = 0; c < row.size(); ++c) {
      has_best = has_best || row[c].best;
      const std::string marked = row[c].best ? "*" + row[c].text : row[c].text;
      cells.push_back(table.columns[c].role == Role::best_for ? wrapped(marked, widths[c])
                                                              : std::vector{shortened(marked, widths[c])});
    }
    text += lines_of(cells, table, widths);
  }
  text += "\n";
  std::vector<std::string> sentences;
  if (configurations > kMaxRows)
    sentences.push_back("The first " + std::to_string(kMaxRows) + " of " + std::to_string(configurations) +
                        " configurations; all are in summary.csv.");
  if (has_best) sentences.push_back("* best in its column.");
  std::ranges::copy(notes_of(analysis, table), std::back_inserter(sentences));
  if (const std::string best = best_sentence(analysis); !best.empty()) sentences.push_back(best);
  std::ranges::copy(analysis.warnings, std::back_inserter(sentences));
  for (const std::string& sentence : sentences)
    for (const std::string& line : wrapped(on_one_line(sentence), width)) text += line + "\n";
  return text;
}

}  // namespace finesweep::reports
