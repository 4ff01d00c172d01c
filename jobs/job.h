#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "jobs/ids.h"
#include "jobs/json.h"

namespace finesweep {

/// The kinds of pipeline steps. Persisted by name (step_kind_name), never by value.
enum class StepKind { distill, finetune, prune, quantize, merge, evaluate, benchmark };

std::string_view step_kind_name(StepKind kind);
std::optional<StepKind> parse_step_kind(std::string_view name);

/// One step with its resolved settings and its inputs: the unit that is scheduled. Immutable once planned.
struct Job {
  JobId id;
  StepKind kind = StepKind::finetune;

  /// Every setting that this step can use, resolved (defaults filled in), under the names of the sweep file; see
  /// jobs/settings.h for reading them. What cannot matter has been dropped.
  Json settings = Json::object();

  /// What the sweep says about model and data, resolved: {"task", "model" (absolute path), "data": {"train": path
  /// …, "fields", "labels", "limit", …}}. Holds paths; the id covers the files' contents instead.
  Json context = Json::object();

  /// Jobs whose artifacts this one reads. The first, where there is one, left the model that this step acts on;
  /// where there is none the step acts on context.model.
  std::vector<JobId> inputs;

  /// A job of the same chain with fewer epochs: this one starts from the training state that it left. Not covered
  /// by the id: the result is the same as that of training from the start.
  std::optional<JobId> continues;

  /// Present where the job draws random numbers.
  std::optional<std::uint64_t> seed;

  /// Devices of one host that the job needs together.
  int gpus = 1;
  /// Alone on its device (on a CPU: alone on its host), so that times and memory compare fairly.
  bool isolate = false;
  /// How often the job itself may fail and be tried again.
  int retries = 2;
  /// The artifact keeps the training state, since a job of the same chain may start from it.
  bool keep_training_state = false;
  /// Seconds between checkpoints.
  double checkpoint_every_s = 60;

  /// For people: "finetune lora r8 alpha 16". Not unique.
  std::string title;
};

void to_json(Json& json, const Job& job);
void from_json(const Json& json, Job& job);

}  // namespace finesweep
