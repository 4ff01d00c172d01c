#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace finesweep::tests {

/// A folder of its own for one test, removed at the end unless the test failed.
class Workspace {
 public:
  Workspace();
  ~Workspace();
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  void write(const std::string& name, const std::string& text) const;

  /// A real, small BERT (weights of the fixtures, a vocabulary made here), rows of real text, and a sweep file over
  /// them whose jobs take about a second each. Returns the sweep file.
  std::filesystem::path make_small_sweep(int steps = 300, const std::string& extra = "") const;
  /// For what is run many times: two trials of two jobs, a checkpoint every few steps.
  std::filesystem::path make_quick_sweep() const;
  /// Two short trainings and two long ones: in packs of two each long one is left with a free place, which one that
  /// waits takes. Writes the small sweep too.
  std::filesystem::path make_joining_sweep(int short_steps, int long_steps) const;

 private:
  std::filesystem::path path_;
};

/// A program started in a session of its own, with an environment variable that marks it and all that comes of it.
class Process {
 public:
  /// `environment`: "NAME=value", beside what this process has.
  Process(const std::vector<std::string>& command, const std::filesystem::path& folder,
          const std::vector<std::string>& environment = {});
  ~Process();  // kills what is left

  pid_t pid() const { return pid_; }
  /// The exit code (128 + signal for a killed one), or nullopt where it has not ended by then.
  std::optional<int> wait(std::chrono::seconds deadline);
  void signal(int number) const;
  std::string output() const;  // standard output and error so far

  /// Living processes (zombies left out) that carry the mark: pid → command line.
  std::map<pid_t, std::string> family() const;
  /// Waits until the family has nobody whose command line contains `text`, or until the deadline; returns who is
  /// left.
  std::map<pid_t, std::string> wait_until_gone(std::chrono::milliseconds deadline) const;

 private:
  pid_t pid_ = -1;
  std::string mark_;
  std::filesystem::path output_;
  std::optional<int> status_;
};

/// Waits until `condition` holds; false where it did not in time.
template <typename Condition>
bool wait_for(Condition condition, std::chrono::milliseconds deadline);

std::filesystem::path finesweep_program();
std::vector<std::string> mpirun(int ranks, std::vector<std::string> command);
std::string read_text(const std::filesystem::path& path);

/// What results.csv of a run says, without measured columns.
std::string results_of(const std::filesystem::path& run);
/// How often `text` stands in a run's events.jsonl.
int count_events(const std::filesystem::path& run, const std::string& text);
/// Processes, one a line.
std::string describe(const std::map<pid_t, std::string>& processes);

/// CSV text with the measured columns (and what derives from them) left out.
std::string without_measured_columns(const std::string& csv);

void sleep_briefly();

template <typename Condition>
bool wait_for(Condition condition, std::chrono::milliseconds deadline) {
  const auto until = std::chrono::steady_clock::now() + deadline;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    sleep_briefly();
  }
  return true;
}

}  // namespace finesweep::tests
