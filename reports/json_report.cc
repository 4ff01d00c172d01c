#include "reports/json_report.h"

#include <stdexcept>
#include <utility>

namespace finesweep::reports {

namespace {

Json sample_json(const Sample& sample) {
  Json json{{"n", sample.n}, {"mean", sample.mean}, {"std", nullptr}, {"ci95", nullptr}};
  if (sample.deviation) json["std"] = *sample.deviation;
  if (sample.ci95) json["ci95"] = {sample.ci95->low, sample.ci95->high};
  return json;
}

Json swept_json(const Analysis& analysis, const Trial& trial) {
  Json json = Json::object();
  const auto& paths = analysis.data->plan.swept_paths;
  for (std::size_t i = 0; i < paths.size() && i < trial.swept.size(); ++i) json[paths[i]] = trial.swept[i];
  return json;
}

Json trial_json(const Analysis& analysis, const TrialResult& result) {
  const Trial& trial = *result.trial;
  Json metrics = Json::object();
  for (const auto& [name, value] : result.metrics) metrics[name] = value.value;
  Json steps = Json::array();
  for (const TrialStep& step : trial.steps)
    steps.push_back({{"step", step.name}, {"kind", std::string(step_kind_name(step.kind))}, {"job", step.job}});
  Json json{{"trial", trial.name},
            {"label", trial.label},
            {"configuration", trial.configuration},
            {"repeat", trial.repeat},
            {"seed", trial.seed},
            {"state", std::string(job_state_name(result.state))},
            {"swept", swept_json(analysis, trial)},
            {"metrics", std::move(metrics)},
            {"error", result.error},
            {"steps", std::move(steps)}};
  if (!result.packs.empty()) json["packs"] = result.packs;
  return json;
}

/// The jobs of the trials.
Json jobs_json(const Analysis& analysis) {
  Json jobs = Json::object();
  for (const TrialResult& result : analysis.trials)
    for (const TrialStep& step : result.trial->steps) {
      const auto job = analysis.data->jobs.find(step.job);
      if (job == analysis.data->jobs.end()) continue;
      Json one{{"state", std::string(job_state_name(job->second.state))}, {"error", job->second.error}};
      if (const auto& outcome = job->second.outcome) {
        one["metrics"] = outcome->metrics;
        one["history"] = outcome->history;
        one["environment"] = outcome->environment;
      }
      jobs[step.job.hex()] = std::move(one);
    }
  return jobs;
}

Json profiles_json(const Analysis& analysis) {
  Json all = Json::object();
  for (const auto& [job, profiles] : analysis.data->profiles)
    for (const Profile& profile : profiles) {
      Json groups = Json::array();
      for (const Profile::Group& group : profile.groups) {
        Json one{{"group", group.name}, {"ms", group.ms}, {"share", group.share}, {"calls", group.calls}};
        if (group.device_ms) one["device_ms"] = *group.device_ms;
        if (group.device_share) one["device_share"] = *group.device_share;
        groups.push_back(std::move(one));
      }
      all[job.hex()].push_back(
          {{"mode", profile.mode}, {"iterations", profile.iterations}, {"groups", std::move(groups)}});
    }
  return all;
}

Json configuration_json(const Analysis& analysis, const Configuration& configuration) {
  Json metrics = Json::object();
  for (const auto& [name, sample] : configuration.metrics) metrics[name] = sample_json(sample);
  Json trials = Json::array();
  for (const std::size_t index : configuration.trials) trials.push_back(analysis.trials[index].trial->name);
  const Trial& first = *analysis.trials[configuration.trials[0]].trial;
  Json json{{"configuration", configuration.name},
            {"label", configuration.label},
            {"swept", swept_json(analysis, first)},
            {"trials", std::move(trials)},
            {"n", configuration.succeeded},
            {"metrics", std::move(metrics)},
            {"difference", configuration.difference ? sample_json(*configuration.difference) : Json()},
            {"pareto", configuration.pareto},
            {"best_for", configuration.best_for}};
  if (!configuration.packed_steps.empty()) json["packed_steps"] = configuration.packed_steps;
  return json;
}

}  // namespace

std::string json_report(const Analysis& analysis) {
  const Plan& plan = analysis.data->plan;
  Json trials = Json::array(), configurations = Json::array();
  for (const TrialResult& result : analysis.trials) trials.push_back(trial_json(analysis, result));
  for (const Configuration& configuration : analysis.configurations)
    configurations.push_back(configuration_json(analysis, configuration));
  const Json report{
      {"version", 1},
      {"sweep", plan.name},
      {"sweeps", analysis.data->sweeps},
      {"swept_paths", plan.swept_paths},
      {"report",
       {{"select", plan.report.select},
        {"metric", plan.report.metric},
        {"goal", plan.report.goal == Goal::maximize ? "maximize" : "minimize"},
        {"baseline", plan.report.baseline},
        {"selects_on_test", plan.report.selects_on_test}}},
      {"marks", {{"quality", analysis.quality}, {"memory", analysis.memory}, {"time", analysis.time}}},
      {"best", analysis.best ? Json(analysis.configurations[*analysis.best].name) : Json()},
      {"warnings", analysis.warnings},
      {"environment", analysis.environment},
      {"trials", std::move(trials)},
      {"configurations", std::move(configurations)},
      {"jobs", jobs_json(analysis)},
      {"profiles", profiles_json(analysis)}};
  return report.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

namespace {

Trial trial_from(const Json& json, const std::vector<std::string>& paths) {
  Trial trial;
  trial.name = json.at("trial").get<std::string>();
  trial.configuration = json.at("configuration").get<std::string>();
  trial.label = json.at("label").get<std::string>();
  trial.repeat = json.at("repeat").get<int>();
  trial.seed = json.at("seed").get<std::uint64_t>();
  for (const std::string& path : paths) trial.swept.push_back(json.at("swept").value(path, Json()));
  for (const Json& step : json.at("steps")) {
    const auto kind = parse_step_kind(step.at("kind").get<std::string>());
    if (!kind) throw std::invalid_argument("it has an unknown kind of step");
    trial.steps.push_back({step.at("step").get<std::string>(), *kind, step.at("job").get<JobId>()});
  }
  return trial;
}

storage::StoredJob job_from(const JobId& id, const Json& json) {
  storage::StoredJob job;
  job.id = id;
  const auto state = parse_job_state(json.at("state").get<std::string>());
  if (!state) throw std::invalid_argument("it has a job in an unknown state");
  job.state = *state;
  job.error = json.at("error").get<std::string>();
  if (!json.contains("metrics")) return job;
  job.outcome = Outcome();
  job.outcome->kind = OutcomeKind::succeeded;
  job.outcome->metrics = json.at("metrics").get<std::map<std::string, double>>();
  job.outcome->history = json.at("history").get<std::vector<HistoryPoint>>();
  job.outcome->environment = json.at("environment");
  return job;
}

RunData data_from(const Json& json) {
  if (json.at("version") != 1) throw std::invalid_argument("it was written by another version of finesweep");
  RunData data;
  data.plan.name = json.at("sweep").get<std::string>();
  data.sweeps = json.at("sweeps").get<std::vector<std::string>>();
  data.plan.swept_paths = json.at("swept_paths").get<std::vector<std::string>>();
  const Json& report = json.at("report");
  data.plan.report = {.select = report.at("select").get<std::string>(),
                      .metric = report.at("metric").get<std::string>(),
                      .goal = report.at("goal") == "minimize" ? Goal::minimize : Goal::maximize,
                      .baseline = report.at("baseline").get<std::string>(),
                      .selects_on_test = report.at("selects_on_test").get<bool>()};
  for (const Json& trial : json.at("trials")) data.plan.trials.push_back(trial_from(trial, data.plan.swept_paths));
  for (const auto& [hex, job] : json.at("jobs").items()) {
    const auto id = JobId::parse(hex);
    if (!id) throw std::invalid_argument(id.error().message);
    data.jobs.emplace(*id, job_from(*id, job));
  }
  for (const auto& [hex, profiles] : json.at("profiles").items()) {
    const auto id = JobId::parse(hex);
    auto read = parse_profiles(profiles.dump());
    if (id && read) data.profiles.emplace(*id, std::move(*read));
  }
  return data;
}

}  // namespace

Result<RunData> parse_json_report(const std::string& text) {
  try {
    return data_from(Json::parse(text));
  } catch (const std::exception& error) {
    return Error{std::string("this is no report.json of finesweep: ") + error.what()};
  }
}

}  // namespace finesweep::reports
