#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "jobs/json.h"
#include "jobs/result.h"

namespace finesweep {

/// The first 128 bits of the SHA-256 over what determines a job's result (see sweeps/job_hash.h). Written as 32 hex
/// digits; names the job's artifact folder.
class JobId {
 public:
  JobId() = default;
  /// The id of the job whose canonical description is `canonical`.
  static JobId of(std::string_view canonical);
  static Result<JobId> parse(std::string_view hex);

  std::string hex() const;
  const std::array<std::uint8_t, 16>& bytes() const { return bytes_; }
  auto operator<=>(const JobId&) const = default;

 private:
  std::array<std::uint8_t, 16> bytes_{};
};

void to_json(Json& json, const JobId& id);
void from_json(const Json& json, JobId& id);

/// One stay of a worker process with the coordinator: its MPI rank, and how often that rank has joined. A worker
/// that was given up and comes back joins under a new incarnation; what it says under the old one is refused.
struct WorkerId {
  std::int32_t rank = -1;
  std::int32_t incarnation = 0;
  auto operator<=>(const WorkerId&) const = default;
};

void to_json(Json& json, const WorkerId& id);
void from_json(const Json& json, WorkerId& id);
std::string to_string(const WorkerId& id);

/// Attempts of a job are numbered from 1, over all lives of the coordinator; only the newest may commit.
using AttemptNumber = int;

struct AttemptKey {
  JobId job;
  AttemptNumber number = 0;
  auto operator<=>(const AttemptKey&) const = default;
};

void to_json(Json& json, const AttemptKey& key);
void from_json(const Json& json, AttemptKey& key);

}  // namespace finesweep

template <>
struct std::hash<finesweep::JobId> {
  std::size_t operator()(const finesweep::JobId& id) const noexcept {
    std::size_t value;
    static_assert(sizeof value <= 16);
    __builtin_memcpy(&value, id.bytes().data(), sizeof value);
    return value;
  }
};
