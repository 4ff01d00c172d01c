#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "jobs/compression_settings.h"
#include "jobs/result.h"
#include "worker/engine/job_model.h"
#include "worker/engine/task_data.h"
#include "worker/kernels/distillation.h"
#include "worker/models/batch_graphs.h"
#include "worker/models/forward_graphs.h"
#include "worker/models/language_model.h"
#include "worker/models/model.h"
#include "worker/training/training_loss.h"

namespace finesweep::worker {

/// That both tokenizers know the same tokens under the same ids: what a teacher says of token 17 is of use only
/// then. The Error says how they differ. A teacher without a tokenizer passes: the sizes of the vocabularies are
/// compared when it is loaded.
Status check_same_tokens(const std::filesystem::path& teacher, const std::filesystem::path& student);

/// Final hidden states of a teacher: what its logits are a product of. On a GPU its passes are captured by shape.
class TeacherPass {
 public:
  explicit TeacherPass(LanguageModel& teacher);

  /// Of the tokens that count: [counted tokens, width], row after row, and how many each row has. Good until the
  /// next call.
  struct Counted {
    at::Tensor hidden;
    std::vector<std::int64_t> of_row;
  };
  Counted run(const Batch& batch);

 private:
  LanguageModel& teacher_;
  BatchGraphs graphs_;
};

/// Such states of the rows of a split. The rows of a group are computed together and once, whichever batch asks
/// first, so that they do not depend on the order.
class TeacherStates {
 public:
  /// Of these rows: [counted tokens, width], row after row.
  at::Tensor of(const std::vector<std::int64_t>& rows, TeacherPass& teacher, const TaskData& data);

 private:
  std::vector<at::Tensor> rows_;
};

/// No states stay from job to job.
void forget_teacher_states();

/// The model whose outputs a student learns.
///
/// Of a language model the final hidden states of all training rows are kept in memory, as long as they take no
/// more than `most_kept_bytes`: an epoch later only the product with the head is computed again. They stay from job
/// to job, while teacher, data and precision are the same. Whether they are kept depends on teacher and data alone,
/// so that a result does not depend on what ran before.
class Teacher {
 public:
  static constexpr std::int64_t most_kept_bytes = std::int64_t{1} << 30;

  /// In the precision of the training, frozen. `student`: what learns; `rows`: what it learns from, and `rows_key`,
  /// which names them. The Error: the teacher cannot be loaded, or its outputs are not the student's.
  static Result<std::unique_ptr<Teacher>> load(const DistillSettings& settings, const HeadChoice& head,
                                               Model& student, const TaskData& rows, const std::string& rows_key,
                                               c10::Device device);

  /// Of a model that is there, frozen. `key` names what its states follow from, where they may be kept. `rows`
  /// outlive it. The Error: the rows do not fit the model.
  static Result<std::unique_ptr<Teacher>> of(const Distillation& how, std::unique_ptr<Model> model,
                                             const TaskData& rows, const std::optional<std::string>& key);

  /// What `student` is trained by. This and the student must outlive it.
  TrainingLoss loss(Model& student);

 private:
  Teacher(const Distillation& how, std::unique_ptr<Model> model, const TaskData& rows);

  /// What the teacher says of a batch: hidden states of the tokens that count, or a classifier's logits.
  at::Tensor outputs(const Batch& batch);
  Var loss(Model& student, const Batch& batch, const Pass& pass, const Denominator& denominator);

  Distillation how_;
  std::unique_ptr<Model> model_;
  const TaskData& rows_;
  TeacherLogits head_;                    // without hidden states
  std::optional<TeacherPass> pass_;       // of a language model
  std::optional<ForwardGraphs> forward_;  // of a classifier
  std::shared_ptr<TeacherStates> kept_;   // null: the teacher runs for every batch
};

}  // namespace finesweep::worker
