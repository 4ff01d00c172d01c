#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "jobs/messages.h"
#include "jobs/outcome.h"
#include "tests/engine/job_bench.h"

namespace finesweep::worker {

/// Executes a job on execute.devices.size() ranks, each a process of its own (this program again), and waits for
/// all. `environment`: for the processes. Outcomes by rank; where a process ended without one, its error says so.
std::vector<Outcome> execute_on_ranks(const Execute& execute,
                                      const std::map<std::string, std::string>& environment = {});

/// That two trainings of the same rows left the same weights, but for roundings.
void expect_same_weights(const std::filesystem::path& expected, const std::filesystem::path& trained);

/// In `environment`: the leader is told to stop once its progress is so far.
inline constexpr const char* kStopAt = "FINESWEEP_TEST_STOP_AT";

/// Runs jobs of a bench on job.gpus processes; tried again, from the checkpoints of the attempts before.
class RankBench {
 public:
  explicit RankBench(const JobBench& bench) : bench_(bench) {}
  /// Of the leader. All ranks are to end alike.
  Outcome run(const Job& job);
  std::filesystem::path staging(const Job& job) const { return attempts_.at(job.id).back(); }

  /// Of the processes; where there are fewer, the others are on the bench's.
  std::vector<std::string> devices;
  std::map<std::string, std::string> environment;

 private:
  const JobBench& bench_;
  std::map<JobId, std::vector<std::filesystem::path>> attempts_;
};

}  // namespace finesweep::worker
