#include "sweeps/diagnostics.h"

#include <algorithm>
#include <numeric>

namespace finesweep::sweeps {

namespace {

// A file can be wrong in more ways than anybody wants to read.
constexpr std::size_t kMostDiagnostics = 200;

/// Edits, among them the swap of two neighbours, that turn one word into the other (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        row[j] = std::min(row[j], before[j - 2] + 1);
    }
    before.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

}  // namespace

void Diagnostics::error(Mark mark, std::string path, std::string message) {
  add({Severity::error, mark, std::move(path), std::move(message)});
}

void Diagnostics::warning(Mark mark, std::string path, std::string message) {
  add({Severity::warning, mark, std::move(path), std::move(message)});
}

void Diagnostics::add(Diagnostic diagnostic) {
  const bool is_error = diagnostic.severity == Severity::error;
  errors_ += is_error;
  if (all_.size() >= kMostDiagnostics && !(is_error && errors_ == 1)) return;
  const bool known = std::any_of(all_.begin(), all_.end(), [&](const Diagnostic& d) {
    return d.mark == diagnostic.mark && d.path == diagnostic.path && d.message == diagnostic.message;
  });
  if (!known) all_.push_back(std::move(diagnostic));
}

std::vector<Diagnostic> Diagnostics::sorted() const {
  std::vector<Diagnostic> sorted = all_;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Diagnostic& a, const Diagnostic& b) { return a.mark < b.mark; });
  return sorted;
}

std::string format_diagnostics(const std::vector<Diagnostic>& diagnostics, std::string_view file) {
  std::vector<Diagnostic> sorted = diagnostics;
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Diagnostic& a, const Diagnostic& b) { return a.mark < b.mark; });
  std::string text;
  for (const Diagnostic& d : sorted) {
    text += d.mark.source > 0 ? "--set" : std::string(file);
    if (d.mark.line > 0) text += ":" + std::to_string(d.mark.line) + ":" + std::to_string(d.mark.column);
    text += d.severity == Severity::error ? ": error: " : ": warning: ";
    if (!d.path.empty()) text += d.path + ": ";
    for (char c : d.message) {
      text += c;
      if (c == '\n') text += "    ";
    }
    text += '\n';
  }
  return text;
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  if (word.size() > 64) return "";
  const std::string* best = nullptr;
  std::size_t best_distance = std::max<std::size_t>(1, (word.size() + 1) / 3) + 1;
  for (const std::string& candidate : candidates) {
    if (const std::size_t distance = edit_distance(word, candidate); distance < best_distance) {
      best = &candidate;
      best_distance = distance;
    }
  }
  // Part of a longer name counts as near: `length` for `sequence_length`.
  if (!best && word.size() >= 3)
    for (const std::string& candidate : candidates)
      if (candidate.find(word) != std::string::npos) {
        best = &candidate;
        break;
      }
  return best ? "; did you mean '" + *best + "'?" : "";
}

}  // namespace finesweep::sweeps
