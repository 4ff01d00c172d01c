#pragma once

#include <string>
#include <vector>

#include "jobs/plan.h"
#include "storage/change.h"

namespace finesweep::storage {

inline JobId sample_id(const std::string& name) {
  return JobId::of("sample " + name);
}

/// `trials` trials of one fine-tuning and one evaluation each, with every field of jobs and plan in use.
inline Plan sample_plan(int trials) {
  Plan plan;
  plan.name = "sample";
  plan.swept_paths = {"finetune.rank"};
  plan.report = {.select = "validation.accuracy",
                 .metric = "test.accuracy",
                 .goal = Goal::minimize,
                 .baseline = "00000000",
                 .selects_on_test = true};
  plan.resources = {.gpus = 2, .retries = 4, .threads = 3, .pack = "off"};
  plan.notes = {"finetune.rank was dropped"};
  for (int i = 0; i < trials; ++i) {
    const std::string number = std::to_string(i);
    Job finetune;
    finetune.id = sample_id("finetune " + number);
    finetune.settings = {{"method", "lora"}, {"rank", i % 7}, {"learning_rate", 5e-4}};
    finetune.context = {{"task", "classification"}, {"model", "/models/tiny"}};
    finetune.seed = 0xffffffffffffff00u + static_cast<std::uint64_t>(i);
    finetune.isolate = true;
    finetune.retries = 4;
    finetune.keep_training_state = true;
    finetune.checkpoint_every_s = 0.5;
    finetune.title = "finetune lora r" + std::to_string(i % 7);
    if (i > 0) finetune.continues = sample_id("finetune " + std::to_string(i - 1));
    Job evaluate;
    evaluate.id = sample_id("evaluate " + number);
    evaluate.kind = StepKind::evaluate;
    evaluate.settings = {{"split", "test"}};
    evaluate.context = finetune.context;
    evaluate.inputs = {finetune.id};
    evaluate.title = "evaluate test";
    Trial trial;
    trial.name = "0000000" + number + ".0";
    trial.configuration = "0000000" + number;
    trial.label = "rank " + number;
    trial.repeat = i;
    trial.seed = 0xfffffffffffffff0u;
    trial.swept = {Json(i)};
    trial.steps = {{"finetune", StepKind::finetune, finetune.id}, {"test", StepKind::evaluate, evaluate.id}};
    plan.jobs.push_back(std::move(finetune));
    plan.jobs.push_back(std::move(evaluate));
    plan.trials.push_back(std::move(trial));
  }
  return plan;
}

inline Outcome sample_outcome(double accuracy) {
  Outcome outcome;
  outcome.kind = OutcomeKind::succeeded;
  outcome.metrics = {{"accuracy", accuracy}, {"seconds", 1.25}};
  outcome.history = {{0.5, 10, "loss", 0.7}, {1.0, 20, "loss", 0.1 + 0.2}};
  outcome.has_artifact = true;
  outcome.environment = {{"device", "cpu"}};
  return outcome;
}

/// What the coordinator records when it starts an attempt, and when the attempt succeeds.
inline Change started(const JobId& job, int attempt) {
  return AttemptStarted{{job, attempt}, 1, "node1", 1000};
}
inline std::vector<Change> succeeded(const JobId& job, int attempt, double accuracy = 0.5) {
  return {AttemptEnded{{job, attempt}, AttemptEnd::succeeded, "", 2000},
          JobSucceeded{{job, attempt}, sample_outcome(accuracy), 2000}};
}

}  // namespace finesweep::storage
