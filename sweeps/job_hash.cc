#include "sweeps/job_hash.h"

#include "jobs/sha256.h"

namespace finesweep::sweeps {

std::string canonical_text(const JobDescription& description) {
  Json json{{"result_version", kResultVersion},
            {"kind", step_kind_name(description.kind)},
            {"settings", description.settings},
            {"inputs", description.inputs},
            {"gpus", description.gpus}};
  if (!description.model.is_null()) json["model"] = description.model;
  if (!description.data.is_null()) json["data"] = description.data;
  if (description.seed) json["seed"] = *description.seed;
  if (description.repeat) json["repeat"] = *description.repeat;
  return json.dump();
}

std::uint64_t repeat_seed(std::uint64_t sweep_seed, int repeat) {
  const Sha256Digest digest = sha256(Json{{"sweep_seed", sweep_seed}, {"repeat", repeat}}.dump());
  std::uint64_t seed = 0;
  for (int i = 0; i < 8; ++i) seed = seed << 8 | digest[i];
  return seed;
}

std::string configuration_hash(const std::vector<std::pair<std::string, JobId>>& steps) {
  return to_hex(sha256(Json(steps).dump()));
}

}  // namespace finesweep::sweeps
