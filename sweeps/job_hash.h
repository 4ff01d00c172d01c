#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jobs/ids.h"
#include "jobs/job.h"
#include "jobs/json.h"
#include "jobs/settings_table.h"

namespace finesweep::sweeps {

/// What determines a job's result, and so its id: no path, host, device, retry or checkpoint interval is here.
struct JobDescription {
  StepKind kind = StepKind::finetune;
  Json settings = Json::object();
  /// The base model's files by name and SHA-256 where the step starts from it; null where it starts from an input.
  Json model;
  /// Task, fields, labels, limits and the SHA-256 of the splits that the step reads; null where it reads none.
  Json data;
  std::vector<JobId> inputs;
  std::optional<std::uint64_t> seed;
  /// Of a benchmark: a time is a sample, so each repeat takes its own.
  std::optional<int> repeat;
  int gpus = 1;
};

/// Keys sorted, numbers in shortest form: equal descriptions give equal bytes.
std::string canonical_text(const JobDescription& description);

inline JobId job_id(const JobDescription& description) {
  return JobId::of(canonical_text(description));
}

/// The seed of a repeat depends on the sweep's seed and the repeat alone: repeats are paired across configurations.
/// It is the first 8 bytes, read as a big-endian number, of the SHA-256 of the JSON text
/// {"repeat":R,"sweep_seed":S}.
std::uint64_t repeat_seed(std::uint64_t sweep_seed, int repeat);

/// 64 hex digits for a configuration: its steps by name and seedless id.
std::string configuration_hash(const std::vector<std::pair<std::string, JobId>>& steps);

}  // namespace finesweep::sweeps
