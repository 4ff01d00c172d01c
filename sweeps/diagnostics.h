#pragma once

#include <compare>
#include <string>
#include <string_view>
#include <vector>

namespace finesweep::sweeps {

/// Where something stands. Source 0 is the sweep file; source n is the n-th `--set`. Lines and columns count from
/// 1, columns in code points; line 0 means the file as a whole.
struct Mark {
  int source = 0;
  int line = 0;
  int column = 0;
  auto operator<=>(const Mark&) const = default;
};

enum class Severity { error, warning };

struct Diagnostic {
  Severity severity = Severity::error;
  Mark mark;
  /// What is wrong, "finetune.rank"; may be empty.
  std::string path;
  /// May hold several lines: the later ones are shown indented.
  std::string message;
};

/// Collects what is wrong, so that everything is reported together. The same message at the same place is kept
/// once: many configurations may run into it.
class Diagnostics {
 public:
  void error(Mark mark, std::string path, std::string message);
  void warning(Mark mark, std::string path, std::string message);
  bool has_errors() const { return errors_ > 0; }
  /// In the order of positions.
  std::vector<Diagnostic> sorted() const;

 private:
  void add(Diagnostic diagnostic);
  std::vector<Diagnostic> all_;
  std::size_t errors_ = 0;
};

/// `sweep.yaml:12:5: error: finetune.rnak: unknown key; did you mean 'rank'?`, one line for each, sorted by
/// position.
std::string format_diagnostics(const std::vector<Diagnostic>& diagnostics, std::string_view file);

/// "; did you mean 'rank'?", or nothing where no candidate is near.
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace finesweep::sweeps
