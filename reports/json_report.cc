#include "reports/json_report.h"

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
  return {{"trial", trial.name},
          {"label", trial.label},
          {"configuration", trial.configuration},
          {"repeat", trial.repeat},
          {"seed", trial.seed},
          {"state", std::string(job_state_name(result.state))},
          {"swept", swept_json(analysis, trial)},
          {"metrics", std::move(metrics)},
          {"error", result.error}};
}

Json configuration_json(const Analysis& analysis, const Configuration& configuration) {
  Json metrics = Json::object();
  for (const auto& [name, sample] : configuration.metrics) metrics[name] = sample_json(sample);
  Json trials = Json::array();
  for (const std::size_t index : configuration.trials) trials.push_back(analysis.trials[index].trial->name);
  const Trial& first = *analysis.trials[configuration.trials[0]].trial;
  return {{"configuration", configuration.name},
          {"label", configuration.label},
          {"swept", swept_json(analysis, first)},
          {"trials", std::move(trials)},
          {"n", configuration.succeeded},
          {"metrics", std::move(metrics)},
          {"difference", configuration.difference ? sample_json(*configuration.difference) : Json()},
          {"pareto", configuration.pareto},
          {"best_for", configuration.best_for}};
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
      {"swept_paths", plan.swept_paths},
      {"report",
       {{"select", plan.report.select},
        {"metric", plan.report.metric},
        {"goal", plan.report.goal == Goal::maximize ? "maximize" : "minimize"},
        {"baseline", plan.report.baseline}}},
      {"marks", {{"quality", analysis.quality}, {"memory", analysis.memory}, {"time", analysis.time}}},
      {"best", analysis.best ? Json(analysis.configurations[*analysis.best].name) : Json()},
      {"warnings", analysis.warnings},
      {"environment", analysis.environment},
      {"trials", std::move(trials)},
      {"configurations", std::move(configurations)}};
  return report.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace finesweep::reports
