#include "reports/run_data.h"

#include <cmath>
#include <filesystem>
#include <set>
#include <stdexcept>
#include <utility>

#include "storage/files.h"

namespace finesweep::reports {

namespace {

constexpr const char* kProfileName = "profile.json";
constexpr std::uintmax_t kMaxProfileBytes = 1 << 20;

double finite_number(const Json& json, const char* key) {
  const double value = json.at(key).get<double>();
  if (!std::isfinite(value) || value < 0) throw std::invalid_argument(std::string(key) + " is no count or time");
  return value;
}

Profile profile_from(const Json& json) {
  Profile profile;
  profile.mode = json.value("mode", "");
  profile.iterations = json.value("iterations", 0);
  for (const Json& json_group : json.at("groups")) {
    Profile::Group group{json_group.at("group").get<std::string>(), finite_number(json_group, "ms"),
                         finite_number(json_group, "share"), finite_number(json_group, "calls")};
    if (json_group.contains("device_ms") && json_group.contains("device_share")) {
      group.device_ms = finite_number(json_group, "device_ms");
      group.device_share = finite_number(json_group, "device_share");
    }
    profile.groups.push_back(std::move(group));
  }
  return profile;
}

void read_profiles(RunData& data, const storage::RunDirectory& run) {
  std::set<JobId> looked_at;
  for (const Trial& trial : data.plan.trials)
    for (const TrialStep& step : trial.steps) {
      if (step.kind != StepKind::evaluate && step.kind != StepKind::benchmark) continue;
      const auto job = data.jobs.find(step.job);
      if (job == data.jobs.end() || !job->second.outcome || !job->second.outcome->has_artifact) continue;
      if (!looked_at.insert(step.job).second) continue;
      const std::filesystem::path file = run.artifact(step.job) / kProfileName;
      std::error_code failure;
      const auto bytes = std::filesystem::file_size(file, failure);
      if (failure) continue;  // not asked for
      const auto text = bytes > kMaxProfileBytes ? Result<std::string>(Error{"the file is larger than a megabyte"})
                                                 : storage::read_file(file);
      auto profiles = text ? parse_profiles(*text) : text.error();
      if (profiles)
        data.profiles[step.job] = std::move(*profiles);
      else
        data.remarks.push_back("The profile of " + step.name + " of " + trial.name +
                               " cannot be read: " + profiles.error().message);
    }
}

}  // namespace

std::string RunData::sweep_of(const Trial& trial) const {
  if (!compares_sweeps() || trial.swept.empty() || !trial.swept[0].is_string()) return "";
  return trial.swept[0].get<std::string>();
}

Result<std::vector<Profile>> parse_profiles(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    std::vector<Profile> profiles;
    if (json.is_array())
      for (const Json& one : json) profiles.push_back(profile_from(one));
    else
      profiles.push_back(profile_from(json));
    return profiles;
  } catch (const std::exception& error) {
    return Error{std::string(kProfileName) + ": " + error.what()};
  }
}

Result<RunData> read_run_data(const storage::Store& store, const storage::RunDirectory& run) {
  Result<Plan> plan = store.load_plan();
  if (!plan) return plan.error();
  Result<std::vector<storage::StoredJob>> jobs = store.load_jobs();
  if (!jobs) return jobs.error();
  return read_run_data(std::move(*plan), std::move(*jobs), run);
}

RunData read_run_data(Plan plan, std::vector<storage::StoredJob> jobs, const storage::RunDirectory& run) {
  RunData data;
  data.plan = std::move(plan);
  for (storage::StoredJob& job : jobs)
    if (job.in_plan) data.jobs.emplace(job.id, std::move(job));
  read_profiles(data, run);
  return data;
}

}  // namespace finesweep::reports
