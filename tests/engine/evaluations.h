#pragma once

#include <string>
#include <vector>

#include "tests/engine/job_bench.h"

namespace finesweep::worker {

/// By what passes give, without generated text.
inline Json measuring_settings(const JobBench& bench, const std::string& split = "validation") {
  Json settings = bench.evaluate_settings(split);
  settings.erase("generation");
  if (!bench.classifies()) settings["metrics"] = {"loss", "perplexity"};
  return settings;
}

inline Job evaluation_of(const JobBench& bench, const Job& training, const Json& settings) {
  Job job = bench.job(StepKind::evaluate, settings);
  job.inputs = {training.id};
  job.id = JobId::of(job.id.hex() + training.id.hex());
  return job;
}

inline std::vector<Job> evaluations_of(const JobBench& bench, const std::vector<Job>& trainings,
                                       const Json& settings) {
  std::vector<Job> jobs;
  for (const Job& training : trainings) jobs.push_back(evaluation_of(bench, training, settings));
  return jobs;
}

}  // namespace finesweep::worker
