#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "jobs/compression_settings.h"
#include "jobs/result.h"
#include "worker/engine/job_model.h"
#include "worker/engine/task_data.h"
#include "worker/kernels/distillation.h"
#include "worker/models/language_model.h"
#include "worker/models/model.h"

namespace finesweep::worker {

/// That both tokenizers know the same tokens under the same ids: what a teacher says of token 17 is of use only
/// then. The Error says how they differ. A teacher without a tokenizer passes: the sizes of the vocabularies are
/// compared when it is loaded.
Status check_same_tokens(const std::filesystem::path& teacher, const std::filesystem::path& student);

/// Final hidden states of a teacher, of the tokens that count, row by row: what its logits are a product of. The
/// rows of a group are computed together and once, whichever batch asks first, so that they do not depend on the
/// order.
class TeacherStates {
 public:
  /// Hidden states of these rows: [counted tokens, width], row after row.
  at::Tensor of(const std::vector<std::int64_t>& rows, LanguageModel& teacher, const TaskData& data);

 private:
  std::vector<at::Tensor> rows_;
};

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

  /// As Model::loss, of distillation.
  Var loss(Model& student, const Batch& batch, const Pass& pass, double denominator);

 private:
  Teacher(const Distillation& how, std::unique_ptr<Model> model, const TaskData& rows)
      : how_(how), model_(std::move(model)), rows_(rows) {}

  Distillation how_;
  std::unique_ptr<Model> model_;
  const TaskData& rows_;
  TeacherLogits head_;                   // without hidden states
  std::shared_ptr<TeacherStates> kept_;  // null: the teacher runs for every batch
};

}  // namespace finesweep::worker
