#include "jobs/outcome.h"

#include <cmath>
#include <limits>
#include <stdexcept>

namespace finesweep {

std::string_view outcome_kind_name(OutcomeKind kind) {
  switch (kind) {
    case OutcomeKind::succeeded:
      return "succeeded";
    case OutcomeKind::failed:
      return "failed";
    case OutcomeKind::interrupted:
      return "interrupted";
  }
  throw std::logic_error("an outcome kind without a name");
}

namespace {
OutcomeKind parse_outcome_kind(const std::string& name) {
  for (auto kind : {OutcomeKind::succeeded, OutcomeKind::failed, OutcomeKind::interrupted})
    if (outcome_kind_name(kind) == name) return kind;
  throw std::invalid_argument("unknown outcome kind '" + name + "'");
}
}  // namespace

void to_json(Json& json, const HistoryPoint& point) {
  json = Json::array({point.epoch, point.global_step, point.metric, point.value});
}

void from_json(const Json& json, HistoryPoint& point) {
  point.epoch = json.at(0).get<double>();
  point.global_step = checked_integer<std::int64_t>(json.at(1));
  point.metric = json.at(2).get<std::string>();
  point.value = json.at(3).get<double>();
}

void to_json(Json& json, const Outcome& outcome) {
  json = Json{{"kind", std::string(outcome_kind_name(outcome.kind))},
              {"metrics", outcome.metrics},
              {"history", outcome.history},
              {"has_artifact", outcome.has_artifact},
              {"environment", outcome.environment},
              {"error", outcome.error},
              {"permanent", outcome.permanent}};
}

void from_json(const Json& json, Outcome& outcome) {
  outcome.kind = parse_outcome_kind(json.at("kind").get<std::string>());
  outcome.metrics = json.at("metrics").get<std::map<std::string, double>>();
  outcome.history = json.at("history").get<std::vector<HistoryPoint>>();
  outcome.has_artifact = json.at("has_artifact").get<bool>();
  outcome.environment = json.at("environment");
  outcome.error = json.at("error").get<std::string>();
  outcome.permanent = json.at("permanent").get<bool>();
}

void to_json(Json& json, const Progress& progress) {
  json = Json{{"done", progress.done}, {"total", progress.total}, {"phase", progress.phase}};
  if (std::isfinite(progress.loss)) json["loss"] = progress.loss;
}

void from_json(const Json& json, Progress& progress) {
  progress.done = checked_integer<std::int64_t>(json.at("done"));
  progress.total = checked_integer<std::int64_t>(json.at("total"));
  progress.phase = json.at("phase").get<std::string>();
  progress.loss = json.value("loss", std::numeric_limits<double>::quiet_NaN());
}

}  // namespace finesweep
