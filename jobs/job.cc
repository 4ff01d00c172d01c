#include "jobs/job.h"

#include <array>
#include <stdexcept>
#include <utility>

namespace finesweep {

namespace {
constexpr std::array<std::pair<StepKind, std::string_view>, 7> kStepKinds{{{StepKind::distill, "distill"},
                                                                           {StepKind::finetune, "finetune"},
                                                                           {StepKind::prune, "prune"},
                                                                           {StepKind::quantize, "quantize"},
                                                                           {StepKind::merge, "merge"},
                                                                           {StepKind::evaluate, "evaluate"},
                                                                           {StepKind::benchmark, "benchmark"}}};
}  // namespace

std::string_view step_kind_name(StepKind kind) {
  for (const auto& [value, name] : kStepKinds)
    if (value == kind) return name;
  throw std::logic_error("a step kind without a name");
}

std::optional<StepKind> parse_step_kind(std::string_view name) {
  for (const auto& [value, known] : kStepKinds)
    if (known == name) return value;
  return std::nullopt;
}

void to_json(Json& json, const Job& job) {
  json = Json{{"id", job.id},
              {"kind", std::string(step_kind_name(job.kind))},
              {"settings", job.settings},
              {"context", job.context},
              {"inputs", job.inputs},
              {"gpus", job.gpus},
              {"isolate", job.isolate},
              {"retries", job.retries},
              {"keep_training_state", job.keep_training_state},
              {"checkpoint_every_s", job.checkpoint_every_s},
              {"title", job.title}};
  if (job.continues) json["continues"] = *job.continues;
  if (job.seed) json["seed"] = *job.seed;
}

void from_json(const Json& json, Job& job) {
  job.id = json.at("id").get<JobId>();
  const auto kind = parse_step_kind(json.at("kind").get<std::string>());
  if (!kind) throw std::invalid_argument("unknown step kind");
  job.kind = *kind;
  job.settings = json.at("settings");
  job.context = json.at("context");
  job.inputs = json.at("inputs").get<std::vector<JobId>>();
  job.gpus = checked_integer<int>(json.at("gpus"));
  job.isolate = json.at("isolate").get<bool>();
  job.retries = checked_integer<int>(json.at("retries"));
  job.keep_training_state = json.at("keep_training_state").get<bool>();
  job.checkpoint_every_s = json.at("checkpoint_every_s").get<double>();
  job.title = json.at("title").get<std::string>();
  job.continues.reset();
  job.seed.reset();
  if (json.contains("continues")) job.continues = json["continues"].get<JobId>();
  if (json.contains("seed")) job.seed = checked_integer<std::uint64_t>(json["seed"]);
}

}  // namespace finesweep
