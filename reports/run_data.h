#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "jobs/plan.h"
#include "jobs/result.h"
#include "storage/run_directory.h"
#include "storage/store.h"

namespace finesweep::reports {

/// Where the time of a job went: profile.json in the artifact of a job with `profile: true`.
///
///   {"mode": "forward", "iterations": 20, "groups": [{"group": "attention", "ms": 1.2, "share": 0.3, "calls": 10},
///   …]}
///
/// or a list of these, one for each mode.
struct Profile {
  struct Group {
    std::string name;
    double ms = 0;
    double share = 0;  // of the whole, 0 to 1
    double calls = 0;
    std::optional<double> device_ms = {}, device_share = {};
  };
  std::string mode;
  int iterations = 0;
  std::vector<Group> groups;
};

/// All that a report is made from.
struct RunData {
  Plan plan;
  /// What is known of the plan's jobs; one that is missing here is pending.
  std::unordered_map<JobId, storage::StoredJob> jobs;
  std::unordered_map<JobId, std::vector<Profile>> profiles;
  /// Sentences of whoever put the data together, for the report's warnings.
  std::vector<std::string> remarks;

  /// Where several sweeps are compared, their names (merge_runs): then the first swept path says of which a trial
  /// is.
  std::vector<std::string> sweeps;
  bool compares_sweeps() const { return !sweeps.empty(); }
  /// Empty where one sweep is all there is.
  std::string sweep_of(const Trial& trial) const;
};

/// The recorded results and the profiles among the artifacts. A profile that cannot be read is a remark.
Result<RunData> read_run_data(const storage::Store& store, const storage::RunDirectory& run);
/// From what is at hand of the store already: does not touch it, so another thread may go on with it meanwhile.
RunData read_run_data(Plan plan, std::vector<storage::StoredJob> jobs, const storage::RunDirectory& run);

/// What profile.json holds. The Error says what is wrong with it.
Result<std::vector<Profile>> parse_profiles(const std::string& text);

}  // namespace finesweep::reports
