#include "coordinator/slurm_record.h"

#include <filesystem>

#include "jobs/json.h"
#include "storage/files.h"

namespace finesweep::coordinator {

namespace {

std::filesystem::path record_file(const storage::RunDirectory& run) {
  return run.path() / "slurm.json";
}

std::filesystem::path life_file(const storage::RunDirectory& run, const std::string& job) {
  return run.path() / "slurm-lives" / (job + ".json");
}

Json life_json(const SlurmLife& life) {
  Json json{{"job", life.job},
            {"restarts", life.restarts},
            {"begun_ms", life.begun_ms},
            {"heartbeat_before_ms", life.heartbeat_before_ms},
            {"results_before", life.results_before},
            {"checkpoints_before", life.checkpoints_before}};
  if (life.ends_ms) json["ends_ms"] = *life.ends_ms;
  return json;
}

SlurmLife read_life(const Json& json) {
  SlurmLife life;
  life.job = json.at("job").get<std::string>();
  life.restarts = json.at("restarts").get<int>();
  life.begun_ms = json.at("begun_ms").get<std::int64_t>();
  life.heartbeat_before_ms = json.at("heartbeat_before_ms").get<std::int64_t>();
  life.results_before = json.at("results_before").get<std::int64_t>();
  life.checkpoints_before = json.at("checkpoints_before").get<std::map<std::string, std::int64_t>>();
  if (json.contains("ends_ms")) life.ends_ms = json.at("ends_ms").get<std::int64_t>();
  return life;
}

/// What `read` makes of a file's JSON; absent where there is no file.
template <typename Value>
Result<std::optional<Value>> read_from(const std::filesystem::path& file, Value (*read)(const Json& json)) {
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return std::optional<Value>();
  const auto text = storage::read_file(file);
  if (!text) return text.error();
  const auto json = parse_json(*text, file.string());
  if (!json) return json.error();
  try {
    return std::optional(read(*json));
  } catch (const Json::exception& error) {
    return Error{file.string() + ": not as finesweep writes it (" + error.what() + "); remove it"};
  }
}

SlurmRecord read_record(const Json& json) {
  return {json.value("submitted_job", ""), json.value("submitted_ms", std::int64_t{0})};
}

}  // namespace

Result<std::optional<SlurmRecord>> read_slurm_record(const storage::RunDirectory& run) {
  return read_from(record_file(run), read_record);
}

Status write_slurm_record(const storage::RunDirectory& run, const SlurmRecord& record) {
  const Json json{{"submitted_job", record.submitted_job}, {"submitted_ms", record.submitted_ms}};
  return storage::write_file_atomically(record_file(run), json.dump(1) + "\n");
}

Result<std::optional<SlurmLife>> read_slurm_life(const storage::RunDirectory& run, const std::string& job) {
  return read_from(life_file(run, job), read_life);
}

Status write_slurm_life(const storage::RunDirectory& run, const SlurmLife& life) {
  const std::filesystem::path file = life_file(run, life.job);
  std::error_code ignored;  // the writing says it
  std::filesystem::create_directories(file.parent_path(), ignored);
  return storage::write_file_atomically(file, life_json(life).dump(1) + "\n");
}

bool waits_in_queue(const storage::RunDirectory& run, const SlurmRecord& record) {
  if (record.submitted_job.empty()) return false;
  const auto life = read_slurm_life(run, record.submitted_job);
  return life && !*life;
}

}  // namespace finesweep::coordinator
