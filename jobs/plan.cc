#include "jobs/plan.h"

#include <stdexcept>

namespace finesweep {

void to_json(Json& json, const Plan& plan) {
  Json trials = Json::array();
  for (const Trial& trial : plan.trials) {
    Json steps = Json::array();
    for (const TrialStep& step : trial.steps)
      steps.push_back({{"name", step.name}, {"kind", std::string(step_kind_name(step.kind))}, {"job", step.job}});
    trials.push_back({{"name", trial.name},
                      {"configuration", trial.configuration},
                      {"label", trial.label},
                      {"repeat", trial.repeat},
                      {"seed", trial.seed},
                      {"swept", trial.swept},
                      {"steps", std::move(steps)}});
  }
  json = Json{{"name", plan.name},
              {"swept_paths", plan.swept_paths},
              {"trials", std::move(trials)},
              {"jobs", plan.jobs},
              {"report",
               {{"select", plan.report.select},
                {"metric", plan.report.metric},
                {"goal", plan.report.goal == Goal::maximize ? "maximize" : "minimize"},
                {"baseline", plan.report.baseline},
                {"selects_on_test", plan.report.selects_on_test}}},
              {"resources",
               {{"gpus", plan.resources.gpus},
                {"retries", plan.resources.retries},
                {"threads", plan.resources.threads},
                {"pack", plan.resources.pack}}},
              {"notes", plan.notes}};
}

void from_json(const Json& json, Plan& plan) {
  plan.name = json.at("name").get<std::string>();
  plan.swept_paths = json.at("swept_paths").get<std::vector<std::string>>();
  plan.trials.clear();
  for (const Json& entry : json.at("trials")) {
    Trial trial;
    trial.name = entry.at("name").get<std::string>();
    trial.configuration = entry.at("configuration").get<std::string>();
    trial.label = entry.at("label").get<std::string>();
    trial.repeat = entry.at("repeat").get<int>();
    trial.seed = entry.at("seed").get<std::uint64_t>();
    trial.swept = entry.at("swept").get<std::vector<Json>>();
    for (const Json& step : entry.at("steps")) {
      const auto kind = parse_step_kind(step.at("kind").get<std::string>());
      if (!kind) throw std::invalid_argument("unknown step kind");
      trial.steps.push_back({step.at("name").get<std::string>(), *kind, step.at("job").get<JobId>()});
    }
    plan.trials.push_back(std::move(trial));
  }
  plan.jobs = json.at("jobs").get<std::vector<Job>>();
  const Json& report = json.at("report");
  plan.report.select = report.at("select").get<std::string>();
  plan.report.metric = report.at("metric").get<std::string>();
  plan.report.goal = report.at("goal") == "minimize" ? Goal::minimize : Goal::maximize;
  plan.report.baseline = report.at("baseline").get<std::string>();
  plan.report.selects_on_test = report.at("selects_on_test").get<bool>();
  const Json& resources = json.at("resources");
  plan.resources.gpus = resources.at("gpus").get<int>();
  plan.resources.retries = resources.at("retries").get<int>();
  plan.resources.threads = resources.at("threads").get<int>();
  plan.resources.pack = resources.at("pack").get<std::string>();
  plan.notes = json.at("notes").get<std::vector<std::string>>();
}

}  // namespace finesweep
