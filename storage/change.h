#pragma once

#include <cstdint>
#include <string>
#include <variant>

#include "jobs/ids.h"
#include "jobs/json.h"
#include "jobs/outcome.h"
#include "jobs/state.h"

namespace finesweep::storage {

// What the coordinator records, many at a time (Store::apply). Times are Unix milliseconds. Every change but
// JobCounters is an event of events.jsonl as well.

/// The job is running. Numbers rise by at least one; durable before the attempt is handed to a worker.
struct AttemptStarted {
  AttemptKey attempt;
  int worker_rank = 0;
  std::string host;
  std::int64_t time_ms = 0;
  /// Jobs of the pack that it was handed out with, and the first of them; for events.jsonl alone.
  int pack_jobs = 1;
  JobId pack_first = {};
};

/// Where the attempt is its job's newest and the job is running, the job is pending again; JobSucceeded, JobFailed
/// or JobCancelled in the same apply says otherwise.
struct AttemptEnded {
  AttemptKey attempt;
  AttemptEnd reason = AttemptEnd::failed;
  std::string error;
  std::int64_t time_ms = 0;
};

/// The job's one result. Refused (the whole apply fails) where the job has a result already or the attempt is not
/// its newest. Goes together with AttemptEnded{succeeded}.
struct JobSucceeded {
  AttemptKey attempt;
  Outcome outcome;
  std::int64_t time_ms = 0;
};

/// For good: its own failure, or that of a job it needs.
struct JobFailed {
  JobId job;
  std::string error;
  std::int64_t time_ms = 0;
};

struct JobCancelled {
  JobId job;
  std::string error;
  std::int64_t time_ms = 0;
};

/// A failed or cancelled job is to be run again, with its counters at zero; attempt numbers go on.
struct JobReset {
  JobId job;
  std::int64_t time_ms = 0;
};

/// The artifact of a succeeded job is no longer there, and another job needs it: the job is to be run again. Its
/// result is forgotten, since the new one brings its own.
struct ArtifactLost {
  JobId job;
  std::int64_t time_ms = 0;
};

struct JobCounters {
  JobId job;
  int failures = 0;  // charged against Job::retries
  int losses = 0;    // of workers, nodes and coordinators
};

/// Anything else for events.jsonl: an object with a key "event".
struct EventLogged {
  Json event = Json::object();
  std::int64_t time_ms = 0;
};

using Change = std::variant<AttemptStarted, AttemptEnded, JobSucceeded, JobFailed, JobCancelled, JobReset,
                            ArtifactLost, JobCounters, EventLogged>;

}  // namespace finesweep::storage
