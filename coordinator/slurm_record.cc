#include "coordinator/slurm_record.h"

#include <exception>
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

Error not_ours(const std::filesystem::path& file, const std::exception& error) {
  return Error{file.string() + ": not as finesweep writes it (" + error.what() + "); remove it"};
}

Json life_json(const SlurmRecord::Life& life) {
  Json json{{"job", life.job},
            {"restarts", life.restarts},
            {"begun_ms", life.begun_ms},
            {"heartbeat_before_ms", life.heartbeat_before_ms},
            {"results_before", life.results_before},
            {"checkpoints_before", life.checkpoints_before}};
  if (life.ends_ms) json["ends_ms"] = *life.ends_ms;
  return json;
}

SlurmRecord::Life read_life(const Json& json) {
  SlurmRecord::Life life;
  life.job = json.at("job").get<std::string>();
  life.restarts = json.at("restarts").get<int>();
  life.begun_ms = json.at("begun_ms").get<std::int64_t>();
  life.heartbeat_before_ms = json.at("heartbeat_before_ms").get<std::int64_t>();
  life.results_before = json.at("results_before").get<std::int64_t>();
  life.checkpoints_before = json.at("checkpoints_before").get<std::map<std::string, std::int64_t>>();
  if (json.contains("ends_ms")) life.ends_ms = json.at("ends_ms").get<std::int64_t>();
  return life;
}

}  // namespace

Result<std::optional<SlurmRecord>> read_slurm_record(const storage::RunDirectory& run) {
  std::error_code ignored;
  if (!std::filesystem::exists(record_file(run), ignored)) return std::optional<SlurmRecord>();
  const auto text = storage::read_file(record_file(run));
  if (!text) return text.error();
  const auto json = parse_json(*text, record_file(run).string());
  if (!json) return json.error();
  try {
    SlurmRecord record;
    record.submitted_job = json->value("submitted_job", "");
    record.submitted_ms = json->value("submitted_ms", std::int64_t{0});
    if (json->contains("life")) record.life = read_life(json->at("life"));
    return std::optional<SlurmRecord>(std::move(record));
  } catch (const Json::exception& error) {
    return not_ours(record_file(run), error);
  }
}

Status write_slurm_record(const storage::RunDirectory& run, const SlurmRecord& record) {
  Json json{{"submitted_job", record.submitted_job}, {"submitted_ms", record.submitted_ms}};
  if (record.life) json["life"] = life_json(*record.life);
  return storage::write_file_atomically(record_file(run), json.dump(1) + "\n");
}

Result<std::optional<SlurmRecord::Life>> read_slurm_life(const storage::RunDirectory& run, const std::string& job) {
  const std::filesystem::path file = life_file(run, job);
  std::error_code ignored;
  if (!std::filesystem::exists(file, ignored)) return std::optional<SlurmRecord::Life>();
  const auto text = storage::read_file(file);
  if (!text) return text.error();
  const auto json = parse_json(*text, file.string());
  if (!json) return json.error();
  try {
    return std::optional(read_life(*json));
  } catch (const Json::exception& error) {
    return not_ours(file, error);
  }
}

Status write_slurm_life(const storage::RunDirectory& run, const SlurmRecord::Life& life) {
  const std::filesystem::path file = life_file(run, life.job);
  std::error_code ignored;  // the writing says it
  std::filesystem::create_directories(file.parent_path(), ignored);
  return storage::write_file_atomically(file, life_json(life).dump(1) + "\n");
}

bool waits_in_queue(const SlurmRecord& record) {
  return !record.submitted_job.empty() && (!record.life || record.life->begun_ms < record.submitted_ms);
}

}  // namespace finesweep::coordinator
