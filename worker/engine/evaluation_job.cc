#include "worker/engine/evaluation_job.h"

#include <utility>

#include "worker/engine/device.h"
#include "worker/engine/profile_artifact.h"
#include "worker/engine/steps.h"

namespace finesweep::worker {

EvaluationJob::EvaluationJob(const ExecutionRequest& request, const JobContext& context, c10::Device device,
                             ExecutionControl& control)
    : request_(request),
      context_(context),
      device_(device),
      control_(control),
      start_(Clock::now()),
      seed_(request.job.seed.value_or(0)) {}

std::optional<Outcome> EvaluationJob::prepare_data(const ModelSource& source) {
  auto settings = read_evaluate_settings(request_.job.settings);
  if (!settings) return failed_for_good(settings.error().message);
  settings_ = std::move(*settings);
  control_.progress({0, 0, "loading", Progress::no_loss});
  auto task = make_job_task(context_, source, settings_->pooling, request_.cache);
  if (!task) return failed_for_good(task.error().message);
  task_ = std::move(*task);
  auto data = task_->read_evaluation(*settings_);
  if (!data) return failed_for_good(data.error().message);
  data_ = std::move(*data);
  head_ = task_->head();
  return std::nullopt;
}

std::optional<Outcome> EvaluationJob::prepare(const ModelSource& source) {
  if (auto failed = prepare_data(source)) return failed;
  auto loaded = load_frozen(source, head_, settings_->precision, seed_, device_);
  if (!loaded) return failed_for_good(loaded.error().message);
  loaded_ = std::move(*loaded);
  return std::nullopt;
}

void EvaluationJob::rehearse() {
  // The first batch for nothing: kernels are loaded and chosen, and its pass captured. What fails here fails again
  // when it counts.
  const EvaluationRun first{
      *settings_, seed_, [](std::int64_t done) { return done < 1; }, {}, &evaluated_->forward};
  for (int times = is_captured() ? 2 : 1; times > 0 && evaluated_->forward.captured() == 0; --times) {
    static_cast<void>(data_->evaluate(*evaluated_->loaded.model, first));
  }
}

void EvaluationJob::await_turn() {
  const auto ready = Clock::now();
  control_.await_turn();
  start_ += Clock::now() - ready;
}

bool EvaluationJob::go_on(std::int64_t done) {
  control_.progress({done, data_->evaluation_units(*settings_), "evaluating", Progress::no_loss});
  return !control_.stop_requested();
}

Outcome EvaluationJob::finish(const Metrics& metrics) const {
  Outcome outcome;
  outcome.kind = OutcomeKind::succeeded;
  outcome.metrics = metrics;
  outcome.metrics["seconds"] = std::chrono::duration<double>(Clock::now() - start_).count();
  outcome.metrics["peak_memory_mb"] = peak_memory_mb(device_);
  return outcome;
}

Outcome EvaluationJob::run(const ModelSource& source, const std::function<void(const Prediction&)>& on_prediction) {
  if (auto failed = prepare_data(source)) return std::move(*failed);
  auto evaluated =
      load_evaluated(source, head_, *settings_, seed_, device_, is_captured() ? 2 : ForwardGraphs::kSeldom);
  if (!evaluated) return failed_for_good(evaluated.error().message);
  evaluated_ = std::move(*evaluated);
  if (!control_.has_turn()) rehearse();
  await_turn();

  const EvaluationRun run{*settings_, seed_, [this](std::int64_t done) { return go_on(done); }, on_prediction,
                          &evaluated_->forward};
  std::optional<Profiler> profiler;
  if (settings_->profile) profiler.emplace(device_).start("evaluate");
  const auto metrics = data_->evaluate(*evaluated_->loaded.model, run);
  if (!metrics) return failed_for_good(metrics.error().message);
  if (!*metrics) {
    Outcome outcome;
    outcome.kind = OutcomeKind::interrupted;
    return outcome;
  }
  Outcome outcome = finish(**metrics);
  if (profiler) {
    profiler->stop(passes_to_make());
    if (Status kept = keep_profile(request_, *profiler, outcome); !kept)
      return failed_this_time(kept.error().message);
  }
  keep_evaluated(std::move(evaluated_));
  return outcome;
}

}  // namespace finesweep::worker
