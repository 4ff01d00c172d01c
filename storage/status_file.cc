#include "storage/status_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <cmath>
#include <exception>
#include <stdexcept>

#include "jobs/crash_point.h"
#include "storage/files.h"
#include "storage/posix.h"

namespace finesweep::storage {

namespace {

constexpr int kStatusVersion = 1;

StatusSnapshot::State parse_state(const std::string& name) {
  using State = StatusSnapshot::State;
  for (State state : {State::running, State::finished, State::interrupted, State::failed})
    if (status_state_name(state) == name) return state;
  throw std::invalid_argument("unknown state '" + name + "'");
}

Json counts_to_json(const StatusSnapshot::Counts& counts) {
  return {{"pending", counts.pending},
          {"running", counts.running},
          {"succeeded", counts.succeeded},
          {"failed", counts.failed},
          {"cancelled", counts.cancelled}};
}

StatusSnapshot::Counts counts_from_json(const Json& json) {
  const auto count = [&](const char* name) { return json.at(name).get<std::int64_t>(); };
  return {count("pending"), count("running"), count("succeeded"), count("failed"), count("cancelled")};
}

Json worker_to_json(const StatusSnapshot::Worker& worker) {
  Json json{{"rank", worker.rank}, {"host", worker.host}, {"device", worker.device}};
  if (!worker.attempt) return json;
  json["job"] = worker.attempt->job;
  json["attempt"] = worker.attempt->number;
  json["title"] = worker.title;
  json["progress"] = worker.progress;
  json["pack"] = worker.pack;
  return json;
}

StatusSnapshot::Worker worker_from_json(const Json& json) {
  StatusSnapshot::Worker worker;
  worker.rank = json.at("rank").get<int>();
  worker.host = json.at("host").get<std::string>();
  worker.device = json.at("device").get<std::string>();
  if (!json.contains("job")) return worker;
  worker.attempt = {json["job"].get<JobId>(), json.at("attempt").get<AttemptNumber>()};
  worker.title = json.at("title").get<std::string>();
  worker.progress = json.at("progress").get<Progress>();
  worker.pack = json.value("pack", 1);
  return worker;
}

/// Like write_file_atomically(), without waiting for the disk: readers see the old bytes or the new.
Status replace_file(const std::filesystem::path& path, const std::string& text) {
  const std::filesystem::path temporary = path.string() + ".new";
  Descriptor file = open_file(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW);
  if (!file.ok()) return system_error("write", path);
  const bool whole = write_all(file.get(), text.data(), text.size()) && file.close() == 0;
  crash_point("status.written");
  if (!whole || ::rename(temporary.c_str(), path.c_str()) != 0) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    return system_error("write", path, reason);
  }
  crash_point("status.replaced");
  return {};
}

}  // namespace

std::string_view status_state_name(StatusSnapshot::State state) {
  switch (state) {
    case StatusSnapshot::State::running:
      return "running";
    case StatusSnapshot::State::finished:
      return "finished";
    case StatusSnapshot::State::interrupted:
      return "interrupted";
    case StatusSnapshot::State::failed:
      return "failed";
  }
  throw std::logic_error("a state without a name");
}

bool looks_dead(const StatusSnapshot& status, std::int64_t now_ms) {
  return status.state == StatusSnapshot::State::running && now_ms - status.heartbeat_ms > kDeadAfterMs;
}

void to_json(Json& json, const StatusSnapshot& status) {
  json = {{"version", kStatusVersion},
          {"sweep", status.sweep},
          {"state", std::string(status_state_name(status.state))},
          {"message", status.message},
          {"jobs", counts_to_json(status.jobs)},
          {"trials", counts_to_json(status.trials)},
          {"workers", Json::array()},
          {"host", status.host},
          {"pid", status.pid},
          {"slurm_job", status.slurm_job},
          {"started_ms", status.started_ms},
          {"heartbeat_ms", status.heartbeat_ms}};
  for (const auto& worker : status.workers) json["workers"].push_back(worker_to_json(worker));
  if (status.exit_code) json["exit_code"] = *status.exit_code;
  if (status.seconds_left && std::isfinite(*status.seconds_left)) json["seconds_left"] = *status.seconds_left;
}

void from_json(const Json& json, StatusSnapshot& status) {
  if (const int version = json.at("version").get<int>(); version != kStatusVersion)
    throw std::invalid_argument("version " + std::to_string(version) + " is not known to this finesweep");
  status = {};
  status.sweep = json.at("sweep").get<std::string>();
  status.state = parse_state(json.at("state").get<std::string>());
  status.message = json.at("message").get<std::string>();
  status.jobs = counts_from_json(json.at("jobs"));
  status.trials = counts_from_json(json.at("trials"));
  for (const Json& worker : json.at("workers")) status.workers.push_back(worker_from_json(worker));
  status.host = json.at("host").get<std::string>();
  status.pid = json.at("pid").get<int>();
  status.slurm_job = json.at("slurm_job").get<std::string>();
  status.started_ms = json.at("started_ms").get<std::int64_t>();
  status.heartbeat_ms = json.at("heartbeat_ms").get<std::int64_t>();
  if (json.contains("exit_code")) status.exit_code = json["exit_code"].get<int>();
  if (json.contains("seconds_left")) status.seconds_left = json["seconds_left"].get<double>();
}

Status write_status(const std::filesystem::path& status_file, const StatusSnapshot& status) {
  const std::string text = Json(status).dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (status.state == StatusSnapshot::State::running) return replace_file(status_file, text);
  return write_file_atomically(status_file, text);
}

Result<StatusSnapshot> read_status(const std::filesystem::path& status_file) {
  const Result<std::string> text = read_file(status_file);
  if (!text) return text.error();
  const Result<Json> json = parse_json(*text, status_file.string());
  if (!json) return json.error();
  try {
    return json->get<StatusSnapshot>();
  } catch (const std::exception& e) {
    return Error{status_file.string() + " is not a status of finesweep: " + e.what()};
  }
}

}  // namespace finesweep::storage
