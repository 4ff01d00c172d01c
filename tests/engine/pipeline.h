#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "storage/artifact.h"
#include "tests/engine/job_bench.h"
#include "worker/formats/safetensors.h"

namespace finesweep::worker {

/// Steps one after the other, each acting on what the one before left, with the inputs that a plan gives them.
class Pipeline {
 public:
  explicit Pipeline(JobBench& bench) : bench_(bench) {}

  /// The job that comes next; not run.
  Job next(StepKind kind, Json settings) const {
    Job job = bench_.job(kind, std::move(settings));
    std::string chain = job.id.hex();
    if (model_) job.inputs = {*model_};
    if (base_ && base_ != model_) job.inputs.push_back(*base_);
    for (const JobId& input : job.inputs) chain += input.hex();
    job.id = JobId::of(chain);
    return job;
  }

  /// Runs it, and takes what it left for the steps that follow.
  Outcome run(const Job& job) {
    const Outcome outcome = bench_.run(job);
    EXPECT_EQ(outcome.kind, OutcomeKind::succeeded) << step_kind_name(job.kind) << ": " << outcome.error;
    if (outcome.has_artifact) take(job);
    return outcome;
  }
  Outcome run(StepKind kind, Json settings) { return run(next(kind, std::move(settings))); }

  /// What the job left is what the next step acts on.
  void take(const Job& job) {
    model_ = job.id;
    last_ = job;
    const Json model = manifest();
    if (model.at("kind") == "model" || model.at("base").value("job", "") == job.id.hex()) base_ = job.id;
  }

  Json manifest() const { return storage::read_manifest(artifact())->model; }
  std::filesystem::path artifact() const { return bench_.artifact(*last_); }

  /// Tensors of a safetensors file in what the last step left.
  std::map<std::string, at::Tensor> tensors(const std::string& file) const {
    const auto opened = SafetensorsFile::open(artifact() / file);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    std::map<std::string, at::Tensor> all;
    if (!opened) return all;
    for (const std::string& name : opened->names()) all[name] = opened->tensor(name).value();
    return all;
  }
  std::map<std::string, at::Tensor> adapter() const { return tensors("adapter/adapter_model.safetensors"); }

 private:
  JobBench& bench_;
  std::optional<JobId> model_, base_;
  std::optional<Job> last_;
};

inline Json prune_settings(const std::string& target = "adapter", double amount = 0.8,
                           const std::string& scope = "per_tensor", const std::string& when = "after") {
  return {{"target", target}, {"amount", amount}, {"scope", scope}, {"when", when}};
}

inline Json quantize_settings(const std::string& format, const std::string& compute = "fp32") {
  Json settings = {{"format", format}};
  if (format == "nf4") settings.update({{"double", true}, {"block_size", 64}, {"compute", compute}});
  return settings;
}

}  // namespace finesweep::worker
