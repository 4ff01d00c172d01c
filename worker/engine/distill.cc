#include <memory>
#include <string>
#include <utility>

#include "jobs/compression_settings.h"
#include "worker/engine/loaded_base.h"
#include "worker/engine/teacher.h"
#include "worker/engine/training_run.h"

namespace finesweep::worker {
namespace {

class DistillRecipe final : public TrainingRecipe {
 public:
  explicit DistillRecipe(DistillSettings settings) : settings_(std::move(settings)) {}

  const TrainingSettings& training() const override { return settings_.training; }
  std::string method() const override { return "full"; }

  Result<ModelSource> find_model(const ExecutionRequest& request, const JobContext& context) override {
    ModelSource source;
    if (settings_.student || settings_.student_layers) {
      source.model = source.tokenizer = settings_.student.value_or(settings_.teacher);
    } else {
      auto found = worker::find_model(request, context);
      if (!found) return found;
      source = std::move(*found);
    }
    if (Status same = check_same_tokens(settings_.teacher, source.tokenizer); !same) return same.error();
    rows_key_ = request.job.context.dump() + " " + fingerprint(context.data.train.value_or("")) + " " +
                source.tokenizer.string() + " " + std::to_string(training().sequence_length);
    return source;
  }

  Result<JobModel> load(ModelSource& source, const HeadChoice& head, std::uint64_t seed,
                        c10::Device device) override {
    head_ = head;
    return load_student(source, head, settings_, seed, device);
  }

  Result<TrainingLoss> loss(Model& model, const TaskData& rows, c10::Device device) override {
    auto teacher = Teacher::load(settings_, head_, model, rows, rows_key_, device);
    if (!teacher) return teacher.error();
    teacher_ = std::move(*teacher);
    return teacher_->loss(model);
  }

 private:
  DistillSettings settings_;
  HeadChoice head_;
  std::string rows_key_;
  std::unique_ptr<Teacher> teacher_;
};

}  // namespace

Outcome distill(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                ExecutionControl& control) {
  auto settings = read_distill_settings(request.job.settings);
  if (!settings) return failed_for_good(settings.error().message);
  DistillRecipe recipe(std::move(*settings));
  return TrainingRun(request, context, device, control, recipe).run();
}

}  // namespace finesweep::worker
