#pragma once

#include <c10/core/Device.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jobs/result.h"
#include "jobs/settings.h"
#include "worker/collectives/process_group.h"
#include "worker/data/batch.h"
#include "worker/data/dataset.h"
#include "worker/engine/job_model.h"
#include "worker/engine/steps.h"
#include "worker/engine/task_data.h"
#include "worker/engine/training_progress.h"
#include "worker/training/trainer.h"

namespace finesweep::worker {

/// What tells one kind of training from another. Called in this order, once each.
class TrainingRecipe {
 public:
  virtual ~TrainingRecipe() = default;
  virtual const TrainingSettings& training() const = 0;
  /// What artifacts say of the model.
  virtual std::string method() const = 0;

  /// What the training starts from.
  virtual Result<ModelSource> find_model(const ExecutionRequest& request, const JobContext& context) {
    return worker::find_model(request, context);
  }
  /// While the data is read, load() may be prepared.
  virtual void begin_load(const ModelSource& /*source*/, c10::Device /*device*/) {}
  virtual Result<JobModel> load(ModelSource& source, const HeadChoice& head, std::uint64_t seed,
                                c10::Device device) = 0;
  /// In place of the loss of `model`; empty: that one. `rows` are those that train. Both outlive what is returned.
  virtual Result<TrainingLoss> loss(Model& /*model*/, const TaskData& /*rows*/, c10::Device /*device*/) {
    return TrainingLoss();
  }
};

/// How a training ended, and what is left to be done for it.
struct Ending {
  Ending(Outcome how) : outcome(std::move(how)) {}
  Outcome outcome;
  /// Writes and seals the artifact, where there is one: once, on any thread, while the TrainingRun is there. Of an
  /// adapter nothing of its device is used.
  std::function<Status()> write;

  /// With the artifact written: what the job comes to. Throws nothing.
  Outcome written();
};

/// A training from its data to its artifact: steps, evaluations, checkpoints, metrics. Whatever the recipe is, it
/// can be stopped between two steps and goes on bit for bit as if it had not been. Where several processes do the
/// job (ExecutionRequest::ranks), the leader evaluates, writes checkpoints and leaves the artifact.
///
/// run() does it all. In a pack (engine/pack.cc) somebody else makes the steps:
///
///   prepare(); await_turn(); while not ended: { if (is_due()) rest(); next_batches(); … the step …; step_ended() }
class TrainingRun {
 public:
  /// All must outlive it.
  TrainingRun(const ExecutionRequest& request, const JobContext& context, c10::Device device,
              ExecutionControl& control, TrainingRecipe& recipe);

  Outcome run();

  /// Data and model, and where an earlier attempt stood. An Outcome: it failed.
  std::optional<Outcome> prepare();
  /// Then, once: waits until the device is this job's. Waiting is not counted as its time; where there is to be
  /// any, the first step is made ready to be replayed, unless it is that of a pack.
  void await_turn(bool alone = true);
  /// From where it stands to the end, alone.
  Outcome train();

  /// Whether something is to be done before the next step: the end, a stop, an evaluation, a checkpoint. Then steps
  /// that are under way are to end first, and rest() does it. An Ending: with that it ended.
  bool is_due();
  std::optional<Ending> rest();
  /// The batches of the next step, to look at; none where there is none, or where they do not fit the model.
  std::vector<Batch> coming_batches();
  /// The batches of the next step, which now begins. The Error: one that does not fit the model.
  Result<std::vector<Batch>> next_batches();
  /// Of the step that was begun first. An Outcome: it has diverged.
  std::optional<Outcome> step_ended(const StepReport& report);
  /// Steps that were begun come to nothing: they are drawn again.
  void drop_steps() { begun_.clear(); }

  /// Steps that are still to be made.
  std::int64_t steps_left() const { return training().steps_left(); }
  /// It trains beside so many others from now on.
  void join_pack(std::int64_t jobs);
  /// Writes a checkpoint where it has come further than the last one, whatever happened since.
  Status save();

  const ExecutionRequest& request() const { return request_; }
  const ModelSource& source() const { return source_; }
  HeadChoice head() const { return task_->head(); }
  Model& model() { return *loaded_.model; }
  const std::vector<Parameter*>& parameters() const { return parameters_; }
  Training& training() { return trainer_->training(); }

 private:
  using Clock = std::chrono::steady_clock;
  /// What is under way.
  struct BegunStep {
    Clock::time_point begin;
    std::int64_t batches = 0, rows = 0, tokens = 0;
  };

  const TrainingSettings& settings() const { return recipe_.training(); }
  const Training& training() const { return trainer_->training(); }

  /// Where several processes do the job: finds the others.
  void join();
  bool leads() const { return !group_ || group_->leads(); }
  /// What happens between two steps. Of several processes the leader decides, at the beginning of a step, what
  /// happens behind it.
  enum class Wish : std::int64_t { none, checkpoint, stop };
  Wish own_wish();
  Wish wish() { return group_ ? agreed_ : own_wish(); }

  void rehearse();
  Status load_data();
  Status load_rows();
  Status load_model();
  Status restore();
  /// Waits until no more than so many steps are under way.
  std::optional<Outcome> finish_steps(std::int64_t most);
  std::string not_finite(const StepReport& report) const;
  bool is_evaluated_at(std::int64_t steps) const;
  bool evaluation_is_due() const;
  Result<bool> evaluate_validation();
  Result<bool> evaluate_here();
  void add_history(const std::string& metric, double value);
  void report_progress(const std::string& phase, double loss, std::int64_t evaluated);
  void take_measures();
  Status checkpoint();
  Status write_checkpoint();
  Outcome stop();
  Ending finish();
  std::function<Status()> artifact_writer(const Outcome& outcome);

  const ExecutionRequest& request_;
  const JobContext& context_;
  const c10::Device device_;
  ExecutionControl& control_;
  TrainingRecipe& recipe_;
  Clock::time_point start_;

  std::unique_ptr<ProcessGroup> group_;  // null: this process trains alone
  Wish agreed_ = Wish::none;             // of a group, for now

  ModelSource source_;
  std::shared_ptr<JobTask> task_;
  std::shared_ptr<const TaskData> train_, validation_;
  JobModel loaded_;
  std::vector<Parameter*> parameters_;
  std::optional<EpochPlan> plan_;
  std::optional<Trainer> trainer_;
  std::optional<ForwardGraphs> forward_;  // of evaluations
  std::int64_t total_steps_ = 0;

  TrainingProgress progress_;
  double seconds_before_ = 0;          // of earlier attempts
  std::int64_t steps_here_ = 0;        // of this attempt
  std::int64_t saved_steps_ = 0;       // that the newest checkpoint has
  std::int64_t evaluation_units_ = 0;  // of evaluations that ended
  Clock::time_point last_checkpoint_;
  Clock::time_point last_finished_;  // a step
  std::deque<BegunStep> begun_;
};

}  // namespace finesweep::worker
