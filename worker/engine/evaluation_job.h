#pragma once

#include <c10/core/Device.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/engine/evaluated_model.h"
#include "worker/engine/job_model.h"
#include "worker/engine/task_data.h"
#include "worker/executor.h"

namespace finesweep::worker {

/// An evaluation of one model from its data to its metrics. run() does it all. In a pack
/// (engine/evaluation_pack.cc) somebody else makes the passes:
///
///   prepare(); passes(); await_turn(); while not finished: { go_on(); … a pass … }; finish()
class EvaluationJob {
 public:
  /// All must outlive it.
  EvaluationJob(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                ExecutionControl& control);

  /// The evaluation of `source`: request.job's inputs are not looked at.
  Outcome run(const ModelSource& source, const std::function<void(const Prediction&)>& on_prediction);

  /// Data and model, of a pack's member. An Outcome: it failed.
  std::optional<Outcome> prepare(const ModelSource& source);
  /// Waits until the device is this job's. Waiting is not counted as its time.
  void await_turn();
  /// Between passes: so much of the evaluation is done. False: the job is to stop.
  bool go_on(std::int64_t done);
  Outcome finish(const Metrics& metrics) const;

  const EvaluateSettings& settings() const { return *settings_; }
  const HeadChoice& head() const { return head_; }
  Model& model() const { return *loaded_.model; }
  const Adapter* adapter() const { return loaded_.adapter.get(); }
  /// New ones at each call; this must outlive them.
  Result<std::unique_ptr<EvaluationPasses>> passes() const { return data_->passes(*settings_); }
  std::int64_t passes_to_make() const { return passes_of(*data_, *settings_); }
  /// Whether there are enough passes for that on a GPU: to capture one takes as long as two that run as they are.
  bool is_captured() const { return passes_to_make() >= 4; }

 private:
  using Clock = std::chrono::steady_clock;

  std::optional<Outcome> prepare_data(const ModelSource& source);
  void rehearse();

  const ExecutionRequest& request_;
  const JobContext& context_;
  const c10::Device device_;
  ExecutionControl& control_;
  Clock::time_point start_;
  std::uint64_t seed_;

  std::optional<EvaluateSettings> settings_;
  HeadChoice head_;
  std::shared_ptr<JobTask> task_;
  std::shared_ptr<const TaskData> data_;
  JobModel loaded_;                            // of a pack's member
  std::shared_ptr<EvaluatedModel> evaluated_;  // of a job alone
};

}  // namespace finesweep::worker
