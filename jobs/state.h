#pragma once

#include <optional>
#include <string_view>

namespace finesweep {

/// Where a job stands, as it is stored and shown. Persisted by name.
enum class JobState {
  pending,  // to be run: waits for its inputs or for a worker
  running,  // its newest attempt is out
  succeeded,
  failed,
  cancelled,
};

std::string_view job_state_name(JobState state);
std::optional<JobState> parse_job_state(std::string_view name);

/// How an attempt ended, as it is stored and shown. Persisted by name.
enum class AttemptEnd {
  succeeded,
  failed,       // the job's own failure
  interrupted,  // stopped on request after a checkpoint
  lost,         // its worker, node or coordinator is gone
  superseded,   // a newer attempt took its place
  cancelled,
};

std::string_view attempt_end_name(AttemptEnd end);
std::optional<AttemptEnd> parse_attempt_end(std::string_view name);

}  // namespace finesweep
