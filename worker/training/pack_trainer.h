#pragma once

#include <c10/core/Event.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "jobs/result.h"
#include "worker/data/batch.h"
#include "worker/models/model.h"
#include "worker/training/device_adamw.h"
#include "worker/training/pack_modules.h"
#include "worker/training/step_graphs.h"
#include "worker/training/training.h"

namespace finesweep::worker {

/// A training of a pack: a model with its adapter, and how it is trained.
struct PackedTraining {
  Model* model = nullptr;
  Training* training = nullptr;
  std::uint64_t seed = 0;  // of dropout
};

/// check_packable, and that the pack's optimiser on this device can train these parameters of the model.
Status check_trainable_in_pack(Model& host, Model& model, const std::vector<Parameter*>& trained);

/// Trains several adapters of one base together: a step takes each of them one step further, with one pass through
/// the base for all (as many as the longest accumulation has). Each keeps its own batches, loss, clipping,
/// schedule, optimiser, loss scale and dropout, as a Trainer has them for it alone. On a CPU each job's products
/// are its own, and the numbers are bit for bit those of the job alone; on a GPU they agree but for rounding.
///
/// Where loss or gradient of a training are not finite, no training has its step. It is done again without that
/// one: on a GPU leave_out() keeps the rows of it in the batches, so that the others' numbers stay what they would
/// have been.
class PackTrainer {
 public:
  /// `host`: a frozen model of the base. All models, adapters and trainings must outlive it. Precision, dropouts,
  /// attention and recomputation are the same in all.
  PackTrainer(Model& host, std::vector<PackedTraining> jobs);
  PackTrainer(const PackTrainer&) = delete;
  PackTrainer& operator=(const PackTrainer&) = delete;

  /// As Trainer's: batches[j] are those of one accumulation of job j, which its model has checked.
  void start(const std::vector<std::vector<Batch>>& batches);
  /// As Trainer's.
  void rehearse(const std::vector<std::vector<Batch>>& batches);
  /// Of each job. Unless all are finite nothing was done, and steps that were started behind it are dropped.
  std::vector<StepReport> finish();
  std::int64_t unfinished() const { return static_cast<std::int64_t>(pending_.size()); }

  /// Whether a training that failed can be left out while its rows stay.
  bool can_leave_out() const { return optimizer_ != nullptr; }
  /// Its rows have no loss and no gradient from here on; what it has learnt is forgotten. Its batches still come.
  void leave_out(std::size_t job);

  /// Brings the parameters that the jobs' own models read to what was trained. No step is under way.
  void settle();

  /// Of a GPU; else null.
  const StepGraphs* graphs() const { return graphs_.get(); }

 private:
  /// Of who has most of them.
  std::int64_t steps_left() const;
  struct Pending {
    std::vector<StepReport> reports;
    std::vector<std::int64_t> steps;           // from 0
    std::optional<DeviceStepResults> results;  // as Trainer's
  };

  void prepare_on_device();
  /// The inputs of pass i of a step.
  BatchInputs inputs_of(const std::vector<std::vector<Batch>>& batches, std::size_t i,
                        const std::vector<std::int64_t>& first_rows);
  std::vector<double> denominators(const std::vector<std::vector<Batch>>& batches) const;
  /// Calls pass(inputs) for each pass of a step.
  template <typename PassWork>
  void for_each_pass(const std::vector<std::vector<Batch>>& batches, const PassWork& pass);
  std::vector<double> accumulate(const std::vector<std::vector<Batch>>& batches);
  std::vector<StepReport> step_here(const std::vector<std::vector<Batch>>& batches);
  void start_on_device(const std::vector<std::vector<Batch>>& batches);
  void give_to_device(const std::vector<std::vector<Batch>>& batches, Pending& pending);
  /// Puts what the device found into the reports: whose numbers were not finite.
  static void read(const Pending& pending, std::vector<StepReport>& reports);
  /// After a step that was not done: whether it is to be done again, with smaller loss scales.
  bool shrink_scales(std::vector<StepReport>& reports) const;

  Model& host_;
  std::vector<PackedTraining> jobs_;
  std::vector<bool> left_out_;
  std::deque<Pending> pending_;
  PackModules modules_;
  std::unique_ptr<DeviceAdamW> optimizer_;
  const TrainingLoss loss_;  // the model's own
  std::unique_ptr<StepGraphs> graphs_;
};

}  // namespace finesweep::worker
