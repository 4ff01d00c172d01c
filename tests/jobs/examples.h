#pragma once

#include <cmath>
#include <limits>
#include <vector>

#include "jobs/messages.h"
#include "jobs/plan.h"

namespace finesweep {

inline Job example_job() {
  Job job;
  job.id = JobId::of("job");
  job.kind = StepKind::finetune;
  job.settings = {{"method", "lora"}, {"rank", 8}, {"learning_rate", 5e-4}};
  job.context = {{"task", "classification"}, {"model", "/models/m"}, {"data", {{"train", "/d/train.jsonl"}}}};
  job.inputs = {JobId::of("a"), JobId::of("b")};
  job.continues = JobId::of("c");
  job.seed = std::numeric_limits<std::uint64_t>::max();
  job.gpus = 2;
  job.isolate = true;
  job.retries = 3;
  job.keep_training_state = true;
  job.checkpoint_every_s = 0.5;
  job.title = "finetune lora r8 α 16";
  return job;
}

inline Outcome example_outcome() {
  Outcome outcome;
  outcome.kind = OutcomeKind::succeeded;
  outcome.metrics = {{"accuracy", 0.1}, {"loss", 1e-300}};
  outcome.history = {{0.5, 1'000'000'000'000, "loss", -0.0}, {1, 2, "validation_loss", 3}};
  outcome.has_artifact = true;
  outcome.environment = {{"device", "cpu"}};
  outcome.error = "";
  outcome.permanent = true;
  return outcome;
}

/// One of every message, with no member left as it is by default where that could hide a mistake.
inline std::vector<Message> example_messages() {
  const WorkerId worker{3, 2};
  const AttemptKey attempt{JobId::of("job"), 7};
  const Progress progress{3, 10, "training", 0.25};
  return {
      Hello{"node1", 4711, 2, "cuda:2", 81559.5},
      Heartbeat{worker, {{attempt, progress}, {{JobId::of("next"), 1}, {}}}},
      Finished{worker, attempt, example_outcome(), true},
      Revoked{worker, attempt},
      Goodbye{worker},
      PackGrew{worker, {attempt}, {{JobId::of("next"), 1}}},
      Welcome{worker, "/runs/sweep", 0.5, 60, 4, 32},
      Dispatch{worker, {{example_job(), 7, {"cuda:0", "cuda:1"}}, {Job{}, 1, {}, {3, 1024, 8192, 500.5, 20.25}}}},
      Acknowledge{attempt, true},
      Revoke{attempt},
      Stop{},
      Rejoin{},
      Alive{},
      Lend{},
      RunnerReady{{{"device", "cpu"}}},
      Execute{{{example_job(), 7, "/s", {{"00", "/a"}}, {"/c/2", "/c/1"}, "/l"}, {Job{}, 1, "/t", {}, {}, "/m"}},
              2,
              "/k",
              {"cpu", "cpu"},
              1},
      ExecuteProgress{attempt, progress},
      Executed{attempt, example_outcome(), true, 0.25},
      StopExecution{{attempt}},
      Pulse{},
      Begin{},
      LetGo{},
      HasRoom{},
      ExecuteMore{{{example_job(), 7, "/s", {{"00", "/a"}}, {"/c/2", "/c/1"}, "/l"}}},
      Computed{}};
}

}  // namespace finesweep
